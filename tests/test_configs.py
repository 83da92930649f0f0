"""Every YAML file composes with the primary config, names what exists, and builds what it names."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning import LightningDataModule, Trainer
from omegaconf import DictConfig, OmegaConf
from torch import nn

import build
from building.instantiate import check_targets
from data.codec import TokenizerSettings
from models.head import build_head
from tasks.base import Task

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.glob("*/**/*.yaml"))
PRIMARY = {
    group: name
    for entry in yaml.safe_load((CONFIGS / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    if isinstance(entry, dict)
    for group, name in entry.items()
    if not group.startswith("override ")
}
HOSTS = {"objective": ["task=captioning"]}  # of groups whose keys not every task has
ABSENT = [
    kind
    for kind, found in [("gpu", torch.cuda), ("mps", torch.backends.mps)]
    if not found.is_available()
]

# what a task tells a factory of models, for data of every kind
TEXT = {"vocabulary_size": 20, "input_features": None, "keys": None, "real": False}
SIZES: list[dict[str, Any]] = [
    TEXT,
    {**TEXT, "vocabulary_size": None, "input_features": 5, "keys": 88},
    {**TEXT, "picture_shape": None, "source_vocabulary_size": 20},
    {**TEXT, "picture_shape": (3, 64, 64), "source_vocabulary_size": None},
]
ALWAYS = {
    "num_outputs": 3, "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3,
    "target_vocabulary_size": 20, "shared_vocabulary": False,
}  # fmt: skip


Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The config of a command line; each is composed once."""
    folder = tmp_path_factory.mktemp("run")
    GlobalHydra.instance().clear()

    @cache
    def compose_once(*overrides: str) -> DictConfig:
        settled = ["task.monitor=val/loss", "task.mode=min", "precision=fp32"]
        return compose("config", overrides=[*overrides, *settled, f"paths.run_dir={folder}"])

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield compose_once


# groups within a file of another one, and the choice that has them
WITHIN = {"model/head": "task=language_model"}


def choice(file: Path) -> str:
    """The command line's words for a file of a group."""
    group, *below = file.with_suffix("").parts
    name = "/".join(below)
    if str(file.parent) in WITHIN:
        return f"{file.parent}={file.stem}"
    return f"{group}={name}" if group in PRIMARY else f"+{group}={name}"


def targets(node: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node with a `_target_`, with its path."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from targets(value, f"{where}.{key}".strip("."))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from targets(value, f"{where}[{i}]")


def accepted(target: Callable[..., Any]) -> set[str] | None:
    """The names that our own callable takes, with those that its `**settings` hand to its base;
    None where a library takes any."""
    names: set[str] = set()
    for kind in target.__mro__ if inspect.isclass(target) else (target,):
        parameters = inspect.signature(kind).parameters.values()
        names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
        if kind.__module__.partition(".")[0] not in ("data", "models", "tasks"):
            return None
    return names


def check_arguments(node: Mapping[str, Any], where: str) -> None:
    target = hydra.utils.get_object(node["_target_"])
    arguments = {key: value for key, value in node.items() if key[0] != "_" and key != "budget"}
    names = accepted(target)
    unknown = set() if names is None else arguments.keys() - names
    assert not unknown, f"{where}: {node['_target_']} takes no {sorted(unknown)}"
    signature = inspect.signature(target)
    if node.get("_partial_"):
        signature.bind_partial(**arguments)
    elif isinstance(target, type) and issubclass(target, Task):
        signature.bind(spec=None, codec=None, **arguments)
    else:
        signature.bind(**arguments)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.with_suffix("")))
def test_it_composes_and_every_target_takes_its_arguments(file: Path, composed: Compose) -> None:
    around = [WITHIN[str(file.parent)]] if str(file.parent) in WITHIN else []
    around += HOSTS.get(file.parts[0], ())
    settings = build.plain(composed(*around, choice(file)))
    check_targets(settings)
    for where, node in targets(settings):
        check_arguments(node, where)


def group(name: str) -> list[str]:
    return sorted(file.stem for file in FILES if file.parent.name == name)


@pytest.mark.parametrize("cell", group("cell"))
def test_a_cell_runs(cell: str, composed: Compose) -> None:
    layer = build.instantiate(composed(f"cell={cell}").cell)(input_size=3, hidden_size=4)
    outputs, _ = layer(torch.zeros(2, 5, 3))
    assert outputs.shape == (2, 5, layer.output_size)


