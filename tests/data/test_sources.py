"""Rows from files of every format, splits found or carved, mistakes named; and the Hub's path."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from datasets import Dataset, DatasetDict

from data.sources import Source, load

ROWS = [
    {"body": f'text {i}, "quoted"\nand more 中文 {"x" * (i % 3)}', "stars": i % 3}
    for i in range(40)
]
COLUMNS = ["body", "stars"]


def write(rows: list[dict[str, Any]], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = Dataset.from_list(rows)
    if ".csv" in file.name:
        text = table.to_pandas().to_csv(index=False).encode()
        file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)
    elif ".tsv" in file.name:
        table.to_csv(file, sep="\t")
    elif file.suffix == ".parquet":
        table.to_parquet(file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)


def local(path: Path) -> dict[str, Dataset]:
    return load(Source(root=path), columns=COLUMNS, seed=0).splits


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "json", "jsonl", "jsonl.gz", "parquet"])
def test_a_folder_of_named_splits_is_read(ending: str, tmp_path: Path) -> None:
    for name, part in [("train", ROWS[:20]), ("dev", ROWS[20:30]), ("my_test-0", ROWS[30:])]:
        write(part, tmp_path / f"{name}.{ending}")
    splits = local(tmp_path)
    assert [*splits] == ["train", "validation", "test"]
    assert [dict(row) for row in splits["train"]] == ROWS[:20]
    assert [dict(row) for row in splits["test"]] == ROWS[30:]


@pytest.mark.parametrize("ending", ["csv", "jsonl.gz"])
def test_a_single_file_is_split_by_seed(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"reviews.{ending}"
    write(ROWS, file)
    splits = local(file)
    assert [len(rows) for rows in splits.values()] == [32, 4, 4]
    bodies = [set(rows["body"]) for rows in splits.values()]
    assert not bodies[0] & bodies[1] and not bodies[0] & bodies[2] and not bodies[1] & bodies[2]
    assert [rows["body"][:] for rows in local(file).values()] == [
        rows["body"][:] for rows in splits.values()
    ]
    other = load(Source(root=file), columns=COLUMNS, seed=1).splits
    assert other["test"]["body"][:] != splits["test"]["body"][:]


def test_equal_texts_stay_on_one_side_of_a_carved_split(tmp_path: Path) -> None:
    write([{"body": f"text {i // 2}", "stars": 0} for i in range(200)], tmp_path / "all.csv")
    splits = local(tmp_path)
    assert not set(splits["train"]["body"]) & set(splits["test"]["body"])
    assert sum(len(rows) for rows in splits.values()) == 200


def test_only_the_missing_split_is_carved_and_reported(tmp_path: Path) -> None:
    write(ROWS[:30], tmp_path / "train.csv")
    write(ROWS[30:], tmp_path / "test.csv")
    loaded = load(Source(root=tmp_path), columns=COLUMNS, seed=0)
    assert [len(rows) for rows in loaded.splits.values()] == [27, 3, 10]
    assert loaded.notes == {"validation_from": "train, 3 of 30 rows by seed 0"}


def test_shards_folders_and_saved_datasets_are_read(tmp_path: Path) -> None:
    for i in range(2):
        write(ROWS[20 * i : 20 * i + 20], tmp_path / f"hub/data/train-0000{i}-of-00002.parquet")
    write(ROWS[:5], tmp_path / "hub/data/test-00000-of-00001.parquet")
    splits = local(tmp_path / "hub")
    assert splits["train"]["body"][:][0] in {row["body"] for row in ROWS}
    assert len(splits["train"]) + len(splits["validation"]) == 40 and len(splits["test"]) == 5
    parts = {"train": Dataset.from_list(ROWS), "valid": Dataset.from_list(ROWS[:5])}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert len(local(tmp_path / "saved")["validation"]) == 5


def test_only_needed_columns_are_kept_and_cells_stay_as_written(tmp_path: Path) -> None:
    lines = ["body;stars;extra", "NA;007;1", ";01;2", "null;x;3", *["a;b;4"] * 10]
    (tmp_path / "train.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    rows = load(Source(root=tmp_path), columns=COLUMNS, seed=0).splits
    assert rows["train"].column_names == COLUMNS
    every = [
        row for split in rows.values() for row in zip(split["body"], split["stars"], strict=True)
    ]
    assert {("NA", "007"), ("", "01"), ("null", "x")} <= set(every)


def test_a_tsv_with_stray_quotes_is_text(tmp_path: Path) -> None:
    lines = ["body\tstars", *(f'"Hi, he said {i}\t{i}' for i in range(10))]
    (tmp_path / "a.tsv").write_text("\n".join(lines), encoding="utf-8")
    assert local(tmp_path)["train"]["body"][:][0].startswith('"Hi, he said')


def put(folder: Path, name: str, content: str | bytes) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def empty_test(folder: Path) -> None:
    write(ROWS, folder / "train.csv")
    put(folder, "test.csv", "body,stars\n")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "column": (lambda p: write([{"a": "x", "b": 1}] * 9, p / "all.csv"), "'body'; there are: a, b"),
    "empty split": (empty_test, "test split of .* is empty"),
    "no train": (lambda p: write(ROWS, p / "test.csv"), "no train split; there is only test"),
    "no file": (lambda p: put(p, "notes.docx", "x"), r"no file of a known format \(\.csv"),
    "few rows": (lambda p: write(ROWS[:2], p / "all.csv"), "2 rows .*too few"),
    "encoding": (
        lambda p: put(p, "all.csv", "body,stars\n我们,1\n".encode("gb18030")),
        "all.csv is not UTF-8 .*iconv -f GB18030",
    ),
    "cells": (lambda p: put(p, "all.csv", "body,stars\na,b,1\n"), "line 2 has 3 cells"),
    "json": (lambda p: put(p, "all.jsonl", '{"body": "a"'), "could not read .*all.jsonl"),
    "gz": (lambda p: put(p, "all.csv.gz", "no gz"), "could not read .*all.csv.gz"),
    "parquet": (lambda p: put(p, "all.parquet", "no"), "could not read .*all.parquet"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_in_the_files_is_named(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        local(tmp_path)


def test_a_source_that_does_not_exist_says_what_does(tmp_path: Path) -> None:
    (tmp_path / "mr").mkdir()
    nothing = {"path": None, "folder": None, "data_dir": None, "hub_id": None}
    with pytest.raises(ValueError, match=r"path=.*nope does not exist \(.*holds: mr"):
        Source.choose(**{**nothing, "path": str(tmp_path / "nope")})
    with pytest.raises(ValueError, match=r"sst2 does not exist \(.*holds: mr\).*UNROLL_DATA"):
        Source.choose(**{**nothing, "folder": "sst2", "data_dir": str(tmp_path)})
    with pytest.raises(ValueError, match=r"set data\.path to a folder or a file"):
        Source.choose(**nothing)


def test_local_copies_come_before_the_hub_and_the_path_before_both(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    places = {"folder": "sst2", "data_dir": str(tmp_path), "hub_id": "SetFit/sst2"}
    assert Source.choose(path=None, **places).root == tmp_path / "sst2"
    assert Source.choose(path=None, **{**places, "data_dir": None}).hub_id == "SetFit/sst2"
    (tmp_path / "mine.csv").touch()
    assert Source.choose(path=str(tmp_path / "mine.csv"), **places).root == tmp_path / "mine.csv"


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does for one data set of one Parquet file a split."""

    files: ClassVar[dict[str, bytes]] = {}
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send([self.entry(name) for name in asked["paths"] if name in self.files], body=True)

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": self.etag(content)}

    def etag(self, content: bytes) -> str:
        return hashlib.sha1(content).hexdigest()

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        name = path.partition("/resolve/")[2].partition("/")[2]
        if "/tree/" in path:
            self.send([self.entry(name) for name in self.files], body=body)
        elif path.startswith("/api/datasets/someone/pairs"):
            files = [{"rfilename": name} for name in self.files]
            self.send({"id": "someone/pairs", "sha": self.commit, "siblings": files}, body=body)
        elif name in self.files:
            self.send(self.files[name], body=body)
        else:
            code = "EntryNotFound" if "pairs" in path else "RepoNotFound"
            self.send({"error": "not found"}, body=body, status=404, code=code)

    def send(self, what: Any, *, body: bool, status: int = 200, code: str = "") -> None:
        content = what if isinstance(what, bytes) else json.dumps(what).encode()
        part = self.headers.get("Range")
        if part and status == 200:  # a stream reads files in parts
            first, last = (int(number) for number in part.removeprefix("bytes=").split("-"))
            status, whole, content = 206, len(content), content[first : last + 1]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{self.etag(content)}"')
        self.send_header("X-Repo-Commit", self.commit)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        pass


