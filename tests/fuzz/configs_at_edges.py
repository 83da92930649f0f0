"""Every key of the config, each at its edges, and what a run makes of it."""

import copy
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from hydra import compose
from omegaconf import OmegaConf

import build
from building.checks import check_run
from launch import describe
from tasks.layers import parameter_groups
from tasks.predict_options import PredictOptions
from tests.tasks.conftest import ALWAYS, CONFIGS, SMALL

SIZES = 10**9  # no machine has the memory for a hidden size of so many
EDGES: dict[type, tuple[Any, ...]] = {
    bool: (True, False, None, 2, "x", []),
    int: (0, 1, -1, 2, 7, SIZES, -SIZES, 10**30, None, 1.5, float("nan"), "x", [], [0], True, {}),
    float: (0.0, 1.0, -1.0, 0.5, 2, 1e9, -1e9, 1e-9, float("nan"), float("inf"), float("-inf"),
            None, "x", [], True, [0.5]),
    str: ("", "x", "no/such", 0, -1, None, 1.5, True, ["x"], []),
    list: ([], [0], [-1], [1], [SIZES], [0.5], ["x"], [None], [1, 2, 3, 4], None, 3, "x", {}),
    type(None): (None, 0, 1, -1, 2, 0.5, float("nan"), SIZES, True, "x", [], [1], ["x"], {}),
}  # fmt: skip
# where a run is and what it is called are no edges; other processes would wait for each other
LEFT_OUT = (
    "_target_", "_partial_", "paths", "cache_dir", "data_dir", "run_dir", "default_root_dir",
    "dirpath", "folder", "filename", "devices", "num_nodes", "strategy", "budget",
)  # fmt: skip
# rows that are generated because they were asked for, pixels and steps of pictures and noise
MADE = ("train_size", "validation_size", "test_size", "size", "steps", "min_steps", "max_steps")


CELLS = [f"cell={file.stem}" for file in sorted((CONFIGS / "cell").glob("*.yaml"))]
SCHEDULERS = [f"scheduler={file.stem}" for file in sorted((CONFIGS / "scheduler").glob("*.yaml"))]
OPTIMIZERS = [f"optimizer={file.stem}" for file in sorted((CONFIGS / "optimizer").glob("*.yaml"))]
# a part is tried once, in the first of these runs that has it
CHOICES: dict[str, list[tuple[str, ...]]] = {
    "classification": [
        (), *((cell,) for cell in CELLS), *((one,) for one in (*OPTIMIZERS, *SCHEDULERS)),
        ("objective=adversarial", "model.normalise_embedding=true"),
        ("objective=virtual_adversarial", "model.normalise_embedding=true"),
        ("callbacks=ema",), ("callbacks=ntasgd",), ("logger=tensorboard",),
    ],
    "tagging": [(), ("data=recipes_online", "model/head=crf"), ("data=recipes_online",)],
    "captioning": [(), ("model=show_and_tell",), ("objective=self_critical",)],
    "translation": [(), ("model=bahdanau",)],
    "language_model": [
        (), ("model/head=adaptive", "model.head.cutoffs=[10,30]"), ("model/head=mixture",),
        ("tokenizer=bpe",),
    ],
}  # fmt: skip


# what the trainer does, or is asked how far it is
WITH_TRAINER = ("trainer.", "callbacks.", "logger.", "task.objective", "task.teacher_forcing")


class Case(NamedTuple):
    """A key's value, in the run of a choice of groups."""

    choice: tuple[str, ...]
    key: str
    value: Any

    def __str__(self) -> str:
        return f"{' '.join(self.choice)} {self.key}={self.value!r}"


