"""Pictures with sentences from a user's own files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from data.codec import TokenizerSettings, codec_from_plain
from data.image_captions import MEAN, STD, ImageCaptions
from data.text_codec import BOS, EOS

Make = Callable[..., ImageCaptions]
CAPTIONS = [[f"A picture of number {i} .", *[f"number {i} again"] * (i % 3)] for i in range(20)]


def pictures(folder: Path, count: int = 20, size: tuple[int, int] = (8, 6)) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i}.png" for i in range(count)]
    for i, name in enumerate(names):
        Image.new("RGB", size, (10 * i, 200, i)).save(folder / name)
    return names


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    names = pictures(tmp_path / "d" / "files")
    paired = zip(names, CAPTIONS, strict=True)
    return [{"image": f"files/{name}", "captions": own} for name, own in paired]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(path: Path, **changes: Any) -> ImageCaptions:
        settings = {"name": "mine", "path": str(path), "cache_dir": str(tmp_path / "cache")}
        settings |= {"seed": 1, "batch_size": 4, "size": (6, 8)}
        tokenizer = TokenizerSettings(lowercase=True)
        data = ImageCaptions(**(settings | {"tokenizer": tokenizer} | changes))
        data.setup()
        return data

    return build


def test_training_is_pairs_and_evaluation_is_pictures(
    make: Make, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    data = make(write(tmp_path / "d" / "all.jsonl", rows))
    assert data.spec.picture_shape == (3, 6, 8) and data.report()["pictures_train"] == 16
    said: dict[int, list[str]] = {}
    for batch in data.train_dataloader():
        for target, n, index in zip(batch.target, batch.target_lengths, batch.index, strict=True):
            assert target[0] == BOS and target[n - 1] == EOS and not target[n:].any()
            said.setdefault(int(index), []).append(data.codec.outputs.decode(target))
    for index in range(16):
        example = data.example("train", index)
        assert sorted(said[index]) == sorted(
            r.lower().replace(" .", ".") for r in example.references
        )
        number = example.input.getpixel((0, 0))[2]
        assert example.references == CAPTIONS[number]
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert sorted(i for batch in loader for i in batch.index.tolist()) == [0, 1]


def test_pictures_are_normalised_as_the_backbones_expect(
    make: Make, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    data = make(write(tmp_path / "d" / "all.jsonl", rows))
    batch = next(iter(data.train_dataloader()))
    assert batch.pictures.shape == (4, 3, 6, 8) and batch.pictures.dtype == torch.float32
    red = batch.pictures[0, 0, 0, 0] * STD[0] + MEAN[0]
    number = data.example("train", int(batch.index[0])).input.getpixel((0, 0))[2]
    assert float(red) == pytest.approx(10 * number / 255, abs=1e-5)
    whole = list(data.pictures("train", batch_size=7))
    assert torch.equal(torch.cat([index for index, _ in whole]), torch.arange(16))
    assert torch.equal(torch.cat([p for _, p in whole])[batch.index], batch.pictures)


def test_cached_features_need_no_pictures(
    make: Make, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    data = make(write(tmp_path / "d" / "all.jsonl", rows))
    data.without_pictures = True
    for batch in data.train_dataloader():
        assert batch.pictures.shape == (len(batch.index), 0)


def test_rows_of_one_picture_are_one_picture_in_one_split(
    make: Make, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    single = [{"file": r["image"], "said": s} for r in rows for s in [*r["captions"], "more"]]
    file = tmp_path / "d" / "all.csv"
    Dataset.from_list(single).to_csv(file)
    data = make(file, image_column="file", captions_column="said")
    sizes = {split: data.report()[f"pictures_{split}"] for split in data.splits}
    assert sizes == {"train": 16, "validation": 2, "test": 2}
    assert data.report()["train"] == sum(
        len(data.example("train", i).references) for i in range(16)
    )


def test_pictures_may_be_bytes_in_parquet(make: Make, tmp_path: Path) -> None:
    names = pictures(tmp_path / "files", size=(30, 50))
    features = Features({"image": ImageFeature(), "captions": List(Value("string"))})
    columns = {"image": [str(tmp_path / "files" / n) for n in names], "captions": CAPTIONS}
    (tmp_path / "d").mkdir()
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "d" / "train.parquet")
    data = make(tmp_path / "d")
    assert data.report()["pictures_train"] == 16
    assert data.example("train", 0).input.size == (8, 6)


def test_a_prediction_batch_equals_the_trained_one_after_json(
    make: Make, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    data = make(write(tmp_path / "d" / "all.jsonl", rows))
    codec = codec_from_plain(data.codec.to_plain())
    batch = next(iter(data.test_dataloader()))
    again = codec.batch([data.example("test", int(i)).input for i in batch.index])
    assert torch.equal(again.pictures, batch.pictures)
    assert again.target.tolist() == [[BOS, EOS]] * len(batch.index)
    path, array = tmp_path / "d" / "files" / "0.png", np.zeros((50, 40, 3), np.uint8)
    assert codec.batch([path, str(path), array]).pictures.shape == (3, 3, 6, 8)
    with pytest.raises(ValueError, match=r"none\.png is not a picture that can be read"):
        codec.batch([path, tmp_path / "none.png"])


def test_a_given_codec_brings_vocabulary_and_size(
    make: Make, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    trained = make(write(tmp_path / "d" / "all.jsonl", rows), size=(5, 5))
    other = [{**row, "captions": ["quite other words"]} for row in rows]
    data = ImageCaptions(
        name="other", path=str(write(tmp_path / "d" / "other.jsonl", other)), seed=1,
        cache_dir=str(tmp_path / "cache"), batch_size=4, tokenizer=TokenizerSettings(),
    )  # fmt: skip
    data.given_codec = codec_from_plain(trained.codec.to_plain())
    data.setup()
    assert data.spec == trained.spec and data.report()["unknown_test"] == 1
    assert data.codec.outputs.symbols == trained.codec.outputs.symbols


def test_odd_rows_are_left_out_and_counted(
    make: Make, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    rows[0]["captions"], rows[1]["captions"] = [], ["  ", "word " * 9]
    rows[2]["captions"] = ["  "]
    for split in ("train", "valid", "test"):
        write(tmp_path / "d" / f"{split}.jsonl", rows)
    report = make(tmp_path / "d", max_length=6).report()
    assert (report["pictures_train"], report["pictures_test"]) == (18, 18)
    assert report["left_out_train"] == 1
    with pytest.raises(ValueError, match=r"max_length=2 leaves no training sentence: the shortest"):
        make(tmp_path / "d", max_length=2)


def test_a_picture_that_cannot_be_read_is_named(
    make: Make, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    file = write(tmp_path / "d" / "train.jsonl", rows)
    (tmp_path / "d" / "files" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    message = r"row \d+ of \w+ \(files/3\.png\) is not a picture that can be read"
    with pytest.raises(ValueError, match=message):
        make(file)
    (tmp_path / "d" / "files" / "3.png").unlink()
    with pytest.raises(ValueError, match=message):
        make(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 8)}, "data.size is a height and a width"),
        (
            {"captions_column": "numbers"},
            "has no sentence, nor a list of them, in column 'numbers'",
        ),
        ({"captions_column": "empty"}, "no picture of train has a sentence in column 'empty'"),
        ({"image_column": "label"}, "column 'label' holds no pictures"),
    ],
)
def test_a_mistake_in_the_settings_is_named(
    changes: dict[str, Any],
    message: str,
    make: Make,
    tmp_path: Path,
    rows: list[dict[str, Any]],
) -> None:
    more = [{**row, "numbers": [1, 2], "empty": "", "label": 3} for row in rows]
    with pytest.raises(ValueError, match=message):
        make(write(tmp_path / "d" / "all.jsonl", more), **changes)


def test_real_pictures_load_whole(tmp_path: Path) -> None:
    if "UNROLL_DATA" not in os.environ:
        pytest.skip("UNROLL_DATA is not set: no local copies of the real data")
    data = ImageCaptions(
        name="flickr8k", folder="flickr8k_1k", data_dir=os.environ["UNROLL_DATA"], seed=1,
        cache_dir=str(tmp_path), batch_size=32, captions_column="sentences", size=(32, 32),
        tokenizer=TokenizerSettings(lowercase=True, min_frequency=2),
    )  # fmt: skip
    report = data.report()
    assert (report["pictures_train"], report["sentences_train"]) == (800, 4000)
    assert report["padding"] < 0.1 and len(data.example("test", 0).references) == 5
