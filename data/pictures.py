"""Pictures of any kind → arrays of bytes; what cannot be read is named."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Image as ImageFeature
from PIL import Image, ImageOps

# the last of a picture of so many pixels that it is there to fill the memory
UNREADABLE = (
    OSError, TypeError, KeyError, ValueError, AttributeError, Image.DecompressionBombError
)  # fmt: skip


def grey(picture: Any, size: tuple[int, ...] | None, what: str) -> np.ndarray:
    """A picture → bytes (H, W); `size`: height and width, None: its own."""
    return np.asarray(_resized(_open(picture, "L", None, what), size))


def colours(picture: Any, size: tuple[int, int], what: str) -> np.ndarray:
    """A picture → bytes (3, H, W)."""
    return np.asarray(_resized(_open(picture, "RGB", size, what), size)).transpose(2, 0, 1)


def called(picture: Any, place: int) -> str:
    """How an error names a picture that a user gave: by its path, else by its place."""
    return str(picture) if isinstance(picture, (str, Path)) else f"picture {place}"


def undecoded(rows: Any, column: str) -> Any:
    """Rows whose pictures are given as bytes or paths: an unreadable one can then be named."""
    try:
        return rows.cast_column(column, ImageFeature(decode=False))
    except Exception as error:  # Arrow and `datasets` raise several kinds
        raise ValueError(
            f"column {column!r} holds no pictures, nor paths of pictures: {error}"
        ) from error


def _open(picture: Any, mode: str, size: tuple[int, int] | None, what: str) -> Image.Image:
    """`picture`: PIL, a path, an array, or the {"bytes", "path"} of a data set."""
    try:
        if isinstance(picture, dict):
            raw = picture.get("bytes")
            picture = Image.open(BytesIO(raw) if raw is not None else picture["path"])
        elif isinstance(picture, (str, Path)):
            picture = Image.open(picture)
        elif not isinstance(picture, Image.Image):
            picture = Image.fromarray(np.asarray(picture, np.uint8))
        if size is not None and isinstance(picture, Image.Image):
            picture.draft(mode, size[::-1])  # a big JPEG is decoded at a fraction of its size
        return ImageOps.exif_transpose(picture).convert(mode)
    # Pillow raises a SyntaxError for some broken PNG files
    except (*UNREADABLE, SyntaxError) as error:
        raise ValueError(f"{what} is not a picture that can be read: {error}") from error


def _resized(picture: Image.Image, size: tuple[int, ...] | None) -> Image.Image:
    if size is None or picture.size == (size[1], size[0]):
        return picture
    return picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
