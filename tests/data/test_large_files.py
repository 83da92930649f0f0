"""Large files, read some rows at a time: the same rows, in little memory."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from data import large_files
from data.arrays import ArrayWriter, Ragged, RaggedWriter
from data.files import read_file
from data.large_files import read_large
from data.running_text import Pieces
from data.sources import Source, load

COUNT = 100


def rows(cell: Callable[[int], str]) -> str:
    return "id,text,score\n" + "".join(f'{i},"a, {i}\nb 我",{cell(i)}\n' for i in range(COUNT))


FILES: dict[str, str] = {
    "numbers.csv": rows(lambda i: "" if i % 9 == 0 else str(i)),
    "late_float.csv": rows(lambda i: "7" if i < 90 else "7.5"),
    "late_word.csv": rows(lambda i: "7" if i < 90 else "NA"),
    "semicolon.csv": "text;score\n\n" + "\n".join(f"a,b;{i}" for i in range(COUNT)),
    "quotes.tsv": "text\tscore\n" + "\n".join(f'"Hi, he said {i}\t{i}' for i in range(COUNT)),
    "lines.txt": "\ufeff" + "\r\n".join(f"line {i} \u2028 我" for i in range(COUNT)) + "\n\n",
    "one_line.txt": "word " * 1000,
    "rows.jsonl": "\n\n".join(json.dumps({"text": f"a {i}", "score": i}) for i in range(COUNT)),
    "mixed.jsonl": "\n".join(json.dumps({"score": i if i < 90 else "x"}) for i in range(COUNT)),
    "late_key.jsonl": "\n".join(
        json.dumps({"text": "a"} | ({"more": i} if i > 90 else {})) for i in range(COUNT)
    ),
    "list.jsonl": json.dumps([{"text": "a", "score": i} for i in range(COUNT)]),
}


@pytest.fixture(autouse=True)
def little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_files, "ROWS", 13)
    monkeypatch.setattr(large_files, "CHARACTERS", 64)
    monkeypatch.setattr(large_files, "LARGE", 100)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", FILES)
def test_a_large_file_gives_the_rows_of_a_small_one(
    name: str, zipped: bool, tmp_path: Path
) -> None:
    file = tmp_path / (f"{name}.gz" if zipped else name)
    content = FILES[name].encode()
    file.write_bytes(gzip.compress(content) if zipped else content)
    for columns in (None, ["score"] if "score" in FILES[name] else ["text"]):
        whole, mapped = read_file(file, columns), read_large(file, columns, tmp_path / "scratch")
        names = columns or whole.column_names
        assert set(names) <= set(mapped.column_names)
        for column in names:
            assert mapped[column][:] == whole[column][:]
            assert mapped.features[column] == whole.features[column]


def test_a_large_parquet_file_gives_its_rows(tmp_path: Path) -> None:
    table = pa.table({"text": [f"a {i}" for i in range(COUNT)], "n": list(range(COUNT))})
    parquet.write_table(table, tmp_path / "a.parquet")
    mapped = read_large(tmp_path / "a.parquet", ["text"], tmp_path / "scratch")
    assert mapped.column_names == ["text"] and mapped["text"][:] == table["text"].to_pylist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("all.csv", "body,stars\n我们,1\n".encode("gb18030"), "all.csv is not UTF-8 .*GB18030"),
        ("all.csv", b"body,stars\n" + b"a,1\n" * 50 + b"a,b,1\n", "line 52 has 3 cells"),
        ("all.jsonl", b'{"body": "a"}\n' * 50 + b'{"body": ', "could not read .*all.jsonl"),
        ("all.txt.gz", b"no gz" * 50, "could not read .*all.txt.gz"),
    ],
)
def test_a_mistake_is_named_whether_rows_are_read_whole_mapped_or_streamed(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(Source(root=tmp_path), columns=["body"], seed=0, scratch=tmp_path / "scratch")
    with pytest.raises(ValueError, match=message):
        list(large_files.chunks(tmp_path / name, ["body"]))


@pytest.mark.parametrize("word", ["word ", "字。"], ids=["spaces", "none"])
def test_pieces_of_a_text_give_the_whole(word: str) -> None:
    lines = [word * (i % 7) for i in range(3000)]
    pieces = list(Pieces(lines, least=50, most=400))
    assert "".join(pieces) == "\n".join(lines)
    assert len(pieces) > 10 and max(map(len, pieces)) < 900
    assert all(piece[0] in " \n" for piece in pieces[1:])


def test_what_is_written_piece_by_piece_is_what_was_given(tmp_path: Path) -> None:
    parts = [np.arange(n) for n in (3, 0, 1000)]
    for file in (None, tmp_path / "new" / "a.npy"):
        array, ragged = ArrayWriter(file, np.uint16), RaggedWriter(file, np.uint16)
        for part in parts:
            array.append(part)
        assert array.finish().tolist() == np.concatenate(parts).tolist()
        ragged.append(Ragged.of(parts[:2]))
        ragged.append(Ragged.of(parts[2:]))
        assert [row.tolist() for row in ragged.finish()] == [part.tolist() for part in parts]
    assert ArrayWriter(tmp_path / "empty.npy", np.uint8).finish().shape == (0,)


@pytest.mark.slow
def test_a_large_text_takes_little_memory(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "big_data.py"
    command = [sys.executable, str(script), "--megabytes", "80", "--kinds", "characters"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # held at once, such a text took 2.5 GB
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["characters"]["above"]["resident_mb"] < 300
