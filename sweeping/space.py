"""A search space: what Hydra's sweep expressions say, for Optuna, for W&B and for random draws.

`optimizer.lr: tag(log, interval(1e-4, 1e-2))`, `model.hidden_size: choice(64, 128)`,
`model.layers: range(1, 4)`, `data.batch_size: int(interval(8, 64))`.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf

from launch import CONFIGS, group_names

Value = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values, without an order; `words` is how the command line writes each."""

    key: str
    words: Mapping[Value, str]

    def suggest(self, trial: Any) -> Value:
        return trial.suggest_categorical(self.key, list(self.words))  # type: ignore[no-any-return]

    def draw(self, random: np.random.Generator) -> Value:
        return list(self.words)[random.integers(len(self.words))]

    def holds(self, value: Any) -> bool:
        return isinstance(value, Value) and value in self.words

    def word(self, value: Any) -> str:
        return f"{self.key}={self.words[value]}"

    def height(self, value: Any) -> float:
        """Where a value stands on an axis of a picture, 0 to 1."""
        return list(self.words).index(value) / (len(self.words) - 1)

    def marks(self) -> list[tuple[float, str]]:
        """The axis' marks: height, text."""
        return [(self.height(value), word) for value, word in self.words.items()]

    def for_wandb(self) -> dict[str, Any]:
        # the agent writes None as Python does
        return {"values": [self.words[one] if one is None else one for one in self.words]}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number from `low` to `high`, both in it; `step` where only some between count."""

    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Any) -> Value:
        if self.whole:
            step = int(self.step or 1)
            return trial.suggest_int(self.key, self.low, self.high, step=step, log=self.log)  # type: ignore[no-any-return]
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)  # type: ignore[no-any-return]

    def draw(self, random: np.random.Generator) -> Value:
        if self.log:
            drawn = float(np.exp(random.uniform(np.log(self.low), np.log(self.high))))
        else:
            drawn = float(random.uniform(self.low, self.high))
        if self.whole and self.step is None and not self.log:
            return int(random.integers(int(self.low), int(self.high) + 1))
        if self.step is not None:
            steps = round((self.high - self.low) / self.step)
            drawn = self.low + self.step * int(random.integers(steps + 1))
        return round(drawn) if self.whole else min(max(drawn, self.low), self.high)

    def holds(self, value: Any) -> bool:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            return False
        return self.step is None or ((value - self.low) / self.step) % 1 == 0

    def word(self, value: Any) -> str:
        return f"{self.key}={value!r}"

    def height(self, value: Any) -> float:
        """Where a value stands on an axis of a picture, 0 to 1."""
        low, high, own = (
            math.log(one) if self.log else one for one in (self.low, self.high, value)
        )
        return (own - low) / (high - low)

    def marks(self) -> list[tuple[float, str]]:
        """The axis' marks: height, text."""
        return [(self.height(value), f"{value:.4g}") for value in (self.low, self.high)]

    def for_wandb(self) -> dict[str, Any]:
        limits: dict[str, Any] = {"min": self.low, "max": self.high}
        if self.log:
            return {"distribution": "log_uniform_values", **limits} if not self.whole else {
                "distribution": "q_log_uniform_values", "q": 1, **limits}  # fmt: skip
        if self.step is not None:
            return {"distribution": "q_uniform", "q": self.step, **limits}
        return {"distribution": "int_uniform" if self.whole else "uniform", **limits}


Dimension = Choice | Interval
Space = dict[str, Dimension]


def read(name: str) -> dict[str, str]:
    """The expressions of `configs/sweep/<name>.yaml`, or of a file of that form, by their keys.

    ValueError where there is no such file, or it holds no space.
    """
    file = Path(name) if Path(name).suffix in (".yaml", ".yml") else CONFIGS / f"sweep/{name}.yaml"
    if not file.is_file():
        names = [one for one in group_names("sweep") if one != "none"]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"there is no space {name!r}{hint}; there are: {', '.join(names)}")
    found = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params")
    if not found:
        raise ValueError(f"{file} holds no hydra.sweeper.params: see configs/sweep/*.yaml")
    return {str(key): str(text) for key, text in found.items()}


def parse(expressions: Mapping[str, str]) -> Space:
    """A dimension a key. ValueError where an expression leaves nothing to choose."""
    overrides = OverridesParser.create().parse_overrides(
        [f"{k}={t}" for k, t in expressions.items()]
    )
    return {override.key_or_group: dimension(override) for override in overrides}


def dimension(override: Override) -> Dimension:
    """What an override such as `optimizer.lr=interval(1e-4,1e-2)` lets vary."""
    key, sweep = override.key_or_group, override.value()
    text = override.input_line
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None and sweep.end is not None
        low, high, log = sweep.start, sweep.end, "log" in sweep.tags
        if not low < high or (log and low <= 0):
            raise ValueError(f"{text}: give two numbers that rise{', above 0' if log else ''}")
        return Interval(key=key, low=low, high=high, log=log)
    if isinstance(sweep, RangeSweep):
        numbers = list(sweep.range())
        if len(numbers) > 1:
            if sweep.step is not None and sweep.step < 0:
                numbers = numbers[::-1]
            step = None if numbers[1] - numbers[0] == 1 else abs(sweep.step or 1)
            return Interval(key=key, low=numbers[0], high=numbers[-1], step=step)
    elif isinstance(sweep, ChoiceSweep):
        words = [one.partition("=")[2] for one in _written(override)]
        values = [one if isinstance(one, Value) and type(one) in (str, int, float, bool, type(None))
                  else word for one, word in zip(sweep.list, words, strict=True)]  # fmt: skip
        if len(set(words)) > 1:
            return Choice(key=key, words=dict(zip(values, words, strict=True)))
    raise ValueError(
        f"{text}: give choice(...), range(...) or interval(...), of two values or more"
    )


def _written(override: Override) -> Iterable[str]:
    return [f"{override.key_or_group}={word}" for word in override.sweep_string_iterator()]
