"""Draws docs/recipes.png, the README's first picture, from two runs:

python train.py trainer.val_check_interval=0.1 trainer.max_epochs=2
python train.py trainer.val_check_interval=0.1 trainer.max_epochs=2 cell=memoryless
python docs/draw_recipes.py RUN_WITH_MEMORY RUN_WITHOUT
"""

import csv
import sys
from pathlib import Path

from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from tasks.drawing import style  # noqa: E402


def accuracies(run: Path) -> list[tuple[int, float]]:
    """(step, validation accuracy) of a run; before the first step it is a guess."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/accuracy"]]
    return [(0, 0.5), *((int(row["step"]) + 1, float(row["val/accuracy"])) for row in rows)]


def main() -> None:
    lines = [("GRU", "#1f5fa8", "-"), ("memoryless", "#c2571a", "-")]
    with style():
        figure = Figure(figsize=(7.0, 2.8), layout="constrained")
        ax = figure.subplots()
        for run, (name, colour, kind) in zip(sys.argv[1:3], lines, strict=True):
            steps, values = zip(*accuracies(Path(run)), strict=True)
            ax.plot(steps, values, kind, color=colour, linewidth=2)
            height = values[-1] + (-0.05 if values[-1] > 0.9 else 0.03)
            ax.text(steps[-1], height, name, color=colour, ha="right", fontsize=11)
        ax.set_ylim(0.4, 1.03)
        ax.set_xlabel("training steps")
        ax.set_title("Was sauce A added before sauce B?  validation accuracy", loc="left")
        figure.savefig(FOLDER / "recipes.png", dpi=150)


if __name__ == "__main__":
    main()
