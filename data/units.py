"""Real numbers in standard units: a mean of 0 and a deviation of 1 in training."""

from collections.abc import Sequence

import numpy as np

LARGEST_RAW = 1e150  # its square is a 64-bit float
LARGEST = 1e15  # in standard units: sums of squares are 32-bit floats


def mean_and_deviation(table: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Of each column (N, K) of training, NaN left out; a column of one value has a deviation of 1.

    ValueError names a column with a number that is too large for it.
    """
    _check(table, names, LARGEST_RAW, "numbers up to {most:g} can be learnt from")
    mean, std = np.nanmean(table, axis=0), np.nanstd(table, axis=0)
    return mean, np.where(std > 0, std, 1.0)


def standard(
    table: np.ndarray, mean: Sequence[float], std: Sequence[float], names: Sequence[str]
) -> np.ndarray:
    """(N, K) in the data's units → float32. ValueError names a column with a number that is out of
    all proportion to those of training.
    """
    _check(table, names, LARGEST_RAW, "numbers up to {most:g} can be read")
    scaled = (table - np.asarray(mean)) / np.asarray(std)
    why = "it is over {most:g} deviations from the mean of training"
    _check(scaled, names, LARGEST, why, shown=table)
    return scaled.astype(np.float32)


def _check(
    table: np.ndarray, names: Sequence[str], most: float, why: str, shown: np.ndarray | None = None
) -> None:
    too_large = np.abs(table) > most  # not where it is NaN
    if too_large.any():
        row, column = np.argwhere(too_large)[0]
        value = (table if shown is None else shown)[row, column]
        raise ValueError(
            f"row {row} of column {names[column]!r} has the value {value:g}, "
            f"{why.format(most=most)}: mend it or leave the row out"
        )
