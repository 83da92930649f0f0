"""Recurrent layers whose sequences are one loop over their steps, as ONNX and `torch.export` hold
it: any length, in a graph of a fixed size.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from models.regularise import Around
from models.state import State, leaves, map_state, where_rows


class Rolled(Around):
    """A layer with the outputs and the states of the one within, run step by step.

    In Python every layer is quicker by itself: this is for graphs, which would else hold each step
    of a sequence, or be made for one length.
    """

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        before = self.begin(inputs.size(0), state)
        places = torch.arange(inputs.size(1), device=inputs.device)

        def advance(
            carried: list[Tensor], now: tuple[Tensor, Tensor]
        ) -> tuple[list[Tensor], Tensor]:
            given, (here, place) = _like(before, carried), now
            output, after = self.layer.step(here, given)
            if lengths is not None:
                after = where_rows(lengths > place, after, given)
            return [leaf.clone() for leaf in leaves(after)], output  # a scan wants tensors apart

        last, outputs = scan(advance, leaves(before), (inputs.transpose(0, 1), places))
        return outputs.transpose(0, 1), _like(before, last)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        return self.layer.step(inputs, state)


def rolled(model: nn.Module) -> nn.Module:
    """A copy of a model, in evaluation mode, all of whose recurrent layers are rolled."""
    copy = deepcopy(model).eval().requires_grad_(False)
    _roll(copy)
    return copy


def _roll(module: nn.Module) -> None:
    for name, child in module.named_children():
        if hasattr(child, "both_ways"):  # a recurrent layer: what it may hold runs in its steps
            setattr(module, name, Rolled(layer=child))  # type: ignore[arg-type]
        else:
            _roll(child)


def _like(state: State, parts: list[Tensor]) -> State:
    rest = iter(parts)
    return map_state(lambda _: next(rest), state)
