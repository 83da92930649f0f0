"""Embedded data: the same for the same seed, split without overlap, and true to what it claims."""

from collections import Counter
from collections.abc import Callable
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from babel.dates import get_day_names
from PIL import Image

from data.arrays import SPLITS
from data.codec import TokenizerSettings, codec_from_plain
from data.synthetic.dates import Dates, forms, to_chinese
from data.synthetic.generated import Generated
from data.synthetic.python_source import PythonSource, modules, place_of
from data.synthetic.recipes import FIRST, RIGHT, SECOND, Recipes
from data.synthetic.recipes_online import NOTHING, RecipesOnline
from data.synthetic.shapes import COLOURS, RELATIONS, SHAPES, Shapes
from data.synthetic.sine import Sine

SMALL = {"train_size": 200, "validation_size": 60, "test_size": 60}
WORDS = TokenizerSettings(lowercase=True)
CHARACTERS = TokenizerSettings(kind="characters")
Make = Callable[..., Generated]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A standard library of a hundred modules, and what must not be taken for one."""
    root = tmp_path_factory.mktemp("library")
    for i in range(100):
        file = root / ("package" if i % 3 else "") / f"module_{i}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"def f_{i}_{j}(x):\n    return x + {j}\n" for j in range(30)))
    text = "# not to be read\n" * 100
    for name in ("test/test_x.py", "site-packages/pip.py", "config-3.11/x.py", "lib2to3/y.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "accents.py").write_text("# not to be read: é\n" * 100, encoding="utf-8")
    (root / "copy_of_1.py").write_text((root / "package/module_1.py").read_text())
    (root / "stub.py").write_text("pass\n")
    return root


@pytest.fixture
def make(tmp_path: Path, library: Path) -> Make:
    kinds: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "recipes": (Recipes, {"tokenizer": WORDS}),
        "recipes_online": (RecipesOnline, {"tokenizer": WORDS}),
        "sine": (Sine, {}),
        "dates": (Dates, {"tokenizer": CHARACTERS}),
        "shapes": (Shapes, {"tokenizer": WORDS}),
        "python_source": (
            PythonSource,
            {"tokenizer": CHARACTERS, "library": str(library), "train_size": 30_000},
        ),
    }

    def build(name: str, **changes: Any) -> Any:
        kind, own = kinds[name]
        settings = {"name": name, "cache_dir": str(tmp_path), "seed": 1, "batch_size": 16}
        return kind(**(settings | SMALL | own | changes))

    return build


EVERY = ("recipes", "recipes_online", "sine", "dates", "shapes", "python_source")


def plain(rows: list[dict[str, Any]]) -> list[str]:
    return [repr(row) for row in rows]


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_rows(name: str, make: Make) -> None:
    first = make(name).generate()
    assert first == make(name, seed=2).generate()  # the run's seed does not matter
    assert [len(first[split]) for split in SPLITS][1:] == [60, 60] or name == "python_source"
    assert first["train"] != make(name, split_seed=1).generate()["train"]


@pytest.mark.parametrize("name", EVERY)
def test_splits_share_no_row(name: str, make: Make) -> None:
    train, validation, test = (set(plain(make(name).generate()[split])) for split in SPLITS)
    assert not train & validation and not train & test and not validation & test


@pytest.mark.parametrize("name", EVERY)
def test_rows_become_batches_and_the_codec_survives_json(name: str, make: Make) -> None:
    data = make(name)
    data.setup()
    assert max(len(batch[0]) for batch in data.train_dataloader()) == 16
    assert all(len(list(data.loader(split))) > 0 for split in SPLITS)
    codec = codec_from_plain(data.codec.to_plain())
    example = data.example("test", 0)
    assert len(codec.batch([example.input])[0]) == 1 and example.references[0]
    # another run's seed reads the same cache
    again = make(name, seed=7)
    again.setup()
    assert again.fingerprint == data.fingerprint
    assert len({path.name for path in Path(data.cache_dir).glob(f"{name}-*/prepared.json")}) == 1


def test_both_labels_have_the_same_recipes_but_for_the_order(make: Make) -> None:
    bags: dict[str, set[tuple[str, ...]]] = {}
    for split, rows in make("recipes").generate().items():
        steps = [(row["text"].split(", "), row["label"]) for row in rows]
        right = sorted((sorted(s), s[-1]) for s, label in steps if label == RIGHT)
        wrong = sorted((sorted(s), s[-1]) for s, label in steps if label != RIGHT)
        assert right == wrong and len(right) == len(rows) / 2
        for own, label in steps:
            assert 10 <= len(own) <= 30 and own.count(FIRST) == own.count(SECOND) == 1
            assert (own.index(FIRST) < own.index(SECOND)) == (label == RIGHT)
        bags[split] = {tuple(bag) for bag, _ in right}
        assert len(bags[split]) == len(right)
    assert not bags["train"] & bags["test"] and not bags["train"] & bags["validation"]


def test_a_tag_says_what_has_gone_in_so_far(make: Make) -> None:
    rows = make("recipes_online").generate()
    for row in rows["train"]:
        text = " ".join(row["tokens"])
        first = min(text.index(FIRST), text.index(SECOND))
        known = len(text[:first].split()) + 2  # at the last word of "add sauce A"
        sauce = row["tokens"][known]
        expected = [NOTHING] * known + [f"{sauce}_first"] * (len(row["tags"]) - known)
        assert row["tags"] == expected
    # the best answer that a word alone admits
    counts: dict[str, Counter[str]] = {}
    for row in rows["train"]:
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    pairs = [p for row in rows["test"] for p in zip(row["tokens"], row["tags"], strict=True)]
    right = sum(counts.get(word, Counter(x=1)).most_common(1)[0][0] == tag for word, tag in pairs)
    assert right / len(pairs) < 0.5


def test_a_cosine_cannot_be_read_off_its_sine(make: Make) -> None:
    data = make("sine")
    data.setup()
    batch = next(iter(data.test_dataloader()))
    assert batch.inputs.shape == batch.targets.shape == (16, 50, 1)
    squares = 1 - batch.targets**2
    heights = batch.inputs[:, 1:2] / squares[:, 1:2].sqrt()
    assert torch.allclose(batch.inputs**2, heights**2 * squares, atol=1e-4)
    assert heights.min() >= 0.499 and heights.max() <= 1.501 and heights.std() > 0.1
    assert (batch.inputs[:, 0] == 0).all() and (batch.targets[:, 0] == 1).all()
    assert torch.equal(data.codec.restore(batch.targets), batch.targets)
    assert torch.equal(data.codec.batch([data.example("test", 0).input]).inputs[0],
                       torch.from_numpy(data.splits["test"].flat("sine")[0].copy()))  # fmt: skip
    # the best answer to a value alone: the mean cosine of values like it
    sine, cosine = (data.splits["train"].flat(n).ravel() for n in ("sine", "cosine"))
    bins = np.digitize(sine, np.linspace(-1.5, 1.5, 60))
    means = np.bincount(bins, cosine) / np.bincount(bins).clip(1)
    assert np.mean((cosine - means[bins]) ** 2) > 0.3


def test_a_chinese_date_is_the_day_that_the_english_one_names(make: Make) -> None:
    assert to_chinese(date(2011, 3, 3)) == "2011年3月3日星期四"
    rows = make("dates", train_size=2000).generate()
    days = [row["target"] for split in SPLITS for row in rows[split]]
    assert len(set(days)) == len(days)
    for row in rows["train"]:
        day = date(*map(int, row["target"].split("日")[0].replace("月", "年").split("年")))
        assert to_chinese(day) == row["target"]
        assert row["source"].lower() in {form(day).lower() for form in forms()}
        assert 10 <= len(row["source"]) <= 30
    assert any(row["source"].isupper() for row in rows["train"])
    assert any(row["source"].islower() for row in rows["train"])


def test_no_english_date_can_be_two_days() -> None:
    names = {name.lower()[:3] for name in get_day_names(locale="en").values()}
    days = [date(2003, m, d) for m in range(1, 13) for d in range(1, 29)]  # 01-02-03 and the like
    days += [date(1903, 2, 1), date(2003, 2, 1)]
    seen: dict[str, date] = {}
    for form in forms():
        for day in days:
            text = form(day).lower()
            assert seen.setdefault(text, day) == day, text
            assert str(day.year) in text and any(name in text for name in names)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_caption_says_what_was_drawn(relation: str, make: Make) -> None:
    rows = make("shapes").generate()
    for row in [r for split in SPLITS for r in rows[split]]:
        caption = row["captions"][0]
        if relation not in caption:
            continue
        pixels = np.asarray(Image.open(BytesIO(row["image"]["bytes"])).convert("RGB")).astype(int)
        assert pixels.shape == (64, 64, 3)
        if relation != "above":
            pixels = pixels.swapaxes(0, 1)
        drawn = pixels.max(2) - pixels.min(2) > 60  # the background is grey
        first, second = _bands(drawn.any(1))
        centres = []
        for band, words in zip((first, second), caption.split(f" {relation} "), strict=True):
            article, colour, shape = words.split()
            assert article == ("an" if colour == "orange" else "a")
            mask, own = drawn[band], pixels[band][drawn[band]].mean(0)
            assert min(COLOURS, key=lambda c: abs(own - COLOURS[c]).sum()) == colour
            assert _shape(mask if relation == "above" else mask.T) == shape, caption
            places = np.argwhere(mask)
            centres.append(places.mean(0) + np.array([band.start, 0]))
        along, across = centres[1] - centres[0]
        assert abs(across) < 0.6 * along  # clearly above, or clearly beside


def _bands(filled: np.ndarray) -> list[slice]:
    """The two runs of rows in which something is drawn."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], filled, [0]])))
    assert len(edges) == 4
    return [slice(edges[0], edges[1]), slice(edges[2], edges[3])]


