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
import torch
import torch.nn.functional as F
from torch import Tensor

from models.fused import FusedLayer
from models.recurrent import RecurrentLayer
from models.state import State, leaves, where_rows

KEPT = Path(__file__).parents[1] / "trajectories"
STEPS = 20
# processors add in different orders, and twenty steps of training let that grow
TOLERANCE = 2e-3
OTHERS = ["classification", "captioning", "translation", "language_model"]
WORDS = "add salt fry onions taste sauce boil water chop leeks serve cold slowly again".split()
START = ["optimizer=adamw", "optimizer.lr=1e-3", "scheduler=constant", "seed=11"]
# batches of one size
EVEN = {
    "classification": ["data.train_size=64", "data.batch_size=16"],
    "tagging": ["data.limit=64", "data.batch_size=16"],
    "captioning": ["data.train_size=64", "data.batch_size=16"],
    "translation": ["data.limit=64", "data.batch_size=16"],
}
STILL = {  # nothing random in a step
    "tagging": ["model.dropout=0"],
    "translation": [
        f"model.{part}.{kind}=0"
        for part in ("encoder", "decoder")
        for kind in ("dropout", "embedding_dropout")
    ],
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


@pytest.mark.parametrize(
    "kind", ["tagging", *(pytest.param(k, marks=pytest.mark.slow) for k in OTHERS)]
)
def test_a_cell_written_out_learns_as_the_fused_one(
    kind: str, start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def forward(
        layer: Any, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        nonlocal calls
        calls += 1
        now, outputs = layer.begin(inputs.size(0), state), []
        enter, recur, enter_bias, recur_bias = layer._weights()
        for place, x in enumerate(inputs.unbind(1)):
            recurrent = F.linear(leaves(now)[0], recur, recur_bias)
            after = layer.gate(F.linear(x, enter, enter_bias), recurrent, now)
            outputs.append(leaves(after)[0])
            now = after if lengths is None else where_rows(lengths > place, after, now)
        return torch.stack(outputs, 1), now

    monkeypatch.setattr(FusedLayer, "forward", forward)
    monkeypatch.setattr(FusedLayer, "both_ways", RecurrentLayer.both_ways)
    found = first(start, kind, tmp_path)
    kept = json.loads((KEPT / f"{kind}.json").read_text())
    assert all(map(near, found, kept))
    if kind != "captioning":  # whose decoder goes step by step anyhow
        assert calls >= STEPS


@pytest.mark.parametrize("kind", ["tagging", pytest.param("translation", marks=pytest.mark.slow)])
def test_accumulated_halves_learn_as_whole_batches(
    kind: str, start: Callable[..., Any], tmp_path: Path
) -> None:
    still = ["data.limit=16", "trainer.check_val_every_n_epoch=20", *STILL[kind]]
    sgd = ["optimizer=sgd", "optimizer.lr=0.1", *START[2:]]  # Adam would not see another scale
    halves = ["data.batch_size=8", "trainer.accumulate_grad_batches=2"]
    runs = []
    for more in ([], halves):
        run = start(kind, *sgd, *EVEN[kind], f"trainer.max_epochs={STEPS}", *still, *more)
        runs.append(run.fit())
    assert [run.trainer.global_step for run in runs] == [STEPS, STEPS]
    whole, parts = (list(run.task.parameters()) for run in runs)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=1e-4)


def near(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * abs(other)


@pytest.mark.slow
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
