"""The state that streams of running text carry from batch to batch, in and out of checkpoints.

There it stands for all streams in their order, and so for any number of ranks: rank r of R trains
on the r-th share of them (data/streams.py).
"""

from collections.abc import Callable

import torch
from lightning import Trainer
from torch import Tensor

from data.batches import StreamBatch
from models.state import State, leaves, map_state
from tasks.console import say


def reset(batch: StreamBatch, probability: float) -> StreamBatch:
    """The batch with some of its rows, drawn one by one, starting from the initial state."""
    drawn = torch.rand(batch.start.shape, device=batch.start.device) < probability
    return batch._replace(start=batch.start | drawn)


def gathered(state: State, trainer: Trainer) -> list[Tensor]:
    """The leaves of this rank's state (B, ...) → those of all ranks (R · B, ...), on the CPU."""
    flat = leaves(state)
    if trainer.world_size > 1:
        flat = [trainer.strategy.all_gather(leaf).flatten(0, 1) for leaf in flat]
    return [leaf.detach().cpu().clone() for leaf in flat]


def share(
    saved: list[Tensor],
    initial_state: Callable[[int], State],
    trainer: Trainer,
    device: torch.device,
) -> State | None:
    """This rank's share of what `gathered` gave, perhaps on another number of ranks; None, and a
    word about it, where the streams are others now.
    """
    rows, batch = saved[0].size(0), trainer.datamodule.batch_size  # type: ignore[attr-defined]
    if rows != batch * trainer.world_size:
        say(
            f"the checkpoint carries the state of {rows} streams, this run has "
            f"{batch * trainer.world_size}: each begins anew (data.batch_size times the ranks must "
            "stay the same)"
        )
        return None
    mine = slice(trainer.global_rank * batch, (trainer.global_rank + 1) * batch)
    fresh = iter(saved)
    return map_state(lambda _: next(fresh)[mine].to(device), initial_state(batch))