def test_the_hub_is_asked_for_the_named_revision(tmp_path: Path) -> None:
    for name, part in [("train", ROWS[:30]), ("test", ROWS[30:])]:
        write(part, tmp_path / f"{name}.parquet")
        Hub.files[f"{name}-00000-of-00001.parquet"] = (tmp_path / f"{name}.parquet").read_bytes()
    program = """
from data.sources import Source, load
found = load(Source(hub_id="someone/pairs", revision="main"), columns=["body", "stars"], seed=0)
print([len(rows) for rows in found.splits.values()], found.splits["test"][0]["stars"])
try:
    load(Source(hub_id="someone/else"), columns=["body"], seed=0)
except ValueError as error:
    print(error)
"""
    done = with_hub(program, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    sizes, error = done.stdout.strip().split("\n", 1)
    assert sizes == "[27, 3, 10] 0"
    assert "could not load 'someone/else'" in error and "UNROLL_DATA" in error


def test_a_stream_of_the_hub_writes_no_row(tmp_path: Path) -> None:
    Hub.files.clear()
    for name, part in [("train", ROWS * 10), ("validation", ROWS), ("test", ROWS[:4])]:
        write(part, tmp_path / f"{name}.parquet")
        Hub.files[f"{name}-00000-of-00001.parquet"] = (tmp_path / f"{name}.parquet").read_bytes()
    program = f"""
from itertools import islice
from data.text_codec import TokenizerSettings
from data.text_labels import TextLabels
data = TextLabels(
    name="h", hub_id="someone/pairs", revision="main", cache_dir="{tmp_path}/cache", seed=1,
    batch_size=5, tokenizer=TokenizerSettings(), text_column="body", label_column="stars",
    streaming=True, shuffle_buffer=30,
)
data.setup()
numbers = [n for batch in islice(data.train_dataloader(), 32) for n in batch.targets.tolist()]
print(data.report()["learnt_from"], data.report()["test"], len(numbers), sorted(set(numbers)))
"""
    done = with_hub(program, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("400 rows from the beginning 4 160 [0, 1")
    assert not [f for f in (tmp_path / "home").rglob("*") if f.suffix in (".arrow", ".parquet")]


def with_hub(program: str, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """Run a program of its own: the Hub's address is read when its client is imported."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True,
        cwd=Path(__file__).parents[2], timeout=120,
    )  # fmt: skip
    server.shutdown()
    return done
