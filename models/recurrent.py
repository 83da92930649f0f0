"""A recurrent layer: one contract, and the ways to run it.

`StepwiseLayer` is written as a single step; `ScanLayer` and `ChunkLayer` compute all steps at
once; `models.fused.FusedLayer` hands a whole sequence to one library kernel. Outputs are causal, so
right padding cannot reach a valid one; what stands on the pads themselves is finite and otherwise
unspecified: whoever reads outputs masks them.
"""

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Protocol

import torch
from torch import Tensor, nn

from models.convolution import next_tail
from models.product import RepeatedProduct, product
from models.state import State, leaves, map_state


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


Product = Callable[[Tensor], Tensor]  # a recurrent matrix as a function: (B, H) → (B, G)


class StepwiseLayer(RecurrentLayer):
    """A cell written as one step, run as a loop over time; its state is a tuple of tensors (B, ·).

    What depends on the inputs alone goes into `project`, one product for all steps; `recur` does
    the rest. Steps are unbound once: indexing `[:, t]` under autograd is quadratic in T.
    """

    other: tuple[str, ...] = ()  # matrices, beside `recurrent`, that every step multiplies with

    def __init__(self, *, input_size: int, output_size: int, state_sizes: tuple[int, ...]) -> None:
        super().__init__(input_size=input_size, output_size=output_size)
        self.state_sizes = state_sizes

    def project(self, inputs: Tensor) -> Tensor:
        """The inputs' share of every step: (..., I) → (..., G)."""
        raise NotImplementedError

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple[Product, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step: (B, G), state → output (B, O), state.

        `products` are h → W h, one for each name in `recurrent` and then in `other`.
        """
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> State:
        return tuple(self.zeros(batch_size, size) for size in self.state_sizes)

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        current = tuple(leaves(self.begin(inputs.size(0), state)))
        products = tuple(RepeatedProduct(matrix) for matrix in self.matrices())
        valid = None
        if lengths is not None:
            places = torch.arange(inputs.size(1), device=inputs.device)
            valid = (places[:, None] < lengths).unsqueeze(-1).unbind(0)  # (B, 1) a step
        outputs = []
        for place, projected in enumerate(self.project(inputs).unbind(1)):
            output, following = self.recur(projected, current, products)
            following = tuple(map(keep_dtype, following, current))
            if valid is not None:
                following = tuple(
                    torch.where(valid[place], after, before)
                    for after, before in zip(following, current, strict=True)
                )
            current = following
            outputs.append(output)
        return torch.stack(outputs, dim=1), current

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        given = tuple(leaves(self.begin(inputs.size(0), state)))
        products = tuple(partial(product, matrix=matrix) for matrix in self.matrices())
        output, following = self.recur(self.project(inputs), given, products)
        return output, tuple(map(keep_dtype, following, given))

    def stepper(self, known: Tensor) -> Stepper:
        products = tuple(RepeatedProduct(matrix) for matrix in self.matrices())
        steps = iter(known.unbind(1))

        def step(rest: Tensor, state: State) -> tuple[Tensor, State]:
            given = tuple(leaves(self.begin(rest.size(0), state)))
            inputs = torch.cat([next(steps), rest.to(known.dtype)], dim=-1)
            output, following = self.recur(self.project(inputs), given, products)
            return output, tuple(map(keep_dtype, following, given))

        return step

    def matrices(self) -> list[Tensor]:
        """The matrices of `products`, as they are at this call."""
        # Read by name at every call: a dropped weight is then the one that runs.
        return [attrgetter(name)(self) for name in (*self.recurrent, *self.other)]


SPAN = 512  # steps that are computed at once


class ParallelLayer(RecurrentLayer):
    """A cell that computes many steps at once: `run`, for SPAN of them at a time.

    What a span needs while it is computed then stays small, whatever the length of the sequence.
    """

    def run(
        self, inputs: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        """What `forward` does, for all steps at once."""
        raise NotImplementedError

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if inputs.size(1) <= SPAN:
            return self.run(inputs, state, lengths)
        current = self.begin(inputs.size(0), state)
        outputs = []
        for place, part in enumerate(inputs.split(SPAN, dim=1)):
            left = None if lengths is None else (lengths - place * SPAN).clamp(0, part.size(1))
            output, current = self.run(part, current, left)
            outputs.append(output)
        return torch.cat(outputs, dim=1), current

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        outputs, state = self(inputs.unsqueeze(1), state)
        return outputs.squeeze(1), state


class ScanLayer(ParallelLayer):
    """A cell whose features go through time each on its own: all steps are computed at once.

    The state is h (B, S), and with a `window` of K > 1 steps also the K - 1 last inputs of the
    convolution, (B, K - 1, F).
    """

    def __init__(
        self,
        *,
        input_size: int,
        output_size: int,
        state_size: int,
        window: int = 1,
        convolved: int = 0,
    ) -> None:
        """`convolved` is F, the number of features that a convolution of `window` steps reads."""
        super().__init__(input_size=input_size, output_size=output_size)
        self.state_size = state_size
        self.window = window
        self.convolved = convolved

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        """What depends on the inputs alone: (B, T, I), tail → tensors (B, T, ·).

        With a window the last of them is what was convolved, (B, T, F).
        """
        raise NotImplementedError

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        """The recurrence: state (B, S) → all states (B, T, S)."""
        raise NotImplementedError

    def readout(self, coefficients: tuple[Tensor, ...], hidden: Tensor, before: Tensor) -> Tensor:
        """All states (B, T, S), the one before them (B, S) → outputs (B, T, O)."""
        return hidden

    def initial_state(self, batch_size: int) -> State:
        hidden = self.zeros(batch_size, self.state_size)
        if self.window == 1:
            return hidden
        return hidden, self.zeros(batch_size, self.window - 1, self.convolved)

    def run(
        self, inputs: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        given = self.begin(inputs.size(0), state)
        before, *rest = leaves(given)
        tail = rest[0] if rest else None
        coefficients = self.coefficients(inputs, tail)
        hidden = self.scan(coefficients, before)
        outputs = self.readout(coefficients, hidden, before)
        after = keep_dtype(last_valid(hidden, before, lengths), before)
        if tail is None:
            return outputs, after
        return outputs, (after, next_tail(coefficients[-1], tail, lengths))


class ChunkLayer(ParallelLayer):
    """A cell with a matrix as its memory: parallel within a chunk, a loop over the chunks.

    The state is a tuple: the memory's leaves, and with a `window` of K > 1 steps as its last leaf
    the K - 1 last inputs of the convolution, (B, K - 1, F).
    """

    def __init__(
        self, *, input_size: int, output_size: int, window: int = 1, convolved: int = 0
    ) -> None:
        """`convolved` is F, the number of features that a convolution of `window` steps reads."""
        super().__init__(input_size=input_size, output_size=output_size)
        self.window = window
        self.convolved = convolved

    def initial_memory(self, batch_size: int) -> tuple[Tensor, ...]:
        """The memory before the first step."""
        raise NotImplementedError

    def coefficients(
        self, inputs: Tensor, tail: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, ...]:
        """What depends on the inputs alone: (B, T, I), tail, valid (B, T) → tensors (B, T, ...).

        Where `valid` is False they leave the memory as it is. With a window the last of them is
        what was convolved, (B, T, F).
        """
        raise NotImplementedError

    def remember(
        self, coefficients: tuple[Tensor, ...], memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Write to and read from the memory → what was read (B, T, ...), the memory after."""
        raise NotImplementedError

    def readout(self, coefficients: tuple[Tensor, ...], read: Tensor) -> Tensor:
        """What was read (B, T, ...) → outputs (B, T, O)."""
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> State:
        memory = self.initial_memory(batch_size)
        if self.window == 1:
            return memory
        return *memory, self.zeros(batch_size, self.window - 1, self.convolved)

    def run(
        self, inputs: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        given = leaves(self.begin(inputs.size(0), state))
        memory, tail = (given, None) if self.window == 1 else (given[:-1], given[-1])
        valid = None
        if lengths is not None:
            valid = torch.arange(inputs.size(1), device=inputs.device) < lengths[:, None]
        coefficients = self.coefficients(inputs, tail, valid)
        read, after = self.remember(coefficients, tuple(memory))
        outputs = self.readout(coefficients, read)
        kept = tuple(map(keep_dtype, after, memory))
        if tail is None:
            return outputs, kept
        return outputs, (*kept, next_tail(coefficients[-1], tail, lengths))


def last_valid(hidden: Tensor, before: Tensor, lengths: Tensor | None) -> Tensor:
    """The last valid of all states (B, T, S); of a row of length 0, the state before (B, S)."""
    if lengths is None:
        return hidden[:, -1]
    last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, hidden.size(2))
    return torch.where((lengths > 0)[:, None], hidden.gather(1, last).squeeze(1), before)


def keep_dtype(after: Tensor, before: Tensor) -> Tensor:
    """A state keeps its dtype under autocast."""
    return after.to(before.dtype)
