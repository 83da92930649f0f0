"""Music that a language model wrote, held against what it learnt from and against real music."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from tasks.audit import Figures, compare, share

Frames = Sequence[Sequence[int]]  # the MIDI numbers that sound in each frame
PERCENT = 99  # of the notes of training are no longer than what counts as held too long

_MAJOR = (0, 2, 4, 5, 7, 9, 11)  # and natural minor, three semitones below
_HARMONIC_MINOR = (0, 2, 3, 5, 7, 8, 11)
SCALES = [
    frozenset((tonic + step) % 12 for step in steps)
    for steps in (_MAJOR, _HARMONIC_MINOR)
    for tonic in range(12)
]


class Note(NamedTuple):
    """A key that sounds without a break."""

    key: int  # MIDI number
    length: int  # frames


def notes(frames: Frames) -> Iterator[Note]:
    """The notes of a piece, as they end; a key struck anew while it sounds is one note."""
    since: dict[int, int] = {}
    for now, frame in enumerate(chain(frames, [()])):
        sounding = set(frame)
        for key in sorted(since.keys() - sounding):
            yield Note(key, now - since.pop(key))
        for key in sounding - since.keys():
            since[key] = now


class Habits(NamedTuple):
    """What the notes of training keep to."""

    lowest: int
    highest: int
    longest: int  # frames: `PERCENT` of the notes are no longer

    @classmethod
    def of(cls, pieces: Iterable[Frames]) -> "Habits":
        """ValueError where no note sounds in any piece."""
        every = [note for frames in pieces for note in notes(frames)]
        if not every:
            raise ValueError("training has no note: there is nothing to hold the music against")
        keys = [note.key for note in every]
        lengths = [note.length for note in every]
        longest = int(np.percentile(lengths, PERCENT, method="inverted_cdf"))
        return cls(min(keys), max(keys), longest)

    def kept(self, pieces: Sequence[Frames]) -> Figures:
        """Shares of the notes that leave these habits, and of those in the scale of their piece."""
        played = [list(notes(frames)) for frames in pieces]
        every = list(chain.from_iterable(played))
        outside = sum(not self.lowest <= note.key <= self.highest for note in every)
        held = sum(note.length > self.longest for note in every)
        return {
            "notes": len(every),
            "out_of_range": share(outside, len(every)),
            "held_too_long": share(held, len(every)),
            "in_scale": share(sum(map(in_scale, played)), len(every)),
        }


def in_scale(played: Sequence[Note]) -> int:
    """How many notes of a piece are in the major or (harmonic) minor scale that has most of them.

    Notes drawn at random are in the best scale more often than 7 times in 12.
    """
    classes = Counter(note.key % 12 for note in played)
    return max(sum(classes[one] for one in scale) for scale in SCALES)


def audit_music(sides: dict[str, list[Frames]], training: Sequence[Frames]) -> dict[str, Any]:
    """Pieces of each side (`written`, `real`) → their figures, and the `longest_copied` frames.

    n-grams are of frames, and count as copied where training has them on the same keys.
    """
    habits = Habits.of(training)
    chords = {name: [[*map(tuple, frames)] for frames in own] for name, own in sides.items()}
    # between two pieces stands what no chord is
    parts = ([None, *map(tuple, frames)] for frames in training)
    figures, longest = compare(chords, parts)
    found: dict[str, Any] = {
        name: {**figures[name], **habits.kept(own)} for name, own in sides.items()
    }
    return {
        **found,
        "longest_copied": {name: [*map(list, run)] for name, run in longest.items()},
        "training": habits._asdict(),
    }
