"""A checkpoint that was changed anywhere is refused when it is opened, or it answers; whatever
stands in it, nothing is run.
"""

import copy
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st

import build
import predict
from tests.fuzz.conftest import cases
from tests.fuzz.strange import values
from tests.tasks.conftest import ALWAYS, CONFIGS, SMALL

# every kind of codec that is made without data of one's own
RUNS = {
    "classification": ("classification", "model.hidden_size=4", "model.embedding_size=4"),
    "tagging": ("tagging", "model.hidden_size=4"),
    "tagged text": ("tagging", "data=recipes_online", "model.hidden_size=4"),
    "translation": ("translation", "model.encoder.hidden_size=4", "model.decoder.hidden_size=8"),
    "captioning": ("captioning", "data.size=[16,16]"),
    "language_model": ("language_model", "model.hidden_size=4", "tokenizer=bpe",
                       "tokenizer.vocab_size=80"),
}  # fmt: skip
MOST_SECONDS = 20

_watched: list[str] = []  # what was run or reached while a file was opened
_watching = False
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")


def _hook(event: str, arguments: Any) -> None:
    if _watching and event in _FORBIDDEN:
        _watched.append(event)


sys.addaudithook(_hook)  # it cannot be taken away again, but it does nothing unless it watches


class Made(dict[str, Any]):
    """The content of a checkpoint, and inputs for it."""

    raw: list[Any]
    answers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """A checkpoint of each run, as training writes it, of untrained weights."""
    GlobalHydra.instance().clear()
    found = {}
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for name, (shape, *more) in RUNS.items():
            place = f"paths.run_dir={tmp_path_factory.mktemp('run')}"
            config = compose("config", [*SMALL[shape], *ALWAYS, place, *more])
            torch.manual_seed(0)
            data = build.data(config)
            build.choose_monitor(config, data.spec)
            task = build.task(config, data.spec, data.codec, data.fingerprint)
            content = Made(state_dict=task.state_dict(), global_step=1)
            task._trainer = None
            task.on_save_checkpoint(content)
            content.raw = [data.example("test", i).input for i in range(2)]
            if shape == "language_model":
                content.raw = ["import ", ""]
            found[name] = content
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated") / "a.ckpt"


@pytest.fixture(autouse=True)
def nothing_is_run() -> Iterator[None]:
    global _watching
    _watching = True
    yield
    _watching = False
    assert _watched == []


def saved(content: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(dict(content), file)
    return file.getvalue()


def opened(place: Path, raw: list[Any]) -> list[dict[str, Any]] | None:
    """The answers; None where the file is refused in one line when it is opened."""
    began, refusal = time.monotonic(), None
    try:
        model = predict.load(place, device="cpu", precision="fp32")
    except ValueError as error:
        refusal = str(error).strip()
    assert time.monotonic() - began < MOST_SECONDS
    if refusal is not None:
        assert "\n" not in refusal
        return None
    answers = model(raw, max_length=4)
    json.dumps(answers)
    return answers


def parts(node: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested dictionaries and lists; of long lists the first ones."""
    if where:
        yield where
    inner = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node[:3])
        if (isinstance(node, list))
        else ()
    )
    for key, value in inner:
        yield from parts(value, (*where, key))


def changed(content: Any, where: tuple[Any, ...], how: str, value: Any) -> None:
    """Put `value` at a place, or delete, double or empty what stands there."""
    node = content
    for key in where[:-1]:
        node = node[key]
    own, key = node[where[-1]], where[-1]
    if how == "delete":
        del node[key]
    elif how == "wrap":
        node[key] = [own, own]
    elif how == "negative" and isinstance(own, (int, float)):
        node[key] = -own
    elif how == "huge" and isinstance(own, (int, float)):
        node[key] = own * 10**9 + 10**9
    elif how == "other" and isinstance(own, str):
        node[key] = own[::-1]
    else:
        node[key] = value


@pytest.mark.parametrize("name", RUNS)
def test_a_record_changed_at_one_place(
    name: str, made: dict[str, Made], place: Path, outcomes: Counter[str]
) -> None:
    record = made[name]["unroll"]
    every = [w for w in parts(record) if w[:1] != ("config",) or w[1:2] == ("task",)]
    # as many cases for the codec and the spec as for the many keys of the task
    by_part = [[w for w in every if w[0] == part] for part in ("codec", "spec", "config")]

    @cases(12)
    @given(
        st.sampled_from([part for part in by_part if part]).flatmap(st.sampled_from),
        st.sampled_from(["put", "put", "delete", "wrap", "negative", "huge", "other"]), values,
    )  # fmt: skip
    def any_change(where: tuple[Any, ...], how: str, value: Any) -> None:
        again = {**made[name], "unroll": copy.deepcopy(record)}
        changed(again["unroll"], where, how, value)
        place.write_bytes(saved(again))
        answers = opened(place, made[name].raw)
        outcomes["refused" if answers is None else "answered"] += 1

    any_change()


@pytest.mark.parametrize("name", ["classification", "language_model"])
def test_a_file_with_other_bytes(
    name: str, made: dict[str, Made], place: Path, outcomes: Counter[str]
) -> None:
    whole = saved(made[name])
    place.write_bytes(whole)
    right = opened(place, made[name].raw)
    assert right is not None
    spots = st.integers(0, len(whole) - 1) | st.integers(len(whole) - 800, len(whole) - 1)

    @cases(25)
    @given(spots, st.integers(1, 255), st.sampled_from(["flip", "cut", "zero", "double", "drop"]))
    def any_bytes(spot: int, number: int, how: str) -> None:
        content = bytearray(whole)
        end = min(len(content), spot + number)
        if how == "flip":
            content[spot] ^= number
        elif how == "cut":
            del content[spot:]
        elif how == "zero":
            content[spot:end] = bytes(end - spot)
        elif how == "double":
            content[spot:spot] = content[spot:end]
        else:
            del content[spot:end]
        place.write_bytes(content)
        answers = opened(place, made[name].raw)
        assert answers in (None, right)
        outcomes["refused" if answers is None else "answered"] += 1

    any_bytes()


def test_weights_of_another_kind(
    made: dict[str, Made], place: Path, outcomes: Counter[str]
) -> None:
    content = made["classification"]
    names = list(content["state_dict"])
    kinds = st.one_of(
        st.sampled_from([None, 3, "x", [], {}]),
        st.sampled_from([
            torch.zeros(()), torch.zeros(0), torch.zeros(2, 2), torch.ones(3, dtype=torch.bool),
            torch.zeros(3).to_sparse(), torch.zeros(1).expand(10**6),
        ]),
    )  # fmt: skip

    @cases(15)
    @given(st.sampled_from(names), kinds, st.booleans())
    def any_weights(name: str, value: Any, rename: bool) -> None:
        weights = dict(content["state_dict"])
        if rename:
            weights[f"{name}.x"] = weights.pop(name)
        else:
            weights[name] = value
        place.write_bytes(saved({**content, "state_dict": weights}))
        assert opened(place, content.raw) is None
        outcomes["refused"] += 1

    any_weights()
    for none in (None, [], "x", 3, {}):
        place.write_bytes(saved({**content, "state_dict": none}))
        assert opened(place, content.raw) is None
