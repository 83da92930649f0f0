"""Prepared examples on disk: flat arrays that are memory-mapped, and the raw rows beside them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """Rows of unequal length in one flat array: row i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray  # (total, ...)
    offsets: np.ndarray  # (rows + 1,) int64

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any = np.int32) -> "Ragged":
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        filled = [np.asarray(row, dtype) for row in rows if len(row)]
        values = np.concatenate(filled) if filled else np.zeros(0, dtype)
        return cls(values=values, offsets=offsets)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def pad(self, rows: Sequence[int], value: float = 0) -> tuple[Tensor, Tensor]:
        """Rows → one tensor (B, T, ...) filled with `value` (int64 or float32), lengths (B,)."""
        picked = np.asarray(rows)
        starts = self.offsets[picked]
        lengths = self.offsets[picked + 1] - starts
        steps = np.arange(max(1, int(lengths.max(initial=0))))
        real = steps < lengths[:, None]
        dtype = np.int64 if np.issubdtype(self.values.dtype, np.integer) else np.float32
        padded = np.full((*real.shape, *self.values.shape[1:]), value, dtype)
        padded[real] = self.values[(starts[:, None] + steps)[real]]
        return torch.from_numpy(padded), torch.from_numpy(lengths)


def cut(ids: Ragged, max_length: int | None) -> Ragged:
    """Rows of `max_length` values at most."""
    if max_length is None or ids.lengths.max(initial=0) <= max_length:
        return ids
    kept = np.minimum(ids.lengths, max_length)
    steps = np.arange(len(ids.values)) - np.repeat(ids.offsets[:-1], ids.lengths)
    offsets = np.concatenate([[0], np.cumsum(kept)])
    return Ragged(values=ids.values[steps < max_length], offsets=offsets)


Array = np.ndarray | Ragged


@dataclass(kw_only=True)
class Split:
    """One split: the raw rows (needed columns only) and the arrays made of them."""

    arrays: dict[str, Array] = field(default_factory=dict)
    raw: "Dataset | None" = None  # given when made, None when opened
    folder: Path | None = None

    @cached_property
    def rows(self) -> "Dataset":
        """The raw rows, opened when first asked: most runs never need them."""
        if self.raw is not None:
            return self.raw
        from datasets import load_from_disk

        return load_from_disk(str(self.folder))

    def ragged(self, name: str) -> Ragged:
        array = self.arrays[name]
        assert isinstance(array, Ragged), f"{name} has rows of one length"
        return array

    def flat(self, name: str) -> np.ndarray:
        array = self.arrays[name]
        assert isinstance(array, np.ndarray), f"{name} has rows of unequal length"
        return array

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) if self.arrays else len(self.rows)


def save_splits(splits: dict[str, Split], folder: Path) -> None:
    for name, split in splits.items():
        if split.raw is not None:
            split.raw.save_to_disk(str(folder / name))
        (folder / name).mkdir(parents=True, exist_ok=True)
        for key, array in split.arrays.items():
            if isinstance(array, Ragged):
                np.save(folder / name / f"{key}.values.npy", array.values)
                np.save(folder / name / f"{key}.offsets.npy", array.offsets)
            else:
                np.save(folder / name / f"{key}.npy", array)


def open_splits(folder: Path) -> dict[str, Split]:
    splits = {}
    for place in (folder / name for name in SPLITS if (folder / name).is_dir()):
        # read-only memory maps: nothing is read before a batch asks for it
        files = {file.name: np.load(file, mmap_mode="r") for file in sorted(place.glob("*.npy"))}
        arrays: dict[str, Array] = {}
        for file, values in files.items():
            key = file.removesuffix(".npy")
            if key.endswith(".values"):
                key = key.removesuffix(".values")
                offsets = np.asarray(files[f"{key}.offsets.npy"])
                arrays[key] = Ragged(values=values, offsets=offsets)
            elif not key.endswith(".offsets"):
                arrays[key] = values
        splits[place.name] = Split(arrays=arrays, folder=place)
    return splits


def fingerprint(splits: dict[str, Split], *plain: Any) -> str:
    """A hash of what the model will see: the arrays of every split, and plain settings."""
    digest = hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=12)
    for name, split in sorted(splits.items()):
        for key, array in sorted(split.arrays.items()):
            parts = [array.values, array.offsets] if isinstance(array, Ragged) else [array]
            for part in parts:
                digest.update(f"{name}/{key}/{part.dtype}/{part.shape}".encode())
                digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
