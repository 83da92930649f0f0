"""Whether one run is better than another, or luck: paired bootstrap over the test examples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Statistics = NDArray[np.float64]  # (N, K) of each example; they add up over a corpus


class Comparison(NamedTuple):
    """Scores of two runs on the same examples, and what resampling makes of their difference."""

    first: float
    second: float
    difference: float  # second − first
    low: float  # of the difference's 95% interval
    high: float
    p: float  # two-sided: how often chance alone would differ as much


def paired_bootstrap(
    first: Statistics,
    second: Statistics,
    score: Callable[[Statistics], NDArray[np.float64]],
    *,
    samples: int,
    seed: int,
) -> Comparison:
    """Compare statistics (N, K) of two runs; `score` makes scores (S,) of their sums (S, K).

    Koehn 2004, aclanthology W04-3250: both runs are scored on the same examples, drawn with
    replacement. The p value centres the differences, as they would lie without a true one, and
    counts those at least as large as what was seen; (c + 1) / (samples + 1) never says 0.
    """
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(
            f"two runs need the same examples, at least one: {first.shape}, {second.shape}"
        )
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    count = len(first)
    one, other = (float(score(part.sum(0, keepdims=True))[0]) for part in (first, second))
    random = np.random.default_rng(seed)
    found = np.empty(samples)
    for i in range(samples):  # one by one: all at once would fill the memory
        times = np.bincount(random.integers(count, size=count), minlength=count).astype(float)
        found[i] = (score((times @ second)[None]) - score((times @ first)[None]))[0]
    difference = other - one
    extreme = np.abs(found - found.mean()) >= abs(difference) - 1e-12
    low, high = np.quantile(found, [0.025, 0.975])
    p = (int(extreme.sum()) + 1) / (samples + 1)
    return Comparison(one, other, difference, float(low), float(high), p)


def mean_score(sums: Statistics) -> NDArray[np.float64]:
    """Sums (S, 2) of values and counts → means (S,)."""
    return sums[:, 0] / np.maximum(sums[:, 1], 1e-12)