def _shape(mask: np.ndarray) -> str:
    """By how much of its box a shape fills, and by its uppermost row."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert abs(box.shape[0] - box.shape[1]) <= 1
    if box[0, 0] and box[-1, 0]:
        return "square"
    if box[-1, 0] and box[-1, -1]:
        return "triangle"
    return "circle" if box.mean() > 0.68 else "cross"


def test_tested_combinations_are_new_and_made_of_known_words(make: Make) -> None:
    rows = make("shapes", train_size=1500).generate()
    captions = {split: {row["captions"][0] for row in part} for split, part in rows.items()}
    train = captions["train"]
    assert not train & captions["validation"] and not train & captions["test"]
    assert not captions["validation"] & captions["test"]
    words = {split: {w for c in own for w in c.split()} for split, own in captions.items()}
    assert words["test"] | words["validation"] <= words["train"]
    assert set(COLOURS) | set(SHAPES) <= words["train"]


def test_modules_are_whole_and_what_is_no_program_is_left_out(make: Make, library: Path) -> None:
    found = dict(modules(library))
    assert len(found) == 100 and not any("not to be read" in text for text in found.values())
    # one of two equal files
    assert ("copy_of_1" in found) != ("package.module_1" in found)
    rows = make("python_source", validation_size=3000, test_size=3000).generate()
    names = [row["module"] for split in SPLITS for row in rows[split]]
    assert len(set(names)) == len(names) > 10
    for split in SPLITS:
        assert all(row["text"] == found[row["module"]] for row in rows[split])
        sizes = [len(row["text"]) for row in rows[split]]
        assert sum(sizes[:-1]) < {"train": 30_000}.get(split, 3000)
    # a module's split does not depend on which others there are
    assert all(place_of(row["module"], 0) >= 0.2 for row in rows["train"])
    assert all(place_of(row["module"], 0) < 0.1 for row in rows["validation"])


def test_the_running_python_has_a_library_to_read(make: Make) -> None:
    data = make("python_source", library=None, train_size=200_000)
    data.setup()
    report = data.report()
    assert report["characters_train"] >= 200_000 and report["unknown_test"] < 0.001
    assert report["vocabulary"] <= 4 + 100
    data = make("python_source", library=None)
    assert not any("test" in row["module"].split(".") for row in data.generate()["train"])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("recipes", {"min_steps": 2}, "min_steps must be at least 3.*got 2 and 30"),
        ("recipes", {"min_steps": 3, "max_steps": 3}, "not 160 different recipes of 3 to 3 steps"),
        ("recipes", {"test_size": 61}, "test_size must be even, got 61"),
        ("recipes", {"train_size": 0}, "train_size must be at least 1, got 0"),
        ("recipes", {"path": "mine.csv"}, "is generated, so data.path=mine.csv would not be read"),
        ("sine", {"min_period": 1}, "min_period must be at least 4"),
        ("sine", {"steps": 1}, "steps must be at least 2, got 1"),
        ("dates", {"train_size": 100_000}, "add up to 100120 days, but from 1900 to 2099"),
        ("python_source", {"library": "/nowhere"}, "/nowhere holds 0 Python modules"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    name: str, changes: dict[str, Any], message: str, make: Make
) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, **changes).generate()
