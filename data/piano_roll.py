"""Music as the keys of a piano that sound at each step."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.arrays import Ragged, Split
from data.base import DataModule, Example
from data.batches import StreamBatch
from data.codec import Codec
from data.midi import HIGHEST, LOWEST, read_midi
from data.prepared import Prepared
from data.spec import DataSpec

KEYS = HIGHEST - LOWEST + 1  # 88

Frames = Sequence[Sequence[int]]  # the MIDI numbers that sound in each frame


@dataclass(kw_only=True)
class PianoRollCodec(Codec, kind="piano_roll"):
    """Frames of MIDI numbers → keys on or off, and back."""

    def keys(self, frames: Frames) -> Tensor:
        """Frames → (T, 88) float. ValueError for a note that a piano does not have."""
        roll = np.zeros((len(frames), KEYS), np.float32)
        for place, frame in enumerate(frames):
            for note in frame:
                if not LOWEST <= note <= HIGHEST:
                    raise ValueError(
                        f"frame {place} has the note {note}: a piano's are MIDI numbers {LOWEST} "
                        f"to {HIGHEST}"
                    )
                roll[place, note - LOWEST] = 1
        return torch.from_numpy(roll)

    def notes(self, keys: Tensor) -> list[int]:
        """Keys (88,) on or off → sorted MIDI numbers."""
        return [key + LOWEST for key in torch.nonzero(keys > 0.5).flatten().tolist()]

    def parse(self, text: str) -> list[list[int]]:
        """The name of a MIDI file, or frames as JSON: "[[60, 64], [60]]"; nothing: no opening."""
        if not text.strip():
            return []
        if not text.lstrip().startswith("["):
            return read_midi(Path(text.strip()).expanduser())
        try:
            return [[int(note) for note in frame] for frame in json.loads(text)]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{text[:60]!r} is not a list of lists of MIDI numbers: {error}"
            ) from error

    def batch(self, raw: Sequence[Frames]) -> StreamBatch:
        """Openings to go on from; the mask is True on real inputs, silence and then the frames."""
        rolls = Ragged.of([np.concatenate([_SILENCE, self.keys(frames)]) for frames in raw], bool)
        inputs, lengths = rolls.pad(range(len(raw)))
        targets = torch.cat([inputs[:, 1:], torch.zeros(len(raw), 1, KEYS)], dim=1)
        mask = torch.arange(inputs.shape[1]) < lengths[:, None]
        return _stream_batch(inputs, targets, mask)


@dataclass(kw_only=True, eq=False)
class PianoRolls(DataModule):
    """Rows with a piece of music each: a list of frames, a frame a list of keys; or MIDI files.

    `first_key` is the MIDI number of the key that the column calls 0: 21 where the 88 keys of a
    piano are counted from 0, 0 where the column holds MIDI numbers. Each piece begins from
    silence; frame t is predicted from all before it. Training pieces are cut into windows of
    `max_length` frames, evaluation reads whole pieces.
    """

    notes_column: str = "notes"
    first_key: int = LOWEST

    def columns(self) -> list[str]:
        return [self.notes_column]

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        codec = self.given(PianoRollCodec) or PianoRollCodec()
        splits, report = {}, {}
        for split, part in rows.items():
            rolls = [self._roll(split, row, piece) for row, piece in enumerate(self._pieces(part))]
            kept = [roll for roll in rolls if len(roll)]
            if not kept:
                raise ValueError(f"no piece of {split} has a frame in column {self.notes_column!r}")
            most = self.max_length if split == "train" else None
            roll = Ragged.of(kept, bool)
            splits[split] = Split(arrays={"roll": roll, "windows": _cut(roll.lengths, most)})
            report[f"empty_{split}"] = len(rolls) - len(kept)
            report[f"frames_{split}"] = len(roll.values)
        spec = DataSpec(keys=KEYS, input_features=KEYS)
        return Prepared(spec=spec, codec=codec, splits=splits, report=dict(report))

    def lengths(self, split: str) -> np.ndarray:
        first, end = self.splits[split].flat("windows").T
        return end - first

    def collate(self, split: str, indices: list[int]) -> StreamBatch:
        part = self.splits[split]
        roll = part.ragged("roll")
        first, end = part.flat("windows")[indices].T
        steps = np.arange((end - first).max())
        mask = steps < (end - first)[:, None]
        places = np.where(mask, first[:, None] + steps, 0)
        targets = roll.values[places] & mask[..., None]
        begins = np.isin(places, roll.offsets[:-1])  # nothing sounds before a piece
        inputs = roll.values[places - 1] & (mask & ~begins)[..., None]
        return _stream_batch(
            torch.from_numpy(inputs).float(),
            torch.from_numpy(targets).float(),
            torch.from_numpy(mask),
        )

    def example(self, split: str, index: int) -> Example:
        """Piece `index` as frames of MIDI numbers, and as text."""
        codec, roll = self.codec, self.splits[split].ragged("roll")[index]
        assert isinstance(codec, PianoRollCodec)
        frames = [codec.notes(frame) for frame in torch.from_numpy(np.array(roll)).float()]
        return Example(frames, [" ".join("+".join(map(str, frame)) or "-" for frame in frames)])

    def _pieces(self, part: Any) -> Sequence[Any]:
        return [piece if piece is not None else [] for piece in part[self.notes_column]]

    def _roll(self, split: str, row: int, piece: Any) -> np.ndarray:
        """A piece → (T, 88) bool. ValueError for what is not a list of lists of a piano's keys."""
        where = f"row {row} of {split}, column {self.notes_column!r}"
        try:
            frames = [[] if frame is None else [int(key) for key in frame] for frame in piece]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{where} is not a list of frames, each a list of keys: {piece!r:.60}"
            ) from error
        times = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames])
        keys = np.array([key for frame in frames for key in frame], np.int64)
        keys += self.first_key - LOWEST
        if len(keys) and not (keys.min() >= 0 and keys.max() < KEYS):
            strange = keys[(keys < 0) | (keys >= KEYS)][0] + LOWEST
            raise ValueError(
                f"{where} has the MIDI number {strange}; a piano's are {LOWEST} to {HIGHEST} "
                f"(data.first_key={self.first_key} is what its 0 stands for)"
            )
        roll = np.zeros((len(frames), KEYS), bool)
        roll[times, keys] = True
        return roll


