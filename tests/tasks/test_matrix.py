"""Every task with every cell, and every task on two processes."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import commands

ROOT = Path(__file__).parent.parent.parent
CELLS = sorted(file.stem for file in (ROOT / "configs" / "cell").glob("*.yaml"))

# A relu network that carries its state through a whole text must shrink it, or it overflows.
OPTIONS = {"irnn": ["cell.scale=0.5"]}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_a_task_trains_tests_and_predicts_with_a_cell(shape: str, cell: str, start: Any) -> None:
    from tasks.predict_options import PredictOptions

    brief = ["trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    run = start(shape, f"cell={cell}", *OPTIONS.get(cell, []), *brief)
    run.fit()
    measured = run.test()
    assert all(value == value for value in measured.values()), measured
    raw = [run.data.example("test", i).input for i in range(2)]
    if shape == "language_model":
        raw = ["def ", ""]
    answers = run.task.eval().predict(raw, PredictOptions(max_length=5))
    assert len(answers) == 2
    json.dumps(answers)


@pytest.mark.slow
def test_two_processes_train_and_test_every_shape(small: list[str], tmp_path: Path) -> None:
    common = [ROOT / "train.py", "logger=csv", "precision=fp32"]
    epoch = [*small, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run"]
    done = commands.run([*common, *epoch, "trainer=ddp_cpu"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"run"')]
    assert len(lines) == 1  # rank zero alone speaks
    two = json.loads(lines[0])["test"]
    # the same checkpoint, tested by one process, gives the same numbers
    test = ["fit=false", f"ckpt={tmp_path}/run", f"hydra.run.dir={tmp_path}/again"]
    again = commands.run([*common, *test, "trainer=cpu"], cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    one = json.loads(again.stdout.splitlines()[-1])["test"]
    assert one == pytest.approx(two, rel=1e-4, abs=1e-6)
