"""Any rows at all: they are encoded, batched and told again, or the error says what is wrong."""

import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.base import DataModule
from data.codec import codec_from_plain
from data.image_captions import ImageCaptions
from data.piano_roll import PianoRolls
from data.series import Series
from data.tagged_text import TaggedText
from data.text import TextStreams
from data.text_labels import TextLabels
from data.text_pairs import TextPairs
from data.tokenizer_settings import TokenizerSettings
from tests.fuzz.conftest import cases
from tests.fuzz.strange import NUMBERS, texts, values

Row = dict[str, Any]
TOKENIZERS = {
    "words": TokenizerSettings(lowercase=True, min_frequency=2),
    "whitespace": TokenizerSettings(pre_tokenizer="whitespace", lowercase=True),
    "basic_english": TokenizerSettings(pre_tokenizer="basic_english", normalizer="none"),
    "moses": TokenizerSettings(pre_tokenizer="moses", normalizer="nfkd"),
    "characters": TokenizerSettings(kind="characters", normalizer="none"),
    "characters, small": TokenizerSettings(kind="characters", normalizer="nfkc", vocab_size=7),
    "bytes": TokenizerSettings(kind="bytes", normalizer="none"),
    "bytes, backwards": TokenizerSettings(kind="bytes", normalizer="nfd", reverse=True),
    "bpe": TokenizerSettings(kind="bpe", vocab_size=60, min_frequency=2),
    "bpe, dropout": TokenizerSettings(kind="bpe", vocab_size=200, dropout=0.3, normalizer="none"),
    "unigram": TokenizerSettings(kind="unigram", vocab_size=60),
    "unigram, backwards": TokenizerSettings(kind="unigram", reverse=True, lowercase=True),
}


