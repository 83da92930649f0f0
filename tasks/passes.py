"""What the test of a text measures beside its plain numbers, each in a pass of its own."""

import math
from itertools import islice
from typing import TYPE_CHECKING

from tasks import adaptive

if TYPE_CHECKING:
    from tasks.language_model import LanguageModel


def beside(task: "LanguageModel", tokens: float, characters: float) -> dict[str, float]:
    """What `task.evaluation` asks for beside the plain numbers, each in a pass of its own."""
    chosen, found = task.evaluation, {}

    def add(name: str, nats: float) -> None:
        for unit, value in task.per_unit("test", nats, tokens, characters).items():
            found[f"{unit}_{name}"] = value

    precision = task.trainer.precision_plugin.forward_context  # type: ignore[attr-defined]
    with precision():
        if chosen.positions:
            steps = task.data.steps
            sums = adaptive.by_position(task.model, task.batches("test"), steps=steps)
            task.positions = task.summed(sums)
            found["loss_reset"] = (task.positions[1].sum() / tokens).item()
            quarter = -(-steps // 4)
            for name, part in [("start", slice(quarter)), ("end", slice(-quarter, None))]:
                _, nats, count = task.positions[:, part].sum(1).tolist()
                found[f"loss_reset_{name}"] = nats / count if count else math.nan
        if chosen.temperature:
            inverses = adaptive.INVERSES
            sums = adaptive.at_temperatures(task.model, task.batches("validation"), inverses)
            found["temperature"] = adaptive.best_temperature(task.summed(sums))
            inverse = 1 / found["temperature"]
            sums = adaptive.at_temperatures(task.model, task.batches("test"), [inverse])
            add("temperature", task.summed(sums).item())
        if chosen.cache:
            sums = adaptive.with_cache(task.model, task.batches("test"), chosen)
            add("cache", task.summed(sums)[0].item())
    if chosen.dynamic:
        training = islice(task.batches("train"), chosen.dynamic_batches)
        sums = adaptive.dynamic(task.model, task.batches("test"), training, chosen, precision)
        add("dynamic", sums[0].item())
    return found
