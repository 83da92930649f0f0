"""One space for all: Optuna, random draws, W&B; every one that ships fits its task."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import build
import sweeping.command_line
import sweeping.space
import sweeping.wandb_sweep
from hydra_plugins import random_sweeper
from launch import CONFIGS
from sweeping.plan import Plan
from sweeping.space import Choice, Interval

SPACES = sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml") if path.stem != "none")
OF_TASK = {"sentences": "task=classification model=text_classifier"}  # others have its name
SEVERAL = {
    "optimizer.lr": "tag(log,interval(1e-4,1e-1))",
    "model.hidden_size": "int(interval(8,16))",
    "model.num_layers": "range(1,4)",
    "model.dropout": "range(0.0,0.5,step=0.1)",
    "cell": "choice(gru,lstm)",
    "callbacks.early_stopping.patience": "null,3",
    "data.batch_size": "tag(log,int(interval(4,256)))",
}


@pytest.fixture
def hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def planned(**changed: Any) -> Plan:
    settings: dict[str, Any] = {
        "name": "one", "storage": "s", "folder": "f", "program": "train.py",
        "words": ["task=classification"], "space": SEVERAL,
        "monitor": "val/loss", "mode": "min", "seed": 1, "sampler": "tpe",
        "pruner": "hyperband", "trials": 7, "lease": 1.0, "give_up": 3, "gpus": 0, "share": 1,
        "workers": 1,
    }  # fmt: skip
    return Plan(**{**settings, **changed})


FEW = {
    "language_model": "data.train_size=20000 data.validation_size=9000 data.test_size=9000",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_every_value_of_a_space_that_ships_makes_a_model_of_its_task(
    name: str, hydra: None
) -> None:
    space = sweeping.space.parse(sweeping.space.read(name))
    assert "optimizer.lr" in space and len(space) > 3
    few = FEW.get(name, "data.train_size=20 data.validation_size=10 data.test_size=10").split()
    settled = ["task.monitor=val/loss", "task.mode=min", f"paths.run_dir={name}"]
    words = [*OF_TASK.get(name, f"task={name}").split(), *few, *settled]
    data = build.data(compose("config", overrides=words))
    for one in space.values():
        ends = list(one.words) if isinstance(one, Choice) else [one.low, one.high]
        for value in ends:
            config = compose("config", overrides=[*words, one.word(value)])
            if one.key != "cell":
                assert OmegaConf.select(config, one.key) == value
            if one.key == "cell" or (isinstance(one, Choice) and one.key.startswith("model.")):
                with torch.device("meta"):
                    build.task(config, data.spec, data.codec)


def test_every_shape_has_a_space() -> None:
    assert {"tagging", "classification", "captioning", "translation", "language_model"} <= set(
        SPACES
    )


def test_expressions_say_what_may_be_chosen() -> None:
    space = sweeping.space.parse(SEVERAL)
    assert space["optimizer.lr"] == Interval(key="optimizer.lr", low=1e-4, high=0.1, log=True)
    assert space["model.hidden_size"] == Interval(key="model.hidden_size", low=8, high=16)
    assert space["model.num_layers"] == Interval(key="model.num_layers", low=1, high=3)
    assert space["cell"].words == {"gru": "gru", "lstm": "lstm"}
    assert space["callbacks.early_stopping.patience"].words == {None: "null", 3: "3"}
    dropout = space["model.dropout"]
    assert dropout.step == 0.1 and dropout.high == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gru", "two values or more"),
        ("choice(gru)", "two values or more"),
        ("range(1,2)", "two values or more"),
        ("interval(3,1)", "two numbers that rise"),
        ("tag(log,interval(0,1))", "that rise, above 0"),
        ("glob(*)", "two values or more"),
    ],
)
def test_what_leaves_no_choice_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sweeping.space.parse({"cell": text})


@pytest.mark.parametrize("key", SEVERAL)
def test_draws_and_suggestions_stay_in_the_space(key: str) -> None:
    one = sweeping.space.parse(SEVERAL)[key]
    random, study = np.random.default_rng(0), optuna.create_study()
    drawn = [one.draw(random) for _ in range(200)]
    asked = [one.suggest(study.ask()) for _ in range(20)]
    for value in [*drawn, *asked]:
        assert 0 <= one.height(value) <= 1
        parsed = OverridesParser.create().parse_override(one.word(value))
        assert (
            parsed.value() == pytest.approx(value) if value is not None else parsed.value() is None
        )
    assert len(set(drawn)) > 1
    if isinstance(one, Interval):  # both ends count
        heights = [one.height(value) for value in drawn]
        assert min(heights) < 0.2 and max(heights) > 0.8
        if one.log:
            assert 0.3 < np.mean(heights) < 0.7


def test_the_command_line_beats_the_file() -> None:
    given = ["task=tagging", "optimizer.lr=0.01", "model.dropout=interval(0,1)", "cell=gru,rnn"]
    words, expressions = sweeping.command_line.words(given, "auto")
    assert words == ["task=tagging", "optimizer.lr=0.01"]
    assert "optimizer.lr" not in expressions and "model.hidden_size" in expressions
    assert expressions["cell"] == "gru,rnn" and "model.dropout" in expressions
    _, alone = sweeping.command_line.words(given, "none")
    assert alone.keys() == {"model.dropout", "cell"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resume=true"], "resume=true: the sweep itself says it"),
        (["hydra.run.dir=x"], "the sweep itself"),
        (["cell=gru"], "leaves nothing to vary"),
    ],
)
def test_words_that_a_sweep_cannot_take_are_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sweeping.command_line.words(arguments, "none")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("pruner=mean", "choose median, hyperband, none"),
        ("workers=0", "workers=0: give a number above 0"),
        ("trials=many", "trials: Value 'many'"),
    ],
)
def test_a_wrong_key_of_the_sweep_is_told(word: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sweeping.command_line.read([word])
    assert sweeping.command_line.MEANINGS.keys() == vars(sweeping.command_line.Settings()).keys()


def test_random_search_draws_as_many_runs_as_are_asked_for(hydra: None) -> None:
    words = [
        "task=classification",
        *(f"{k}={t}" for k, t in SEVERAL.items()),
        "cell=choice(rnn,lru)",
    ]
    overrides = OverridesParser.create().parse_overrides(words)
    runs = random_sweeper.draw(overrides, 8, seed=1)
    assert len(runs) == 8 and len({tuple(run) for run in runs}) == 8
    assert runs == random_sweeper.draw(overrides, 8, seed=1)
    assert runs != random_sweeper.draw(overrides, 8, seed=2)
    assert all(run[0] == "task=classification" for run in runs)
    config = compose("config", overrides=runs[0])
    assert 1e-4 <= config.optimizer.lr <= 0.1 and "cell=gru" not in runs[0]
    with pytest.raises(ValueError, match="nothing to draw"):
        random_sweeper.draw(overrides[:1], 8, seed=1)


def test_what_an_agent_of_wandb_calls_is_understood(tmp_path: Path, hydra: None) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    path = sweeping.wandb_sweep.write(tmp_path / "wandb_sweep.yaml", planned())
    found = yaml.safe_load(path.read_text())
    assert found["method"] == "bayes" and found["run_cap"] == 7
    assert found["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert found["early_terminate"]["type"] == "hyperband"
    assert found["command"][-2:] == ["task=classification", "${args_no_hyphens}"]
    parameters = found["parameters"]
    assert parameters["optimizer.lr"] == {
        "distribution": "log_uniform_values", "min": 1e-4, "max": 0.1,
    }  # fmt: skip
    for pick in (0, -1):  # the first and last value of each, as the agent writes them
        chosen = {key: (one.get("values") or [one["min"], one["max"]])[pick]
                  for key, one in parameters.items()}  # fmt: skip
        written = create_sweep_command_args({"args": {k: {"value": v} for k, v in chosen.items()}})
        words = [*found["command"][3:-1], *written["args_no_hyphens"]]
        config = compose("config", overrides=words)
        assert config.optimizer.lr == chosen["optimizer.lr"]
        assert config.callbacks.early_stopping.patience == (None, 3)[pick]
    assert "early_terminate" not in sweeping.wandb_sweep.described(planned(pruner="none"))
