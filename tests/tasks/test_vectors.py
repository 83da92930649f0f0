"""Word vectors from text files."""

import gzip
from pathlib import Path

import pytest
import torch

from data.codec import TextCodec, TokenizerSettings
from models.embedding import Inputs
from tasks.vectors import read_vectors


@pytest.fixture
def codec() -> TextCodec:
    return TokenizerSettings(kind="words", pre_tokenizer="whitespace").train(["the Film was fine"])


def inputs(codec: TextCodec, size: int = 3) -> Inputs:
    return Inputs(
        vocabulary_size=len(codec.symbols), input_features=None, embedding_size=size, freeze=True
    )


def vector(layer: Inputs, codec: TextCodec, word: str) -> list[float]:
    assert layer.embedding is not None
    return layer.embedding.weight[codec.table[word]].tolist()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("header", ["", "4 3\n"])
def test_known_words_get_their_vectors(
    codec: TextCodec, tmp_path: Path, packed: bool, header: str
) -> None:
    text = header + "the 1 2 3\nfilm 4 5 6\nother 7 8 9\nfine 0.5 0 -1e-1\n"
    file = tmp_path / ("vectors.txt.gz" if packed else "vectors.txt")
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    layer = inputs(codec)
    before = vector(layer, codec, "was")
    share = read_vectors(str(file), codec, layer)
    assert vector(layer, codec, "the") == [1, 2, 3]
    assert vector(layer, codec, "Film") == [4, 5, 6]  # found in lower case
    assert torch.allclose(torch.tensor(vector(layer, codec, "fine")), torch.tensor([0.5, 0, -0.1]))
    assert vector(layer, codec, "was") == before
    assert share == pytest.approx(3 / len(codec.symbols))


def test_mistakes_name_the_value_and_the_mend(codec: TextCodec, tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text("the 1 2 3 4\n")
    with pytest.raises(ValueError, match=r"set model\.embedding_size=4"):
        read_vectors(str(file), codec, inputs(codec))
    with pytest.raises(ValueError, match="does not exist"):
        read_vectors(str(tmp_path / "none.txt"), codec, inputs(codec))
    file.write_text("nobody 1 2 3\n")
    with pytest.raises(ValueError, match="no vector for any word"):
        read_vectors(str(file), codec, inputs(codec))
    file.write_bytes(b"the \xff\xfe 1 2\n")
    with pytest.raises(ValueError, match="cannot be read as text"):
        read_vectors(str(file), codec, inputs(codec))
    file.write_text("the one two three\n")
    with pytest.raises(ValueError, match="line 1"):
        read_vectors(str(file), codec, inputs(codec))
    real = Inputs(vocabulary_size=None, input_features=4, embedding_size=3)
    with pytest.raises(ValueError, match="has no words"):
        read_vectors(str(file), codec, real)
