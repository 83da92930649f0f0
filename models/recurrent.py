"""A recurrent layer: one contract, and the ways to run it.

`StepwiseLayer` is written as a single step; `models.fused.FusedLayer` hands a whole sequence to one
library kernel. Outputs are causal, so right padding cannot reach a valid one; what stands on the
pads themselves is finite and otherwise unspecified: whoever reads outputs masks them.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from models.state import State, map_state, where_rows


class RecurrentLayer(nn.Module):
    """One causal layer (B, T, input_size) → (B, T, output_size), with its state passed through."""

    fillable: tuple[int, ...] = (0,)  # indices into leaves(initial_state) that a bridge may fill

    def __init__(self, *, input_size: int, output_size: int) -> None:
        super().__init__()
        if input_size < 1 or output_size < 1:
            raise ValueError(
                f"a recurrent layer needs sizes of 1 or more, got input {input_size}, "
                f"output {output_size}"
            )
        self.input_size = input_size
        self.output_size = output_size

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step; leaves (B, ...) in the parameters' dtype and device."""
        raise NotImplementedError

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run a sequence: (B, T, I), lengths (B,) → (B, T, O), state after each last valid step.

        A row of length 0 keeps the state it was given. The state stays in the dtype of
        `initial_state` under autocast too, so that it may be carried, saved and mixed.
        """
        raise NotImplementedError

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Run one step, as `forward` does for T = 1: (B, I) → (B, O), state."""
        raise NotImplementedError

    def both_ways(
        self, backward: "RecurrentLayer", inputs: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[State, State]]:
        """Run self left to right and `backward` right to left: (B, T, I) → (B, T, 2O), states.

        Both begin from the initial state; `backward` begins at each row's last valid step.
        """
        outputs, state = self(inputs, None, lengths)
        reverse_outputs, reverse_state = backward(reverse_rows(inputs, lengths), None, lengths)
        both = torch.cat([outputs, reverse_rows(reverse_outputs, lengths)], dim=-1)
        return both, (state, reverse_state)

    def begin(self, batch_size: int, state: State | None) -> State:
        """The state to begin from, in the parameters' dtype (autocast may bring another)."""
        if state is None:
            return self.initial_state(batch_size)
        dtype = next(self.parameters()).dtype
        return map_state(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, state)

    def zeros(self, batch_size: int, *sizes: int) -> Tensor:
        """An empty leaf (B, *sizes) where the parameters are."""
        return next(self.parameters()).new_zeros(batch_size, *sizes)


class CellFactory(Protocol):
    """How models build a layer: they never name a cell."""

    def __call__(self, *, input_size: int, hidden_size: int) -> RecurrentLayer: ...


def reverse_rows(inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Reverse each row (B, T, D) within its length; pads stay where they are."""
    if lengths is None:
        return inputs.flip(1)
    places = torch.arange(inputs.size(1), device=inputs.device).expand(inputs.shape[:2])
    index = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
    return inputs.gather(1, index[:, :, None].expand_as(inputs))


class StepwiseLayer(RecurrentLayer):
    """A cell written as one step, run as a loop over time.

    What depends on the inputs alone goes into `project`, one product for all steps; `recur` does
    the rest. Steps are unbound once: indexing `[:, t]` under autograd is quadratic in T.
    """

    def project(self, inputs: Tensor) -> Tensor:
        """The inputs' share of every step: (..., I) → (..., G)."""
        raise NotImplementedError

    def recur(self, projected: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: (B, G), state → output (B, O), state."""
        raise NotImplementedError

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        current = self.begin(inputs.size(0), state)
        outputs = []
        for place, projected in enumerate(self.project(inputs).unbind(1)):
            output, following = self.recur(projected, current)
            following = map_state(keep_dtype, following, current)
            if lengths is not None:
                following = where_rows(lengths > place, following, current)
            current = following
            outputs.append(output)
        return torch.stack(outputs, dim=1), current

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        given = self.begin(inputs.size(0), state)
        output, following = self.recur(self.project(inputs), given)
        return output, map_state(keep_dtype, following, given)


def keep_dtype(after: Tensor, before: Tensor) -> Tensor:
    """A state keeps its dtype under autocast."""
    return after.to(before.dtype)
