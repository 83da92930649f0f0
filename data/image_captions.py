"""Pictures with one or more sentences each."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor

from data.arrays import Split, cut
from data.base import DataModule, Example
from data.batches import CaptionBatch
from data.codec import Codec, TokenizerSettings
from data.pictures import called, colours, undecoded
from data.prepared import Prepared, Report
from data.spec import DataSpec
from data.text_codec import BOS, EOS, UNK
from data.text_pairs import with_ends

# of ImageNet, on which the backbones were trained; any network may be fed so
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(kw_only=True)
class ImageCaptionsCodec(Codec, kind="image_captions"):
    """Pictures (PIL, a path or an array) → normalised colours of one size; symbols → sentences."""

    size: tuple[int, int]  # height, width

    def batch(self, raw: Sequence[Any]) -> CaptionBatch:
        pixels = [colours(picture, self.size, called(picture, i)) for i, picture in enumerate(raw)]
        target = torch.tensor([[BOS, EOS]]).repeat(len(raw), 1)
        full = torch.full((len(raw),), 2)
        pictures = self.normalised(np.stack(pixels))
        return CaptionBatch(pictures, target, full, torch.arange(len(raw)))

    def normalised(self, pixels: np.ndarray) -> Tensor:
        """Bytes (B, 3, H, W) → floats of the same shape in ImageNet's standard units."""
        mean, std = (255 * torch.tensor(v)[:, None, None] for v in (MEAN, STD))
        return torch.from_numpy(pixels).float().sub_(mean).mul_(1 / std)