_SILENCE = np.zeros((1, KEYS), np.float32)


def _cut(lengths: np.ndarray, most: int | None) -> np.ndarray:
    """Pieces of these lengths → (N, 2): first frame and the one after the last of each window."""
    windows, begin = [], 0
    for length in lengths.tolist():
        size = most or length
        windows += [
            (begin + first, begin + min(first + size, length)) for first in range(0, length, size)
        ]
        begin += length
    return np.array(windows, np.int64)


def _stream_batch(inputs: Tensor, targets: Tensor, mask: Tensor) -> StreamBatch:
    rows = len(inputs)
    start = torch.ones(rows, dtype=torch.bool)
    return StreamBatch(inputs, targets, mask, start, torch.zeros(mask.shape, dtype=torch.int64))


def transposed(batch: StreamBatch, most: int) -> StreamBatch:
    """Each row moved by a random number of semitones, `most` up or down; keys beyond the piano are
    left out."""
    rows, steps, keys = batch.inputs.shape
    device = batch.inputs.device
    shift = torch.randint(-most, most + 1, (rows, 1, 1), device=device)
    source = torch.arange(keys, device=device) - shift  # (B, 1, K)
    there = (source >= 0) & (source < keys)
    source = source.clamp(0, keys - 1).expand(rows, steps, keys)
    inputs, targets = (part.gather(2, source) * there for part in (batch.inputs, batch.targets))
    return batch._replace(inputs=inputs, targets=targets)
