"""Piano rolls to MIDI files and back."""

from pathlib import Path

import mido
import numpy as np
import pytest

from data.midi import read_midi, write_midi


def frames(count: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    keys = [sorted(set(random.integers(21, 109, random.integers(0, 5)).tolist())) for _ in "a" * 20]
    return [keys[i] for i in random.integers(0, 20, count).repeat(2)] + [[60]]


@pytest.mark.parametrize("frame_beats", [0.25, 0.5, 1 / 3])
def test_reading_gives_back_what_was_written(frame_beats: float, tmp_path: Path) -> None:
    music = frames(50)
    write_midi(music, tmp_path / "new" / "a.mid", frame_beats=frame_beats)
    assert read_midi(tmp_path / "new" / "a.mid", frame_beats=frame_beats) == music


def test_sustained_keys_are_one_note(tmp_path: Path) -> None:
    write_midi([[60], [60, 64], [60], [], [60]], tmp_path / "a.mid")
    track = mido.MidiFile(tmp_path / "a.mid").tracks[0]
    notes = [(m.type, m.note, m.time) for m in track if not m.is_meta]
    assert notes == [
        ("note_on", 60, 0), ("note_on", 64, 120), ("note_off", 64, 120), ("note_off", 60, 120),
        ("note_on", 60, 120), ("note_off", 60, 120),
    ]  # fmt: skip


def test_nothing_and_silence_are_files_too(tmp_path: Path) -> None:
    for music in ([], [[], []]):
        write_midi(music, tmp_path / "a.mid")
        assert read_midi(tmp_path / "a.mid") == []


def test_drums_short_notes_and_other_tracks(tmp_path: Path) -> None:
    file = mido.MidiFile(ticks_per_beat=96)
    for channel, note, time in [(0, 60, 5), (9, 40, 96), (1, 67, 48), (0, 5, 96)]:
        track = mido.MidiTrack()
        track.append(mido.Message("note_on", note=note, channel=channel, velocity=9, time=24))
        # a note that is switched on with no velocity is switched off
        track.append(mido.Message("note_on", note=note, channel=channel, velocity=0, time=time))
        file.tracks.append(track)
    file.save(tmp_path / "a.mid")
    assert read_midi(tmp_path / "a.mid") == [[], [60, 67], [67]]


def test_a_file_that_is_no_midi_is_named(tmp_path: Path) -> None:
    for content in (b"", b"not music", b"MThd\x00\x00\x00\x06\x00"):
        (tmp_path / "a.mid").write_bytes(content)
        with pytest.raises(ValueError, match=r"could not read .*a\.mid as MIDI"):
            read_midi(tmp_path / "a.mid")
