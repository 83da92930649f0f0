"""Music from a user's own rows and MIDI files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.codec import codec_from_plain
from data.midi import write_midi
from data.piano_roll import PianoRollCodec, PianoRolls

Make = Callable[..., PianoRolls]


def piece(length: int, seed: int) -> list[list[int]]:
    """MIDI numbers, none twice in a frame; the last frame is not silent."""
    random = np.random.default_rng(seed)
    found = [sorted(set(random.integers(40, 80, random.integers(0, 4)).tolist()))
             for _ in range(length - 1)]  # fmt: skip
    return [*found, [60 + seed % 12]]


PIECES = [piece(5 + 3 * i, i) for i in range(30)]


def write(file: Path, pieces: list[Any], column: str = "notes", lowest: int = 21) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [p and [None if f is None else [note - lowest for note in f] for f in p] for p in pieces]
    file.write_text("\n".join(json.dumps({column: row}) for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(path: Path, **changes: Any) -> PianoRolls:
        settings = {"name": "mine", "path": str(path), "cache_dir": str(tmp_path / "cache")}
        data = PianoRolls(**(settings | {"seed": 1, "batch_size": 4} | changes))
        data.setup()
        return data

    return build


def all_pieces(data: PianoRolls) -> list[list[list[int]]]:
    splits = {split: len(part) for split, part in data.splits.items()}
    return [data.example(split, i).input for split, n in splits.items() for i in range(n)]


def test_each_frame_is_predicted_from_those_before(make: Make, tmp_path: Path) -> None:
    data = make(write(tmp_path / "all.jsonl", PIECES))
    assert sorted(all_pieces(data)) == sorted(PIECES)
    assert data.spec.keys == data.spec.input_features == data.spec.num_outputs == 88
    codec, seen = data.codec, []
    for batch in data.train_dataloader():
        assert batch.start.all() and not batch.characters.any()
        assert not batch.inputs[:, 0].any() and not batch.targets[~batch.mask].any()
        real = batch.mask[:, 1:]
        assert torch.equal(batch.inputs[:, 1:][real], batch.targets[:, :-1][real])
        for roll, mask in zip(batch.targets, batch.mask, strict=True):
            seen.append([codec.notes(frame) for frame in roll[mask]])
    assert sorted(seen) == sorted(data.example("train", i).input for i in range(24))


def test_training_is_cut_into_windows_and_evaluation_is_not(make: Make, tmp_path: Path) -> None:
    data = make(write(tmp_path / "all.jsonl", PIECES), max_length=10)
    assert data.lengths("train").max() == 10 and data.lengths("test").max() > 10
    frames = sum(int(batch.mask.sum()) for batch in data.train_dataloader())
    assert frames == data.report()["frames_train"] == data.lengths("train").sum()
    second = data.collate("train", [int(np.flatnonzero(data.lengths("train") == 10)[0]) + 1])
    assert second.inputs[0, 0].any() or not second.targets[0].any()  # it goes on from the first


def test_columns_may_hold_midi_numbers(make: Make, tmp_path: Path) -> None:
    counted = make(write(tmp_path / "a.jsonl", PIECES))
    named = make(write(tmp_path / "b.jsonl", PIECES, "piano", 0), notes_column="piano", first_key=0)
    assert all_pieces(named) == all_pieces(counted)


def test_a_folder_of_midi_files_is_data(make: Make, tmp_path: Path) -> None:
    for i, music in enumerate(PIECES):
        write_midi(music, tmp_path / "songs" / f"{i}.mid")
    assert sorted(all_pieces(make(tmp_path / "songs"))) == sorted(PIECES)


def test_openings_are_read_as_training_after_json(make: Make, tmp_path: Path) -> None:
    codec = codec_from_plain(make(write(tmp_path / "all.jsonl", PIECES)).codec.to_plain())
    assert isinstance(codec, PianoRollCodec)
    batch = codec.batch([PIECES[3], [], PIECES[0]])
    assert batch.mask.sum(1).tolist() == [15, 1, 6] and not batch.inputs[:, 0].any()
    assert [codec.notes(frame) for frame in batch.inputs[0, 1:15]] == PIECES[3]
    with pytest.raises(ValueError, match="frame 1 has the note 200: a piano's are MIDI numbers 21"):
        codec.keys([[60], [200]])


def test_pieces_without_a_frame_are_left_out_and_counted(make: Make, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write(tmp_path / "d" / f"{split}.jsonl", [[], *PIECES[:3], [[60], None, [62]]])
    data = make(tmp_path / "d")
    assert (data.report()["empty_train"], len(data.splits["train"])) == (1, 4)
    assert data.example("train", 3).input == [[60], [], [62]]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([[[60], [120]]], "row 0 of test, column 'notes' has the MIDI number 120; a piano's are"),
        ([[]], "no piece of test has a frame"),
    ],
)
def test_music_that_cannot_be_played_is_named(
    pieces: list[Any], message: str, make: Make, tmp_path: Path
) -> None:
    for split in ("train", "validation"):
        write(tmp_path / "d" / f"{split}.jsonl", PIECES[:2])
    write(tmp_path / "d" / "test.jsonl", pieces)
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "d")


def test_text_in_place_of_music_is_named(make: Make, tmp_path: Path) -> None:
    rows = "\n".join(json.dumps({"notes": f"la {i}"}) for i in range(30))
    (tmp_path / "all.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(ValueError, match="is not a list of frames, each a list of keys: 'la 0'"):
        make(tmp_path / "all.jsonl")


def test_a_codec_of_another_kind_is_refused(make: Make, tmp_path: Path) -> None:
    from data.series import SeriesCodec

    data = PianoRolls(
        name="m", path=str(write(tmp_path / "all.jsonl", PIECES)), cache_dir=str(tmp_path),
        seed=1, batch_size=2,
    )  # fmt: skip
    data.given_codec = SeriesCodec(names=("a",), target_mean=(0.0,), target_std=(1.0,))
    with pytest.raises(ValueError, match=r"trained on data of kind series, .* of kind piano_roll"):
        data.setup()


@pytest.mark.parametrize(
    ("folder", "frames"), [("poly_music_jsb", 13807), ("poly_music_nottingham", 176561)]
)
def test_real_music_loads_whole(folder: str, frames: int, tmp_path: Path) -> None:
    if "UNROLL_DATA" not in os.environ:
        pytest.skip("UNROLL_DATA is not set: no local copies of the real data")
    data = PianoRolls(
        name=folder, folder=folder, data_dir=os.environ["UNROLL_DATA"], cache_dir=str(tmp_path),
        seed=1, batch_size=16, max_length=200,
    )  # fmt: skip
    assert data.report()["frames_train"] == frames and data.report()["padding"] < 0.1


def test_openings_are_typed_as_a_file_or_as_frames(tmp_path: Path) -> None:
    codec = PianoRollCodec()
    write_midi(PIECES[0], tmp_path / "a.mid")
    assert codec.parse(str(tmp_path / "a.mid")) == PIECES[0]
    assert codec.parse("[[60, 64], []]") == [[60, 64], []] and codec.parse(" ") == []
    for wrong in ("[60, 64]", "[[60"):
        with pytest.raises(ValueError, match="is not a list of lists of MIDI numbers"):
            codec.parse(wrong)
