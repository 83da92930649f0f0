"""Each option of a prediction changes what comes out as it says."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import build
from building.trained import of_checkpoint
from predict import Predictor
from tasks.decoding import configured, greedier
from tasks.predict_options import PredictOptions
from tests.tasks.conftest import ALWAYS, CONFIGS, SMALL

SOURCES = ["3 May 1999", "12.10.2004", "Monday, 3 January 2011"]


def made(shape: str, folder: Any, *more: str) -> Any:
    config = compose("config", [*SMALL[shape], *ALWAYS, f"paths.run_dir={folder}", *more])
    torch.manual_seed(0)
    data = build.data(config)
    build.choose_monitor(config, data.spec)
    task = build.task(config, data.spec, data.codec, data.fingerprint).eval()
    for weights in task.parameters():  # far from uniform, so that choices are clear
        weights.data.mul_(3.0)
    return task


@pytest.fixture(scope="module")
def composed() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def translate(composed: None, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(made("translation", tmp_path_factory.mktemp("t")), "32-true")


@pytest.fixture(scope="module")
def write(composed: None, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(made("language_model", tmp_path_factory.mktemp("l")), "32-true")


def texts(model: Predictor, inputs: list[str] = SOURCES, **options: Any) -> list[str]:
    return [answer["text"] for answer in model(inputs, **options)]


def test_a_row_is_translated_alike_alone_and_in_company(translate: Predictor) -> None:
    for options in ({}, {"method": "sample"}):
        assert texts(translate, [SOURCES[0]], **options) == texts(translate, **options)[:1]


def test_words_are_forced_banned_and_required(translate: Predictor) -> None:
    assert all(text.startswith("2001") for text in texts(translate, prefix="2001"))
    usual = texts(translate)
    letter = usual[0][0]
    assert all(letter not in text for text in texts(translate, banned=[letter]))
    symbols = [s for s in translate.task.codec.outputs.symbols if len(s) == 1]
    lacking = next(s for s in symbols if s not in usual[0])
    assert lacking in texts(translate, required=[lacking])[0]


def test_no_symbol_comes_twice_where_that_is_blocked(translate: Predictor) -> None:
    assert all(len(set(text)) == len(text) for text in texts(translate, block_ngrams=1))


def test_filters_that_leave_one_symbol_are_greedy(translate: Predictor) -> None:
    greedy = texts(translate, method="sample", temperature=0.0)
    assert texts(translate, method="sample", temperature=9.0) != greedy
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert texts(translate, method="sample", temperature=9.0, **narrow) == greedy


def test_distinct_samples_differ(translate: Predictor) -> None:
    found = translate(SOURCES[:1], method="distinct", n_best=4)[0]["n_best"]
    assert len({one["text"] for one in found}) == 4


def test_the_consensus_is_one_of_the_samples(translate: Predictor) -> None:
    drawn = translate(SOURCES[:1], method="sample", n_best=6, seed=4)[0]["n_best"]
    assert texts(translate, SOURCES[:1], mbr=6, seed=4)[0] in {one["text"] for one in drawn}


def test_a_score_is_what_the_search_says(translate: Predictor) -> None:
    found = translate(SOURCES[:1], length_penalty=0.0, prefix="20", max_length=2)[0]
    assert translate.score([(SOURCES[0], found["text"])])[0]["log_probability"] < 0.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "beem"}, "method is one of"),
        ({"temperature": 2.0}, "temperature has no effect with method=beam"),
        ({"mbr": 4, "n_best": 9}, "mbr=4"),
        ({"banned": ["☃"]}, "not in the model's vocabulary"),
        ({"n_best": 3, "beam_size": 2}, "needs a beam of as many"),
    ],
)
def test_wrong_values_are_told(translate: Predictor, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        translate(SOURCES, **options)


def test_a_key_of_the_config_is_named(composed: None, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"task\.decoding\.block_ngrams"):
        made("translation", tmp_path, "task.decoding.block_ngrams=-1")


def test_keys_may_be_given_as_a_mapping_and_the_others_stay(composed: None) -> None:
    """Of the defaults in a new run, of the run's own where a checkpoint is tested."""
    override = "task.decoding={min_length: 3, method: sample, top_k: 4}"
    config = compose("config", ["task=translation", "paths.run_dir=x", override])
    own = dict(config.task.decoding)
    assert (own["min_length"], own["method"], own["top_k"]) == (3, "sample", 4)
    assert configured(own) == configured({"min_length": 3, "method": "sample", "top_k": 4})
    before = ["task=translation", "paths.run_dir=x", "task.decoding.block_ngrams=2"]
    trained = build.plain(compose("config", before))
    trained["task"]["decoding"].pop("patience")  # a run of before that key
    tested = of_checkpoint(config, trained, ["task=translation", override])
    expected = {**own, "block_ngrams": 2}
    expected.pop("patience")
    assert dict(tested.task.decoding) == expected


def test_what_is_no_mapping_is_told(composed: None, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"task\.decoding=3 .*a mapping"):
        made("translation", tmp_path, "task.decoding=3")


def test_a_text_goes_on_alike_alone_and_in_company(write: Predictor) -> None:
    prompts = ["def main(", "", "import os", "x"]
    assert texts(write, prompts[:1], seed=2) == texts(write, prompts, seed=2)[:1]
    assert texts(write, prompts[3:], seed=5) == texts(write, prompts, seed=2)[3:]


def test_running_text_keeps_to_what_is_banned(write: Predictor) -> None:
    usual = texts(write, ["x"], temperature=0.0)[0][1:]
    assert usual[0] not in texts(write, ["x"], temperature=0.0, banned=[usual[0]])[0][1:]
    assert texts(write, ["x"], method="beam", beam_size=3) != ["x"]


def test_another_method_leaves_behind_what_only_the_configured_one_reads() -> None:
    own = {"beam_size": 5, "length_penalty": 1.0}
    sampled = configured({"method": "sample", "temperature": 0.8, "top_k": 5}, **own)
    searched = configured({"coverage_penalty": 0.2, "patience": 2.0, "min_length": 3}, **own)
    validated = greedier(sampled, 1)
    assert (validated.method, validated.temperature, validated.top_k) == ("beam", 1.0, None)
    for asked in (PredictOptions(mbr=8), PredictOptions(method="sample")):
        drawn = asked.over(searched)
        assert (drawn.method, drawn.coverage_penalty, drawn.patience) == ("sample", 0.0, 1.0)
        assert drawn.min_length == 3, "every method reads this one"
    assert PredictOptions().over(searched) == searched
