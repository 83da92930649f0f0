"""The comparison of training methods: its words compose, pairs train as long, a table says it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks import methods, training

SHORT = f"trainer.max_steps={methods.SHORT}"  # tells what a step costs
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", methods.METHODS)
def test_its_words_are_keys_and_change_something(name: str) -> None:
    method = methods.METHODS[name]
    common = [*methods.SETTINGS[method.setting].words, *method.both]
    words = [word.replace("{before}", "runs/teacher") for word in method.words]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        without = compose("config", overrides=common)
        having = compose("config", overrides=[*common, *words])
        if method.before is not None:
            compose("config", overrides=[*common, *method.before])
    assert without != having
    assert having.task._target_ == without.task._target_
    assert having.data.name == without.data.name


class Trainings:
    """Stands for train.py: leaves what a run leaves, at the speed of so much time a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, having: float) -> None:
        self.having = having  # time of a step with the method, of one without 1
        self.said: list[list[str]] = []
        monkeypatch.setattr(training, "train", self)

    def __call__(self, run: Any, words: list[str]) -> str | None:
        self.said.append(words)
        recipe = {"data=trec", "experiment=trec"} <= set(words)
        having = recipe or "model.pooling=concat" in words
        told = dict(word.split("=", 1) for word in words)
        place = Path(told["hydra.run.dir"])
        place.mkdir(parents=True, exist_ok=True)
        steps = int(told.get("trainer.max_steps", 900))
        speed = 1000 / (self.having if having else 1)
        rows = f"0,{speed / 3}\n1,{speed}\n2,{speed}\n{steps - 1},\n"  # slow at first
        (place / "metrics.csv").write_text(f"step,tokens_per_second\n{rows}")
        value = 0.9 if having else 0.8
        seed = 0.01 * int(told.get("seed", 0))
        return json.dumps({"value": value, "test": {"test/accuracy": value + seed * (1 + having)}})

    @property
    def whole(self) -> list[list[str]]:
        """What was trained, but for what tells the cost of a step."""
        return [words for words in self.said if SHORT not in words]


def test_what_costs_twice_as_much_gets_half_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = Trainings(monkeypatch, having=2.0)
    for seed in (1, 2):
        assert methods.pair("concat", seed, tmp_path, ["data.batch_size=7"])
    assert all("data.batch_size=7" in words for words in train.said)
    measured = len(train.said) - len(train.whole)
    assert measured == 2 * methods.TURNS  # what a step costs, once
    assert ["trainer.max_steps=450" in words for words in train.whole] == [False, True] * 2

    found = methods.collect(tmp_path)["concat"]
    assert found["seed"] == [1, 2] and found["step"] == 2.0
    assert methods.difference(found) == "+0.1150 ± 0.0071"
    methods.write(methods.collect(tmp_path), tmp_path)
    table = (tmp_path / "methods.md").read_text(encoding="utf-8")
    assert (
        "| `concat` | trec | accuracy | 0.8150 | 0.9300 | +0.1150 ± 0.0071 | × 2.00 | 2 |" in table
    )

    train.said.clear()
    assert methods.pair("concat", 2, tmp_path, ["data.batch_size=7"]) and not train.said


def test_what_costs_nothing_trains_as_long_and_a_recipe_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Trainings(monkeypatch, having=1.01)
    assert methods.pair("concat", 1, tmp_path, [])
    train.having = 10.0
    assert methods.pair("recipe_trec", 1, tmp_path, [])
    assert len(train.whole) == 4 and not any(
        "trainer.max_steps" in " ".join(words) for words in train.whole
    )


def test_a_teacher_is_trained_first_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Trainings(monkeypatch, having=1.0)
    assert methods.pair("distillation", 3, tmp_path, [])
    first = methods.runs(methods.METHODS["distillation"], 3)[1].first
    assert first is not None
    teacher = first.place(tmp_path)
    assert f"task.objective.teacher={teacher}" in train.said[-1]
    assert [f"hydra.run.dir={teacher}" in words for words in train.said].count(True) == 1


def test_what_two_methods_compare_with_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Trainings(monkeypatch, having=1.0)
    for name in ("normalise_embedding", "adversarial", "virtual_adversarial"):
        assert methods.pair(name, 1, tmp_path, [])
    assert len(train.whole) == 4


def test_a_run_that_fails_fails_its_pair_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train", lambda *_, **__: None)
    assert not methods.pair("hops", 1, tmp_path, [])
    assert methods.collect(tmp_path) == {}
