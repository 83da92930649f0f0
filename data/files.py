"""One file of rows → a `datasets.Dataset`: CSV, TSV, JSON (lines), Parquet, text; gz; MIDI."""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
from datasets import Dataset

from data.midi import LOWEST, read_midi
from data.surrogates import whole

_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|NaN"
)
_ARROW = {int: pa.int64(), float: pa.float64()}
_FRAMES = pa.list_(pa.list_(pa.int64()))
FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".mid", ".midi")


def is_rows(file: Path) -> bool:
    return file_format(file) in FORMATS


def read_file(file: Path, columns: Sequence[str] | None) -> Dataset:
    """The rows of a file, its other columns (None: no others) left out where the format allows.

    CSV has no types: a column is of numbers where every cell is one or empty, else of strings,
    and then an empty cell or "NA" stays the string it is.
    """
    kind = file_format(file)
    try:
        if kind == ".parquet":
            names = parquet.read_schema(file).names
            # with a column missing all are read, so that the report can name them
            wanted = list(columns) if columns and set(columns) <= set(names) else None
            return Dataset(parquet.read_table(file, columns=wanted))
        if kind in (".mid", ".midi"):
            # one row: a piece of music as the keys of a piano, counted from 0, in each frame
            frames = [[note - LOWEST for note in frame] for frame in read_midi(file)]
            return Dataset(pa.table({"notes": pa.array([frames], _FRAMES)}))
        text = read_text(file)
        if kind in (".csv", ".tsv"):
            return Dataset(_read_csv(text, "\t" if kind == ".tsv" else None))
        if kind in (".json", ".jsonl", ".ndjson"):
            return Dataset(_read_json(text, lines=kind != ".json"))
        lines = text.removesuffix("\n").split("\n") if text else []
        return Dataset(
            pa.table({"text": pa.array([line.rstrip("\r") for line in lines], pa.string())})
        )
    except (pa.ArrowException, csv.Error, json.JSONDecodeError, OSError, EOFError) as error:
        raise ValueError(f"could not read {file}: {error}") from error


def read_text(file: Path) -> str:
    """A text file, gz or not, as UTF-8 (a byte order mark is dropped)."""
    try:
        raw = file.read_bytes()
        if file.suffix.lower() == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError) as error:
        raise ValueError(f"could not read {file}: {error}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 (byte {raw[error.start]:#04x} at {error.start}): convert it, "
            f"e.g. `iconv -f GB18030 -t UTF-8` or `iconv -f LATIN1 -t UTF-8`"
        ) from error


def file_format(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read_csv(text: str, delimiter: str | None) -> pa.Table:
    if delimiter == "\t":
        try:
            return _parse(csv.reader(io.StringIO(text, newline=""), "excel-tab", strict=True))
        except csv.Error:  # quotes that are text, as most TSV files of sentences have them
            lines = io.StringIO(text, newline="")
            return _parse(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE))
    # a header with semicolons and no comma: what spreadsheets write in much of Europe
    header = text.split("\n", 1)[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    return _parse(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))


def _parse(rows: Any) -> pa.Table:
    csv.field_size_limit(2**31 - 1)  # a cell may hold a book
    names = [name.strip() for name in next(rows, [])]
    if len(set(names)) < len(names):
        raise csv.Error(f"two columns of the header have one name: {', '.join(names)}")
    return cells_table(names, rows, rows)


def cells_table(
    names: list[str],
    rows: Iterable[list[str]],
    reader: Any,
    *,
    wanted: Sequence[str] | None = None,
    typed: bool = True,
) -> pa.Table:
    """Rows of a `csv.reader` → the `wanted` columns (None: all), strings where not `typed`."""
    columns: list[list[str]] = [[] for _ in names]
    for cells in rows:
        if not cells:
            continue  # an empty line
        if len(cells) != len(names):
            line = reader.line_num
            raise csv.Error(f"line {line} has {len(cells)} cells, the header {len(names)}")
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    named = {n: c for n, c in zip(names, columns, strict=True) if wanted is None or n in wanted}
    return pa.table({n: _typed(c) if typed else pa.array(c, pa.string()) for n, c in named.items()})


def _typed(cells: list[str]) -> pa.Array:
    kind = number_type(cells)
    return numbers(cells, kind) if kind in (int, float) else pa.array(cells, pa.string())


def number_type(cells: list[str]) -> type | None:
    """Numbers where every cell that is not empty is one (007 and 1_000 are not), else str.

    None where all are empty.
    """
    full = [cell for cell in cells if cell.strip()]
    if not full:
        return None
    if not all(_NUMBER.fullmatch(cell.strip()) for cell in full):
        return str
    whole = all(cell.strip().lstrip("+-").isdigit() for cell in full)
    return int if whole and max(map(len, full)) < 19 else float


def numbers(cells: list[str], kind: type) -> pa.Array:
    return pa.array([kind(cell) if cell.strip() else None for cell in cells], _ARROW[kind])


def _read_json(text: str, *, lines: bool) -> pa.Table:
    """A list of objects, an object of columns, or an object a line."""
    rows: Any = None
    if not lines or text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError:
            lines = True  # .json files often hold JSON lines
    if rows is None:
        # not splitlines(): strings may hold other line separators than \n
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(rows, dict) and not _is_columns(rows):
        rows = [rows]
    if isinstance(rows, dict):
        return json_table(rows)
    if not all(isinstance(row, dict) for row in rows):
        raise json.JSONDecodeError("expected objects, one a row", text[:40], 0)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return json_table({name: [row.get(name) for row in rows] for name in names})


def json_table(columns: dict[str, list[Any]]) -> pa.Table:
    """Columns of any values of JSON as a table."""
    return pa.table({whole(name): column_array(values) for name, values in columns.items()})


def _is_columns(row: Any) -> bool:
    """{"text": [...], "label": [...]}: every value a list, all of one length."""
    return (
        isinstance(row, dict)
        and bool(row)
        and all(isinstance(value, list) for value in row.values())
        and len({len(value) for value in row.values()}) == 1
    )


def column_array(values: list[Any]) -> pa.Array:
    """Any values of JSON as a column: of one type, or strings where they are of several."""
    try:
        return pa.array(values)
    except UnicodeEncodeError:
        return column_array(whole(values))
    except (pa.ArrowException, OverflowError):  # numbers and strings mixed, or of too many digits
        texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        return pa.array(whole(texts), pa.string())
