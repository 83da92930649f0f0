"""Training on rows as they are read: each once a pass, in an order of its own, from any files."""

import gc
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from data.codec import TokenizerSettings
from data.streaming import Streamed
from data.synthetic.recipes import Recipes
from data.text import TextStreams
from data.text_codec import EOS
from data.text_labels import TextLabels
from data.text_pairs import TextPairs

ROWS = 256  # two pools of 32 batches of four
WORDS, CHARACTERS = TokenizerSettings(), TokenizerSettings(kind="characters")
Make = Callable[..., Any]


def label_rows(first: int, count: int) -> list[str]:
    return [f"{'good' if i % 2 else 'bad'} film number {i}" + " x" * (i % 7) + f",{i % 2}"
            for i in range(first, first + count)]  # fmt: skip


def write(folder: Path, name: str, lines: Iterable[str], header: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(header + "\n".join(lines) + "\n", encoding="utf-8")


def labels(folder: Path, files: int = 1) -> Path:
    each = ROWS // files
    for i in range(files):
        write(folder, f"train-{i}.csv", label_rows(each * i, each), "text,label\n")
    for i, split in enumerate(("valid", "test"), 4):
        write(folder, f"{split}.csv", label_rows(1000 * i, 12), "text,label\n")
    return folder


def documents(folder: Path) -> Path:
    for i, split in enumerate(("train", "valid", "test")):
        count = 90 if split == "train" else 9
        write(folder, f"{split}.txt", [f"line {i} {j} " + "y " * (j % 9) for j in range(count)])
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(kind: type[Streamed], path: Path, **changes: Any) -> Any:
        settings = {"name": "mine", "path": str(path), "cache_dir": str(tmp_path / "cache")}
        settings |= {"seed": 1, "batch_size": 4, "tokenizer": WORDS, "streaming": True}
        data = kind(**(settings | changes))
        data.setup()
        return data

    return build


def share(data: Streamed, reader: int, readers: int, count: int) -> list[str]:
    return [str(row) for row in islice(data.passes(reader=reader, readers=readers), count)]


@pytest.mark.parametrize("files", [1, 4])
@pytest.mark.parametrize("readers", [1, 2, 3, 4])
def test_readers_together_see_each_row_once_a_pass(
    readers: int, files: int, make: Make, tmp_path: Path
) -> None:
    data = make(TextLabels, labels(tmp_path / "d", files), shuffle_buffer=50)
    counts = [len(range(reader, ROWS, readers)) for reader in range(readers)]
    seen = [row for r in range(readers) for row in share(data, r, readers, counts[r])]
    whole = [f"{{'text': {t!r}, 'label': {n}}}"
             for t, n in (line.rsplit(",", 1) for line in label_rows(0, ROWS))]  # fmt: skip
    assert Counter(seen) == Counter(whole)


def test_the_order_depends_on_seed_and_pass_alone(make: Make, tmp_path: Path) -> None:
    folder = labels(tmp_path / "d")
    data = make(TextLabels, folder, shuffle_buffer=50)
    rows = share(data, 0, 1, 2 * ROWS)
    assert rows == share(make(TextLabels, folder, shuffle_buffer=50), 0, 1, 2 * ROWS)
    assert rows != share(make(TextLabels, folder, shuffle_buffer=50, seed=2), 0, 1, 2 * ROWS)
    assert rows[:ROWS] != rows[ROWS:] and Counter(rows[:ROWS]) == Counter(rows[ROWS:])
    in_order = share(make(TextLabels, folder, shuffle_buffer=1), 0, 1, ROWS)
    assert rows[:ROWS] != in_order and [eval(row)["text"] for row in in_order] == [
        line.rsplit(",", 1)[0] for line in label_rows(0, ROWS)
    ]


def examples(batches: Iterable[Any]) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for inputs, lengths, targets, _ in batches:
        for row, n, target in zip(inputs, lengths, targets, strict=True):
            found[(*row[:n].tolist(), float(target))] += 1
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_examples_of_the_ordinary_way(
    workers: int, make: Make, tmp_path: Path
) -> None:
    folder = labels(tmp_path / "d", files=2)
    ordinary = make(TextLabels, folder, streaming=False)
    data = make(TextLabels, folder, num_workers=workers)
    assert data.codec.to_plain() == ordinary.codec.to_plain() and data.spec == ordinary.spec
    batches = list(islice(data.train_dataloader(), ROWS // 4))
    assert examples(batches) == examples(ordinary.train_dataloader())
    cells = sum(batch.inputs.numel() for batch in batches)
    assert sum(int(batch.lengths.sum()) for batch in batches) > 0.9 * cells
    for split in ("val", "test"):
        both = [getattr(d, f"{split}_dataloader")() for d in (data, ordinary)]
        assert all(
            torch.equal(a, b) for x, y in zip(*both, strict=True) for a, b in zip(x, y, strict=True)
        )


SUBWORDS = TokenizerSettings(kind="unigram", vocab_size=60)
MERGES = TokenizerSettings(kind="bpe", vocab_size=60, dropout=0.3)
BYTES = TokenizerSettings(kind="bytes")


@pytest.mark.parametrize("tokenizer", [BYTES, SUBWORDS, MERGES], ids=lambda t: t.kind)
@pytest.mark.parametrize("kind", [TextLabels, TextPairs])
def test_batches_of_so_many_symbols_hold_each_text_once_a_pass(
    kind: type[Streamed], tokenizer: TokenizerSettings, make: Make, tmp_path: Path
) -> None:
    lines = label_rows(0, 3000)
    write(tmp_path / "d", "train.csv", lines, "text,label\n")
    settings: dict[str, Any] = {"tokenizer": tokenizer, "batch_tokens": 400, "held_out": 20}
    if kind is TextPairs:
        settings |= {"source_column": "text", "target_column": "label"}
    data, same = (make(kind, tmp_path / "d", **settings) for _ in range(2))
    read: Counter[str] = Counter()
    cells = []
    both = zip(data.train_dataloader(), same.train_dataloader(), strict=True)
    for batch, again in islice(both, 70):
        assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))
        read.update(data.codec.inputs.decode(row.tolist()) for row in batch[0])
        cells.append(batch[0].numel() + (batch.target.numel() if kind is TextPairs else 0))
    assert set(read) <= {line.rsplit(",", 1)[0] for line in lines[40:]}
    assert len(read) > 400 and max(read.values()) == 1
    if not tokenizer.dropout:  # other pieces are more pieces
        assert max(cells) <= 400 and sum(cells) > 0.85 * 400 * len(cells)


def test_bpe_dropout_reads_a_text_in_other_pieces_in_each_pass(make: Make, tmp_path: Path) -> None:
    data = make(TextLabels, labels(tmp_path / "d"), tokenizer=MERGES)
    batches = iter(data.train_dataloader())
    first, second = (examples(islice(batches, ROWS // 4)) for _ in range(2))
    assert first.total() == second.total() == ROWS
    assert (first & second).total() < 0.2 * ROWS


def test_nothing_of_training_is_written(make: Make, tmp_path: Path) -> None:
    data = make(TextLabels, labels(tmp_path / "d"), tokenizer_rows=40)
    (cache,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    assert sorted(p.name for p in cache.iterdir()) == ["prepared.json", "test", "validation"]
    assert data.report()["learnt_from"] == "40 rows from the beginning"
    assert "39" in data.codec.inputs.table and "40" not in data.codec.inputs.table


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [TextLabels, TextStreams])
def test_a_stream_that_was_stopped_goes_on_as_if_it_was_not(
    kind: type[Streamed], workers: int, make: Make, tmp_path: Path
) -> None:
    folder = labels(tmp_path / "d") if kind is TextLabels else documents(tmp_path / "d")
    data = make(kind, folder, num_workers=workers)
    whole = list(islice(data.train_dataloader(), 19))
    stopped = data.train_dataloader()
    for _ in islice(stopped, 5):
        pass
    again = data.train_dataloader()
    again.load_state_dict(stopped.state_dict())
    resumed = [*islice(again, 7), *islice(again, 7)]  # two epochs of the trainer
    assert again.state_dict() == {"batches": 19}
    for a, b in zip(whole[5:], resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("workers", "deviation"), [(0, 0.0), (3, 2.0)])
def test_streams_of_documents_go_on_from_batch_to_batch(
    workers: int, deviation: float, make: Make, tmp_path: Path
) -> None:
    folder = documents(tmp_path / "d")
    settings = {"document_end": True, "steps": 5, "steps_deviation": deviation}
    ordinary = make(TextStreams, folder, streaming=False, **settings)
    data = make(TextStreams, folder, num_workers=workers, **settings)
    batches = list(islice(data.train_dataloader(), 200))
    assert (len({b.inputs.size(1) for b in batches}) > 1) == bool(deviation)
    assert batches[0].start.all() and not any(b.start.any() for b in batches[1:])
    inputs, targets = (torch.cat([b[i] for b in batches], dim=1) for i in (0, 1))
    assert torch.equal(inputs[:, 1:], targets[:, :-1]) and (inputs[:, 0] == EOS).all()
    read = {tuple(text) for row in targets.tolist() for text in cut(row)[:-1]}
    assert read == {tuple(text) for text in cut(ordinary.splits["train"].flat("ids").tolist())}


def test_workers_end_with_the_loader_that_began_them(make: Make, tmp_path: Path) -> None:
    data = make(TextLabels, labels(tmp_path / "d"), num_workers=2)
    before = set(multiprocessing.active_children())
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    gc.disable()  # which would wait five seconds for each of them
    try:
        del batches, loader
        assert not any(worker.is_alive() for worker in workers)
    finally:
        gc.enable()


def cut(ids: list[int]) -> list[list[int]]:
    """Symbols → documents."""
    texts: list[list[int]] = [[]]
    for i in ids:
        if i == EOS:
            texts.append([])
        else:
            texts[-1].append(i)
    return [text for text in texts if text]


def test_lines_that_go_on_stay_together_in_passages(make: Make, tmp_path: Path) -> None:
    lines = [f"line {i}, of a long book" for i in range(400)]
    write(tmp_path / "d", "book.txt", lines)
    settings = {"document_end": False, "tokenizer": CHARACTERS, "batch_size": 1, "held_out": 5}
    data = make(TextStreams, tmp_path / "d", **settings)
    batches = list(islice(data.train_dataloader(), 400))
    text = data.codec.text(torch.cat([b.targets[0] for b in batches]).tolist())[:9000]
    numbers = [int(line.split()[1].rstrip(",")) for line in text.split("\n")[:-1]]
    assert len(set(numbers)) > 300 and min(numbers) == 10  # ten were taken for other splits
    neighbours = sum(b == a + 1 for a, b in pairwise(numbers))
    assert len(numbers) - 10 < neighbours < len(numbers) - 2
    assert data.report()["test_from"] == "train, 5 rows from the beginning"
    held = data.codec.text(data.splits["validation"].flat("ids"))
    assert held.split("\n") == lines[:5]


def test_pairs_are_streamed_and_long_ones_left_out(make: Make, tmp_path: Path) -> None:
    lines = [f'{{"source": "a {i}", "target": "b {i}{" x" * (i % 3)}"}}' for i in range(150)]
    write(tmp_path / "d", "train.jsonl", lines)
    data = make(TextPairs, tmp_path / "d", max_length=3, held_out=11)
    batches = list(islice(data.train_dataloader(), 40))
    assert max(int(b.target_lengths.max()) for b in batches) == 5
    names = {data.codec.inputs.symbols[i] for b in batches for i in b.source[:, 1].tolist()}
    assert names == {str(i) for i in range(22, 150) if i % 3 < 2}


def test_a_saved_data_set_keeps_its_class_labels(make: Make, tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["sad", "glad"])})
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(150)]
    part = Dataset.from_list(rows, features=features)
    DatasetDict({"train": part, "validation": part.select(range(9)), "test": part}).save_to_disk(
        tmp_path / "d"
    )
    data = make(TextLabels, tmp_path / "d", batch_size=2)
    assert data.spec.labels == ("sad", "glad")
    numbers = data.codec.inputs.symbols
    for batch in islice(data.train_dataloader(), 10):
        for row, target in zip(batch.inputs, batch.targets, strict=True):
            assert int(numbers[row[1]]) % 2 == int(target)


def test_an_epoch_of_the_trainer_is_its_steps(make: Make, tmp_path: Path) -> None:
    class Trainer:
        global_rank, world_size, accumulate_grad_batches = 0, 1, 3
        limit_train_batches: Any = 1.0
        max_steps = 50

    loader = make(TextLabels, labels(tmp_path / "d")).train_dataloader()
    with pytest.raises(TypeError, match="no length of its own"):
        len(loader)
    loader.data.trainer = Trainer()
    assert len(loader) == 150
    loader.data.trainer.limit_train_batches = 20
    assert len(loader) == 20
    loader.data.trainer.limit_train_batches, loader.data.trainer.max_steps = 1.0, -1
    with pytest.raises(ValueError, match=r"trainer\.max_steps=10000"):
        len(loader)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "limit": ({"limit": 5}, r"data\.limit=5 .* trainer\.max_steps says how long"),
    "buffer": ({"shuffle_buffer": 0}, "data.shuffle_buffer must be at least 1, got 0"),
    "column": ({"text_column": "body"}, "no column 'body'; there are: text, label"),
    "missing": ({"path": "nowhere"}, "data.path=nowhere does not exist"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_the_settings_is_named(case: str, make: Make, tmp_path: Path) -> None:
    changes, message = MISTAKES[case]
    folder = labels(tmp_path / "d")
    with pytest.raises(ValueError, match=message):
        make(TextLabels, changes.pop("path", folder), **changes)


def test_what_cannot_be_streamed_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data=mine is generated: there are no files to stream"):
        Recipes(
            name="mine", cache_dir="", seed=1, batch_size=4, train_size=9, streaming=True,
            tokenizer=WORDS,
        )  # fmt: skip
    write(tmp_path / "few", "train.csv", label_rows(0, 30), "text,label\n")
    with pytest.raises(ValueError, match=r"no training row is left beside the 15 rows that data"):
        make(TextLabels, tmp_path / "few", held_out=15)
    Dataset.from_list([{"text": "a", "label": "b"}]).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="has no validation and no test split, and data"):
        make(TextLabels, tmp_path / "saved")


def test_a_class_that_the_first_rows_lack_and_too_many_readers_are_named(
    make: Make, tmp_path: Path
) -> None:
    rows = [*label_rows(0, 100), "a late one,7"]
    write(tmp_path / "d", "train.csv", rows, "text,label\n")
    data = make(TextLabels, tmp_path / "d", held_out=10, tokenizer_rows=40)
    with pytest.raises(ValueError, match=r"label '7', which is not among .*tokenizer_rows=40 rows"):
        list(islice(data.train_dataloader(), 60))
    with pytest.raises(ValueError, match=r"too few training rows for 90 readers"):
        share(data, 88, 90, 1)
