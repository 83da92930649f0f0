"""The norm of a step's gradient: taken once, for all who ask."""

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer


def weights(optimizer: Optimizer) -> list[nn.Parameter]:
    """What an optimizer trains, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def norm(module: LightningModule, optimizer: Optimizer) -> Tensor:
    """The 2-norm of a gradient before it is clipped; a module with `norm_of_step` keeps it."""
    known = getattr(module, "norm_of_step", None)
    if known is None:
        slopes = [p.grad for p in weights(optimizer) if p.grad is not None]
        known = torch.nn.utils.get_total_norm(slopes)
        if hasattr(module, "norm_of_step"):
            module.norm_of_step = known
    return known


class OneNorm(LightningModule):
    """Clips by the norm that callbacks (`Finite`, `GradientNorm`) may have taken already."""

    norm_of_step: Tensor | None = None

    def on_after_backward(self) -> None:
        self.norm_of_step = None  # it was of the step before

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val and gradient_clip_algorithm != "value":
            own, largest = weights(optimizer), float(gradient_clip_val)
            torch.nn.utils.clip_grads_with_norm_(own, largest, norm(self, optimizer))
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
