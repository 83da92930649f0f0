"""What every picture shares: fonts that have the characters, labels, panels, arrays."""

import math
import unicodedata
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from numpy.typing import ArrayLike

# DejaVu comes with matplotlib; of the others, those that are installed give what it has not
FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC",
    "Source Han Sans CN", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "SimHei", "PingFang SC",
    "PingFang HK", "Hiragino Sans GB", "Heiti TC", "Microsoft YaHei", "Arial Unicode MS",
    "Droid Sans Fallback",
)  # fmt: skip
SEEN = str.maketrans({"\n": "↵", "\t": "⇥", " ": "␣", "\r": "␍"})


@cache
def fonts() -> list[str]:
    """The families of `FONTS` on this machine: matplotlib takes each character from the first
    that has it."""
    installed = set(fontManager.get_font_names())
    return [name for name in FONTS if name in installed]


@cache
def _characters() -> frozenset[int]:
    """The code points that some font of `fonts` can draw."""
    files = (fontManager.findfont(FontProperties(family=[name])) for name in fonts())
    return frozenset().union(*(get_font(file).get_charmap() for file in files))


def readable(token: str) -> str:
    """A token as a label: white space shown, characters without a font as code points (5E74)."""
    if token.strip() != token or not token:
        token = token.translate(SEEN) or "∅"
    known = _characters()
    return "".join(c if ord(c) in known else f"[{ord(c):04X}]" for c in token)


def style() -> AbstractContextManager[Any]:
    """Settings within which a picture is drawn and saved."""
    # "$" in a token or a program is a dollar and opens no formula
    return matplotlib.rc_context(
        {"font.family": fonts(), "text.parse_math": False, "axes.unicode_minus": False,
         "axes.spines.top": False, "axes.spines.right": False, "font.size": 9,
         "axes.titlesize": 10}
    )  # fmt: skip


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # a Figure of its own: pyplot would keep every one of them alive
    figure.savefig(path, dpi=100)


def subplots(
    count: int,
    *,
    columns: int,
    size: tuple[float, float],
    margins: tuple[float, float, float, float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels of so many inches each, row by row.

    `margins`: inches of a panel left of its axes, right, below and above, for their labels; without
    them they are found, by drawing all of it once more.
    """
    rows = math.ceil(count / columns)
    width, height = columns * size[0], rows * size[1]
    figure = Figure(figsize=(width, height), layout="constrained" if margins is None else None)
    grid = figure.add_gridspec(rows, columns)
    if margins is not None:
        left, right, below, above = margins
        across, down = size[0] - left - right, size[1] - below - above
        grid.update(
            left=left / width, right=1 - right / width, wspace=(left + right) / across,
            bottom=below / height, top=1 - above / height, hspace=(below + above) / down,
        )  # fmt: skip
    return figure, [figure.add_subplot(grid[divmod(i, columns)]) for i in range(count)]


def label_axes(ax: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Tokens above the columns and before the rows of a matrix."""
    ax.set_xticks(range(len(columns)), list(map(readable, columns)), rotation=90)
    ax.set_yticks(range(len(rows)), list(map(readable, rows)))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def width_of(text: str) -> float:
    """Columns of a line of text; Chinese takes two each."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def as_array(values: ArrayLike) -> np.ndarray:
    if hasattr(values, "detach"):  # a tensor, on any device, bfloat16 too
        values = values.detach().cpu().float()
    return np.asarray(values)


def columns_of(values: ArrayLike) -> np.ndarray:
    """(T,) or (T, K) → (T, K)."""
    array = as_array(values)
    return array[:, None] if array.ndim == 1 else array


def expect(array: np.ndarray, shape: tuple[int, ...]) -> None:
    """ValueError unless values and labels fit."""
    if array.shape != shape:
        raise ValueError(f"a picture of values {array.shape} has labels for {shape}")
