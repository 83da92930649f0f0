"""Gradual unfreezing: the top of a model trains first, and what lies below joins it in turn."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks
from torch import nn

from tasks.layers import by_depth

Part = list[nn.Parameter]


class Unfreeze(callbacks.Callback):
    """Some parts are frozen at first; one of them joins after every so many epochs or steps.

    The parts are the layers below the top, from the upper to the lower ones (Howard and Ruder 2018,
    arXiv 1801.06146), or those whose names are given. What is frozen has no gradient, so optimizers
    leave it alone, and a normalisation in it keeps its statistics. What is frozen depends on the
    epoch or step alone, so a resumed run goes on as it was.
    """

    def __init__(
        self,
        *,
        every_epochs: int | None = None,
        every_steps: int | None = None,
        parts: Sequence[str | Sequence[str]] | None = None,
    ) -> None:
        """Both None: everything trains from the start. `every_steps` counts the optimizer's.

        `parts`: names such as `encoder.network.layer4`, or lists of names that join together, in
        the order in which they join; everything else trains from the start.
        """
        for name, value in (("every_epochs", every_epochs), ("every_steps", every_steps)):
            if value is not None and value < 1:
                raise ValueError(f"callbacks.unfreeze.{name} must be at least 1, got {value}")
        if every_epochs is not None and every_steps is not None:
            raise ValueError(
                f"callbacks.unfreeze counts epochs or steps, got every_epochs={every_epochs} and "
                f"every_steps={every_steps}: set one of them to null"
            )
        self.every_epochs, self.every_steps = every_epochs, every_steps
        self.names = parts
        self.parts: list[Part] = []  # frozen at first, in the order in which they join
        self.joined = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.parts = []
        if stage != "fit" or (self.every_epochs or self.every_steps) is None:
            return
        self.parts = _layers(pl_module) if self.names is None else _named(pl_module, self.names)
        trained = sum(parameter.requires_grad for parameter in pl_module.parameters())
        if trained == sum(map(len, self.parts)):
            raise ValueError("callbacks.unfreeze.parts names everything: nothing would train first")
        strategy: Any = trainer.strategy
        if trainer.world_size > 1 and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise ValueError(
                "callbacks.unfreeze on several devices leaves gradients out: set "
                "trainer.strategy.find_unused_parameters=true"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # not before: an optimizer is given what trains when it is made
        if self.parts:
            self._freeze(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.joined < min(self._due(trainer), len(self.parts)):
            self._freeze(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        _train(pl_module, self.parts, True)
        self.parts = []

    def _due(self, trainer: Trainer) -> int:
        """How many parts have joined at this point of training."""
        if self.every_steps is not None:
            return trainer.global_step // self.every_steps
        return trainer.current_epoch // (self.every_epochs or 1)

    def _freeze(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.joined = min(self._due(trainer), len(self.parts))
        _train(pl_module, self.parts[: self.joined], True)
        _train(pl_module, self.parts[self.joined :], False)
        sizes = [(p.numel(), p.requires_grad) for p in pl_module.parameters()]
        trained, everything = sum(n for n, on in sizes if on), sum(n for n, _ in sizes)
        pl_module.print(f"unfreeze: {trained:,} of {everything:,} parameters train from here on")


def _train(module: nn.Module, parts: list[Part], on: bool) -> None:
    chosen = set(chain.from_iterable(parts))
    for parameter in chosen:
        parameter.requires_grad_(on)
    for inner in module.modules():
        own = next(inner.parameters(recurse=False), None)
        if own in chosen and getattr(inner, "track_running_stats", False):
            inner.train(on)


def _layers(module: nn.Module) -> list[Part]:
    """What trains in each layer below the top, from the upper to the lower ones."""
    layers = [[p for p in layer.values() if p.requires_grad] for layer in by_depth(module)]
    *below, _ = [layer for layer in layers if layer]
    return below[::-1]


def _named(module: nn.Module, parts: Sequence[str | Sequence[str]]) -> list[Part]:
    """What trains in each part; a parameter that several name is of the first of them."""
    waiting = {
        name.removeprefix("model."): parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    everything = list(waiting)
    found = []
    for part in parts:
        part = [part] if isinstance(part, str) else part
        names = [n for n in waiting if any(f"{n}.".startswith(f"{prefix}.") for prefix in part)]
        if not names:
            raise ValueError(
                f"callbacks.unfreeze.parts: nothing that trains is called {', '.join(part)}; "
                f"there are {', '.join(dict.fromkeys(n.rpartition('.')[0] for n in everything))}"
            )
        found.append([waiting.pop(name) for name in names])
    return found
