"""Workers of the loader change nothing: the same weights, numbers and samples, bit for bit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on loaders and cores

OPTIONS = [
    "deterministic=true", "trainer.max_epochs=2", "callbacks.throughput=null",
    "callbacks.learning_curves=null",
]  # fmt: skip

TRANSLATION = ["data.limit=24", "data.batch_size=8", "task.max_new_tokens=4"]
SUBWORDS = [
    *TRANSLATION, "data=dates", "tokenizer=bpe", "tokenizer.vocab_size=80", "tokenizer.dropout=0.4",
    "model.encoder.hidden_size=16", "model.encoder.embedding_size=16",
    "model.decoder.hidden_size=32", "model.decoder.embedding_size=16",
    "model.encoder.word_dropout=0.2", "model.decoder.word_dropout=0.2", "data.batch_tokens=500",
]  # fmt: skip
TEXTS = ["task=classification", "data=text_labels", "data.path={folder}/texts"]
STREAM = [
    *TEXTS, "data.streaming=true", "data.held_out=20", "data.shuffle_buffer=10",
    "trainer.limit_train_batches=3", "data.batch_size=4", "model.hidden_size=16",
    "model.embedding_size=8", "tokenizer.dropout=0.3", "tokenizer=bpe", "tokenizer.vocab_size=60",
]  # fmt: skip
MUSIC = [
    "data=piano_roll", "data.path={folder}/music.jsonl", "model.hidden_size=16",
    "data.batch_size=2", "data.max_length=12", "task.transpose=4", "task.sample_length=5",
]  # fmt: skip
PARTS = (
    "parts=[{{task: classification, data: recipes, data.train_size: 32, data.validation_size: 16, "
    "data.test_size: 16}}, {{task: tagging, data: recipes_online, data.limit: 24}}, "
    "{{task: language_model, data: python_source, data.train_size: 4000, "
    "data.validation_size: 1000, data.test_size: 1000, data.steps: 20, task.sample_length: 5}}]"
)
CASES = {
    "classification": ("classification", ["data.train_size=32", "model.dropout=0.3"]),
    "classification of words": ("none", [
        *TEXTS, "model.word_dropout=0.2",
        "data.batch_tokens=60", "data.curriculum_epochs=1", "model.hidden_size=16",
        "model.embedding_size=8",
    ]),
    "tagging": ("tagging", ["model.dropout=0.3"]),
    "captioning": ("captioning", ["task.max_new_tokens=5", "data.train_size=32"]),
    "captioning by kept features": ("none", [
        "task=captioning", "data.train_size=16", "data.validation_size=8", "data.test_size=8",
        "model=backbone_captioner", "model.encoder.grid=2", "model.decoder.hidden_size=16",
        "model.decoder.embedding_size=8", "task.max_new_tokens=4",
    ]),
    "captioning by its own words": ("captioning", [
        "data.train_size=32", "objective=self_critical", "task.max_new_tokens=5",
    ]),
    "translation": ("translation", TRANSLATION),
    "translation of drawn pieces": ("none", ["task=translation", *SUBWORDS]),
    "language model": ("language_model", ["data.steps_deviation=4", "task.sample_length=5"]),
    "music": ("none", ["task=language_model", *MUSIC]),
    "several tasks": ("none", [
        "task=multi", PARTS, "data.batch_size=8", "model.hidden_size=24", "model.embedding_size=16",
    ]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data of one's own: texts with a label, and music."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "texts").mkdir()
    lines = [f"{'good' if i % 2 else 'bad'} film number {i}" + " so" * (i % 5) for i in range(96)]
    rows = "".join(f"{line},{i % 2}\n" for i, line in enumerate(lines))
    (folder / "texts" / "train.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    drawn = np.random.default_rng(1)
    pieces = [drawn.integers(10, 70, (20, 3)).tolist() for _ in range(12)]
    music = "".join(json.dumps({"notes": piece}) + "\n" for piece in pieces)
    (folder / "music.jsonl").write_text(music, encoding="utf-8")
    return folder


class Results:
    """All that a run leaves: weights and buffers, the bytes of metrics.csv, samples, the test."""

    def __init__(self, run: Any) -> None:
        self.test = run.fit().test()
        self.epochs = run.trainer.current_epoch
        self.weights = {k: v.detach().clone() for k, v in run.task.state_dict().items()}
        place = Path(run.config.paths.run_dir)
        self.metrics = (place / "metrics.csv").read_text(encoding="utf-8")
        files = sorted(f for f in place.rglob("*.jsonl") if f.is_file())
        self.samples = {str(f.relative_to(place)): f.read_text(encoding="utf-8") for f in files}


def assert_identical(one: Results, other: Results) -> None:
    assert one.metrics == other.metrics and one.test == other.test
    assert one.samples == other.samples
    assert one.weights.keys() == other.weights.keys()
    for name, values in one.weights.items():
        assert torch.equal(values, other.weights[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_workers_change_no_bit(case: str, folder: Path, start: Any) -> None:
    shape, options = CASES[case]
    options = [word.format(folder=folder) for word in options]
    runs = [Results(start(shape, *options, *OPTIONS, f"data.num_workers={n}")) for n in (0, 0, 2)]
    assert runs[0].epochs == 2 and "val/" in runs[0].metrics.splitlines()[0]
    for other in runs[1:]:
        assert_identical(runs[0], other)


@pytest.mark.slow
def test_a_stream_depends_on_how_many_read_it_and_on_nothing_else(folder: Path, start: Any) -> None:
    """docs/data.md: each worker reads a share of the rows; the process itself is one reader."""
    options = [word.format(folder=folder) for word in STREAM]
    runs = [
        Results(start("none", *options, *OPTIONS, f"data.num_workers={n}")) for n in (0, 0, 1, 2, 2)
    ]
    assert_identical(runs[0], runs[1])
    assert_identical(runs[0], runs[2])
    assert_identical(runs[3], runs[4])
    assert runs[0].metrics != runs[3].metrics


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if "its own words" not in c])
def test_threads_change_no_more_than_the_last_digits(case: str, folder: Path, start: Any) -> None:
    shape, options = CASES[case]
    options = [word.format(folder=folder) for word in options]
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(Results(start(shape, *options, *OPTIONS, "trainer.max_epochs=1")))
    one, other = found
    for name, values in one.weights.items():
        torch.testing.assert_close(
            values, other.weights[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
