"""Running text from a user's own files, as streams."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from data.codec import TokenizerSettings, codec_from_plain
from data.running_text import stream, words_and_bytes
from data.streams import EvaluationStreams
from data.text import TextStreams, TextStreamsCodec
from data.text_codec import EOS
from data.text_labels import TextLabelsCodec

Make = Callable[..., TextStreams]
WORDS = TokenizerSettings()
CHARACTERS = TokenizerSettings(kind="characters")
BPE = TokenizerSettings(kind="bpe", vocab_size=300)


def lines(count: int) -> list[str]:
    random = np.random.default_rng(0)
    words = "the cat sat on a mat, and ate fish. 我们 naïve".split()
    return [" ".join(random.choice(words, random.integers(0, 9))) for _ in range(count)]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    file = tmp_path / "book.txt"
    file.write_text("\n".join(lines(300)) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(path: Path, **changes: Any) -> TextStreams:
        settings = {"name": "mine", "path": str(path), "cache_dir": str(tmp_path / "cache")}
        settings |= {"seed": 1, "batch_size": 4, "steps": 7, "eval_streams": 5}
        settings |= {"tokenizer": CHARACTERS, "document_end": False}
        data = TextStreams(**(settings | changes))
        data.setup()
        return data

    return build


def whole(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def ranked(data: TextStreams, rank: int, world: int) -> TextStreams:
    data.place = lambda: (rank, world)  # type: ignore[method-assign]
    return data


def test_a_book_is_split_in_order(make: Make, book: Path) -> None:
    data = make(book)
    text = [data.codec.text(data.splits[k].flat("ids")) for k in ("train", "validation", "test")]
    assert "\n".join(text) + "\n" == book.read_text(encoding="utf-8")
    assert data.report()["test_from"] == "train, 30 of 300 rows from the end"


@pytest.mark.parametrize("tokenizer", [WORDS, CHARACTERS, BPE], ids=lambda t: t.kind)
@pytest.mark.parametrize("document_end", [True, False])
def test_characters_add_up_to_the_whole_text(
    tokenizer: TokenizerSettings, document_end: bool, make: Make, book: Path
) -> None:
    data = make(book, tokenizer=tokenizer, document_end=document_end)
    rows = book.read_text(encoding="utf-8").split("\n")[270:300]
    whole = "\n".join(rows) + ("\n" if document_end else "")
    assert sum(int(b.characters.sum()) for b in data.test_dataloader()) == len(whole)


@pytest.mark.parametrize("tokenizer", [WORDS, CHARACTERS, BPE], ids=lambda t: t.kind)
@pytest.mark.parametrize("document_end", [True, False])
def test_words_and_bytes_are_of_the_raw_text(
    tokenizer: TokenizerSettings, document_end: bool, make: Make, book: Path
) -> None:
    rows = book.read_text(encoding="utf-8").split("\n")[270:300]
    whole = "\n".join(rows) + ("\n" if document_end else "")
    report = make(book, tokenizer=tokenizer, document_end=document_end).report()
    assert report["bytes_test"] == len(whole.encode()) > report["characters_test"]
    assert report["words_test"] == len(whole.split()) + (30 if document_end else 0)


def test_rows_that_are_joined_count_as_the_text_they_make() -> None:
    rows = ["two words", "", "naïve"]
    joined = ["\n".join(rows)]
    assert words_and_bytes(rows, document_end=False) == (3, 17)
    assert words_and_bytes(joined, document_end=False) == (3, 17)
    assert words_and_bytes(rows, document_end=True) == (6, 18)


def test_a_character_that_the_normaliser_joins_counts_as_the_raw_ones() -> None:
    codec = CHARACTERS.train(["cafe\u0301 noir"])
    ids, characters = whole(stream(codec, ["cafe\u0301 noir"], document_end=False))
    assert len(ids) == 9 and characters.sum() == 10


def file_tokenizer(file: Path, *, prepend: bool) -> TokenizerSettings:
    """A tokenizer.json that puts a space in front of each text (Llama's) or none (GPT-2's)."""
    own = Tokenizer(models.BPE(unk_token="<unk>"))
    replace = normalizers.Replace(" ", "▁")
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁")] * prepend + [replace])
    own.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    own.train_from_iterator(
        lines(300), trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"])
    )
    own.save(str(file))
    return TokenizerSettings(file=str(file))


LONG = ["words", "characters", "bytes", "bpe", "unigram", "jieba", "llama", "gpt2"]


@pytest.mark.parametrize("kind", LONG)
def test_a_long_text_is_cut_between_words_without_a_trace(kind: str, tmp_path: Path) -> None:
    if kind == "jieba":
        pytest.importorskip("jieba")
        settings = TokenizerSettings(pre_tokenizer="jieba")
    elif kind in ("llama", "gpt2"):
        settings = file_tokenizer(tmp_path / "tokenizer.json", prepend=kind == "llama")
    else:
        settings = TokenizerSettings(kind=kind, vocab_size=None if kind == "bytes" else 200)
    codec = settings.train(lines(300))
    for rows in ([" ".join(lines(3000))], lines(3000), [" " + row for row in lines(3000)]):
        text = "\n".join(rows)
        ids, characters = whole(stream(codec, rows, document_end=False))
        assert len(text) > 40_000 and ids.tolist() == codec.encode(text)
        assert characters.sum() == len(text) and characters.min() >= 0


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_evaluation_predicts_every_token_once_whatever_the_ranks(
    world: int, make: Make, book: Path
) -> None:
    data = make(book)
    ids = data.splits["test"].flat("ids")
    seen: list[tuple[int, int]] = []
    counts = set()
    for rank in range(world):
        batches = list(ranked(data, rank, world).test_dataloader())
        counts.add(len(batches))
        assert batches[0].start.all() and not any(b.start.any() for b in batches[1:])
        assert len({len(b.inputs) for b in batches}) == 1
        for b in batches:
            pairs = zip(b.inputs[b.mask].tolist(), b.targets[b.mask].tolist(), strict=True)
            seen += pairs
            assert not b.targets[~b.mask].any() and not b.characters[~b.mask].any()
    before = [data.codec.lead, *ids[:-1].tolist()]
    assert sorted(seen) == sorted(zip(before, ids.tolist(), strict=True))
    assert len(counts) == 1


@pytest.mark.parametrize(("total", "streams"), [(1, 8), (15, 8), (16, 8), (17, 4), (300, 3)])
def test_streams_of_any_size_cover_a_split(
    total: int, streams: int, make: Make, book: Path
) -> None:
    data = make(book, eval_streams=streams)
    data.splits["test"].arrays = {
        name: array[:total] for name, array in data.splits["test"].arrays.items()
    }
    batches = list(data.test_dataloader())
    assert sum(int(b.mask.sum()) for b in batches) == total
    sampler = EvaluationStreams(total, steps=7, streams=streams, rank=0, world_size=1)
    assert len(batches) == len(sampler) == len(list(sampler))


def test_training_streams_go_on_from_batch_to_batch(make: Make, book: Path) -> None:
    data = make(book)
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == len(data.splits["train"]) // 4 // 7
    inputs, targets = (torch.cat([b[i] for b in batches], dim=1) for i in (0, 1))
    # one stream passes the text's end and begins again with what comes before a text
    assert (inputs[:, 1:] != targets[:, :-1]).sum() <= 1
    assert not any(b.start.any() for b in batches[1:])
    assert batches[0].start.all() and all(b.mask.all() for b in batches)


VARIED = {"steps_deviation": 3.0, "steps_halved": 0.2}


def test_windows_of_unequal_length_go_on_from_batch_to_batch(make: Make, book: Path) -> None:
    data = make(book, steps=20, **VARIED)
    batches = list(loader := data.train_dataloader())
    inputs, targets = (torch.cat([b[i] for b in batches], dim=1) for i in (0, 1))
    assert (inputs[:, 1:] != targets[:, :-1]).sum() <= 1
    lengths = np.array([b.inputs.size(1) for b in batches])
    assert 5 <= lengths.min() < 13 and lengths.max() > 23 and len(set(lengths)) > 5
    assert lengths.mean() == pytest.approx(18, abs=2) and lengths.sum() == inputs.size(1)
    # an epoch reads about the whole text once, and every epoch has as many batches
    assert lengths.sum() == pytest.approx(len(data.splits["train"]) // 4, rel=0.1)
    loader.batch_sampler.set_epoch(1)
    again = [b.inputs.size(1) for b in loader]
    assert len(again) == len(lengths) == len(loader) and again != lengths.tolist()


def test_unequal_windows_are_the_same_on_every_rank_and_equal_in_evaluation(
    make: Make, book: Path
) -> None:
    data = make(book, steps=20, batch_size=2, **VARIED)
    parts = [list(ranked(data, rank, 2).train_dataloader()) for rank in range(2)]
    for one, other in zip(*parts, strict=True):
        assert one.inputs.shape == other.inputs.shape
    data, plain = make(book, steps=20, **VARIED), make(book, steps=20)
    for one, other in zip(data.test_dataloader(), plain.test_dataloader(), strict=True):
        assert torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize("wrong", [{"steps_deviation": -1.0}, {"steps_halved": 1.5}])
def test_windows_that_cannot_be_drawn_are_refused(
    wrong: dict[str, float], make: Make, book: Path
) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(book, **wrong)


def test_windows_differ_by_epoch_alone(make: Make, book: Path) -> None:
    def epoch(number: int, **changes: Any) -> torch.Tensor:
        loader = make(book, **changes).train_dataloader()
        loader.batch_sampler.set_epoch(number)
        return torch.cat([batch.inputs for batch in loader])

    assert torch.equal(epoch(3), epoch(3)) and not torch.equal(epoch(3), epoch(4))
    assert not torch.equal(epoch(3), epoch(3, seed=2))
    assert torch.equal(epoch(3), epoch(3, num_workers=1))


def test_unequal_windows_differ_by_epoch_alone(make: Make, book: Path) -> None:
    def epoch(number: int, **changes: Any) -> list[Any]:
        loader = make(book, **(VARIED | changes)).train_dataloader()
        loader.batch_sampler.set_epoch(number)
        return [batch.inputs.tolist() for batch in loader]

    assert epoch(3) == epoch(3) != epoch(4)
    assert epoch(3) != epoch(3, seed=2)


def test_ranks_read_different_streams(make: Make, book: Path) -> None:
    data = make(book, batch_size=2)
    parts = [list(ranked(data, rank, 2).train_dataloader()) for rank in range(2)]
    together = list(make(book, batch_size=4).train_dataloader())
    assert len(parts[0]) == len(parts[1]) == len(together)
    for *mine, all_ in zip(*parts, together, strict=True):
        assert torch.equal(torch.cat([b.inputs for b in mine]), all_.inputs)


def test_a_text_shorter_than_a_window_trains(make: Make, tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_text("a\nb\nc\n", encoding="utf-8")
    batch = next(iter(make(tmp_path / "tiny.txt", batch_size=64).train_dataloader()))
    assert batch.inputs.shape == (64, 7)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_rows_of_tables_are_documents(ending: str, make: Make, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"body": [f"text number {i}" for i in range(30)]})
    file = tmp_path / f"mine{ending}"
    {".csv": rows.to_csv, ".jsonl": rows.to_json, ".parquet": rows.to_parquet}[ending](file)
    data = make(file, text_column="body", document_end=True, tokenizer=WORDS)
    ids = data.splits["train"].flat("ids")
    assert (ids == EOS).sum() == 24 and ids[-1] == EOS
    assert data.codec.text(ids[:8]) == "text number 0\ntext number 1\n"
    assert data.example("train", 0).input.startswith("text number 0\n")


def test_prompts_are_read_as_training_text_after_json(make: Make, book: Path) -> None:
    data = make(book)
    codec = codec_from_plain(data.codec.to_plain())
    assert isinstance(codec, TextStreamsCodec)
    batch = codec.batch(["cat", "", "the mat"])
    assert batch.mask.sum(1).tolist() == [4, 1, 8] and batch.start.all()
    symbols = codec.inputs.tokens(batch.inputs[2].tolist())
    assert symbols == ["\n", *"the mat"]
    assert batch.targets[0, :4].tolist() == [*codec.inputs.encode("cat"), EOS]


def test_a_given_codec_takes_the_place_of_a_new_one(make: Make, book: Path, tmp_path: Path) -> None:
    trained = make(book)
    other = tmp_path / "other.txt"
    other.write_text("\n".join(["zebra cat"] * 30), encoding="utf-8")
    settings = {"name": "b", "path": str(other), "cache_dir": str(tmp_path / "cache"), "seed": 1}
    again, new = (TextStreams(batch_size=2, tokenizer=WORDS, **settings) for _ in range(2))
    again.given_codec = codec_from_plain(trained.codec.to_plain())
    again.setup(), new.setup()
    assert again.codec.inputs.symbols == trained.codec.inputs.symbols != new.codec.inputs.symbols
    assert again.report()["unknown_test"] > 0 == new.report()["unknown_test"]
    assert again.fingerprint != new.fingerprint
    wrong = TextStreams(batch_size=2, tokenizer=WORDS, **settings)
    wrong.given_codec = TextLabelsCodec(inputs=trained.codec.inputs, labels=("a", "b"))
    with pytest.raises(ValueError, match=r"trained on data of kind text_labels.*is of kind text:"):
        wrong.setup()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "data.steps must be 1 to 1,000,000, got 0"),
        ({"eval_streams": 0}, "data.eval_streams must be 1 to 1,000,000, got 0"),
        ({"max_length": 5}, "max_length=5 means nothing here"),
        ({"text_column": "body"}, "no column 'body'; there are: text"),
    ],
)
def test_a_mistake_in_the_settings_is_named(
    changes: dict[str, Any], message: str, make: Make, book: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make(book, **changes)


def test_a_split_without_text_is_named(make: Make, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for split, text in {"train": "a b\nc\n", "valid": "a\n", "test": ""}.items():
        (tmp_path / "d" / f"{split}.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"test split of .* is empty"):
        make(tmp_path / "d")
    (tmp_path / "d" / "test.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="the test split of data 'mine' holds no text"):
        make(tmp_path / "d")


def test_penn_treebank_has_the_published_counts(tmp_path: Path) -> None:
    if "UNROLL_DATA" not in os.environ:
        pytest.skip("UNROLL_DATA is not set: no local copies of the real data")
    data = TextStreams(
        name="ptb", folder="ptb", data_dir=os.environ["UNROLL_DATA"], cache_dir=str(tmp_path),
        seed=1, batch_size=20, text_column="sentence",
        tokenizer=TokenizerSettings(pre_tokenizer="whitespace"),
    )  # fmt: skip
    report = data.report()
    assert [report[k] for k in ("train", "validation", "test")] == [929_589, 73_760, 82_430]
    used = np.unique(data.splits["train"].flat("ids"))
    assert len(used) == 10_000 and report["vocabulary"] == 10_002  # <pad> and <bos> never occur
    assert sum(int(b.mask.sum()) for b in data.test_dataloader()) == 82_430
