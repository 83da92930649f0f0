"""Pictures that a run leaves beside its metrics: PNG files, drawn without a display."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from tasks.drawing import (
    as_array,
    columns_of,
    expect,
    label_axes,
    readable,
    save,
    style,
    subplots,
    width_of,
)
from tasks.rows import Row, label

MOST_TOKENS = 100  # a side of an attention picture
MOST_PANELS = 24
RIGHT, WRONG, QUIET = "#1a7f37", "#cf222e", "#8c959f"


def learning_curves(csv: Path, path: Path) -> bool:
    """Draw a panel a metric, training and validation over steps, from `metrics.csv`.

    Returns False, and draws nothing, where the file has no training or validation metric yet.
    """
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, curve in _curves(csv).items():
        stage, _, metric = name.partition("/")
        if stage in ("train", "val") and curve:
            panels.setdefault(metric, {})[stage] = curve
    if not panels:
        return False
    names = sorted(panels, key=lambda metric: (metric != "loss", metric))
    with style():
        figure, axes = subplots(
            len(names), columns=min(3, len(names)), size=(4.2, 3.0), margins=(0.6, 0.15, 0.5, 0.35)
        )
        for ax, metric in zip(axes, names, strict=True):
            for stage, label, colour in [("train", "training", QUIET), ("val", "validation", "C0")]:
                if curve := panels[metric].get(stage):
                    steps, values = zip(*curve, strict=True)
                    mark = "o" if len(steps) == 1 or (stage == "val" and len(steps) < 40) else ""
                    ax.plot(steps, values, color=colour, label=label, marker=mark, markersize=3)
            ax.set_title(metric)
            ax.set_xlabel("steps")
            ax.grid(alpha=0.3)
            ax.legend(frameon=False)
        save(figure, path)
    return True


def _curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Column → (step, value) in order of steps; of two rows of a step the later holds."""
    found: dict[str, dict[float, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                # a run killed while it wrote leaves a short last row
                if name and name != "step" and text and row["step"]:
                    value = float(text)
                    if math.isfinite(value):
                        found.setdefault(name, {})[float(row["step"])] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def attention_over_text(
    weights: ArrayLike, source_tokens: Sequence[str], target_tokens: Sequence[str], path: Path
) -> None:
    """Attention weights (T, S): a row a target token, a column a source token."""
    matrix = as_array(weights)
    expect(matrix, (len(target_tokens), len(source_tokens)))
    matrix = matrix[:MOST_TOKENS, :MOST_TOKENS]
    rows, columns = matrix.shape
    with style():
        figure = Figure(figsize=(2.0 + 0.26 * columns, 1.4 + 0.26 * rows), layout="constrained")
        ax = figure.subplots()
        image = ax.imshow(matrix, cmap="Blues", vmin=0, vmax=max(float(matrix.max()), 1e-9))
        label_axes(ax, source_tokens[:columns], target_tokens[:rows])
        figure.colorbar(image, ax=ax, shrink=0.7, label="attention")
        if (rows, columns) != (len(target_tokens), len(source_tokens)):
            ax.set_title(f"the first {rows} × {columns} tokens", loc="left", pad=24)
        save(figure, path)


def attention_over_picture(
    picture: ArrayLike,
    weights: ArrayLike,
    tokens: Sequence[str],
    path: Path,
    grid: tuple[int, int] | None = None,
) -> None:
    """A picture (H, W, 3) uint8, and beside it where each token looked.

    `weights` is (T, S) over a grid of S = rows · columns positions, row by row; without `grid` it
    is taken as square, or else as near to the picture's form as S allows.
    """
    image, matrix = as_array(picture).astype(np.uint8), as_array(weights)
    height, width = image.shape[:2]
    expect(matrix, (len(tokens), matrix.shape[-1]))
    rows, columns = grid or _grid_of(matrix.shape[1], height / width)
    expect(matrix, (len(tokens), rows * columns))
    shown = list(zip(tokens, matrix, strict=True))[: MOST_PANELS - 1]
    count = len(shown) + 1
    across = min(6, count)
    down = math.ceil(count / across)
    gap, above = 0.05 * width, 0.17 * width  # above: for the token
    with style():
        # all on one pair of axes: a pair for each picture takes four times as long
        cell = (width + gap, height + gap + above)
        figure = Figure(figsize=(1.7 * across, 1.7 * down * cell[1] / cell[0]))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        for i in range(count):
            x, y = i % across * cell[0] + gap / 2, i // across * cell[1] + gap / 2 + above
            place = (x, x + width, y + height, y)
            ax.imshow(image, extent=place, aspect="auto")
            if i == 0:
                continue
            token, row = shown[i - 1]
            where = row.reshape(rows, columns)
            ax.imshow(
                where, extent=place, aspect="auto", cmap="gray", alpha=0.7,
                interpolation="bicubic", vmin=0, vmax=max(float(where.max()), 1e-9),
            )  # fmt: skip
            ax.text(x + width / 2, y - gap, readable(token), ha="center", va="bottom", fontsize=10)
        ax.set(xlim=(0, across * cell[0]), ylim=(down * cell[1], 0))  # pictures move them
        save(figure, path)


def series(
    predictions: ArrayLike, targets: ArrayLike, path: Path, inputs: ArrayLike | None = None
) -> None:
    """Predicted and right values (T,) or (T, K) over steps, a panel a value; inputs on top."""
    predicted, right = columns_of(predictions), columns_of(targets)
    expect(predicted, right.shape)
    given = None if inputs is None else columns_of(inputs)[:, :6]
    values = min(predicted.shape[1], MOST_PANELS)
    with style():
        figure, axes = subplots(values + (given is not None), columns=1, size=(8.0, 2.2))
        if given is not None:
            axes[0].plot(given, color=QUIET, linewidth=1)
            axes[0].set_title("inputs", loc="left")
        for k, ax in enumerate(axes[given is not None :]):
            ax.plot(right[:, k], color=QUIET, linewidth=2.5, label="right")
            ax.plot(predicted[:, k], color="C0", linewidth=1.2, label="predicted")
            ax.set_title(f"output {k + 1}" if values > 1 else "outputs", loc="left")
        axes[int(given is not None)].legend(frameon=False, loc="upper right")
        axes[-1].set_xlabel("steps")
        save(figure, path)


def tags(
    tokens: Sequence[str], predicted: Sequence[str], right: Sequence[str] | None, path: Path
) -> None:
    """Tokens in lines with the predicted tag below each: green, or red with the right one below."""
    answers = list(predicted) if right is None else right
    cells = [
        tuple(map(readable, map(str, cell)))
        for cell in zip(tokens, predicted, answers, strict=True)
    ]
    lines = _lines([max(map(width_of, cell)) + 1.5 for cell in cells], most=100)
    with style():
        figure = Figure(figsize=(12, 0.4 + 0.75 * (len(lines) or 1)), layout="constrained")
        ax = figure.subplots()
        ax.set(xlim=(0, 100), ylim=(max(len(lines), 1), 0))
        ax.set_axis_off()
        for y, line in enumerate(lines):
            for i, x in line:
                token, tag, answer = cells[i]
                colour = QUIET if right is None else RIGHT if tag == answer else WRONG
                ax.text(x, y + 0.1, token, va="top")
                ax.text(x, y + 0.4, tag, va="top", color=colour, fontsize=8)
                if tag != answer:
                    ax.text(x, y + 0.65, answer, va="top", color=QUIET, fontsize=8)
        save(figure, path)


def piano_roll(
    frames: Sequence[Sequence[int]], path: Path, reference: Sequence[Sequence[int]] | None = None
) -> None:
    """MIDI notes (60 is middle C) by frame; `reference` in a second panel on the same scale."""
    rolls = [(frames, "composed")] + ([] if reference is None else [(reference, "reference")])
    notes = [note for roll, _ in rolls for frame in roll for note in frame] or [60]
    low, high = min(notes) - 2, max(notes) + 2
    octaves = [note for note in range(low, high + 1) if note % 12 == 0]
    with style():
        longest = max(len(roll) for roll, _ in rolls)
        size = (min(20.0, 3.0 + 0.06 * longest), 3.0)
        figure, axes = subplots(len(rolls), columns=1, size=size)
        for ax, (roll, title) in zip(axes, rolls, strict=True):
            keys = np.zeros((high - low + 1, max(len(roll), 1)))
            for t, frame in enumerate(roll):
                keys[[note - low for note in frame], t] = 1
            extent = (0, keys.shape[1], low - 0.5, high + 0.5)
            ax.imshow(
                keys, cmap="Blues", aspect="auto", origin="lower", extent=extent, vmin=0, vmax=1.2,
                interpolation="nearest",
            )  # fmt: skip
            ax.set_yticks(octaves, [f"C{note // 12 - 1}" for note in octaves])
            ax.set_xlim(0, max(longest, 1))
            ax.grid(alpha=0.3)
            if len(rolls) > 1:
                ax.set_title(title, loc="left")
        axes[-1].set_xlabel("frames")
        save(figure, path)


def by_bucket(
    rows: Sequence[Row],
    curves: dict[str, str],
    path: Path,
    *,
    xlabel: str,
    ylabel: str,
    counted: str,
    bottom: float | None = 0,
) -> None:
    """Curves (column of the rows → legend) over buckets, and below how much each bucket holds.

    `bottom`: where the axis begins, None as near as the curves allow.
    """
    places, counts = range(len(rows)), [row["count"] for row in rows]
    with style():
        figure = Figure(figsize=(max(5.0, 1.5 + 0.7 * len(rows)), 4.4), layout="constrained")
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        for i, (name, text) in enumerate(curves.items()):
            values = [row[name] for row in rows]
            mark, line = "osD^"[i % 4], ("-", "--")[i % 2]
            top.plot(places, values, marker=mark, linestyle=line, markersize=4, label=text)
        top.set_ylim(bottom=bottom)
        top.set_ylabel(ylabel)
        top.grid(alpha=0.3)
        if len(curves) > 1:
            top.legend(frameon=False)
        bars = below.bar(places, counts, color=QUIET)
        below.bar_label(bars, [f"{count:,}" for count in counts], fontsize=7)
        below.margins(y=0.25)
        below.set_ylabel(counted)
        below.set_xticks(places, list(map(label, rows)))
        below.set_xlabel(xlabel)
        save(figure, path)


def loss_by_position(carried: ArrayLike, reset: ArrayLike, path: Path) -> None:
    """Mean losses (T,) in nats by place in a window: with the state carried in, and without."""
    kept, anew = as_array(carried), as_array(reset)
    expect(anew, kept.shape)
    places = np.arange(1, len(kept) + 1)
    with style():
        figure = Figure(figsize=(6.0, 3.4), layout="constrained")
        ax = figure.subplots()
        mark = "o" if len(places) == 1 else ""
        ax.plot(places, anew, color=QUIET, marker=mark, label="each window from the initial state")
        ax.plot(places, kept, color="C0", marker=mark, label="state carried from window to window")
        ax.set_xlabel("place in the window")
        ax.set_ylabel("loss (nats)")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
        save(figure, path)


def confusion(matrix: ArrayLike, labels: Sequence[str], path: Path) -> None:
    """Counts (targets, predictions); colours are shares of a row, numbers the counts."""
    counts = as_array(matrix)
    expect(counts, (len(labels), len(labels)))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = len(labels)
    with style():
        figure = Figure(figsize=(2.6 + 0.5 * side, 2.0 + 0.5 * side), layout="constrained")
        ax = figure.subplots()
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        label_axes(ax, labels, labels)
        ax.set_ylabel("right")
        ax.set_xlabel("predicted")
        ax.xaxis.set_label_position("top")
        if side <= 25:
            for i, j in np.ndindex(side, side):
                colour = "white" if shares[i, j] > 0.5 else "black"
                ax.text(j, i, f"{int(counts[i, j])}", ha="center", va="center", color=colour,
                        fontsize=8)  # fmt: skip
        save(figure, path)


def _grid_of(positions: int, ratio: float) -> tuple[int, int]:
    side = math.isqrt(positions)
    if side * side == positions:
        return side, side
    pairs = [(r, positions // r) for r in range(1, positions + 1) if positions % r == 0]
    return min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / ratio)))


def _lines(widths: Sequence[float], *, most: float) -> list[list[tuple[int, float]]]:
    """Cells of these widths, one after the other → lines of (cell, x)."""
    lines: list[list[tuple[int, float]]] = []
    x = most
    for i, width in enumerate(widths):
        if x + width > most:
            lines.append([])
            x = 0
        lines[-1].append((i, x))
        x += width
    return lines
