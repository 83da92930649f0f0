"""Data of one's own: each kind from a folder in a common format, with other column names."""

import csv
import json
import math
import random
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from tests import commands

ROOT = Path(__file__).parent.parent


def text_labels(folder: Path) -> list[str]:
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "body", "stars"])
        for i in range(120):
            good = i % 2 == 0
            writer.writerow(
                [i, f"{'good' if good else 'bad'} thing, number {i}", "5" if good else "1"]
            )
    return ["task=classification", "data=text_labels", "data.text_column=body",
            "data.label_column=stars"]  # fmt: skip


def text_pairs(folder: Path) -> list[str]:
    for split, count in (("train", 80), ("dev", 10), ("test", 10)):
        rows = [{"en": f"I have {i} cats", "fr": f"J’ai {i} chats"} for i in range(count)]
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return ["task=translation", "data=text_pairs", "data.source_column=en",
            "data.target_column=fr"]  # fmt: skip


def text(folder: Path) -> list[str]:
    lines = [f"Chapter {i}. 春眠不觉晓, it was a dark and stormy night." for i in range(300)]
    (folder / "book.txt").write_text("\n".join(lines), encoding="utf-8")
    return ["task=language_model", "data=text"]


def image_captions(folder: Path) -> list[str]:
    rows = []
    for i in range(40):
        colour = [("red", (200, 0, 0)), ("blue", (0, 0, 200))][i % 2]
        Image.new("RGB", (30 + i, 40), colour[1]).save(folder / f"{i}.png")
        rows.append({"file": f"{i}.png", "sentences": f"a {colour[0]} picture"})
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "sentences"])
        writer.writeheader()
        writer.writerows(rows)
    return ["task=captioning", "data=image_captions", "data.image_column=file",
            "data.captions_column=sentences", "data.size=[32,32]"]  # fmt: skip


def piano_roll(folder: Path) -> list[str]:
    draw = random.Random(1)
    songs = [
        {"chords": [sorted(draw.sample(range(40, 70), 3)) for _ in range(20)]} for _ in range(30)
    ]
    (folder / "songs.jsonl").write_text("\n".join(map(json.dumps, songs)), encoding="utf-8")
    return ["task=language_model", "data=piano_roll", "data.notes_column=chords",
            "data.first_key=0"]  # fmt: skip


def tagged_text(folder: Path) -> list[str]:
    rows = [
        {"words": ["Ada", "lives", "in", place], "ner": ["PER", "O", "O", "LOC"]}
        for place in ["Rome", "Oslo", "Lima", "Kyiv"] * 20
    ]
    Dataset.from_list(rows).to_parquet(str(folder / "train.parquet"))
    return ["task=tagging", "data=tagged_text", "data.tokens_column=words", "data.tags_column=ner"]


def series(folder: Path) -> list[str]:
    lines = ["day,price"] + [f"{i},{10 + math.sin(i / 5):.4f}" for i in range(600)]
    (folder / "prices.csv").write_text("\n".join(lines), encoding="utf-8")
    return ["task=tagging", "data=series", "data.value_columns=[price]"]


KINDS = [text_labels, text_pairs, text, image_captions, piano_roll, tagged_text, series]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_folder_of_ones_own_trains_and_tests(kind: object, tmp_path: Path) -> None:
    folder = tmp_path / "my data, 我的"
    folder.mkdir()
    options = kind(folder)  # type: ignore[operator]
    options += [f"data.path={folder}", f"hydra.run.dir={tmp_path}/run"]
    done = commands.run([ROOT / "train.py", *options, "debug=fast", "trainer=cpu"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])["test"]
    assert measured["test/loss"] > 0
