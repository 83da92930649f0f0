"""Any options of a prediction together: what was asked for holds of every answer, or the error says
which of them cannot be.
"""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st

import build
from predict import Predictor
from tests.fuzz.conftest import cases
from tests.tasks.conftest import ALWAYS, CONFIGS, SMALL

SOURCES = ["3 May 1999", "", "Monday, 3 January 2011"]
HUGE = 10**9
Options = dict[str, Any]


def model_of(shape: str, folder: Any, *more: str) -> Predictor:
    """A tiny model with random weights, far from uniform."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", [*SMALL[shape], *ALWAYS, f"paths.run_dir={folder}", *more])
    torch.manual_seed(0)
    data = build.data(config)
    build.choose_monitor(config, data.spec)
    task = build.task(config, data.spec, data.codec).eval()
    for weights in task.parameters():
        weights.data.mul_(3.0)
    return Predictor(task, "32-true")


@pytest.fixture(scope="module")
def translate(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    small = ["model.encoder.hidden_size=8", "model.decoder.hidden_size=16"]
    return model_of("translation", tmp_path_factory.mktemp("t"), *small)


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return model_of("language_model", tmp_path_factory.mktemp("l"), "model.hidden_size=8")


lengths = st.sampled_from([1, 2, 3, 8, 20])
shares = st.sampled_from([1e-9, 0.1, 0.9, 1.0])
EVERY: dict[str, st.SearchStrategy[Any]] = {
    "max_length": lengths,
    "min_length": st.sampled_from([0, 1, 5, 20, 99]),
    "block_ngrams": st.sampled_from([0, 1, 2, 3]),
    "repetition_penalty": st.sampled_from([1.0, 1.2, 100.0]),
    "length_penalty": st.sampled_from([0.0, 1.0, 5.0]),
    "length_norm": st.sampled_from(["power", "gnmt"]),
    "n_best": st.sampled_from([1, 2, 4, 7]),
    "prefix": st.sampled_from(["2", "20", "1年", "2001年1月1"]),
    "banned": st.lists(st.sampled_from(["2", "年", "01", "1月", "2001"]), max_size=3),
    "seed": st.sampled_from([0, 1, 2**31, 2**63 - 4]),
    "batch_size": st.sampled_from([1, 2, HUGE]),
}
DRAWN = {"temperature": st.sampled_from([0.0, 1e-6, 0.7, 1.0, 50.0])}
OF_METHOD: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "beam": {
        "beam_size": st.sampled_from([1, 2, 4, 7, 12]),
        "groups": st.sampled_from([1, 2, 4]),
        "diversity": st.sampled_from([0.0, 0.5, 1e6]),
        "coverage_penalty": st.sampled_from([0.0, 0.2, 10.0]),
        "required": st.lists(st.sampled_from(["5", "31", "3月", "日"]), max_size=2),
    },
    "sample": {
        **DRAWN, "top_k": st.sampled_from([1, 2, HUGE]), "top_p": shares, "min_p": shares,
        "typical": shares, "mbr": st.sampled_from([0, 2, 5]),
    },
    "distinct": DRAWN,
}  # fmt: skip
# what no option may be: each is refused by its name
WRONG: st.SearchStrategy[Options] = st.sampled_from(
    [(name, value) for name in (*EVERY, *(n for of in OF_METHOD.values() for n in of))
     for value in (-1, math.nan, math.inf, -math.inf, [], ["☃"], "☃", {}, True, 2**64, -(2**70))]
).map(lambda pair: dict([pair]))  # fmt: skip
OPTIONS: st.SearchStrategy[Options] = st.sampled_from(list(OF_METHOD)).flatmap(
    lambda method: st.fixed_dictionaries(
        {"method": st.just(method)}, optional={**EVERY, **OF_METHOD[method]}
    )
)


def symbols(text: str) -> str:
    """One character a symbol."""
    return text.replace("<unk>", "�")


def check(answers: list[dict[str, Any]], options: Options, sources: list[str]) -> None:
    assert len(answers) == len(sources)
    most = options.get("max_length", 200)
    banned, blocked = options.get("banned", []), options.get("block_ngrams", 0)
    prefix = options.get("prefix", "")
    for answer in answers:
        several = answer.get("n_best", [answer])
        assert 1 <= len(several) <= options.get("n_best", 1)
        assert answer["text"] == several[0]["text"] and answer["score"] == several[0]["score"]
        for one in several:
            text, ended = symbols(one["text"]), len(symbols(one["text"])) < most
            assert math.isfinite(one["score"])
            assert len(text) <= most
            assert text[: len(prefix)] == prefix[: len(text)]
            assert not ended or len(text) >= len(prefix) or blocked or banned
            assert not any(word in text for word in banned)
            grams = [text[i : i + blocked] for i in range(len(text) - blocked + 1)]
            assert not blocked or len(set(grams)) == len(grams)
            if ended and not blocked and not banned:
                assert len(text) >= options.get("min_length", 0)
                assert all(word in text for word in options.get("required", []))
        falls = [one["score"] for one in several if len(symbols(one["text"])) < most]
        if options["method"] == "beam" and options.get("groups", 1) == 1:
            assert falls == sorted(falls, reverse=True)
        if options["method"] != "sample":  # those without replacement differ
            assert len({one["text"] for one in several}) == len(several)


def asked(
    model: Predictor, options: Options, sources: list[str]
) -> tuple[list[dict[str, Any]] | None, str]:
    """The answers, or None and why they are refused, in one line."""
    try:
        return model(sources, **options), ""
    except ValueError as error:
        refusal = error
    assert type(refusal) is ValueError and "\n" not in str(refusal)
    return None, str(refusal)


def test_a_translation_is_what_was_asked_for(translate: Predictor, outcomes: Counter[str]) -> None:
    @cases(30)
    @given(OPTIONS)
    def any_options(options: Options) -> None:
        answers, _ = asked(translate, options, SOURCES)
        outcomes["explained" if answers is None else "translated"] += 1
        alone, _ = asked(translate, options, SOURCES[:1])
        if answers is None or alone is None:
            return
        check(answers, options, SOURCES)
        assert [one["text"] for one in alone[0].get("n_best", alone)] == [
            one["text"] for one in answers[0].get("n_best", answers[:1])
        ]
        assert alone[0]["score"] == pytest.approx(answers[0]["score"], abs=1e-4)

    any_options()


def test_a_text_goes_on_as_was_asked_for(write: Predictor, outcomes: Counter[str]) -> None:
    @cases(20)
    @given(OPTIONS.map(lambda some: {"max_length": 8, **some}))
    def any_options(options: Options) -> None:
        options = {k: v for k, v in options.items() if k not in ("prefix", "required", "banned")}
        prompts = ["def main(", "", "x"]
        answers, _ = asked(write, options, prompts)
        outcomes["explained" if answers is None else "written"] += 1
        if answers is None:
            return
        for prompt, answer in zip(prompts, answers, strict=True):
            assert answer["text"].startswith(prompt)
            assert len(answer["text"]) <= len(prompt) + 5 * options["max_length"]

    any_options()


def test_a_value_that_no_option_takes_is_refused(
    translate: Predictor, write: Predictor, outcomes: Counter[str]
) -> None:
    @cases(60)
    @given(WRONG, st.sampled_from(["beam", "sample", "distinct"]))
    def any_value(wrong: Options, method: str) -> None:
        name, value = next(iter(wrong.items()))
        for model in (translate, write):
            options = {"method": method, "max_length": 3, **wrong}
            answers, why = asked(model, options, SOURCES[:1])
            assert answers or name in why or repr(value)[1:-1] in why
            outcomes["refused" if answers is None else "answered"] += 1

    any_value()
