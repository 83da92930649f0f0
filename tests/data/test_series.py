"""Numbers over time from a user's own tables."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.codec import codec_from_plain
from data.series import Series, SeriesCodec

Make = Callable[..., Series]
ROWS = [(f"day {i}", 100 + 7 * math.sin(i / 5), i % 7) for i in range(500)]


def write(file: Path, rows: list[Any], names: str = "date,warmth,weekday") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([names.split(","), *rows])
    return file


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(path: Path, **changes: Any) -> Series:
        settings = {"name": "mine", "path": str(path), "cache_dir": str(tmp_path / "cache")}
        data = Series(**(settings | {"seed": 1, "batch_size": 4} | changes))
        data.setup()
        return data

    return build


def test_every_column_of_numbers_is_forecast_in_order_of_time(make: Make, tmp_path: Path) -> None:
    data = make(write(tmp_path / "all.csv", ROWS))
    assert data.report()["columns"] == "warmth, weekday"
    assert data.spec.input_features == data.spec.output_features == 2
    found = {}
    for split, first in [("train", 0), ("validation", 400), ("test", 450)]:
        last = 0.0
        for batch in data.loader(split):
            values, answers = data.codec.restore(batch.inputs), data.codec.restore(batch.targets)
            for v, a, n in zip(values, answers, batch.lengths, strict=True):
                assert torch.allclose(v[1:n], a[: n - 1], atol=1e-4)
                last = max(last, float(n))
        found[split] = data.splits[split].flat("values")
        raw = found[split] * np.array(data.codec.target_std) + np.array(data.codec.target_mean)
        assert raw[0] == pytest.approx(ROWS[first][1:], abs=1e-4)
    assert abs(found["train"].mean(0)).max() < 1e-5
    assert found["train"].std(0) == pytest.approx(1, abs=1e-4)


def test_evaluation_forecasts_every_row_but_the_first_once(make: Make, tmp_path: Path) -> None:
    data = make(write(tmp_path / "all.csv", ROWS), steps=20, horizon=3)
    batches = list(data.test_dataloader())
    assert sum(int(batch.lengths.sum()) for batch in batches) == 50 - 3
    assert data.lengths("train").max() == 20 and len(data.lengths("train")) == 39
    example = data.example("test", 0)
    first = [float(v) for v in example.references[0].split()[0].split("/")]
    assert first == pytest.approx(ROWS[453][1:], rel=1e-4) and len(example.input) == 20


def test_missing_values_repeat_the_one_before_and_are_counted(make: Make, tmp_path: Path) -> None:
    rows = [(d, "" if i in (0, 7, 8) else w, k) for i, (d, w, k) in enumerate(ROWS)]
    data = make(write(tmp_path / "all.csv", rows), value_columns=["warmth"])
    assert data.report()["missing_train"] == 3
    values = data.codec.restore(torch.from_numpy(np.array(data.splits["train"].flat("values"))))
    assert values[7:9, 0].tolist() == pytest.approx([ROWS[6][1]] * 2, rel=1e-5)
    assert float(values[0, 0]) == pytest.approx(data.codec.target_mean[0], rel=1e-5)


def test_a_prediction_batch_equals_the_trained_one_after_json(make: Make, tmp_path: Path) -> None:
    data = make(write(tmp_path / "all.csv", ROWS))
    codec = codec_from_plain(data.codec.to_plain())
    assert isinstance(codec, SeriesCodec) and codec.names == ("warmth", "weekday")
    batch = next(iter(data.test_dataloader()))
    again = codec.batch([data.example("test", int(i)).input for i in batch.index])
    assert torch.allclose(again.inputs, batch.inputs, atol=1e-5)
    assert torch.equal(again.lengths, batch.lengths)
    alone = make(write(tmp_path / "all.csv", ROWS), value_columns=["warmth"]).codec
    assert alone.batch([[1, 2, 3]]).inputs.shape == (1, 3, 1)
    for wrong, message in [
        ([[1.0, 2.0]], r"shape \(2,\): it needs rows of 2 numbers \(warmth, weekday\)"),
        ([[["a", 1]]], "does not hold numbers only"),
        ([[[1.0, float("nan")]]], "missing or infinite"),
    ]:
        with pytest.raises(ValueError, match=message):
            codec.batch(wrong)


def test_a_given_codec_brings_columns_and_scale(make: Make, tmp_path: Path) -> None:
    trained = make(write(tmp_path / "all.csv", ROWS), value_columns=["weekday"])
    other = write(tmp_path / "other.csv", [(i, 10 * k) for i, (_, _, k) in enumerate(ROWS)],
                  "number,weekday")  # fmt: skip
    data = Series(
        name="other", path=str(other), cache_dir=str(tmp_path / "cache"), seed=1, batch_size=4
    )
    data.given_codec = codec_from_plain(trained.codec.to_plain())
    data.setup()
    assert data.codec == trained.codec and data.spec == trained.spec
    assert data.splits["train"].flat("values").std() == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "data.steps must be at least 1, got 0"),
        ({"horizon": 60}, "validation has 50 rows: a forecast 60 ahead needs more"),
        ({"max_length": 5}, "max_length=5 means nothing here"),
        ({"value_columns": ["date"]}, "column 'date' of .* does not hold numbers"),
        ({"value_columns": ["hour"]}, "no column 'hour'; there are: date, warmth, weekday"),
        ({"value_columns": []}, "value_columns is empty"),
    ],
)
def test_a_mistake_in_the_settings_is_named(
    changes: dict[str, Any], message: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make(write(tmp_path / "all.csv", ROWS), **changes)


def test_tables_without_numbers_are_named(make: Make, tmp_path: Path) -> None:
    words = write(tmp_path / "a.csv", [(f"x{i}",) for i in range(30)], "a")
    with pytest.raises(ValueError, match="no column holds numbers; there are: a"):
        make(words)
    holes = write(tmp_path / "b.csv", [(i, i if i < 20 else "") for i in range(30)], "a,b")
    with pytest.raises(ValueError, match=r"column 'b' of .* has no value at all"):
        make(holes)


def test_numbers_are_typed_in_rows() -> None:
    two = SeriesCodec(names=("a", "b"), target_mean=(0.0, 0.0), target_std=(1.0, 1.0))
    one = SeriesCodec(names=("a",), target_mean=(0.0,), target_std=(1.0,))
    for typed in ("1 2; 3 4.5", "1,2\n3,4.5\n", " 1, 2 ;3,  4.5;"):
        assert two.parse(typed) == [[1, 2], [3, 4.5]]
    assert one.parse("1 2 3") == one.parse("1;2;3") == [[1], [2], [3]]
    with pytest.raises(ValueError, match="'1 two' is not rows of numbers"):
        two.parse("1 two")
