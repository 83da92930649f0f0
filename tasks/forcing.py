"""Scheduled sampling: how many of the symbols that a decoder reads in training are the right ones.

Bengio et al. 2015, arXiv 1506.03099, section 2.4.
"""

import math
from functools import lru_cache

DECAYS = ("linear", "exponential", "inverse_sigmoid")


class Forcing:
    """The share of right symbols at step i of N, `final` at the end.

    linear: 1 − c i; exponential: k^i; inverse_sigmoid: k / (k + exp(i / k)), which stays near 1 at
    first and falls fastest in the middle. c and k are those that reach `final` at i = N.
    """

    def __init__(self, *, final: float, decay: str = "linear") -> None:
        if not 0.0 <= final <= 1.0:
            raise ValueError(f"task.teacher_forcing is a share of 0 to 1, got {final}")
        if decay not in DECAYS:
            raise ValueError(
                f"task.teacher_forcing_decay is one of {', '.join(DECAYS)}, got {decay!r}"
            )
        if final == 0.0 and decay != "linear":
            raise ValueError(
                f"task.teacher_forcing_decay={decay} never reaches 0: set "
                "task.teacher_forcing=0.01 or more, or task.teacher_forcing_decay=linear"
            )
        self.final, self.decay = final, decay

    def share(self, step: int, steps: float) -> float:
        """At a step of so many in all; where these have no end, it never falls."""
        if self.final == 1.0 or math.isinf(steps):
            return 1.0
        steps = max(1.0, steps)
        step = min(step, int(steps))
        if self.decay == "linear":
            return 1.0 - (1.0 - self.final) * step / steps
        if self.decay == "exponential":
            return float(self.final ** (step / steps))
        k = constant(self.final, steps)
        return 1.0 / (1.0 + math.exp(min(step / k - math.log(k), 700.0)))


@lru_cache
def constant(final: float, steps: float) -> float:
    """The k with k / (k + exp(N / k)) = final, by bisection: the share grows with k."""
    low, high = -20.0, 50.0  # of log k
    for _ in range(100):
        middle = (low + high) / 2
        logit = middle - min(steps * math.exp(-middle), 1e6)
        low, high = (middle, high) if logit < math.log(final / (1 - final)) else (low, middle)
    return math.exp(low)
