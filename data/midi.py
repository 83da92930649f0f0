"""Piano rolls to MIDI files and back."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import mido

LOWEST, HIGHEST = 21, 108  # the piano's keys, as MIDI numbers
_PERCUSSION = 9  # on this channel a note number is a drum
_TICKS_PER_BEAT = 480
MOST_FRAMES = 1_000_000  # of a piece: days of music, at sixteenth notes


def write_midi(
    frames: Sequence[Sequence[int]],
    path: str | Path,
    *,
    frame_beats: float = 0.25,
    beats_per_minute: float = 60.0,
    velocity: int = 80,
) -> None:
    """MIDI numbers that sound in each frame → a file of one piano track.

    A key that sounds in consecutive frames is one long note. Folders are made where needed.
    """
    ticks = round(frame_beats * _TICKS_PER_BEAT)
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(beats_per_minute)))
    sounding: set[int] = set()
    waited = 0
    for frame in chain(frames, [[]]):
        now = {int(note) for note in frame}
        changes = [("note_off", note) for note in sorted(sounding - now)]
        changes += [("note_on", note) for note in sorted(now - sounding)]
        for kind, note in changes:
            loudness = velocity if kind == "note_on" else 0
            track.append(mido.Message(kind, note=note, velocity=loudness, time=waited))
            waited = 0
        sounding = now
        waited += ticks
    file = mido.MidiFile(ticks_per_beat=_TICKS_PER_BEAT)
    file.tracks.append(track)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file.save(path)


def read_midi(path: str | Path, *, frame_beats: float = 0.25) -> list[list[int]]:
    """A file → the sorted MIDI numbers that sound in each frame, all tracks together.

    Notes begin and end on the nearest frame and sound for one at least. Drums and notes that a
    piano does not have are left out. ValueError where the file is no MIDI file with beats, or has
    more than `MOST_FRAMES` frames.
    """
    try:
        file = mido.MidiFile(path)
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"could not read {path} as MIDI: {error or type(error).__name__}"
        ) from error
    if not 0 < file.ticks_per_beat < 0x8000:
        raise ValueError(f"{path} counts seconds of film (SMPTE), not beats: convert it first")
    ticks = frame_beats * file.ticks_per_beat
    frames: list[set[int]] = []
    for track in file.tracks:
        for note, begin, end in _notes(track):
            first = round(begin / ticks)
            last = max(first + 1, round(end / ticks))
            if last > MOST_FRAMES:
                raise ValueError(
                    f"{path} is a piece of {last:,} frames or more: one of at most {MOST_FRAMES:,} "
                    "can be read; its times are damaged, or it needs larger frames"
                )
            frames += [set() for _ in range(last - len(frames))]
            for frame in frames[first:last]:
                frame.add(note)
    return [sorted(frame) for frame in frames]


def _notes(track: mido.MidiTrack) -> list[tuple[int, int, int]]:
    """(MIDI number, first tick, tick after the last) of every note of a track."""
    since: dict[tuple[int, int], int] = {}
    found, now = [], 0
    for message in track:
        now += message.time
        if message.type not in ("note_on", "note_off") or message.channel == _PERCUSSION:
            continue
        key = (message.channel, message.note)
        if key in since and LOWEST <= message.note <= HIGHEST:
            found.append((message.note, since[key], now))
        since.pop(key, None)
        if message.type == "note_on" and message.velocity > 0:
            since[key] = now
    return found
