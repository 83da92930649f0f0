"""The losses of the first steps of every shape are as they were, or were changed on purpose.

    python -m pytest tests/tasks/test_trajectories.py --renew -s

writes tests/trajectories/*.json anew and says what moved, and from which step.
"""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KEPT = Path(__file__).parents[1] / "trajectories"
STEPS = 20
# processors add in different orders, and twenty steps of training let that grow
TOLERANCE = 2e-3
WORDS = "add salt fry onions taste sauce boil water chop leeks serve cold slowly again".split()
START = ["optimizer=adamw", "optimizer.lr=1e-3", "scheduler=constant", "seed=11"]
# batches of one size, which accumulated halves can make again
EVEN = {
    "classification": ["data.train_size=64", "data.batch_size=16"],
    "tagging": ["data.limit=64", "data.batch_size=16"],
    "captioning": ["data.train_size=64", "data.batch_size=16"],
    "translation": ["data.limit=64", "data.batch_size=16"],
}


def text(folder: Path) -> Path:
    """Running text that no version of Python changes."""
    chance = random.Random(5)
    lines = [
        " ".join(chance.choice(WORDS) for _ in range(chance.randint(4, 12))) for _ in range(900)
    ]
    path = folder / "recipes.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def losses(run: Any, steps: int = STEPS) -> list[float]:
    run.fit()
    with (Path(run.config.paths.run_dir) / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    found = [float(row["train/loss"]) for row in rows]
    assert len(found) >= steps
    return found[:steps]


def first(start: Callable[..., Any], shape: str, folder: Path, *more: str) -> list[float]:
    steps = [f"trainer.max_steps={STEPS}", "trainer.max_epochs=-1", "trainer.log_every_n_steps=1"]
    if shape == "language_model":  # not of Python's own sources, which its versions change
        own = ["task=language_model", "data=text", f"data.path='{text(folder)}'",
               "tokenizer=characters", "data.batch_size=8", "data.steps=20",
               "model.hidden_size=32", "task.sample_length=20"]  # fmt: skip
        return losses(start("", *own, *START, *steps, *more))
    return losses(start(shape, *START, *EVEN[shape], *steps, *more))


def test_the_first_steps_are_as_they_were(
    shape: str, start: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found = first(start, shape, tmp_path)
    path = KEPT / f"{shape}.json"
    if request.config.getoption("--renew"):
        before = json.loads(path.read_text()) if path.exists() else []
        moved = [i for i, (a, b) in enumerate(zip(before, found, strict=False)) if not near(a, b)]
        path.write_text(json.dumps([round(loss, 7) for loss in found], indent=0) + "\n")
        was = f"moved from step {moved[0]}" if moved else "as before" if before else "new"
        print(f"\n{shape}: {was}", end="")
        return
    kept = json.loads(path.read_text())
    moved = [i for i, (a, b) in enumerate(zip(kept, found, strict=True)) if not near(a, b)]
    assert not moved, f"step {moved[0]}: {found[moved[0]]}, kept {kept[moved[0]]}"
    assert found[-1] < found[0]


def near(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * abs(other)


def test_bf16_begins_as_fp32_does(shape: str, start: Callable[..., Any], tmp_path: Path) -> None:
    full, half = (first(start, shape, tmp_path, f"precision={p}") for p in ("fp32", "bf16"))
    assert half == pytest.approx(full, rel=0.03)


@pytest.mark.parametrize("shape", ["classification", "captioning", "language_model"])
def test_the_trajectory_depends_on_the_seed(
    shape: str, start: Callable[..., Any], tmp_path: Path
) -> None:
    kept = json.loads((KEPT / f"{shape}.json").read_text())
    other = first(start, shape, tmp_path, "seed=12")
    assert not all(near(a, b) for a, b in zip(kept, other, strict=True))
