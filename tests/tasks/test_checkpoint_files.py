"""Checkpoints on the disk are whole, or they are refused and the one before them is used."""

import errno
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from launch import describe
from tasks import checkpoint
from tasks.checkpoint_files import CheckpointFiles, damage, found
from tests import commands

RECORD = {"format": 1, "config": {}, "spec": {}, "codec": {}}


def saved(folder: Path, *steps: int) -> Path:
    """A run's folder of checkpoints, in which one after the other was the last."""
    for step in steps:
        content = {"global_step": step, "unroll": RECORD}
        content["state_dict"] = {"weight": torch.full((4096,), step)}
        CheckpointFiles().save_checkpoint(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_the_one_before_the_last_is_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    steps = {path.name: checkpoint.read(path)["global_step"] for path in found(tmp_path)}
    assert steps == {"last.ckpt": 3, "previous.ckpt": 2}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_cut_or_flipped_file_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole", 1).read_bytes()
    assert damage(tmp_path / "whole" / "last.ckpt") is None
    path = tmp_path / "last.ckpt"
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"last.ckpt cannot be read .*cut short"):
            checkpoint.read(path)
    numbers = whole.index(torch.full((64,), 1).numpy().tobytes())  # of the weights
    for place in (numbers, numbers + 9999):
        path.write_bytes(whole)
        flip(path, place)
        with pytest.raises(ValueError, match="the checksum of .* is wrong"):
            checkpoint.read(path)


def test_what_unpacks_to_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="entries are compressed"):
        checkpoint.read(path)


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, 1, 2)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*saved before is whole: last"):
        saved(tmp_path, 3)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert checkpoint.read(path)["global_step"] == 2


def test_a_full_disk_elsewhere_is_told_in_one_line() -> None:
    assert "the disk is full" in (describe(OSError(errno.ENOSPC, "No space left")) or "")
    assert describe(OSError(errno.EIO, "Input/output error")) is None  # a traceback, then


MOUNTED = """
import sys
from pathlib import Path
import torch
from tasks import checkpoint
from tasks.checkpoint_files import CheckpointFiles
folder = Path(sys.argv[1])
def save(step, numbers):
    record = {"format": 1, "config": {}, "spec": {}, "codec": {}}
    content = {"global_step": step, "unroll": record}
    content["state_dict"] = {"weight": torch.zeros(numbers)}
    CheckpointFiles().save_checkpoint(content, folder / "last.ckpt")
save(1, 1000)
try:
    save(2, 2_000_000)
except OSError as error:
    print(error)
print(checkpoint.read(folder / "last.ckpt")["global_step"], len(list(folder.iterdir())))
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root mounts a disk")
def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path) -> None:
    line = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if subprocess.run(line, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        said = commands.run(["-c", MOUNTED, tmp_path])
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert "could not be written (No space left on device)" in said.stdout, said.stderr
    assert said.stdout.splitlines()[-1] == "1 1"
