"""Data is prepared once, and a tokenizer trained once, however many processes ask."""

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import vocabularies
from data.base import DataModule
from data.codec import TokenizerSettings
from data.piano_roll import PianoRolls
from data.rows import PictureRows
from data.tagged_text import TaggedText
from data.text import TextStreams
from data.text_labels import TextLabels
from data.text_pairs import TextPairs


def rows(folder: Path, count: int = 60) -> Path:
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        words = [f"word{n}" for n in random.integers(0, 30, random.integers(1, 30))]
        text = f"{' '.join(words)} no {i}"
        made.append({"text": text, "label": i % 2, "source": text, "target": text[::-1]})
        made[-1] |= {"tokens": text.split(), "tags": ["T", *"N" * len(words), "X"]}
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    return folder / "rows.jsonl"


def ask(folder: Path, barrier: Any) -> None:
    """A process that wants data at the same moment as another; its tokenizer takes its time."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads do not survive a fork
    train = vocabularies.train

    def slowly(settings: TokenizerSettings, texts: Any) -> Any:
        with (folder / "trained").open("a") as file:
            file.write("once\n")
        time.sleep(0.5)
        return train(settings, texts)

    vocabularies.train = slowly
    data = labels(folder, tokenizer=TokenizerSettings(kind="bpe"))
    barrier.wait(30)
    data.setup()
    (folder / f"told{os.getpid()}").write_text(f"{data.fingerprint} {data.codec.inputs.hash}")


def test_two_processes_that_start_at_once_train_one_tokenizer(tmp_path: Path) -> None:
    rows(tmp_path)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    started = [context.Process(target=ask, args=(tmp_path, barrier)) for _ in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0]
    told = [file.read_text() for file in tmp_path.glob("told*")]
    assert len(told) == 2 and told[0] == told[1]
    assert (tmp_path / "trained").read_text() == "once\n"


def labels(tmp_path: Path, **changes: Any) -> TextLabels:
    file = tmp_path / "rows.jsonl"
    settings = {"name": "mine", "path": str(file), "cache_dir": str(tmp_path / "cache"), "seed": 1}
    settings |= {"batch_size": 4, "tokenizer": TokenizerSettings()}
    return TextLabels(**settings | changes)


def test_the_cache_follows_data_and_settings_alone(tmp_path: Path) -> None:
    rows(tmp_path)
    first = labels(tmp_path)
    first.setup()
    folders = set((tmp_path / "cache").glob("mine-*/"))
    for same in ({"batch_tokens": 90}, {"seed": 2}, {"batch_size": 8}, {"eval_batch_size": 2}):
        labels(tmp_path, **same).setup()
        assert set((tmp_path / "cache").glob("mine-*/")) == folders
    for number, other in enumerate(
        [{"lowercase": True}, {"kind": "bpe"}, {"vocab_size": 9}, {"normalizer": "nfkc"},
         {"min_frequency": 3}, {"pre_tokenizer": "moses"}]
    ):  # fmt: skip
        labels(tmp_path, tokenizer=TokenizerSettings(**other)).setup()
        assert len(set((tmp_path / "cache").glob("mine-*/"))) == number + 2
    rows(tmp_path, count=61)
    again = labels(tmp_path)
    again.setup()
    assert again.fingerprint != first.fingerprint


KINDS: dict[str, type[DataModule]] = {
    "labels": TextLabels, "pairs": TextPairs, "tags": TaggedText,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_batches_by_tokens_for_every_kind_with_lengths(kind: str, tmp_path: Path) -> None:
    file = rows(tmp_path)
    settings = {"name": "mine", "path": str(file), "cache_dir": str(tmp_path / "cache"), "seed": 1}
    data = KINDS[kind](
        batch_size=4, batch_tokens=150, tokenizer=TokenizerSettings(), **settings
    )  # fmt: skip
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader)
    held, seen = [], []
    for batch in batches:
        held.append(batch[0].numel() + (batch.target.numel() if kind == "pairs" else 0))
        seen += batch.index.tolist()
    assert sorted(seen) == list(range(len(data.splits["train"])))
    assert max(held) <= 150 and len({len(batch.index) for batch in batches}) > 2
    real = sum(data.lengths("train").ravel())
    assert data.report()["padding"] == pytest.approx(1 - real / sum(held), abs=1e-3)
    evaluated = list(data.val_dataloader())
    assert max(batch[0].numel() for batch in evaluated) <= 150
    by_number = KINDS[kind](
        batch_size=4, batch_tokens=150, eval_batch_size=2, tokenizer=TokenizerSettings(), **settings
    )
    assert {len(batch.index) for batch in by_number.val_dataloader()} == {2}


@pytest.mark.parametrize(
    ("kind", "what"),
    [(TextStreams, "windows of a stream"), (PictureRows, "examples of one length")],
)
def test_batches_by_tokens_are_refused_where_they_mean_nothing(kind: Any, what: str) -> None:
    own = {"tokenizer": TokenizerSettings()} if kind is TextStreams else {}
    with pytest.raises(ValueError, match=f"data.batch_tokens=99 .*'mine' has {what}: unset it"):
        kind(name="mine", cache_dir="x", seed=1, batch_size=4, batch_tokens=99, **own)
    with pytest.raises(ValueError, match=f"curriculum_epochs=1 begins .*'mine' has {what}: set"):
        kind(name="mine", cache_dir="x", seed=1, batch_size=4, curriculum_epochs=1, **own)
    with pytest.raises(ValueError, match=r"data.batch_tokens must be at least 1, got 0"):
        PianoRolls(name="mine", cache_dir="x", seed=1, batch_size=4, batch_tokens=0)