def picture() -> bytes:
    """A small picture as the bytes of a file."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


label = st.sampled_from([*"ab01", "", "NA", "ä", "\ud800", 0, 1, 1.5, True, None, float("nan")])
PICTURES = [f"{letter}.png" for letter in "abcdefghi"]
key = st.sampled_from([*range(88)] * 3 + [108, -1, 2**40, 2**70, 1.5, "x", None])
words = st.lists(texts(long=False), max_size=4)

# a row of each kind as it should be, or nearly
USUAL: dict[str, st.SearchStrategy[Row]] = {
    "text_labels": st.fixed_dictionaries({"text": texts(), "label": st.sampled_from("ab")}),
    "strange labels": st.fixed_dictionaries({"text": texts(long=False), "label": label}),
    "text_pairs": st.fixed_dictionaries({"source": texts(), "target": texts()}),
    "tagged_text": words.flatmap(
        lambda own: st.fixed_dictionaries(
            {
                "tokens": st.just(own),
                "tags": st.lists(
                    st.sampled_from(["A", "B", "", "\ud800"]), min_size=len(own), max_size=len(own)
                ),
            }
        )
    ),
    "text": st.fixed_dictionaries({"text": texts()}),
    "series": st.fixed_dictionaries(
        {"x": st.floats() | st.none() | st.sampled_from(NUMBERS), "y": st.floats(-9, 9)}
    ),
    "piano_roll": st.fixed_dictionaries(
        {
            "notes": st.one_of(
                *[st.lists(st.lists(key, max_size=3), min_size=1, max_size=5)] * 9,
                st.lists(st.none(), max_size=2),
                st.none(),
            )
        }
    ),
    "image_captions": st.fixed_dictionaries(
        {
            "image": st.sampled_from(PICTURES),
            "captions": texts(long=False) | st.lists(texts(long=False), max_size=3),
        }
    ),
}


def module(kind: str, tokenizer: TokenizerSettings, **common: Any) -> DataModule:
    made: dict[str, Callable[..., DataModule]] = {
        "text_labels": TextLabels, "strange labels": TextLabels, "text_pairs": TextPairs,
        "tagged_text": TaggedText, "text": TextStreams, "image_captions": ImageCaptions,
        "series": Series, "piano_roll": PianoRolls,
    }  # fmt: skip
    more: dict[str, Any] = {"tokenizer": tokenizer} if kind not in ("series", "piano_roll") else {}
    if kind == "image_captions":
        more["size"] = (4, 4)
    return made[kind](name="strange", seed=1, batch_size=4, **more, **common)


def write(folder: Path, rows: list[Row], file_format: str) -> Path:
    """Rows of strings also as CSV and TSV, whose cells may hold line ends and quotes."""
    path = folder / f"rows.{file_format}"
    if file_format in ("jsonl", "json"):
        lines = [json.dumps(row) for row in rows]
        whole = f"[{','.join(lines)}]" if file_format == "json" else "\n".join(lines)
        path.write_text(whole, encoding="utf-8")
        return path
    names = list(dict.fromkeys(name for row in rows for name in row))

    def cell(value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return '"' + text.encode("utf-8", "replace").decode().replace('"', '""') + '"'

    lines = [",".join(names), *(",".join(cell(row.get(name)) for name in names) for row in rows)]
    path.write_bytes("\n".join(lines).encode())
    return path


def check(data: DataModule) -> None:
    """Every example is told, and every batch is of numbers that a model can read."""
    data.prepare_data()
    data.setup()
    plain = json.loads(json.dumps(data.codec.to_plain()))
    again = codec_from_plain(plain)
    assert again.to_plain() == data.codec.to_plain()
    assert again.vocabularies() == data.codec.vocabularies()
    for split in ("train", "validation", "test"):
        assert len(data.splits[split]) > 0
        arrays = data.splits[split].arrays
        count = len(arrays.get("pictures", next(iter(arrays.values()))))
        raw = [data.example(split, i) for i in range(min(3, count))]
        json.dumps([example.references for example in raw])
        for name, part in again.batch([example.input for example in raw])._asdict().items():
            well(data, name, part)
        for batch in data.loader(split):
            for name, part in batch._asdict().items():
                well(data, name, part)


def well(data: DataModule, name: str, part: torch.Tensor) -> None:
    if part.is_floating_point():
        assert part.isfinite().all(), name
        return
    codec, spec = data.codec, data.spec
    sides = {"source": codec.inputs, "inputs": codec.inputs, "target": codec.outputs}
    if name == "targets" and spec.labels is not None:
        assert (part < len(spec.labels)).all()
    side = sides.get(name)
    if side is not None:
        assert int(part.min()) >= 0 and int(part.max()) < len(side.symbols), name
        for row in part.tolist():
            side.decode(row)


def explained(error: ValueError, data_columns: list[str] | None) -> bool:
    """One line, which names the row, the column, the key or the file, in words."""
    said = str(error)
    named = [*(data_columns or ()), "row", "rows", "data.", "column", "train", "tokenizer"]
    return "\n" not in said.strip() and any(name in said for name in named)


def tried(kind: str, tokenizer: str, rows: list[Row], file_format: str) -> str:
    """`encoded` or `explained`; anything else is an error of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "rows"
        place.mkdir()
        for name in PICTURES:
            (place / name).write_bytes(picture())
        # a tenth of a series is more than a forecast's horizon
        write(place, rows * 8 if kind == "series" else rows, file_format)
        common = {"path": str(place), "cache_dir": f"{folder}/cache"}
        try:
            data = module(kind, TOKENIZERS[tokenizer], **common)
            check(data)
        except ValueError as error:
            columns = data.columns() if "data" in locals() else None
            outcome = "explained" if explained(error, columns) else f"not explained: {error!r}"
        else:
            outcome = "encoded"
    assert outcome in ("encoded", "explained"), outcome
    return outcome


@pytest.mark.parametrize("kind", USUAL)
def test_rows_of_strange_texts(kind: str, outcomes: Counter[str]) -> None:
    @cases(6)
    @given(
        st.lists(USUAL[kind], min_size=3, max_size=8),
        st.sampled_from(list(TOKENIZERS)), st.sampled_from(["jsonl", "json", "csv"]),
    )  # fmt: skip
    def any_rows(rows: list[Row], tokenizer: str, file_format: str) -> None:
        outcomes[tried(kind, tokenizer, rows, file_format)] += 1

    any_rows()


@pytest.mark.parametrize("kind", USUAL)
def test_rows_of_other_types_and_with_missing_columns(kind: str, outcomes: Counter[str]) -> None:
    @cases(4)
    @given(st.lists(USUAL[kind], min_size=3, max_size=6), st.data())
    def any_rows(rows: list[Row], drawn: st.DataObject) -> None:
        place = drawn.draw(st.integers(0, len(rows) - 1))
        name = drawn.draw(st.sampled_from(sorted(rows[place])))
        whole = drawn.draw(st.booleans())
        for row in rows if whole else [rows[place]]:
            row[name] = drawn.draw(values)
        if drawn.draw(st.booleans()) and not whole:
            del rows[place][name]
        tokenizer = drawn.draw(st.sampled_from(list(TOKENIZERS)))
        outcomes[tried(kind, tokenizer, rows, "jsonl")] += 1

    any_rows()