def leaves(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        place = f"{where}.{key}" if where else str(key)
        if key in LEFT_OUT or key == "hydra":
            continue
        if isinstance(value, Mapping) and value:
            yield from leaves(value, place)
        else:
            yield place, value


PLAIN = ("cell", "optimizer", "scheduler")  # groups whose files need no composing


@cache
def composed(*overrides: str) -> Any:
    last = overrides[-1].partition("=")
    if last[0] in PLAIN:
        config = copy.deepcopy(composed(*overrides[:-1]))
        config[last[0]] = OmegaConf.load(CONFIGS / last[0] / f"{last[2]}.yaml")
        return config
    return compose("config", [*overrides, *ALWAYS, "paths.run_dir=nowhere"])


def cases() -> Iterator[Case]:
    """Each key of each part once, whatever the choices that have that part."""
    seen: set[tuple[str, str]] = set()
    for task, choices in CHOICES.items():
        for choice in choices:
            overrides = (*SMALL[task], *choice)
            config = build.plain(composed(*overrides))
            for key, value in leaves(config):
                if key.startswith(("task.model.", "task.optimizer.", "task.scheduler.")):
                    continue  # these are the model's, the optimizer's and the schedule's
                owner = config
                for part in key.split(".")[:-1]:
                    owner = owner[part]
                who = str(owner.get("_target_", key.rpartition(".")[0])), key.rpartition(".")[2]
                if who in seen or key.startswith(
                    (
                        "model.cell",
                        "model.encoder.cell",
                        "model.decoder.cell",
                        "recurrent.cell",
                        "data.tokenizer.",
                    )
                ):
                    continue
                seen.add(who)
                for edge in EDGES[type(value)]:
                    if key.split(".")[-1] in MADE and key.startswith("data.") and _large(edge):
                        continue
                    yield Case(overrides, key, edge)


def in_range(value: Any) -> bool:
    """Whether an edge is of a type that numbers have, so that its size is what may be wrong."""
    if isinstance(value, list):
        return bool(value) and all(map(in_range, value))
    return type(value) in (int, float) and abs(value) < 1e12


def _large(value: Any) -> bool:
    return any(
        isinstance(one, (int, float)) and one > 1e6
        for one in (value if isinstance(value, list) else [value])
    )


@contextmanager
def seconds(most: int) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"still not done after {most} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(most)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def config_of(case: Case, folder: str) -> Any:
    config = copy.deepcopy(composed(*case.choice))
    config.trainer.max_steps = config.trainer.limit_val_batches = 1
    OmegaConf.update(config, "paths.run_dir", folder)
    OmegaConf.update(config, case.key, case.value, merge=False)
    return config


def outcome(case: Case, folder: str, *, most: int = 60) -> str:
    """`trained` or `explained: why`; what is neither is an error of its own."""
    try:
        with seconds(most):
            tried(config_of(case, folder), case)
    except Exception as error:
        if isinstance(error, TimeoutError) or describe(error) is None:
            raise
        return f"explained: {describe(error)}"
    return "trained"


_data: dict[Any, Any] = {}


def data_of(config: Any, case: Case) -> Any:
    """Data that the case does not change is prepared once."""
    if case.key.startswith(("data.", "tokenizer.", "seed")):
        return build.data(config)
    if case.choice not in _data:
        _data[case.choice] = build.data(config)
    return _data[case.choice]


def tried(config: Any, case: Case) -> None:
    """All that a run does before its second step, without the trainer where it is not asked."""
    check_run(config)
    data = data_of(config, case)
    build.choose_monitor(config, data.spec)
    torch.manual_seed(0)
    task = build.task(config, data.spec, data.codec, data.fingerprint, trains=True)
    part = case.key.partition(".")[0]
    if case.key.startswith(WITH_TRAINER) or "." not in case.key:
        trainer = build.trainer(config)
        trainer.fit(task, datamodule=data)
        return
    if part in ("data", "tokenizer"):
        data.report()
        for split in ("train", "validation", "test"):
            for number, _ in enumerate(data.loader(split)):
                if number == 2:
                    break
    batch = next(iter(data.loader("train")))
    loss, count = task.loss(batch)
    optimizer = task.optimizer(parameter_groups(task, layer_decay=task.layer_decay))
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("share")
    if task.scheduler is not None:
        task.scheduler(optimizer, 10)
    (loss / count.clamp(min=1)).backward()
    optimizer.step()
    raw = [data.example("test", i).input for i in range(min(2, len(data.splits["test"])))]
    task.eval()
    with torch.no_grad():
        task.predict(raw, PredictOptions(max_length=4))


Outcome = Callable[[Case], str]
