"""Free running against teacher forcing, BLEU by length, and the drift of a language model."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.cells.gru import GRU
from models.language_model import LanguageModel
from tasks.by_length import bleu_by_length, buckets
from tasks.drift import drift, openings, windows
from tasks.drift import summary as drift_summary
from tasks.exposure import Exposure, common, summary
from tasks.rows import append, label

EOS, PAD = 3, 0
ENDS = (EOS, PAD)


def counted(*batches: tuple[Tensor, Tensor, Tensor]) -> list[dict[str, Any]]:
    exposure = Exposure()
    for said, right, written in batches:
        exposure.add(said, right, right != PAD, written, ends=ENDS)
    return exposure.rows()


def test_the_three_shares_are_what_a_hand_counts() -> None:
    right = torch.tensor([[5, 6, 7, 8, EOS], [9, 9, EOS, PAD, PAD]])
    said = torch.tensor([[5, 6, 7, 4, EOS], [9, 4, 4, PAD, PAD]])
    # one symbol too many at the beginning; a text that stops too early
    written = torch.tensor([[4, 5, 6, 7, 8, EOS], [9, EOS, PAD, PAD, PAD, PAD]])
    rows = counted((said, right, written))
    assert rows == [
        {"from": 1, "to": 1, "count": 2,
         "forced_accuracy": 1.0, "free_aligned": 1.0, "free_accuracy": 0.5},
        {"from": 2, "to": 3, "count": 3,
         "forced_accuracy": 2 / 3, "free_aligned": 2 / 3, "free_accuracy": 0.0},
        {"from": 4, "to": 5, "count": 1,
         "forced_accuracy": 0.0, "free_aligned": 1.0, "free_accuracy": 0.0},
    ]  # fmt: skip
    found = summary(rows)
    assert found["forced_accuracy"] == pytest.approx(4 / 6)
    assert found["free_aligned"] == pytest.approx(5 / 6)
    assert found["free_accuracy"] == pytest.approx(1 / 6)
    assert found["exposure_gap"] == pytest.approx(-1 / 6)


def test_the_numbers_are_of_all_batches_together() -> None:
    generator = torch.Generator().manual_seed(0)
    right = torch.randint(4, 9, (6, 30), generator=generator)
    lengths = torch.tensor([30, 3, 17, 1, 9, 22])
    right[torch.arange(30) >= lengths[:, None]] = PAD
    said = torch.randint(4, 9, (6, 30), generator=generator)
    written = torch.randint(3, 9, (6, 40), generator=generator)
    written[(written == EOS).cumsum(1) > 0] = PAD
    parts = [(said[i], right[i], written[i]) for i in (slice(0, 2), slice(2, 6))]
    # the decoder pads a batch to its own longest text
    parts[0] = (parts[0][0], parts[0][1], parts[0][2][:, : int((written[:2] > 0).sum(1).max())])
    whole = counted((said, right, written))
    assert counted(*parts) == whole
    assert sum(row["count"] for row in whole) == lengths.sum()
    for row in whole:
        assert row["free_accuracy"] <= 1 and row["free_aligned"] <= 1
    found = summary(whole)
    assert found["free_accuracy"] <= found["free_aligned"]


def slow_common(ours: list[int], theirs: list[int]) -> int:
    if not ours or not theirs:
        return 0
    if ours[-1] == theirs[-1]:
        return 1 + slow_common(ours[:-1], theirs[:-1])
    return max(slow_common(ours[:-1], theirs), slow_common(ours, theirs[:-1]))


def test_the_alignment_is_a_longest_common_subsequence() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.integers(0, 4, (40, 7)), random.integers(0, 4, (40, 6))
    found = common(ours, theirs)
    for one, other, mark in zip(ours, theirs, found, strict=True):
        assert mark.sum() == slow_common(one.tolist(), other.tolist())
        rest = iter(other.tolist())
        assert all(symbol in rest for symbol in one[mark].tolist())  # in this order
    assert common(ours, ours).all() and not common(ours, theirs + 9).any()
    assert common(ours, theirs[:, :0]).shape == ours.shape


def test_nothing_decoded_has_nothing_right() -> None:
    right = torch.tensor([[5, 6, EOS]])
    (first, second) = counted((right, right, torch.tensor([[EOS]])))
    assert first["forced_accuracy"] == second["forced_accuracy"] == 1.0
    assert first["free_aligned"] == second["free_aligned"] == first["free_accuracy"] == 0.0
    assert summary([]) == {}


@pytest.mark.parametrize("shape", ["translation", "captioning"])
@pytest.mark.usefixtures("drawn")
def test_both_are_reported_by_position_and_drawn(shape: str, start: Any) -> None:
    run = start(shape, "trainer.max_epochs=2", "task.beam_size=1").fit()
    measured = run.test()
    folder = Path(run.config.paths.run_dir)
    with (folder / "exposure.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"val", "test"}
    tested = [row for row in rows if row["split"] == "test"]
    count = sum(int(row["count"]) for row in tested)
    for name in ("forced_accuracy", "free_aligned", "free_accuracy"):
        mean = sum(float(row[name]) * int(row["count"]) for row in tested) / count
        assert measured[f"test/{name}"] == pytest.approx(mean, abs=1e-5)
    gap = measured["test/forced_accuracy"] - measured["test/free_aligned"]
    assert measured["test/exposure_gap"] == pytest.approx(gap)
    # the first symbol is decoded greedily from what teacher forcing reads too
    assert tested[0]["from"] == tested[0]["to"] == "1"
    assert tested[0]["forced_accuracy"] == tested[0]["free_accuracy"]
    assert (folder / "pictures" / "exposure.png").stat().st_size > 1000
    drawn = (folder / "pictures" / "bleu_by_length.png").exists()
    assert drawn == (folder / "bleu_by_length.csv").exists() == (shape == "translation")


def test_a_model_that_never_saw_its_own_mistakes_falls_behind_in_free_running() -> None:
    """y_{t+1} = y_t + 1 from a random y_1: forced, one mistake is one mistake; free, it stays."""
    right = torch.arange(20)[None] + torch.tensor([[10], [40], [70]])
    said, written = right.clone(), right.clone()
    said[:, 4] += 1
    written[:, 4:] += 1  # it goes on from its mistake, as it has learnt
    rows = counted((said, right, written))
    gaps = [row["forced_accuracy"] - row["free_accuracy"] for row in rows]
    assert gaps[:2] == [0, 0] and all(gap > 0.9 for gap in gaps[3:])
    # what it wrote is the reference but for the number that it left out
    assert summary(rows)["free_aligned"] == pytest.approx(19 / 20)


def test_buckets_of_lengths_hold_enough_and_everything_once() -> None:
    lengths = [3] * 5 + [7] * 16 + [12] * 30 + [600] * 3
    found = buckets(lengths)
    assert [(shortest, longest, len(members)) for shortest, longest, members in found] == [
        (3, 7, 21), (12, 600, 33),
    ]  # fmt: skip
    assert sorted(i for *_, members in found for i in members) == list(range(len(lengths)))
    assert buckets([4, 0, 9]) == [(0, 9, [0, 1, 2])] and buckets([]) == []


def test_bleu_by_length_scores_each_bucket_with_its_own_references() -> None:
    lengths = [30, 2] * 20
    hypotheses, references = ["long", "ab"] * 20, [["long one"], ["ab"]] * 20

    def score(own: list[str], theirs: list[list[str]]) -> float:
        return 100.0 * sum(o == t[0] for o, t in zip(own, theirs, strict=True)) / len(own)

    assert bleu_by_length(lengths, hypotheses, references, score) == [
        {"from": 2, "to": 2, "count": 20, "bleu": 100.0, "length_ratio": 1.0},
        {"from": 30, "to": 30, "count": 20, "bleu": 0.0, "length_ratio": 0.5},
    ]


class Chain(nn.Module):
    """A language model of two symbols that a table of probabilities after each of them gives.

    Its state counts the steps: after `change` of them every symbol is as likely as any other.
    """

    def __init__(self, *, stay: float, change: int) -> None:
        super().__init__()
        self.table = torch.tensor([[stay, 1 - stay], [1 - stay, stay]]).log()
        self.change, self.head = change, self

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, dtype=torch.long)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        steps = state[:, None] + torch.arange(inputs.size(1))
        hidden = self.table[inputs].masked_fill(steps[..., None] >= self.change, np.log(0.5))
        return hidden, state + inputs.size(1)

    def step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden, state = self(inputs[:, None], state)
        return hidden[:, 0], state

    def log_probs(self, hidden: Tensor) -> Tensor:
        return hidden


def measured(model: Any, real: Tensor) -> list[dict[str, Any]]:
    return drift(model, real, context=4)


def test_the_drift_of_a_known_model_is_what_a_hand_counts() -> None:
    real = torch.zeros(50, 4 + 80, dtype=torch.long)
    rows = measured(Chain(stay=0.9, change=4 + 39), real)
    one = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    for place, row in enumerate(rows):
        known = place < 4
        assert (row["to"] - row["from"], row["count"]) == (9, 500)
        assert row["forced_entropy"] == pytest.approx(one if known else np.log(2), rel=1e-5)
        assert row["free_entropy"] == pytest.approx(row["forced_entropy"], rel=1e-5)
        assert row["forced_nll"] == pytest.approx(-np.log(0.9 if known else 0.5), rel=1e-5)
        # drawn from the model itself: the mean of -log p is the entropy
        assert row["free_nll"] == pytest.approx(row["free_entropy"], abs=0.1)
    assert rows == measured(Chain(stay=0.9, change=4 + 39), real)
    assert drift_summary(rows)["entropy_drift"] == pytest.approx(0, abs=1e-6)


class Lost(Chain):
    """Knows what follows a 0 alone: a 1, which real text never has, leaves it without a clue."""

    def __init__(self) -> None:
        super().__init__(stay=0.9, change=1 << 30)
        self.table[1] = np.log(0.5)


def test_a_model_that_leaves_what_it_knows_drifts() -> None:
    real = torch.zeros(200, 4 + 80, dtype=torch.long)
    rows = measured(Lost(), real)
    assert rows[0]["free_entropy"] > rows[0]["forced_entropy"]
    # a chain 0 → 1 with 0.1 and 1 → 0 with 0.5 is at 1 for a sixth of its time
    certain = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    expected = (np.log(2) - certain) / 6
    assert drift_summary(rows)["entropy_drift"] == pytest.approx(expected, rel=0.1)


def test_windows_are_spread_over_the_text_and_no_longer_than_it() -> None:
    found = windows(np.arange(10_000, dtype=np.int32), 100)
    assert found.shape == (16, 132) and found[0, 0] == 0 and found[-1, -1] == 9_999
    assert windows(np.arange(50), 100).tolist() == [list(range(50))]
    assert drift(Chain(stay=0.9, change=9), windows(np.arange(32), 100)) == []  # type: ignore[arg-type]
    assert drift_summary([]) == {}


def test_openings_of_pieces_are_of_one_length() -> None:
    rolls = [np.full((length, 88), length, np.uint8) for length in (40, 20, 60, 50, 45)]
    assert openings(rolls, 100)[:, 0, 0].tolist() == [60, 50, 45]
    assert openings(rolls, 100).shape[1] == 45


def test_music_drifts_in_nats_a_frame() -> None:
    model = LanguageModel(
        vocabulary_size=None, keys=5, pad_id=0, unk_id=None, embedding_size=None, hidden_size=8,
        cell=GRU, tie_weights=False,
    ).eval()  # fmt: skip
    torch.nn.init.zeros_(model.head.linear.weight)
    torch.nn.init.constant_(model.head.linear.bias, float(np.log(3)))  # each key is on with 3/4
    rows = drift(model, torch.ones(20, 4 + 30, 5), keys=True, context=4)
    entropy = -5 * (0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    for row in rows:
        assert row["forced_entropy"] == pytest.approx(entropy, rel=1e-5)
        assert row["forced_nll"] == pytest.approx(-5 * np.log(0.75), rel=1e-5)
        assert row["free_entropy"] == pytest.approx(entropy, rel=1e-5)
        assert row["free_nll"] == pytest.approx(entropy, abs=0.7)


@pytest.mark.usefixtures("drawn")
def test_a_language_model_reports_its_drift(start: Any) -> None:
    run = start("language_model", "trainer.max_epochs=1").fit()
    measured = run.test()
    folder = Path(run.config.paths.run_dir)
    with (folder / "drift.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    mean = sum(float(row["forced_entropy"]) * int(row["count"]) for row in rows)
    mean /= sum(int(row["count"]) for row in rows)
    assert measured["test/forced_entropy"] == pytest.approx(mean, abs=1e-5)
    assert (folder / "pictures" / "drift.png").stat().st_size > 1000


def test_rows_of_later_evaluations_are_added_under_one_header(tmp_path: Path) -> None:
    rows = [{"from": 1, "to": 5, "count": 2, "x": 1 / 3}, {"from": 6, "to": None, "count": 1}]
    append(tmp_path / "a" / "b.csv", rows, split="val", step=1)
    append(tmp_path / "a" / "b.csv", rows[:1], split="val", step=2)
    append(tmp_path / "a" / "b.csv", [], split="test", step=2)
    assert (tmp_path / "a" / "b.csv").read_text().splitlines() == [
        "split,step,from,to,count,x", "val,1,1,5,2,0.333333", "val,1,6,,1,", "val,2,1,5,2,0.333333",
    ]  # fmt: skip
    assert [label(row) for row in rows] == ["1–5", "6+"]
