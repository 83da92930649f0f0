"""Answers without a recurrent network score what counting by hand says they do."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.codec import TokenizerSettings
from data.image_captions import ImageCaptions
from data.tagged_text import TaggedText
from data.text import TextStreams
from data.text_labels import TextLabels
from tasks.baselines import (
    bag_of_bigrams,
    bag_of_words,
    count_model,
    majority,
    most_frequent_tag,
    one_sentence,
)
from tasks.captioning_metrics import bleu
from tasks.cider import cider

Rows = list[dict[str, Any]]


def settings(folder: Path, train: Rows, test: Rows) -> dict[str, Any]:
    """Files of three splits, validation as the test, and what every kind of data is told."""
    for split, rows in (("train", train), ("validation", test), ("test", test)):
        (folder / "rows").mkdir(exist_ok=True)
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / "rows" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return {
        "name": "mine", "path": str(folder / "rows"), "cache_dir": str(folder / "cache"),
        "seed": 1, "batch_size": 4, "tokenizer": TokenizerSettings(min_frequency=1),
    }  # fmt: skip


def labelled(texts: dict[str, str], times: int = 1) -> Rows:
    return [{"text": text, "label": label} for text, label in texts.items()] * times


def test_the_majority_is_that_of_training(tmp_path: Path) -> None:
    train = labelled({"a": "no", "b": "no", "c": "yes"})
    test = labelled({"d": "no", "e": "yes", "f": "yes", "g": "yes"})
    data = TextLabels(**settings(tmp_path, train, test))
    assert majority(data) == {"test/accuracy": 0.25}


def test_a_bag_knows_which_words_decide(tmp_path: Path) -> None:
    kinds = {"good": "yes", "bad": "no"}
    known = {f"{word} thing {n}": label for n in "abcdef" for word, label in kinds.items()}
    new = {f"a {word} q": label for word, label in kinds.items()}
    data = TextLabels(**settings(tmp_path, labelled(known), labelled(new)))
    assert bag_of_words(data) == bag_of_bigrams(data) == {"test/accuracy": 1.0}


def test_only_pairs_tell_the_order_of_two_words(tmp_path: Path) -> None:
    known = labelled({"first second": "yes", "second first": "no"}, times=10)
    data = TextLabels(**settings(tmp_path, known, known))
    assert bag_of_words(data) == {"test/accuracy": 0.5}
    assert bag_of_bigrams(data) == {"test/accuracy": 1.0}


def test_a_word_has_its_commonest_tag_and_a_new_word_that_of_rare_ones(tmp_path: Path) -> None:
    def tagged(words: str, tags: str) -> dict[str, Any]:
        return {"tokens": words.split(), "tags": tags.split()}

    train = [
        tagged("the dog runs", "D N V"), tagged("the run ends", "D N V"), tagged("I run", "P V"),
        tagged("the run pays", "D N V"), tagged("the end", "D N"),
    ]  # fmt: skip
    test = [tagged("the run", "D N"), tagged("I run", "P V"), tagged("the jumps", "D V")]
    data = TaggedText(**settings(tmp_path, train, test))
    assert most_frequent_tag(data) == {"test/accuracy": 5 / 6}  # the second run is a noun, too


def test_one_sentence_is_the_one_that_fits_most_pictures(tmp_path: Path) -> None:
    def captioned(number: int, *captions: str) -> dict[str, Any]:
        place = tmp_path / f"{len(list(tmp_path.glob('*.png')))}.png"
        Image.fromarray(np.full((4, 4, 3), 10 * number, np.uint8)).save(place)
        return {"image": str(place), "captions": list(captions)}

    often = "a dog runs over green grass"
    train = [captioned(1, often, "two men"), captioned(2, "a boat at sea")]
    test = [captioned(3, often), captioned(4, often, "one dog"), captioned(5, "a red car waits")]
    data = ImageCaptions(**settings(tmp_path, train, test), size=(4, 4))
    references = [row["captions"] for row in test]
    found = one_sentence(data)
    assert found["test/cider"] == cider([often] * 3, references)
    assert found["test/bleu4"] == bleu([often] * 3, references)[3]


def test_the_count_model_has_the_entropy_of_coin_flips(tmp_path: Path) -> None:
    flips = np.random.default_rng(0).integers(2, size=(2, 4000))
    train, test = ([{"text": "".join("ab"[flip] for flip in own)}] for own in flips)
    given = settings(tmp_path, train, test)
    given["tokenizer"] = TokenizerSettings(kind="characters", lowercase=False, min_frequency=1)
    found = count_model(TextStreams(**given, steps=10, eval_streams=2, text_column="text"))
    assert found["test/bits_per_character"] == pytest.approx(1, abs=0.1)
    assert found["test/perplexity"] == pytest.approx(2, abs=0.15)
    assert math.log2(found["test/perplexity"]) == pytest.approx(found["test/bits_per_character"])
