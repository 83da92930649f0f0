"""A judge that tells generated text from real text where they differ, and only there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import build
from building.trained import of_checkpoint
from tasks.judge import Reader, Samples, judge, since, verdict
from tasks.judge_report import check
from tasks.ngram_model import NgramModel

SYMBOLS, LENGTH = 24, 40


def patterned(count: int, seed: int) -> np.ndarray:
    """Words of four symbols, ended by a 0: what a word's first symbol says of its last one, no
    model of three symbols in a row can see."""
    random = np.random.default_rng(seed)
    words = random.integers(1, SYMBOLS, (count // 5, 5))
    words[:, 1:3] = (words[:, 1:3] + 1) // 2  # half of the symbols stand there only by chance
    words[:, 3], words[:, 4] = words[:, 0], 0
    return words.reshape(-1)


def cut(text: np.ndarray) -> Samples:
    rows = text[: len(text) // LENGTH * LENGTH].reshape(-1, LENGTH)
    return Samples(rows[: len(rows) // 2], rows[len(rows) // 2 :])


@pytest.fixture(scope="module")
def training() -> np.ndarray:
    return patterned(40_000, seed=1)


@pytest.fixture(scope="module")
def reader(training: np.ndarray) -> Reader:
    return Reader(training, vocabulary_size=SYMBOLS)


@pytest.fixture(scope="module")
def real() -> Samples:
    return cut(patterned(16_000, seed=2))


@pytest.mark.parametrize("order", [1, 3])
def test_text_of_a_count_model_is_told_from_real_text(
    training: np.ndarray, reader: Reader, real: Samples, order: int
) -> None:
    model = NgramModel(order=order, vocabulary_size=SYMBOLS).fit(training)
    fake = cut(model.sample(1, 16_000, np.random.default_rng(3))[0])
    assert judge(real, fake, reader=reader, max_epochs=6) >= 0.9


def test_real_text_is_not_told_from_other_real_text(reader: Reader, real: Samples) -> None:
    other = cut(patterned(16_000, seed=4))
    # 400 pieces are tested: a standard error of 0.025
    assert judge(real, other, reader=reader, max_epochs=6) == pytest.approx(0.5, abs=0.1)


def test_the_reader_sees_likelihoods_and_what_stood_before() -> None:
    pieces = np.array([[1, 2, 1, 1, 2], [3, 3, 0, 2, 3]])
    assert since(pieces).tolist() == [[5, 5, 2, 1, 3], [5, 1, 5, 5, 3]]
    text = np.random.default_rng(0).integers(0, 5, 300)
    read = Reader(text, vocabulary_size=5)(pieces)
    assert read.shape == (2, 5, 7)
    second = NgramModel(order=2, vocabulary_size=5).fit(text).nats(pieces)
    assert read[..., 1] == pytest.approx(second)
    assert read[..., 6] == pytest.approx(np.log(since(pieces)))
    # 60,000 symbols to the power of 4 are too many for a code
    assert len(Reader(text, vocabulary_size=60_000).models) == 3


def test_a_verdict_means_nothing_where_the_judge_sees_through_no_count_model(
    training: np.ndarray, real: Samples
) -> None:
    other = cut(patterned(16_000, seed=5))
    found = verdict(other, real, training, vocabulary_size=SYMBOLS)
    assert found["model"] == pytest.approx(0.5, abs=0.1)  # real text, as a perfect model writes it
    assert min(found["unigram"], found["trigram"]) >= 0.9 and found["means_something"] is True
    assert found["pieces"] == 400 and found["length"] == LENGTH
    # symbols at random: no count model differs from real text
    noise = np.random.default_rng(6).integers(0, 4, (3, 100, 10))
    few = Samples(noise[0], noise[1])
    found = verdict(few, few, noise[2].reshape(-1), vocabulary_size=4)
    assert max(found["unigram"], found["trigram"]) < 0.9 and found["means_something"] is False


def test_a_seed_gives_the_same_accuracy_and_leaves_other_randomness_alone(
    reader: Reader, real: Samples
) -> None:
    few = Samples(real.train[:60], real.test[:60])
    other = Samples(real.train[60:120], real.test[60:120])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.inference_mode():  # as within a test
        first = judge(few, other, reader=reader, max_epochs=2)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.rand(3), expected)
    assert judge(few, other, reader=reader, max_epochs=2) == first


@pytest.mark.parametrize(
    "fake, message",
    [
        (Samples(np.ones((30, 7), int), np.ones((30, 7), int)), r"one length.*\(30, 8\)"),
        (Samples(np.ones((19, 8), int), np.ones((30, 8), int)), "needs 20 pieces .* got 19"),
    ],
)
def test_what_cannot_be_judged_is_refused(reader: Reader, fake: Samples, message: str) -> None:
    real = Samples(np.ones((30, 8), int), np.ones((30, 8), int))
    with pytest.raises(ValueError, match=message):
        judge(real, fake, reader=reader)


# Within the audit

JUDGE = ["task.evaluation.audit=true", "task.evaluation.audit_pieces=9",
         "task.evaluation.judge=true", "task.evaluation.judge_length=40",
         "task.evaluation.judge_pieces=40"]  # fmt: skip


def test_the_audit_has_the_verdict(start: Any, tmp_path: Path) -> None:
    start("language_model", *JUDGE).test()
    found = json.loads((tmp_path / "run1" / "audit.json").read_text(encoding="utf-8"))["judge"]
    assert found["pieces"] == 80 and found["length"] == 40
    assert found["model"] >= 0.9  # it was not trained: symbols at random
    assert found["unigram"] >= 0.9


def test_what_cannot_have_a_judge_says_so_before_any_work(start: Any) -> None:
    with pytest.raises(ValueError, match=r"set task\.evaluation\.audit=true"):
        start("language_model", "task.evaluation.judge=true")
    run = start("language_model", *JUDGE)
    run.task._trainer = type("Trained", (), {"datamodule": run.data})()
    check(run.task)
    run.data.splits["validation"].arrays["ids"] = np.full(100 + 20 * 40 - 1, 5)
    with pytest.raises(ValueError, match="20 real pieces of validation, which has 19 of 40"):
        check(run.task)


def test_a_checkpoint_from_before_the_judge_takes_it_too(start: Any) -> None:
    config = start("language_model", *JUDGE).config
    config.fit = False
    stored = build.plain(config)
    for name in ("judge", "judge_pieces", "judge_length"):
        del stored["task"]["evaluation"][name]
    merged = build.plain(of_checkpoint(config, stored, JUDGE[2:3]))
    assert merged["task"]["evaluation"]["judge"] is True
