"""What is called a difference is one, and what is luck is called luck."""

import numpy as np
import pytest

from tasks.significance import mean_score, paired_bootstrap


def of(values):
    return np.stack([values, np.ones_like(values)], axis=1)


def test_a_run_against_itself_does_not_differ():
    values = of(np.random.default_rng(0).random(100))
    found = paired_bootstrap(values, values, mean_score, samples=200, seed=1)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_clearly_better_run_is_found():
    random = np.random.default_rng(0)
    worse = random.random(200)
    better = worse + 0.2 + 0.1 * random.normal(size=200)
    found = paired_bootstrap(of(worse), of(better), mean_score, samples=500, seed=1)
    assert found.p < 0.01 and found.low > 0


def test_without_a_true_difference_about_one_in_twenty_is_called_one():
    random = np.random.default_rng(0)
    called = covered = 0
    for trial in range(300):
        first, second = random.normal(size=(2, 80))
        found = paired_bootstrap(of(first), of(second), mean_score, samples=200, seed=trial)
        called += found.p <= 0.05
        covered += found.low <= 0 <= found.high
    assert 0.02 <= called / 300 <= 0.09
    assert 0.90 <= covered / 300 <= 0.98


def test_runs_of_different_examples_are_refused():
    with pytest.raises(ValueError, match="same examples"):
        paired_bootstrap(of(np.ones(2)), of(np.ones(3)), mean_score, samples=10, seed=1)
