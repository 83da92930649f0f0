"""Small runs of every shape, composed as the command line composes them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from matplotlib.figure import Figure

import build
from building import parts

CONFIGS = Path(__file__).parent.parent.parent / "configs"

# every shape on little data with a little model
SMALL = {
    "classification": [
        "task=classification", "data.train_size=64", "data.validation_size=32",
        "data.test_size=32", "data.batch_size=16", "model.hidden_size=24",
    ],
    "tagging": ["task=tagging", "data.limit=32", "data.batch_size=16", "model.hidden_size=24"],
    "captioning": [
        "task=captioning", "data.train_size=48", "data.validation_size=16", "data.test_size=16",
        "data.batch_size=16", "model.encoder.channels=[8,16,16]", "model.decoder.hidden_size=32",
        "model.decoder.embedding_size=24",
    ],
    "translation": [
        "task=translation", "data.limit=48", "data.batch_size=16", "model.encoder.hidden_size=16",
        "model.encoder.embedding_size=16", "model.decoder.hidden_size=32",
        "model.decoder.embedding_size=16", "task.max_new_tokens=20",
    ],
    "language_model": [
        "task=language_model", "data.train_size=6000", "data.validation_size=2000",
        "data.test_size=2000", "data.batch_size=8", "data.steps=20", "model.hidden_size=32",
        "task.sample_length=20",
    ],
}  # fmt: skip
ALWAYS = ["trainer=cpu", "logger=csv", "precision=fp32", "callbacks.estimate=null"]


class Run(NamedTuple):
    config: Any
    data: Any
    task: Any
    trainer: Any

    def fit(self) -> "Run":
        self.trainer.fit(self.task, datamodule=self.data)
        return self

    def test(self) -> dict[str, float]:
        self.trainer.test(self.task, datamodule=self.data, verbose=False)
        return dict(self.task.measured)


Start = Callable[..., Run]


@pytest.fixture
def drawn() -> None:
    """For tests that look at the pictures of a run; those of others are empty files."""


@pytest.fixture
def start(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """A run of a shape: `start("tagging", "cell=lstm")`."""
    if "drawn" not in request.fixturenames:  # drawing would take most of a small run's time
        monkeypatch.setattr(Figure, "savefig", lambda _, path, **__: Path(path).touch())
    GlobalHydra.instance().clear()
    count = 0

    def started(shape: str, *overrides: str) -> Run:
        nonlocal count
        count += 1
        folder = f"paths.run_dir={tmp_path}/run{count}"
        config = compose("config", [*SMALL.get(shape, ()), *ALWAYS, folder, *overrides])
        config = parts.composed(config)
        lightning.seed_everything(config.seed, verbose=False)
        data = build.data(config)
        build.choose_monitor(config, data.spec)
        task = build.task(config, data.spec, data.codec, data.fingerprint)
        task.initialise()
        return Run(config, data, task, build.trainer(config))

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield started


@pytest.fixture(params=SMALL)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def smalls() -> dict[str, list[str]]:
    """The overrides of every shape's small run."""
    return SMALL


@pytest.fixture
def small(shape: str) -> list[str]:
    """The overrides of a shape's small run, for a command line."""
    return SMALL[shape]
