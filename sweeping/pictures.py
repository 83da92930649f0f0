"""Pictures of a sweep: its trials as lines over the keys, and how much each key mattered."""

from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

import sweeping.space
from sweeping.plan import Plan

SMALL = {"textcoords": "offset points", "fontsize": 8}
BEHIND = {"boxstyle": "square,pad=0.1", "fc": "w", "ec": "none", "alpha": 0.7}  # a label
FEWEST = 4  # complete trials that say anything about importance


def draw(
    folder: Path, study: optuna.Study, complete: Sequence[FrozenTrial], plan: Plan
) -> list[Path]:
    """`parallel_coordinates.png` and `importance.png`, of the trials that are complete (those of
    fewer than there must be are left out).
    """
    drawn = []
    if len(complete) > 1:
        drawn.append(parallel_coordinates(folder / "parallel_coordinates.png", complete, plan))
    if len(complete) >= FEWEST and (shares := importances(study)):
        drawn.append(importance(folder / "importance.png", shares, plan))
    return drawn


def importances(study: optuna.Study) -> dict[str, float]:
    """PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255): how much of the difference between good
    trials and all of them each key explains; empty where the trials do not say.
    """
    try:
        shares = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError):  # all alike, or no key that all trials have
        return {}
    return {key: share for key, share in shares.items() if share == share}


def parallel_coordinates(path: Path, complete: Sequence[FrozenTrial], plan: Plan) -> Path:
    """A line a trial (the best above the others), an axis a key, coloured by the metric."""
    from matplotlib import colormaps, colors
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    space = sweeping.space.parse(plan.space)
    axes = {
        key: [one.height(trial.params[key]) for trial in complete] for key, one in space.items()
    }
    values = [float(trial.value or 0.0) for trial in complete]
    low, high = min(values), max(values)
    scale = colors.Normalize(low, high if high > low else low + 1e-9)
    shades = colormaps["viridis" if plan.mode == "max" else "viridis_r"]
    figure = Figure(figsize=(2.2 + 1.7 * len(axes), 4.2), layout="constrained")
    axis = figure.subplots()
    ranks = range(len(complete) - 1, -1, -1)
    for rank in ranks:
        heights = [(values[rank] - low) / ((high - low) or 1.0)]
        heights += [column[rank] for column in axes.values()]
        style = {"linewidth": 1.2, "alpha": 0.65} if rank else {"linewidth": 2.6}
        axis.plot(range(len(heights)), heights, color=shades(scale(values[rank])), **style)
    names = [plan.monitor, *axes]
    ticks = [[(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")], *(one.marks() for one in space.values())]
    for place, marks in enumerate(ticks):
        axis.axvline(place, color="0.4", linewidth=0.8)
        for height, text in marks:
            axis.annotate(text, (place, height), (4, 0), va="center", bbox=BEHIND, **SMALL)
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set_xlim(-0.15, len(names) - 0.5)
    axis.set_ylim(-0.05, 1.05)
    axis.set_yticks([])
    for side in ("left", "right", "top", "bottom"):
        axis.spines[side].set_visible(False)
    figure.colorbar(ScalarMappable(scale, shades), ax=axis, label=plan.monitor)
    axis.set_title(f"{plan.name}: {len(complete)} complete trials, the best one thick", fontsize=10)
    figure.savefig(path, dpi=130)
    return path


def importance(path: Path, shares: dict[str, float], plan: Plan) -> Path:
    from matplotlib.figure import Figure

    names, widths = list(shares)[::-1], list(shares.values())[::-1]
    figure = Figure(figsize=(6, 1.2 + 0.35 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.barh(names, widths, color="#31688e")
    for place, width in enumerate(widths):
        axis.annotate(
            f"{width:.2f}", (width, place), (3, 0), textcoords="offset points", va="center"
        )
    axis.set_xlim(0, 1.12 * max(widths))
    axis.set_xlabel(f"importance for {plan.monitor} (PED-ANOVA)")
    for side in ("right", "top"):
        axis.spines[side].set_visible(False)
    figure.savefig(path, dpi=130)
    return path
