"""Recurrent layers that compute all steps at once: as a scan over time, or chunk by chunk."""

import torch
from torch import Tensor

from models.convolution import next_tail
from models.recurrent import RecurrentLayer, keep_dtype
from models.state import State, leaves

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
