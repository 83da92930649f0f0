"""BPE dropout: other pieces of the same text, in training alone, by seed and epoch."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.arrays import Ragged
from data.codec import TokenizerSettings, codec_from_plain
from data.samplers import Indices
from data.synthetic.shapes import Shapes
from data.text import TextStreams
from data.text_labels import TextLabels
from data.text_pairs import TextPairs

WORDS = "walking talking walked talked jumping jumped running ran hunter hunting".split()
RANDOM = np.random.default_rng(0)
TEXTS = [" ".join(RANDOM.choice(WORDS, RANDOM.integers(3, 12))) + "." for _ in range(300)]


def learnt(dropout: float, **changes: Any) -> Any:
    settings = TokenizerSettings(kind="bpe", vocab_size=80, dropout=dropout, **changes)
    return settings.train([*TEXTS, "我们去学校。"])


def again(codec: Any, texts: list[str], seed: int = 0) -> Ragged:
    return codec.resegmented(codec.encode_batch(texts), np.random.default_rng(seed))


def plainly(codec: Any, word: str, dropout: float, random: np.random.Generator) -> list[str]:
    """Algorithm 1 of the paper, one word, as it is written there."""
    merges = [tuple(pair) for pair in json.loads(codec.tokenizer.to_str())["model"]["merges"]]
    rank = {pair: i for i, pair in enumerate(merges)}
    pieces = list(word)
    while True:
        pairs = enumerate(pairwise(pieces))
        kept = [(rank[p], i) for i, p in pairs if p in rank and random.random() >= dropout]
        if not kept:
            return pieces
        _, i = min(kept)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("walkingdtue .,我们去ÿ", max_size=30), max_size=5))
def test_without_dropout_it_is_the_tokenizer_itself(texts: list[str]) -> None:
    codec = learnt(1e-12)
    same = again(codec, texts)
    expected = codec.encode_batch(texts)
    assert [row.tolist() for row in same] == [row.tolist() for row in expected]


def test_the_text_stays_and_its_pieces_change() -> None:
    codec = learnt(0.3)
    first, second = again(codec, TEXTS, 0), again(codec, TEXTS, 1)
    for text, one, other in zip(TEXTS, first, second, strict=True):
        assert codec.decode(one) == codec.decode(other) == text
    assert sum(a.tolist() != b.tolist() for a, b in zip(first, second, strict=True)) > 250
    same = again(codec, TEXTS, 0)
    assert np.array_equal(first.values, same.values)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.99])
def test_merges_are_left_out_as_often_as_the_paper_says(dropout: float) -> None:
    codec = learnt(dropout)
    random = np.random.default_rng(1)
    for word in ("walking", "hunter"):
        expected = [len(plainly(codec, f"▁{word}", dropout, random)) for _ in range(4000)]
        found = again(codec, [word] * 4000).lengths
        assert abs(found.mean() - np.mean(expected)) < 5 * np.std(expected) / 4000**0.5 + 1e-9
        counts = np.bincount(found, minlength=12) - np.bincount(expected, minlength=12)
        assert np.abs(counts).max() < 300


def test_special_and_unknown_symbols_keep_their_places() -> None:
    codec = learnt(0.9)
    ids = Ragged.of([[2, *codec.encode("walking ÿÿ ran"), 3], [], [2, 3], [1]])
    row = codec.resegmented(ids, np.random.default_rng(0))
    assert [row[0][0], row[0][-1]] == [2, 3] and (row[0] == 1).sum() == 1
    assert [r.tolist() for r in list(row)[1:]] == [[], [2, 3], [1]]


Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    rows = [{"source": t, "target": t.upper(), "text": t, "label": i % 2, "n": i}
            for i, t in enumerate(TEXTS)]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def build(kind: Any, dropout: float = 0.2, **changes: Any) -> Any:
        own = TokenizerSettings(kind="bpe", vocab_size=100, dropout=dropout)
        settings = {"name": "mine", "path": str(file), "cache_dir": str(tmp_path / "cache")}
        return kind(**settings | {"seed": 1, "batch_size": 8, "tokenizer": own} | changes)

    return build


def epoch(data: Any, number: int, split: str = "train", **changes: Any) -> list[Any]:
    loader = data.loader(split)
    loader.batch_sampler.set_epoch(number)
    return list(loader)


def texts_by_index(data: Any, batches: list[Any]) -> dict[int, list[int]]:
    codec = data.codec.inputs
    found = {}
    for batch in batches:
        for row, length, index in zip(batch[0], batch[1], batch.index, strict=True):
            ids = row[:length].tolist()
            found[int(index)] = ids
            assert codec.decode(ids) == data.example("train", int(index)).input
    return found


@pytest.mark.parametrize("kind", [TextPairs, TextLabels])
def test_every_epoch_of_training_reads_other_pieces(kind: Any, make: Make) -> None:
    data = make(kind)
    first, second = (texts_by_index(data, epoch(data, n)) for n in (0, 1))
    assert first.keys() == second.keys() == set(range(len(data.splits["train"])))
    assert sum(first[i] != second[i] for i in first) > 0.8 * len(first)
    # by seed and epoch alone: another process, with workers, after a resume
    for other in (make(kind), make(kind, num_workers=2)):
        for one, same in zip(epoch(data, 1), epoch(other, 1), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert texts_by_index(data, epoch(make(kind, seed=2), 0)) != first


def test_validation_and_test_read_the_usual_pieces(make: Make) -> None:
    data, plain = make(TextPairs), make(TextPairs, dropout=0.0)
    for split in ("validation", "test"):
        for one, same in zip(epoch(data, 3, split), epoch(plain, 3, split), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    texts = TEXTS[:5]
    codec = codec_from_plain(data.codec.to_plain())
    assert torch.equal(codec.batch(texts).source, plain.codec.batch(texts).source)


def test_texts_that_grow_are_cut_where_texts_are_cut(make: Make) -> None:
    data = make(TextLabels, dropout=0.9, max_length=12)
    assert max(batch.inputs.size(1) for batch in epoch(data, 0)) == 12


def test_a_stream_refuses_it(make: Make) -> None:
    with pytest.raises(ValueError, match=r"dropout=0\.2 cuts each example anew, but running text"):
        make(TextStreams)


def test_batches_know_their_epoch(make: Make) -> None:
    sampler = make(TextPairs).sampler("train")
    sampler.set_epoch(4)
    batches = list(sampler)
    assert all(type(batch) is Indices and batch.epoch == 4 for batch in batches)


def test_captions_are_read_in_other_pieces_too(tmp_path: Path) -> None:
    own = TokenizerSettings(kind="bpe", vocab_size=60, dropout=0.3)
    data = Shapes(
        name="shapes", cache_dir=str(tmp_path), seed=1, batch_size=16, train_size=48,
        validation_size=8, test_size=8, tokenizer=own,
    )  # fmt: skip
    first, second = (
        {
            data.codec.outputs.decode(row): tuple(row[:length].tolist())
            for batch in epoch(data, number)
            for row, length in zip(batch.target, batch.target_lengths, strict=True)
        }
        for number in (0, 1)
    )
    assert first.keys() == second.keys()
    assert sum(first[text] != second[text] for text in first) > 0.7 * len(first)
    usual = epoch(data, 0, "validation"), epoch(data, 5, "validation")
    assert all(torch.equal(a.target, b.target) for a, b in zip(*usual, strict=True))