@dataclass(kw_only=True, eq=False)
class ImageCaptions(DataModule):
    """Rows with a picture and its sentences: a list of them, or one a row.

    Rows that name the same picture file are one picture. Training examples are pairs of a picture
    and a sentence; validation and test examples are pictures, with the first sentence as target and
    all of them as references. A training sentence over `max_length` is left out.
    """

    tokenizer: TokenizerSettings
    image_column: str = "image"
    captions_column: str = "captions"
    size: tuple[int, int] = (224, 224)  # height, width: other pictures are stretched to it

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"data.size is a height and a width in pixels, got {self.size}")
        # a frozen network's features are computed once: its batches then need no pictures
        self.without_pictures = False

    def columns(self) -> list[str]:
        return [self.image_column, self.captions_column]

    def together(self) -> str:
        return self.image_column

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        given = self.given(ImageCaptionsCodec)
        height, width = given.size if given else self.size
        rows = {split: undecoded(part, self.image_column) for split, part in rows.items()}
        found = {split: self._grouped(split, part) for split, part in rows.items()}
        sentences = {k: [s for own in part.values() for s in own] for k, part in found.items()}
        codec = given or ImageCaptionsCodec(
            outputs=self.tokenizer.train(sentences["train"]), size=(int(height), int(width))
        )
        assert codec.outputs is not None
        report: Report = {"vocabulary": codec.outputs.vocabulary.size}
        splits = {}
        for split, part in found.items():
            counts = np.array([len(own) for own in part.values()])
            ids = codec.outputs.encode_batch(sentences[split])
            picked = np.cumsum(counts) - counts  # each picture's first sentence
            if split == "train":
                picked = self._usable(ids.lengths)
                report["left_out_train"] = len(ids) - len(picked)
            picture_of = np.repeat(np.arange(len(part)), counts)
            report[f"pictures_{split}"] = len(part)
            report[f"sentences_{split}"] = len(ids)
            report[f"unknown_{split}"] = round(float((ids.values == UNK).mean()), 4)
            splits[split] = Split(
                arrays={
                    "examples": np.stack([picture_of[picked], picked], axis=1),
                    "pictures": self._decoded(split, rows[split], list(part), codec.size),
                    "sentences": with_ends(cut(ids, self.max_length), before=BOS, after=EOS),
                },
                raw=Dataset.from_dict({"captions": list(part.values())}),
            )
        spec = DataSpec(picture_shape=(3, *codec.size), output_vocabulary=codec.outputs.vocabulary)
        return Prepared(spec=spec, codec=codec, splits=splits, report=report)

    def lengths(self, split: str) -> np.ndarray:
        part = self.splits[split]
        return part.ragged("sentences").lengths[part.flat("examples")[:, 1]]

    def collate(self, split: str, indices: list[int]) -> CaptionBatch:
        part, codec = self.splits[split], self.codec
        assert isinstance(codec, ImageCaptionsCodec)
        index, sentences = part.flat("examples")[indices].T
        assert codec.outputs is not None
        target, lengths = self.read(
            split, "sentences", codec.outputs, indices, rows=sentences.tolist()
        )
        if self.without_pictures:
            pictures = torch.zeros(len(indices), 0)
        else:
            pictures = codec.normalised(part.flat("pictures")[index])
        return CaptionBatch(pictures, target, lengths, torch.from_numpy(index.copy()))

    def pictures(self, split: str, batch_size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
        """Every picture of a split once: (B,) numbers and (B, 3, H, W) normalised."""
        codec, pixels = self.codec, self.splits[split].flat("pictures")
        assert isinstance(codec, ImageCaptionsCodec)
        for index in torch.arange(len(pixels)).split(batch_size):
            yield index, codec.normalised(pixels[index.numpy()])

    def example(self, split: str, index: int) -> Example:
        """Picture `index` of a split and all its sentences."""
        part = self.splits[split]
        pixels = np.ascontiguousarray(part.flat("pictures")[index].transpose(1, 2, 0))
        return Example(Image.fromarray(pixels), list(part.rows[index]["captions"]))

    def _grouped(self, split: str, part: Any) -> dict[int, list[str]]:
        """The first row of each picture that has a sentence → all its sentences."""
        pictures = part[self.image_column]
        first: dict[Any, int] = {}
        found: dict[int, list[str]] = {}
        for row, value in enumerate(part[self.captions_column]):
            own = [value] if isinstance(value, str) else value or []
            if not all(isinstance(sentence, str) for sentence in own):
                raise ValueError(
                    f"row {row} of {split} has no sentence, nor a list of them, in column "
                    f"{self.captions_column!r}, but {own!s:.80}"
                )
            picture = pictures[row] or {}
            key = picture.get("bytes") or picture.get("path")
            same = first.setdefault(key if isinstance(key, str) else hash(key), row)
            found.setdefault(same, []).extend(s.strip() for s in own if s.strip())
        kept = {row: own for row, own in found.items() if own}
        if not kept:
            raise ValueError(
                f"no picture of {split} has a sentence in column {self.captions_column!r}"
            )
        return kept

    def _decoded(self, split: str, part: Any, kept: list[int], size: tuple[int, int]) -> np.ndarray:
        """Bytes (N, 3, H, W) of the pictures in the rows `kept`."""
        column = part[self.image_column]
        place = self.path or (Path(self.data_dir or "") / self.folder if self.folder else None)
        root = Path(place or "").expanduser()
        root = root if root.is_dir() else root.parent

        def decode(row: int) -> np.ndarray:
            picture = column[row] or {}
            path = picture.get("path")
            if picture.get("bytes") is None and path and not Path(path).exists():
                picture = {"bytes": None, "path": str(root / path)}  # told from the files' folder
            named = f" ({path})" if path else ""
            return colours(picture, size, f"row {row} of {split}{named}")

        pixels = np.empty((len(kept), 3, *size), np.uint8)
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # Pillow lets go of the lock
            for number, found in enumerate(pool.map(decode, kept)):
                pixels[number] = found
        return pixels

    def _usable(self, lengths: np.ndarray) -> np.ndarray:
        """Training sentences that have a word and are not too long."""
        most = np.inf if self.max_length is None else self.max_length
        kept = np.flatnonzero((lengths > 0) & (lengths <= most))
        if len(kept) == 0:
            raise ValueError(
                f"data.max_length={self.max_length} leaves no training sentence: the shortest has "
                f"{lengths.min()} symbols"
            )
        return kept
