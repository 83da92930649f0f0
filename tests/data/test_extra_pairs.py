"""Synthetic pairs: beside the real ones in training, at a ratio, told apart by a tag."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.codec import TokenizerSettings
from data.extra_pairs import ExtraPairs
from data.text_codec import BOS, EOS
from data.text_pairs import TextPairs

Make = Callable[..., TextPairs]
REAL, SYNTHETIC = 60, 100


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Real pairs are of a few words that end with `real`, synthetic ones with `made`."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for split, count in (("train", REAL), ("validation", 10), ("test", 10)):
        lines = [f"a b real\tx{n} real" for n in range(count)]
        (folder / f"{split}.tsv").write_text("\n".join(["en\tde", *lines]), encoding="utf-8")
    rows = [{"de": f"y{n} made", "en": f"c {'d ' * (n % 7)}made"} for n in range(SYNTHETIC)]
    rows[5]["en"] = ""  # the reverse model said nothing: left out
    (tmp_path / "made.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def build(extra: dict[str, Any] | None = None, **changes: Any) -> TextPairs:
        settings = {"name": "mine", "path": str(folder), "cache_dir": str(tmp_path / "cache")}
        settings |= {"seed": 1, "batch_size": 8, "source_column": "en", "target_column": "de"}
        tokenizer = changes.pop("tokenizer", TokenizerSettings())
        given = {} if extra is None else {"file": str(tmp_path / "made.jsonl")} | extra
        data = TextPairs(tokenizer=tokenizer, extra=ExtraPairs(**given), **(settings | changes))
        data.setup()
        return data

    return build


def kinds(data: TextPairs, split: str) -> list[tuple[bool, bool]]:
    """(is it synthetic, has it the tag) of every row, as the loader gives them."""
    found = []
    loader = {"train": data.train_dataloader, "validation": data.val_dataloader}[split]()
    for batch in loader:
        for source, length, index in zip(
            batch.source, batch.source_lengths, batch.index, strict=True
        ):
            example = data.example(split, int(index))
            ids = source[:length].tolist()
            tagged = ids[0] == BOS
            assert ids[-1] == EOS and BOS not in ids[1:]
            assert data.codec.inputs.decode(ids[tagged:]) == example.input.strip()
            found.append((example.input.endswith("made"), tagged))
    return found


def test_without_a_file_nothing_is_added(make: Make) -> None:
    assert sorted(kinds(make(), "train")) == [(False, False)] * REAL
    assert "extra_train" not in make().report()


@pytest.mark.parametrize("tag", [False, True])
@pytest.mark.parametrize(("ratio", "count"), [(0.5, 30), (1.0, 60), (None, SYNTHETIC), (9, 100)])
def test_training_has_so_many_for_each_real_pair_and_evaluation_none(
    make: Make, ratio: float | None, count: int, tag: bool
) -> None:
    data = make({"ratio": ratio, "tag": tag})
    assert data.report()["extra_train"] == count
    assert data.report()["train"] == REAL + count - data.report()["left_out_train"]
    found = kinds(data, "train")
    assert found.count((False, False)) == REAL
    assert found.count((True, tag)) == len(found) - REAL == count - data.report()["left_out_train"]
    assert set(kinds(data, "validation")) == {(False, False)}


def test_which_are_drawn_does_not_depend_on_the_runs_seed(make: Make) -> None:
    one, two, other = (
        {data.example("train", i).input + data.example("train", i).references[0]
         for i in range(len(data.splits["train"]))}
        for data in (make({"ratio": 0.5}), make({"ratio": 0.5}, seed=9),
                     make({"ratio": 0.5}, split_seed=9))
    )  # fmt: skip
    assert one == two != other


def test_their_texts_are_learnt_from_too(make: Make) -> None:
    assert "made" not in make().codec.inputs.symbols
    data = make({"ratio": None})
    assert {"c", "made"} <= set(data.codec.inputs.symbols)
    assert "y7" in data.codec.outputs.symbols


def test_a_file_that_changed_is_read_again(make: Make, tmp_path: Path) -> None:
    make({"ratio": None})
    (tmp_path / "made.jsonl").write_text('{"en": "c made", "de": "z"}', encoding="utf-8")
    assert make({"ratio": None}).report()["extra_train"] == 1


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_tag_is_one_symbol_for_any_tokenizer(make: Make, dropout: float) -> None:
    bpe = TokenizerSettings(kind="bpe", vocab_size=60, dropout=dropout)
    data = make({"tag": True}, tokenizer=bpe, joint=True)
    batches = [batch.source[:, 0] for batch in data.train_dataloader()]
    assert sum(int((first == BOS).sum()) for first in batches) > 50


def test_mistakes_name_the_value_and_the_mend(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.extra.file=none.jsonl .*--format pairs"):
        make({"file": "none.jsonl"})
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other.csv has no column 'en'; there are: a, b"):
        make({"file": str(tmp_path / "other.csv")})
    with pytest.raises(ValueError, match="ratio is above 0, or null for all pairs, got 0"):
        ExtraPairs(ratio=0)
    with pytest.raises(ValueError, match=r"data.extra.tag=true marks the pairs of data.extra.file"):
        ExtraPairs(tag=True)
    with pytest.raises(ValueError, match=r"data.streaming=false"):
        make({}, streaming=True)
