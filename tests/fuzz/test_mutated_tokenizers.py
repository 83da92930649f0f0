"""A tokenizer.json that was changed anywhere is refused, or it cuts texts as any tokenizer does."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.codec import TextCodec
from data.tokenizer_file import load_tokenizer
from data.tokenizer_settings import TokenizerSettings
from tests.fuzz.conftest import cases
from tests.fuzz.strange import PIECES, values
from tests.fuzz.test_mutated_checkpoints import changed, parts

KINDS = {
    "words": TokenizerSettings(),
    "bpe": TokenizerSettings(kind="bpe", vocab_size=60),
    "unigram": TokenizerSettings(kind="unigram", vocab_size=40),
    "bytes": TokenizerSettings(kind="bytes", normalizer="none"),
}
TEXTS = ["a good film , 春眠不觉晓", "a good film", "not good at all"] * 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers") / "tokenizer.json"


def read(place: Path) -> str:
    """`refused` in one line, or `read`: then every text has symbols that are in the vocabulary."""
    settings, refusal = TokenizerSettings(file=str(place)), None
    try:
        codec = TextCodec(load_tokenizer(str(place)), settings=settings)
    except ValueError as error:
        refusal = str(error).strip()
    if refusal is not None:
        assert "tokenizer.file" in refusal and "\n" not in refusal
        return "refused"
    ids = codec.encode_batch(PIECES)
    assert ids.values.max(initial=0) < len(codec.symbols) and ids.values.min(initial=0) >= 0
    for i in range(len(ids)):
        codec.decode(ids[i])
    codec.decode(range(len(codec.symbols)))
    again = TextCodec.from_plain(json.loads(json.dumps(codec.to_plain())))
    assert again.hash == codec.hash
    return "read"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_changed_at_one_place(kind: str, place: Path, outcomes: Counter[str]) -> None:
    plain = json.loads(KINDS[kind].train(TEXTS).tokenizer.to_str())
    every = list(parts(plain))
    hows = ["put", "put", "delete", "wrap", "negative", "huge", "other"]

    @cases(30)
    @given(st.sampled_from(every), st.sampled_from(hows), values)
    def any_change(where: tuple[Any, ...], how: str, value: Any) -> None:
        content = copy.deepcopy(plain)
        changed(content, where, how, value)
        place.write_text(json.dumps(content), encoding="utf-8")
        outcomes[read(place)] += 1

    any_change()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_other_bytes(kind: str, place: Path, outcomes: Counter[str]) -> None:
    whole = KINDS[kind].train(TEXTS).tokenizer.to_str().encode()

    @cases(30)
    @given(st.integers(0, len(whole) - 1), st.integers(1, 255), st.sampled_from(["flip", "cut"]))
    def any_bytes(spot: int, number: int, how: str) -> None:
        content = bytearray(whole)
        if how == "flip":
            content[spot] ^= number
        else:
            del content[spot : spot + number]
        place.write_bytes(content)
        outcomes[read(place)] += 1

    any_bytes()
