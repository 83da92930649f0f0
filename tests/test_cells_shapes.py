"""The comparison of cells over shapes: its words compose, what was run is kept, a table says it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks import cells_shapes, training

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


def kept(folder: Path, cell: str, seed: int, value: float) -> None:
    run = cells_shapes.Run("tagging", cell, seed)
    result: dict[str, Any] = {**run._asdict(), "value": value, "steps": 1000 * seed}
    result |= {"parameters": 9, "minutes": 1.0, "processor_minutes": 0.5}
    file = run.file(folder)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**result, "words": run.words(1, [])}))


def test_what_was_run_stays_and_the_table_has_the_best_in_bold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cell, seed, value in (("gru", 1, 0.8), ("gru", 2, 0.9), ("rnn", 1, 0.5)):
        kept(tmp_path, cell, seed, value)
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("it was run again"))
    assert cells_shapes.once(cells_shapes.Run("tagging", "gru", 2), tmp_path, 1, [])
    found = cells_shapes.collect(tmp_path)
    assert list(found["tagging"]) == ["gru", "rnn"] and found["tagging"]["gru"]["seed"] == [1, 2]
    cells_shapes.write(found, tmp_path)
    table = (tmp_path / "cells_shapes.md").read_text()
    assert "| `gru` | **0.8500** ± 0.0707 (1,500 steps) |" in table
    assert "| `rnn` | 0.5000 (1,000 steps) |" in table
