"""Whether a classifier's probabilities hold: of answers given at 80%, are 80% right?

Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599.
"""

import math
from pathlib import Path

import torch
from lightning import Trainer
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from data.batches import IGNORE
from tasks.drawing import as_array, expect, save, style
from tasks.metrics import total

BINS = 15  # of equal width, as in the paper


class Calibration:
    """Answers, their summed confidence and hits by bins of confidence, over batches and ranks.

    The confidence of an answer is the probability of the class it gives; bin b holds those in
    (b / BINS, (b + 1) / BINS].
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(3, BINS, dtype=torch.float64)

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Logits (..., V) and classes (...), IGNORE where nothing counts."""
        kept = targets != IGNORE
        confidence, given = outputs[kept].float().softmax(-1).max(-1)
        hits = given == targets[kept]
        if outputs.device.type == "mps":  # has no float64
            confidence, hits = confidence.cpu(), hits.cpu()
        confidence = confidence.double()
        place = (confidence * BINS).ceil().sub(1).clamp(0, BINS - 1)
        # a product, and no scattered addition: the same sums every time on a GPU too
        member = (place[:, None] == torch.arange(BINS, device=place.device)).double()
        rows = torch.stack([torch.ones_like(confidence), confidence, hits.double()])
        self.sums = self.sums.to(rows.device) + rows @ member

    def result(self, trainer: Trainer | None = None) -> Tensor:
        """(3, BINS): answers, summed confidence, hits over all ranks; all ranks must call it."""
        return total(self.sums, trainer)

    def reset(self) -> None:
        self.sums = torch.zeros(3, BINS, dtype=torch.float64)


def calibration_error(sums: Tensor) -> float:
    """Expected calibration error, 0 to 1: |accuracy - confidence| of each bin by its share.

    `sums` (3, BINS) as `Calibration.result` gives them; nan without any answer.
    """
    count, confidence, hits = sums
    if not count.sum():
        return math.nan
    return ((hits - confidence).abs().sum() / count.sum()).item()


def reliability(sums: ArrayLike, path: Path) -> None:
    """Draw accuracy by confidence beside the diagonal, above the share of answers in each bin."""
    table = as_array(sums)
    expect(table, (3, BINS))
    count, confidence, hits = table
    full = count > 0
    places = (torch.arange(BINS).numpy() + 0.5) / BINS
    error = calibration_error(torch.as_tensor(table))
    with style():
        figure = Figure(figsize=(4.2, 5.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        above.bar(places[full], hits[full] / count[full], width=0.9 / BINS, color="C0", alpha=0.6)
        above.plot([0, 1], [0, 1], color="#8c959f", linestyle="--", label="confidence = accuracy")
        above.plot(
            confidence[full] / count[full], hits[full] / count[full],
            color="C0", marker="o", markersize=3, label="measured",
        )  # fmt: skip
        above.set_ylim(0, 1)
        above.set_ylabel("accuracy")
        above.set_title(f"expected calibration error {error:.4f}")
        above.legend(frameon=False, loc="upper left")
        below.bar(places, count / max(count.sum(), 1), width=0.9 / BINS, color="#8c959f")
        below.set_xlim(0, 1)
        below.set_ylabel("share")
        below.set_xlabel("confidence")
        save(figure, path)
