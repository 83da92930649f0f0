"""A judge that tells generated text from real text where they differ, and only there."""

import numpy as np
import pytest

from tasks.judge import Pieces, Reader, judge
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


def cut(text: np.ndarray) -> Pieces:
    rows = text[: len(text) // LENGTH * LENGTH].reshape(-1, LENGTH)
    return Pieces(rows[: len(rows) // 2], rows[len(rows) // 2 :])


@pytest.fixture(scope="module")
def training() -> np.ndarray:
    return patterned(40_000, seed=1)


@pytest.fixture(scope="module")
def reader(training: np.ndarray) -> Reader:
    return Reader(training, vocabulary_size=SYMBOLS)


@pytest.fixture(scope="module")
def real() -> Pieces:
    return cut(patterned(16_000, seed=2))


@pytest.mark.parametrize("order", [1, 3])
def test_text_of_a_count_model_is_told_from_real_text(
    training: np.ndarray, reader: Reader, real: Pieces, order: int
) -> None:
    model = NgramModel(order=order, vocabulary_size=SYMBOLS).fit(training)
    fake = cut(model.sample(1, 16_000, np.random.default_rng(3))[0])
    assert judge(real, fake, reader=reader, max_epochs=6) >= 0.9


def test_real_text_is_not_told_from_other_real_text(reader: Reader, real: Pieces) -> None:
    other = cut(patterned(16_000, seed=4))
    # 400 pieces are tested: a standard error of 0.025
    assert judge(real, other, reader=reader, max_epochs=6) == pytest.approx(0.5, abs=0.1)
