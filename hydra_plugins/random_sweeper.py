"""Random search by `--multirun`: as many runs as are asked for, drawn from a space.

Hydra looks for plugins in a folder of this name alone, and imports them at every start.

python train.py --multirun hydra/sweeper=random sweep=classification hydra.sweeper.trials=20
"""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override


class RandomSweeper(BasicSweeper):
    """Hydra's own sweeper, with draws in place of all combinations; intervals are drawn from, too.

    The same `seed` draws the same runs.
    """

    def __init__(
        self, *, trials: int, seed: int, max_batch_size: int | None, params: dict[str, str] | None
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        if trials < 1:
            raise ValueError(f"hydra.sweeper.trials={trials}: give a number above 0")
        self.trials, self.seed = trials, seed

    def split_arguments(  # type: ignore[override]  # static there, and without draws
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        runs = draw(overrides, self.trials, self.seed)
        return [list(part) for part in self.split_overrides_to_chunks(runs, max_batch_size)]


def draw(overrides: Sequence[Override], trials: int, seed: int) -> list[list[str]]:
    """The words of each run: of a key that comes twice the last, as in a grid."""
    import numpy as np  # not at every start

    from sweeping import space

    random = np.random.default_rng(seed)
    last = {override.get_key_element(): override for override in overrides}
    varied = {k: space.dimension(o) for k, o in last.items() if o.is_sweep_override()}
    if not varied:
        raise ValueError("there is nothing to draw: give sweep=SPACE, or KEY=interval(...)")
    drawn = []
    for _ in range(trials):
        words: list[str] = []
        for key, override in last.items():
            one = varied.get(key)
            words.append(
                f"{key}={override.get_value_element_as_str()}" if one is None
                else one.word(one.draw(random))
            )  # fmt: skip
        drawn.append(words)
    return drawn


NODE: dict[str, Any] = {
    "_target_": f"{__name__}.RandomSweeper", "trials": 20, "seed": 1, "max_batch_size": None,
    "params": None,
}  # fmt: skip
ConfigStore.instance().store(group="hydra/sweeper", name="random", node=NODE, provider="unroll")
