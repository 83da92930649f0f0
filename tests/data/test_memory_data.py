"""Data that asks for a long memory: exact, the same for the same seed, split without overlap."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from data.arrays import SPLITS
from data.codec import codec_from_plain
from data.rows import PictureRows
from data.sources import Loaded
from data.synthetic.adding import Adding
from data.synthetic.copy_memory import CopyMemory
from data.synthetic.delay import Delay
from data.synthetic.sine import Sine
from data.tagged_text import TaggedTextCodec

KINDS: dict[str, type[Any]] = {"adding": Adding, "copy_memory": CopyMemory, "delay": Delay}
SIZES = {"train_size": 200, "validation_size": 60, "test_size": 60}
Make = Callable[..., Any]


class Digits(PictureRows):
    """Twelve random pictures a split, of 4 × 3 pixels."""

    def load(self) -> Loaded:
        random = np.random.default_rng(0)
        features = Features({"image": ImageFeature(), "label": Value("string")})
        splits = {}
        for split in SPLITS:
            pixels = random.integers(0, 256, (12, 4, 3), np.uint8)
            rows = {"image": list(map(Image.fromarray, pixels)), "label": ["a", "b"] * 6}
            splits[split] = Dataset.from_dict(rows, features=features)
        return Loaded(splits)

    def source_key(self) -> str:
        return "digits"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(name: str, **changes: Any) -> Any:
        own = {"steps": 40, **SIZES} if name in KINDS else {}
        settings = {"name": name, "cache_dir": str(tmp_path), "seed": 1, "batch_size": 16}
        return KINDS.get(name, Digits)(**(settings | own | changes))

    return build


def everything(data: Any, split: str) -> Any:
    """A split as one batch."""
    return data.collate(split, list(range(len(data.splits[split]))))


def inputs(data: Any) -> dict[str, list[bytes]]:
    """What is read in each row of each split, to be compared."""
    return {s: [row.numpy().tobytes() for row in everything(data, s).inputs] for s in SPLITS}


@pytest.mark.parametrize("name", KINDS)
def test_the_same_seed_gives_the_same_rows_whatever_the_run(name: str, make: Make) -> None:
    first = inputs(make(name))
    assert first == inputs(make(name, seed=2))
    other = inputs(make(name, split_seed=1))
    assert all(first[split] != other[split] for split in SPLITS)


@pytest.mark.parametrize("name", KINDS)
def test_no_row_is_there_twice(name: str, make: Make) -> None:
    rows = [row for part in inputs(make(name)).values() for row in part]
    assert len(set(rows)) == len(rows) == sum(SIZES.values())


@pytest.mark.parametrize("name", KINDS)
def test_a_raw_example_becomes_the_same_inputs_again(name: str, make: Make) -> None:
    data = make(name)
    codec = codec_from_plain(data.codec.to_plain())
    batch = everything(data, "test")
    example = data.example("test", 7)
    again = codec.batch([example.input])
    assert torch.equal(again.inputs[0], batch.inputs[7]) and again.lengths[0] == batch.lengths[7]
    answers = [float(number) for number in example.references[0].split()]
    assert answers == pytest.approx(batch.targets[7].flatten().tolist(), abs=1e-5)


def test_the_answer_is_the_sum_of_the_marked_numbers_one_in_each_half(make: Make) -> None:
    data = make("adding", steps=31)
    batch = everything(data, "train")
    values, markers = batch.inputs.unbind(-1)
    assert batch.inputs.shape == (200, 31, 2) and batch.targets.shape == (200, 1)
    assert set(markers.unique().tolist()) == {0, 1} and (batch.lengths == 31).all()
    assert (markers[:, :15].sum(1) == 1).all() and (markers[:, 15:].sum(1) == 1).all()
    assert torch.allclose((values * markers).sum(1, keepdim=True), batch.targets)
    assert values.min() >= 0 and values.max() < 1
    # each step of a half is marked some time, the first and the last too
    assert markers.sum(0).min() > 0


def test_always_answering_one_has_an_error_of_a_sixth(make: Make) -> None:
    data = make("adding", train_size=20_000, steps=4)
    assert (everything(data, "train").targets - 1).square().mean() == pytest.approx(1 / 6, rel=0.03)
    errors = everything(data, "test").targets - 1
    assert data.report()["mse_of_always_1"] == pytest.approx(
        float(errors.square().mean()), abs=1e-4
    )


def test_symbols_are_to_be_said_again_after_the_blank(make: Make) -> None:
    data = make("copy_memory", steps=30)
    batch = everything(data, "train")
    symbols = data.codec.inputs.symbols
    digits = np.array([[int(symbols[i]) for i in row] for row in batch.inputs.tolist()])
    assert digits.shape == batch.targets.shape == (200, 50) and (batch.lengths == 50).all()
    assert digits[:, :10].min() == 1 and digits[:, :10].max() == 8
    assert (digits[:, 10:39] == 0).all() and (digits[:, 39:] == 9).all()
    assert (batch.targets[:, :40] == 0).all()
    assert (batch.targets[:, 40:].numpy() == digits[:, :10]).all()


def test_padding_is_neither_the_blank_nor_any_symbol(make: Make) -> None:
    data = make("copy_memory")
    vocabulary = data.spec.input_vocabulary
    read = set(everything(data, "train").inputs.unique().tolist())
    assert len(read) == 10 and max(read) < vocabulary.size
    assert not read & {vocabulary.pad_id, vocabulary.unk_id}


def test_a_guess_without_a_memory_has_the_loss_of_the_papers(make: Make) -> None:
    data = make("copy_memory", steps=1000)
    targets = everything(data, "test").targets
    guess = torch.full((*targets.shape, len(data.spec.labels)), -torch.inf)
    guess[:, :-10, 0] = 0.0  # sure of the blank
    guess[:, -10:, 1:] = math.log(1 / 8)
    loss = F.cross_entropy(guess.flatten(0, 1), targets.flatten())
    assert float(loss) == pytest.approx(10 * math.log(8) / 1020, rel=1e-4)
    assert data.report()["loss_without_memory"] == 0.0204


def test_an_answer_is_the_input_of_so_many_steps_before(make: Make) -> None:
    data = make("delay", delay=7)
    batch = everything(data, "train")
    assert batch.inputs.shape == batch.targets.shape == (200, 40, 1)
    assert torch.equal(batch.targets[:, 7:], batch.inputs[:, :-7])
    assert (batch.targets[:, :7] == 0).all()
    assert batch.inputs.min() >= -1 and batch.inputs.max() < 1
    assert data.report()["mse_of_always_0"] == pytest.approx(33 / 40 / 3, rel=0.1)


def test_a_limit_keeps_rows_as_they_are(make: Make) -> None:
    for name in KINDS:
        whole, some = inputs(make(name))["train"], inputs(make(name, limit=20))["train"]
        assert len(some) == 20 and set(some) < set(whole)


def test_pixels_are_the_rows_one_after_the_other(make: Make) -> None:
    rows, pixels = make("rows"), make("pixels", pixels=True)
    assert (rows.spec.input_features, pixels.spec.input_features) == (3, 1)
    for split in SPLITS:
        whole, single = everything(rows, split), everything(pixels, split)
        assert whole.inputs.shape == (12, 4, 3) and single.inputs.shape == (12, 12, 1)
        assert torch.equal(whole.inputs.flatten(1), single.inputs[..., 0])
        assert torch.equal(whole.targets, single.targets) and (single.lengths == 12).all()


def test_one_permutation_serves_all_pictures_of_all_splits(make: Make) -> None:
    straight, mixed = (make("pixels", pixels=True, permuted=p) for p in (False, True))
    order = list(mixed.codec.order)
    assert sorted(order) == list(range(12)) != order
    for split in SPLITS:
        expected = everything(straight, split).inputs[:, order]
        assert torch.equal(everything(mixed, split).inputs, expected)
    assert make("pixels", pixels=True, permuted=True, seed=2).codec.order == mixed.codec.order
    other = make("pixels", pixels=True, permuted=True, split_seed=1)
    assert other.codec.order != mixed.codec.order
    assert other.fingerprint != mixed.fingerprint


def test_a_picture_to_predict_is_read_in_the_order_of_training(make: Make) -> None:
    data = make("pixels", pixels=True, permuted=True)
    codec = codec_from_plain(data.codec.to_plain())
    again = codec.batch([data.example("test", 3).input])
    assert torch.equal(again.inputs[0], everything(data, "test").inputs[3])
    # a trained model's order beats the settings
    given = make("pixels", pixels=True, permuted=True, split_seed=5)
    given.given_codec = codec
    assert given.codec.order == codec.order


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("adding", {"steps": 1}, r"data\.steps must be at least 2 .*got 1"),
        ("adding", {"test_size": 0}, r"data\.test_size must be at least 1, got 0"),
        ("adding", {"path": "mine.csv"}, r"data\.path=mine\.csv would not be read"),
        ("copy_memory", {"steps": 0}, r"data\.steps must be at least 1, got 0"),
        ("copy_memory", {"train_size": 8**10}, r"add up to 1073741944 rows.*ask for fewer"),
        ("delay", {"delay": 0}, r"data\.delay must be at least 1 .*got 0"),
        ("delay", {"delay": 40}, r"data\.steps must be over data\.delay.*got 40 and 40"),
        ("rows", {"permuted": True}, r"data\.permuted=true .*set data\.pixels=true"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    name: str, changes: dict[str, Any], message: str, make: Make
) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, **changes)


@pytest.mark.parametrize("name", ["adding", "delay"])
def test_a_model_of_other_series_is_refused(name: str, make: Make, tmp_path: Path) -> None:
    sine = Sine(name="sine", cache_dir=str(tmp_path), seed=1, batch_size=4, **SIZES)
    data = make(name)
    data.given_codec = sine.codec
    with pytest.raises(ValueError, match="trained on the series sine.*use data=series"):
        data.setup()


def test_a_model_of_other_tags_is_refused(make: Make) -> None:
    data = make("copy_memory")
    data.given_codec = TaggedTextCodec(labels=("noun", "verb"))
    with pytest.raises(ValueError, match="other tags.*use data=tagged_text"):
        data.setup()
