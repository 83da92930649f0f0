"""Checkpoints on the disk: written whole or not at all, and told apart from damaged ones.

A checkpoint is a zip archive whose entries carry their checksums (CRC-32), so a cut or flipped file
is seen before anything of it is used. Beside `last.ckpt` stands the one before it,
`previous.ckpt`.
"""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class CheckpointFiles(TorchCheckpointIO):
    """Writes to another name, flushes to the disk, and then renames: killed at any point, or with
    the disk full, what was saved before is there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """OSError, naming the file, where it cannot be written."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{path.name}.*.new"):  # of a run that was killed
            stale.unlink(missing_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            with aside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            aside.unlink(missing_ok=True)
            kept = [f.name for f in found(path.parent)]
            there = f"; what was saved before is whole: {', '.join(kept)}" if kept else ""
            raise OSError(f"{path} could not be written ({reason(error)}){there}") from error
        if path.name == LAST and path.exists():
            path.replace(path.with_name(PREVIOUS))
        aside.replace(path)
        with _directory(path.parent) as handle:
            os.fsync(handle)


def found(folder: Path) -> list[Path]:
    """A run's checkpoints to go on from, the newest first."""
    return [folder / name for name in (LAST, PREVIOUS, BEST) if (folder / name).is_file()]


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint as a file; None where it is whole.

    An honest one is not compressed, so that none can unpack to more than it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(e.compress_type or e.file_size != e.compress_size for e in entries):
                return "its entries are compressed, as torch never does"
            if (name := archive.testzip()) is not None:
                return f"the checksum of {name} is wrong"
            held = sum(entry.file_size for entry in entries)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        return reason(error)
    if held > path.stat().st_size:
        return "its entries overlap"
    return None


def reason(error: BaseException) -> str:
    """The first line of what an error says, for another message; the operating system's own where
    one lies below.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)
