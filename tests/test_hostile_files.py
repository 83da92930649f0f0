"""Files that were made to do harm end in one clear error, in little memory, and run nothing."""

import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import predict
from data.midi import read_midi
from data.mixed import Mixed
from data.pictures import colours
from data.text_labels import TextLabels
from data.tokenizer_file import load_tokenizer
from data.tokenizer_settings import TokenizerSettings
from tests import commands

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def little_memory() -> Any:
    """More than two gigabytes beyond what is in use now are not to be had."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 1024**3, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def png(width: int, height: int) -> bytes:
    """A picture of one colour, of so many pixels, in a few kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(width // 8 + 1) * 100)  # the rest is not even there
    parts = [chunk(b"IHDR", size), chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_picture_of_billions_of_pixels(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png(50_000, 50_000))
    with pytest.raises(
        ValueError, match=r"large.png is not a picture that can be read: .*2500000000"
    ):
        colours(path, (32, 32), "large.png")


def midi(events: bytes, *, tracks: int = 1) -> bytes:
    head = b"MThd" + struct.pack(">IHHH", 6, 0, tracks, 96)
    return head + b"MTrk" + struct.pack(">I", len(events)) + events


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "could not read"),
        (b"MThd\0\0", "could not read"),
        (midi(b"\0\x90\x40\x40\xff\xff\xff\x7f\x80\x40\x40"), "frames or more"),
        (midi(b"\0\x90\x40\x40")[:-2], "could not read"),
        (midi(b"\0\xff\x51\xff\xff\xff\x7f"), "could not read"),
    ],
    ids=["empty", "cut", "a note of years", "a track that ends", "an event of gigabytes"],
)
def test_malformed_midi(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "piece.mid"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_midi(path)


def test_a_tokenizer_nested_without_end_or_too_large(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model":' * 200_000 + "1" + "}" * 200_000)
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_tokenizer(str(path))
    with path.open("wb") as file:
        file.truncate(1024**3)
    with pytest.raises(ValueError, match=r"1,073,741,824 bytes"):
        load_tokenizer(str(path))


@pytest.mark.parametrize("place", range(4))
def test_a_parquet_file_whose_schema_lies(place: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["good film"] * 50, "label": [0, 1] * 25}), path)
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
    if place == 0:
        content = content.replace(b"label", b"labyl")  # a column that is not there
    elif place == 1:
        content[-8:-4] = struct.pack("<I", 2**31 - 1)  # a footer larger than the file
    else:
        for i in range(footer + place, len(content) - 8, 5):
            content[i] ^= 0x55
    path.write_bytes(content)
    command = ["train.py", "task=classification", "data=text_labels", f"data.path={path}"]
    done = commands.run([*command, f"hydra.run.dir={tmp_path / 'run'}", "logger=csv"])
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "rows.parquet" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../stolen", "/tmp/stolen", "a/b", ".", ".."])
def test_names_of_data_that_are_paths(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"cache_dir": str(tmp_path), "seed": 1, "batch_size": 1}
    with pytest.raises(ValueError, match=r"data\.name=.* is no path"):
        TextLabels(name=name, tokenizer=TokenizerSettings(), **settings)
    with pytest.raises(ValueError, match=r"data\.parts: .* is no path"):
        Mixed(name="mixed", parts={name: TextLabels}, **settings)


Poison = Callable[[dict[str, Any]], None]
POISONS: dict[str, tuple[Poison, str]] = {
    "another class to build": (
        lambda record: record["config"]["task"].update(_target_="os.system"), "os.system"
    ),
    "one behind an allowed name": (
        lambda record: record["config"]["task"]["model"].update(
            _target_="tasks.stopping.subprocess.run"
        ),
        "tasks.stopping.subprocess.run",
    ),
    "an interpolation": (
        lambda record: record["config"]["task"].update(samples="${oc.env:HOME}"), "samples"
    ),
    "a codec that is none": (lambda record: record.update(codec={"kind": "os"}), "os"),
    "a size that is none": (
        lambda record: record["config"]["task"]["model"].update(hidden_size="x" * 10),
        r"model\.hidden_size='xxxxxxxxxx' is of no type",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    small = ["data.train_size=32", "data.validation_size=16", "data.test_size=16",
             "model.hidden_size=8", "trainer.max_steps=1", "trainer=cpu", "logger=csv"]  # fmt: skip
    subprocess.run(
        [sys.executable, "train.py", *small, f"hydra.run.dir={folder}"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize("name", POISONS)
def test_a_checkpoint_with_a_poisoned_record(name: str, trained: Path, tmp_path: Path) -> None:
    poison, said = POISONS[name]
    content = torch.load(trained, weights_only=True)
    poison(content["unroll"])
    path = tmp_path / "bad.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=said):
        predict.load(path)
