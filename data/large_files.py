"""Files too large to be read whole: some rows at a time, or as Arrow that is memory-mapped."""

import csv
import gzip
import hashlib
import json
import mmap
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as parquet
from datasets import Dataset

from data.files import cells_table, file_format, json_table, number_type, numbers, read_file

LARGE = 32 * 2**20  # bytes from which a file is not read whole; what is compressed is larger
ROWS = 10_000  # in a chunk, at most
CHARACTERS = 4 * 2**20  # in a chunk of lines
_mapped: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()


def is_large(file: Path) -> bool:
    return file.stat().st_size > (LARGE // 4 if file.suffix.lower() == ".gz" else LARGE)


def read_large(file: Path, columns: Sequence[str] | None, scratch: Path) -> Dataset:
    """The same rows as `read_file`, written to a file below `scratch` and mapped from there."""
    scratch.mkdir(parents=True, exist_ok=True)
    path = next(p for i in count() if not (p := scratch / f"{i}.arrow").exists())
    try:
        parts = chunks(file, columns, typed=False)
        first = next(parts)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
            writer.write_table(first, max_chunksize=ROWS)
            for part in parts:
                writer.write_table(part.cast(first.schema), max_chunksize=ROWS)
    except (ValueError, StopIteration, pa.ArrowException):
        # a mistake that is better told by who sees the whole, or types that only the whole shows
        return read_file(file, columns)
    table = _open(path)
    if file_format(file) in (".csv", ".tsv"):
        for i, name in enumerate(table.column_names):
            table = table.set_column(i, name, _typed(table[name]))
    forget()
    name = f"{file.absolute()} {file.stat().st_mtime_ns}"  # else the rows themselves are hashed
    return Dataset(table, fingerprint=hashlib.blake2b(name.encode(), digest_size=8).hexdigest())


def chunks(file: Path, columns: Sequence[str] | None, *, typed: bool = True) -> Iterator[pa.Table]:
    """The rows of a file, some thousand at a time, its other columns left out.

    A cell of a CSV file has the type of its column in the chunk; a string where not `typed`.
    """
    kind = file_format(file)
    try:
        if kind == ".parquet":
            rows = parquet.ParquetFile(file)
            some = rows.iter_batches(ROWS, columns=_known(columns, rows.schema_arrow.names))
            yield from (pa.Table.from_batches([batch]) for batch in some)
        elif kind == ".txt":
            yield from (pa.table({"text": pa.array(part, pa.string())}) for part in _lines(file))
        elif kind in (".csv", ".tsv"):
            yield from _csv(file, columns, typed)
        elif kind in (".jsonl", ".ndjson"):
            yield from _json(file, columns)
        else:
            yield read_file(file, columns).data.table
    except (pa.ArrowException, csv.Error, json.JSONDecodeError, OSError, EOFError) as error:
        raise ValueError(f"could not read {file}: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 ({error}): convert it, e.g. `iconv -f GB18030 -t UTF-8`"
        ) from error


@dataclass(frozen=True)
class Texts:
    """A column of rows as strings: read some at a time, and as often as it is asked for."""

    rows: Dataset
    column: str

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        for some in self.chunks():
            yield from some

    def chunks(self) -> Iterator[list[str]]:
        for values in column_chunks(self.rows, self.column):
            yield as_texts(values)


@dataclass(frozen=True)
class OneAfterTheOther:
    """Several texts, read as often as it is asked for."""

    parts: Sequence[Iterable[str]]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.parts)


def column_chunks(rows: Dataset, column: str) -> Iterator[list[Any]]:
    """The values of a column, as many at a time as take little memory."""
    table = rows.data
    mean = table.nbytes / max(1, len(table))
    size = int(max(1, min(ROWS, 2 * CHARACTERS / max(1.0, mean))))
    narrow = rows.select_columns([column])
    # an Arrow table cannot stand for every type (a class label, a picture)
    for some in narrow.with_format("arrow").iter(size):
        yield some[column].to_pylist()
        forget()


def as_texts(values: Iterable[Any]) -> list[str]:
    """A column as strings: numbers spelled out, missing ones empty."""
    return [v if isinstance(v, str) else "" if v is None else str(v) for v in values]


def forget() -> None:
    """Give back the memory of mapped pages that were read: the system keeps them as it sees fit,
    but they count as this process's own."""
    for mapped in _mapped:
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def _open(path: Path) -> pa.Table:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _mapped.add(mapped)
    return pa.ipc.open_stream(pa.py_buffer(mapped)).read_all()


def _text(file: Path) -> TextIO:
    opened: Any = gzip.open if file.suffix.lower() == ".gz" else open
    return opened(file, "rt", encoding="utf-8-sig", newline="")  # type: ignore[no-any-return]


def _lines(file: Path) -> Iterator[list[str]]:
    """Lines without their ends."""
    rest: list[str] = []  # of a line that began before
    with _text(file) as text:
        while block := text.read(CHARACTERS):
            first, *lines = block.split("\n")
            rest.append(first)
            if lines:
                yield [line.rstrip("\r") for line in ("".join(rest), *lines[:-1])]
                rest = lines[-1:]
    if last := "".join(rest):
        yield [last.rstrip("\r")]


def _csv(file: Path, columns: Sequence[str] | None, typed: bool) -> Iterator[pa.Table]:
    csv.field_size_limit(2**31 - 1)
    with _text(file) as text:
        header = text.readline()
        delimiter = ";" if ";" in header and "," not in header else ","
    dialect: dict[str, Any] = {"delimiter": delimiter, "strict": True}
    if file_format(file) == ".tsv":
        dialect = {"delimiter": "\t", "strict": True}
        with _text(file) as text:
            try:  # as much as would be read whole shows whether quotes are text
                for _ in csv.reader(iter(text.read(LARGE).splitlines(keepends=True)), **dialect):
                    pass
            except csv.Error:
                dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    with _text(file) as text:
        rows = csv.reader(text, **dialect)
        names = [name.strip() for name in next(rows, [])]
        wanted = _known(columns, names)
        for first in rows:
            some = chain([first], islice(rows, ROWS - 1))
            yield cells_table(names, some, rows, wanted=wanted, typed=typed)


def _json(file: Path, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    with _text(file) as text:
        while lines := list(islice(text, ROWS)):
            rows = [json.loads(line) for line in lines if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise json.JSONDecodeError("expected objects, one a row", lines[0][:40], 0)
            found = list(dict.fromkeys(name for row in rows for name in row))
            names = _known(columns, found) or found
            yield json_table({name: [row.get(name) for row in rows] for name in names})


def _known(columns: Sequence[str] | None, names: list[str]) -> list[str] | None:
    """The wanted columns; all of them where one is missing, so that the report can name them."""
    return list(columns) if columns and set(columns) <= set(names) else None


def _typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings → numbers, where every cell is one or empty."""
    kinds = set()
    for chunk in column.chunks:
        kinds.add(number_type(chunk.to_pylist()))
        if str in kinds:
            return column
    kinds.discard(None)
    if not kinds:
        return column
    kind = float if float in kinds else int
    return pa.chunked_array([numbers(chunk.to_pylist(), kind) for chunk in column.chunks])
