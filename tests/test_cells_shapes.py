"""The comparison of cells over shapes: its words compose, what was run is kept, a table says it."""

import json
import shlex
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import ledger.report
from benchmarks import cells_shapes, training
from ledger import comparison

ROOT = Path(__file__).parent.parent


def test_it_has_cells_of_every_family_and_a_shape_for_every_task() -> None:
    assert len(set(cells_shapes.SOME)) >= 10 and set(cells_shapes.SOME) <= set(training.CELLS)
    tasks = {path.stem for path in (ROOT / "configs" / "task").glob("*.yaml")}
    assert set(cells_shapes.SHAPES) <= tasks


@pytest.mark.parametrize("shape", cells_shapes.SHAPES)
def test_a_run_has_its_size_its_minutes_and_the_user_s_last_word(shape: str) -> None:
    words = cells_shapes.Run(shape, "lru", 3).words(5, ["data.batch_size=7"])
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", overrides=words)
    assert config.task._target_.startswith(f"tasks.{shape}.")
    assert config.model.budget == cells_shapes.SHAPES[shape].budget
    assert config.trainer.max_time == "00:00:05:00" and config.data.batch_size == 7
    assert "lru" in config.cell._target_


@pytest.mark.parametrize(
    "minutes, said", [(5, "00:00:05:00"), (0.3, "00:00:00:18"), (1500.5, "01:01:00:30")]
)
def test_minutes_are_said_as_a_clock_does(minutes: float, said: str) -> None:
    assert cells_shapes.clock(minutes) == said


def entered(table: Path, cell: str, seed: int, value: float, *, minutes: float = 1) -> None:
    run = cells_shapes.Run("tagging", cell, seed)
    words = shlex.join(run.words(minutes, []))
    facts = {key: "x" for key, kind in comparison.FIELDS.items() if kind is str}
    numbers = {"value": value, "steps": 1000 * seed, "parameters": 9, "minutes": 1.0}
    facts |= {"better": "higher", "metric": "test/accuracy", "words": words}
    comparison.add(table, {**facts, **numbers, "processor_minutes": 0.5, **run._asdict()})


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["cells_shapes.py", *words])
    cells_shapes.main()


def test_what_was_run_stays_and_the_table_has_the_best_in_bold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "made" / "table.csv"
    for cell, seed, value in (("rnn", 1, 0.5), ("gru", 1, 0.1), ("gru", 2, 0.9), ("gru", 1, 0.8)):
        entered(table, cell, seed, value)
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("it was run again"))
    call(
        monkeypatch, "gru", "--shapes", "tagging", "--seeds", "2", "1", "--minutes", "1",
        "--table", str(table),
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "| `gru` | **0.85** ± 0.071 (1,500 steps) | 1.0 |" in said  # the later 0.8 holds
    assert "| `rnn` | 0.5 (1,000 steps) | 2.0 |" in said
    assert json.loads(said.splitlines()[-1])["tagging"]["gru"]["value"] == [0.8, 0.9]


def test_runs_of_other_minutes_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "cells_shapes.csv"
    entered(table, "gru", 1, 0.8)
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(SystemExit, match="trained otherwise.*00:00:01:00.*choose another --table"):
        call(monkeypatch, "--shapes", "tagging", "--minutes", "2", "--out", str(tmp_path))
    entered(table, "rnn", 1, 0.8, minutes=2)
    with pytest.raises(ValueError, match="tagging cannot be compared"):
        comparison.read(table)


@pytest.mark.parametrize("old, new", [(",0.8,", ",much,"), (",0.8,", ",nan,"), ("seed,", "seat,")])
def test_a_line_that_no_run_wrote_is_refused(tmp_path: Path, old: str, new: str) -> None:
    table = tmp_path / "table.csv"
    entered(table, "gru", 1, 0.8)
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match="table.csv, line 2: "):
        comparison.read(table)


def test_a_cell_that_lacks_a_shape_has_no_rank_and_stands_last(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    for cell, value in (("gru", 0.8), ("rnn", 0.7)):
        entered(table, cell, 1, value)
    runs = comparison.read(table)
    other = {**runs[1], "shape": "music", "better": "lower", "metric": "test/nll"}
    lines = comparison.table([*runs, other]).splitlines()
    assert lines[0] == "| cell | tagging, `accuracy` | music, `nll` | mean rank |"
    assert lines[2] == "| `rnn` | 0.7 (1,000 steps) | **0.7** (1,000 steps) | 1.5 |"
    assert lines[3] == "| `gru` | **0.8** (1,000 steps) | – | – |"


def test_the_report_has_the_table_and_how_to_repeat_it(tmp_path: Path) -> None:
    entered(tmp_path / "results" / ledger.report.SHAPES, "gru", 1, 0.8)
    place = tmp_path / "RESULTS.md"
    ledger.report.write(place, results=tmp_path / "results", runs=tmp_path)
    text = place.read_text()
    assert "| `gru` | **0.8** (1,000 steps) | 1.0 |" in text
    words = shlex.join(cells_shapes.PARAGRAPHS)
    assert f"`python train.py task=tagging {words} cell=CELL seed=SEED" in text


@pytest.mark.slow
def test_a_run_is_entered_with_what_it_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [
        "data=dates", "tokenizer=characters", "data.train_size=64", "data.validation_size=16",
        "data.test_size=16", "trainer=cpu", "trainer.max_time=null", "trainer.max_epochs=1",
        "trainer.val_check_interval=null", "trainer.check_val_every_n_epoch=1",
        "trainer.log_every_n_steps=1",
    ]  # fmt: skip
    words = ("gru", "--shapes", "translation", "--out", str(tmp_path), "--set", *small)
    call(monkeypatch, *words)
    (run,) = comparison.read(tmp_path / "cells_shapes.csv")
    assert run["steps"] == 2 and run["device"].endswith("threads: 1") and run["fingerprint"]
    assert run["words"].endswith(shlex.join(small))
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("it was run again"))
    call(monkeypatch, *words)
