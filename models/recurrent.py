"""A recurrent layer: one contract, whichever way it runs.

`models.stepwise` holds the base of cells that are written as a single step, `models.parallel` those
of cells that compute all steps at once; `models.fused` hands a whole sequence to one library
kernel. Outputs are causal, so right padding cannot reach a valid one; what stands on the pads
themselves is finite and otherwise unspecified: whoever reads outputs masks them.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from models.state import State, map_state


class RecurrentLayer(nn.Module):
    """One causal layer (B, T, input_size) → (B, T, output_size), with its state passed through."""

    fillable: tuple[int, ...] = (0,)  # indices into leaves(initial_state) that a bridge may fill
    recurrent: tuple[str, ...] = ()  # names of the matrices that multiply the state
    outputs_state: bool = False  # whether outputs are the first leaf of the state

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

    def stepper(self, known: Tensor) -> "Stepper":
        """`step` for the steps of one sequence in turn, with what they share done once.

        `known` (B, T, K) are the first K features of every input: each call gives the others,
        (B, I - K), and the state.
        """
        steps = iter(known.unbind(1))

        def step(rest: Tensor, state: State) -> tuple[Tensor, State]:
            return self.step(torch.cat([next(steps), rest.to(known.dtype)], dim=-1), state)

        return step

    def drawn(self) -> "RecurrentLayer":
        """The layer as it runs through one sequence: itself, unless noise is drawn for each."""
        return self

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

    def full(self, values: Tensor) -> Tensor:
        """In the parameters' dtype: a gate near one has no room in bfloat16."""
        return values.to(next(self.parameters()).dtype)

    def zeros(self, batch_size: int, *sizes: int) -> Tensor:
        """An empty leaf (B, *sizes) where the parameters are."""
        return next(self.parameters()).new_zeros(batch_size, *sizes)


Stepper = Callable[[Tensor, State], tuple[Tensor, State]]


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


def keep_dtype(after: Tensor, before: Tensor) -> Tensor:
    """A state keeps its dtype under autocast."""
    return after.to(before.dtype)
