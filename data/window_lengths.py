"""How many steps of a stream a training batch holds: as many each time, or about as many."""

from dataclasses import dataclass

import numpy as np

LEAST = 5  # steps: below them a window costs more than it teaches


@dataclass(frozen=True, kw_only=True)
class WindowLengths:
    """Windows of `steps`, or with a `deviation` of normally distributed lengths around it.

    A share `halved` of those is drawn around half of `steps`. Gradients then go back through what
    was a border in another epoch; the learning rate goes with the length. Merity et al. 2018, arXiv
    1708.02182.
    """

    steps: int
    deviation: float = 0.0
    halved: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.deviation <= self.steps:
            raise ValueError(
                f"data.steps_deviation is a number of steps, 0 for windows that are all equal, and "
                f"{self.steps} at most; got {self.deviation}"
            )
        if not 0 <= self.halved <= 1:
            raise ValueError(f"data.steps_halved is a share of the windows, got {self.halved}")

    def draw(self, random: np.random.Generator) -> int:
        """The length of the next window."""
        if not self.deviation:
            return self.steps
        mean = self.steps / 2 if random.random() < self.halved else self.steps
        return max(min(LEAST, self.steps), round(random.normal(mean, self.deviation)))

    def count(self, total: int) -> int:
        """How many windows hold about `total` steps, at least one."""
        mean = self.steps * (1 - self.halved / 2) if self.deviation else self.steps
        return max(1, int(total / mean))
