"""Pictures of the ledger: how each row learnt, and what all of them cost."""

import csv
import statistics
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Curve = dict[int, float]  # step → value
WIDEST = 64  # characters of a title, which a picture of its size has room for


def draw(content: Mapping[str, Any], folder: Path, path: Path) -> bool:
    """The metric on validation over steps: a line a seed, and their mean ± deviation as a band.

    Returns False, and draws nothing, where no run of a measured seed is below `folder`.
    """
    row = content["row"]
    name = row["metric"].replace("test/", "val/", 1)
    files = [folder / str(seed) / "metrics.csv" for seed in content["measured"]["seeds"]]
    found = [_curve(file, name) for file in files if file.is_file()]
    curves = [curve for curve in found if curve]
    if not curves:
        return False
    from tasks.drawing import save, style, subplots

    with style():
        figure, (ax,) = subplots(1, columns=1, size=(5.6, 3.4))
        for curve in curves:
            ax.plot(list(curve), list(curve.values()), color="C0", alpha=0.35, linewidth=0.8)
        steps, means, deviations = band(curves)
        low, high = ([m + sign * d for m, d in zip(means, deviations, strict=True)]
                     for sign in (-1, 1))  # fmt: skip
        ax.fill_between(steps, low, high, color="C0", alpha=0.2, linewidth=0)
        ax.plot(steps, means, color="C0", marker="o", markersize=3,
                label=f"validation, mean ± deviation (seeds: {len(curves)})")  # fmt: skip
        mean = content["measured"]["mean"]
        ax.axhline(mean, color="C1", linewidth=1, label=f"test, mean {mean:.4g}")
        if row["least"] is not None:
            ax.axhline(row["least"], color="C7", linewidth=1, linestyle="--",
                       label=f"test, least {row['least']:.4g}")  # fmt: skip
        known = content["measured"].get("baselines", {})
        for number, (baseline, one) in enumerate(known.items(), 2):
            ax.axhline(one["value"], color=f"C{number}", linewidth=1, linestyle=":",
                       label=f"test, {baseline} {one['value']:.4g}")  # fmt: skip
        ax.set_title(textwrap.fill(row["title"], WIDEST))
        ax.set_xlabel("steps")
        ax.set_ylabel(name)
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
        save(figure, path)
    return True


def band(curves: list[Curve]) -> tuple[list[int], list[float], list[float]]:
    """Steps that all curves have, with the mean and the sample deviation (0 of one) there."""
    steps = sorted(set(curves[0]).intersection(*curves))
    columns = [[curve[step] for curve in curves] for step in steps]
    spreads = [statistics.stdev(own) if len(own) > 1 else 0.0 for own in columns]
    return steps, [statistics.fmean(own) for own in columns], spreads


def _curve(path: Path, name: str) -> Curve:
    """A metric of a metrics.csv by step, in order; of two rows of a step the later holds."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(int(row["step"]), row.get(name)) for row in csv.DictReader(file)]
    return dict(sorted({step: float(value) for step, value in rows if value}.items()))


def overview(contents: Mapping[str, Mapping[str, Any]], path: Path) -> bool:
    """How far each row is above what it must reach, over its minutes a seed and its parameters.

    Returns False, and draws nothing, where fewer than two rows are measured.
    """
    names = [name for name, content in contents.items() if content["measured"].get("seeds")]
    if len(names) < 2:
        return False
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    from tasks.drawing import save, style, subplots

    seeds = [contents[name]["measured"]["seeds"].values() for name in names]
    above = [advantage(contents[name]) for name in names]
    columns = {
        "minutes a seed": [statistics.fmean(one["minutes"] for one in own) for own in seeds],
        "parameters": [statistics.fmean(one["parameters"] for one in own) for own in seeds],
    }
    with style():
        figure, axes = subplots(2, columns=2, size=(4.8, 3.6))
        for ax, (label, costs) in zip(axes, columns.items(), strict=True):
            ax.axhline(0, color="C7", linewidth=1, linestyle="--")
            ax.scatter(costs, above, s=18)
            for number, place in enumerate(zip(costs, above, strict=True), 1):
                ax.annotate(str(number), place, (3, 3), textcoords="offset points", fontsize=7)
            ax.margins(y=0.08)
            ax.set_xscale("log")
            ax.set_yscale("symlog", linthresh=10)  # most are a few per cent above, some many times
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            big = label == "parameters"
            ax.xaxis.set_major_formatter(EngFormatter(sep="") if big else "{x:g}")
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter("{x:g}")
            ax.set_xlabel(label)
            ax.set_ylabel("above the least, %")
            ax.grid(alpha=0.3)
        figure.legend(
            [Line2D([], [], linestyle="")] * len(names),
            [f"{number} {name}" for number, name in enumerate(names, 1)],
            loc="outside right center", fontsize=7, handlelength=0, handletextpad=0, frameon=False,
        )  # fmt: skip
        save(figure, path)
    return True


def advantage(content: Mapping[str, Any]) -> float:
    """By how many per cent of it the mean is better than the least, or than the best baseline."""
    row, measured = content["row"], content["measured"]
    sign = 1 if row["better"] == "higher" else -1
    baselines = [one["value"] for one in measured.get("baselines", {}).values()]
    bound = row["least"]
    if bound is None:
        bound = max(baselines, key=lambda value: sign * value, default=measured["mean"])
    return 100 * sign * (measured["mean"] - bound) / abs(bound) if bound else 0.0