@pytest.mark.parametrize("name", group("model"))
def test_a_model_is_built_from_some_kind_of_data(name: str, composed: Compose) -> None:
    factory = build.instantiate(composed(f"model={name}").model)
    wanted = inspect.signature(factory).parameters
    refusals = []
    for sizes in SIZES:
        told = {key: value for key, value in (ALWAYS | sizes).items() if key in wanted}
        try:
            assert sum(p.numel() for p in factory(**told).parameters()) > 0
            return
        except (ValueError, AssertionError) as refusal:
            refusals.append(refusal)
    pytest.fail(f"no kind of data suits model={name}: {refusals}")


@pytest.mark.parametrize("name", group("head"))
@pytest.mark.parametrize("task", ["language_model", "tagging"])
def test_an_output_layer_is_a_distribution_or_says_whom_it_is_not_for(
    task: str, name: str, composed: Compose
) -> None:
    factory = build.instantiate(composed(f"task={task}", f"model/head={name}").model.head)
    own = {"tied": None} if task == "language_model" else {"class_weights": None}
    known = {"input_size": 4, "num_outputs": 20_000, "label_smoothing": 0.0, **own}
    if task != "language_model" and name in ("adaptive", "mixture"):
        with pytest.raises(ValueError, match="no use for class_weights"):
            build_head(factory, **known)
    elif task == "language_model" and name == "crf":
        with pytest.raises(ValueError, match="no use for tied"):
            build_head(factory, **known)
    else:
        outputs = 20_000 if task == "language_model" else 5
        head = build_head(factory, **{**known, "num_outputs": outputs})
        sums = head.log_probs(torch.randn(1, 2, 4)).exp().sum(-1)
        torch.testing.assert_close(sums, torch.ones(1, 2))


@pytest.mark.parametrize("name", [name for name in group("data") if name != "source"])
def test_a_data_module_is_built_before_anything_is_read(name: str, composed: Compose) -> None:
    data = build.instantiate(composed(f"data={name}").data)
    assert isinstance(data, LightningDataModule)


@pytest.mark.parametrize("name", group("tokenizer"))
def test_a_tokenizer_learns(name: str, composed: Compose) -> None:
    settings = build.instantiate(composed(f"tokenizer={name}").tokenizer)
    assert isinstance(settings, TokenizerSettings)
    assert settings.train(["two words", "two words"]).vocabulary.size > 4


@pytest.mark.parametrize("name", group("optimizer"))
def test_an_optimizer_steps(name: str, composed: Compose) -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = build.instantiate(composed(f"optimizer={name}").optimizer)([parameter])
    parameter.sum().backward()
    optimizer.step()
    assert (parameter < 1).all()


@pytest.mark.parametrize("name", group("scheduler"))
def test_a_schedule_has_a_first_rate(name: str, composed: Compose) -> None:
    config = composed(f"scheduler={name}")
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=1.0)
    build.instantiate(config.scheduler)(optimizer, 100)
    assert 0 < optimizer.param_groups[0]["lr"] <= 1


@pytest.mark.parametrize(
    "override",
    [
        f"{kind}={name}"
        for kind in ("trainer", "callbacks", "logger", "debug")
        for name in group(kind)
    ],
)
def test_a_trainer_is_built_or_says_what_is_missing(override: str, composed: Compose) -> None:
    config = composed(*([] if "trainer" in override else ["trainer=cpu"]), override)
    if config.trainer.accelerator in ABSENT:
        with pytest.raises(ValueError, match="trainer=cpu"):
            build.trainer(config)
    else:
        assert isinstance(build.trainer(config), Trainer)


EXPERIMENTS = sorted((CONFIGS / "experiment").rglob("*.yaml"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
@pytest.mark.usefixtures("composed")
def test_all_that_an_experiment_sets_holds(file: Path) -> None:
    name = file.relative_to(CONFIGS / "experiment").with_suffix("")
    found = OmegaConf.to_container(compose("config", overrides=[f"experiment={name}"]))
    own = OmegaConf.to_container(OmegaConf.load(file)) or {}

    def check(node: Any, within: Any, where: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                check(value, within[key], f"{where}{key}.")
            else:
                assert within[key] == value, f"{where}{key}"

    assert isinstance(own, dict)
    check({key: value for key, value in own.items() if key != "defaults"}, found, "")


def test_the_groups_are_those_of_the_primary_config() -> None:
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert folders >= PRIMARY.keys()
    assert folders - PRIMARY.keys() <= {"sweep"}


def test_a_wrong_key_is_seen_by_these_tests() -> None:
    node = {"_target_": "models.cells.gru.GRU", "_partial_": True, "orthogonol": True}
    with pytest.raises(AssertionError, match="orthogonol"):
        check_arguments(node, "cell")
    with pytest.raises(ValueError, match=r"cell names 'os\.system'"):
        check_targets({"cell": {"_target_": "os.system"}})
