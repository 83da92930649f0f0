"""Keys that are younger than a run: it had their defaults, and goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import build
import resume

CONFIGS = Path(__file__).parents[2] / "configs"
Differences = Callable[..., dict[str, tuple[Any, Any]]]


@pytest.fixture
def differences(tmp_path: Path) -> Iterator[Differences]:
    """What differs between a run of one command line, whose config lost some keys, and another."""

    def config(place: str, overrides: list[str]) -> Any:
        line = [*overrides, f"paths.run_dir={tmp_path / place}"]
        composed = compose("config", line, return_hydra_config=True)
        HydraConfig.instance().set_config(composed)
        OmegaConf.set_struct(composed, False)
        composed.pop("hydra")
        return composed

    def differ(before: list[str], lost: list[str], after: list[str]) -> dict[str, tuple[Any, Any]]:
        stored = build.plain(config("before", before))
        for key in lost:
            *parents, last = key.split(".")
            node = stored
            for parent in parents:
                node = node[parent]
            del node[last]
        folder = tmp_path / "before"
        folder.mkdir(exist_ok=True)
        OmegaConf.save(OmegaConf.create(stored), folder / "config.yaml")
        return resume.differences(folder, config("after", after))

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield differ
    HydraConfig.instance().cfg = None


YOUNGER = [
    "data.num_workers", "task.samples", "task.seed", "model.pooling_hops", "callbacks.finite",
    "task.model.pooling_hops", "callbacks.last.minutes", "precision",
]  # fmt: skip


def test_a_key_that_the_run_did_not_know_had_its_default(differences: Differences) -> None:
    line = ["data=sst2", "seed=3", "optimizer.lr=0.1", "callbacks=ema"]
    lost = [*YOUNGER, "callbacks.average.decay"]
    assert differences(line, lost, line) == {}


def test_another_value_than_the_default_is_a_difference(differences: Differences) -> None:
    found = differences([], ["task.samples", "data.batch_size"], ["task.samples=3"])
    assert found == {"task.samples": (8, 3)}
    assert differences(["task.samples=3"], [], []) == {"task.samples": (3, 8)}


def test_what_an_experiment_sets_is_no_default(differences: Differences) -> None:
    line = ["experiment=sst2"]
    lost = ["trainer.max_epochs"]  # 8 in this experiment, 10 by default
    assert differences(line, lost, line) == {"trainer.max_epochs": (10, 8)}
    assert differences(line, lost, [*line, "trainer.max_epochs=10"]) == {}


@pytest.mark.parametrize("choice", ["callbacks=ema", "objective=adversarial", "trainer=ddp_cpu"])
def test_what_another_group_adds_is_a_difference(choice: str, differences: Differences) -> None:
    group = choice.partition("=")[0]
    found = differences([], [], [choice])
    assert any(key.startswith((f"{group}.", f"task.{group}")) for key in found), found


@pytest.mark.parametrize("line", [["data=trec"], ["task=multi", "parts=[sst2,trec]"]], ids=str)
def test_where_data_lies_is_no_difference(line: list[str], differences: Differences) -> None:
    here, there = ([*line, f"paths.data_dir=/{place}"] for place in ("here", "there/far"))
    for before in (line, here):
        assert not {k for k in differences(before, [], there) if not k.startswith("paths.")}


def test_a_folder_named_otherwise_below_the_data_is_a_difference(differences: Differences) -> None:
    before, after = (["data=trec", f"task.vectors=/data/{name}"] for name in ("glove", "word2vec"))
    found = differences([*before, "paths.data_dir=/data"], [], [*after, "paths.data_dir=/data"])
    assert found == {"task.vectors": ("data_dir/glove", "data_dir/word2vec")}
