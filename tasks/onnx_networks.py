"""Models as functions of plain tensors: what a file of ONNX computes."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from models.pooling import valid_steps
from models.state import State, map_state

Answer = Callable[[Any, Tensor], Tensor]  # a model, what its head reads → what is answered


class Step(nn.Module):
    """One step of a language model or a tagger, or of a classifier that answers by its last one."""

    def __init__(self, model: Any, answer: Answer) -> None:
        super().__init__()
        self.model, self.answer = model, answer

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        outputs, after = self.model.stack.step(self.model.inputs(inputs), state)
        return self.answer(self.model, outputs), after


class Whole(nn.Module):
    """Right-padded sequences and their lengths → an answer each, or one a step, 0 on pads."""

    def __init__(self, model: Any, answer: Answer) -> None:
        super().__init__()
        self.model, self.answer = model, answer

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        answers = self.answer(self.model, self.model(inputs, lengths)[0])
        if answers.dim() == 2:
            return answers
        return _emptied(answers, valid_steps(lengths, inputs.size(1)))


class Encode(nn.Module):
    """Texts with their lengths, or pictures → the decoder's first state, and what it reads, 0 where
    there is nothing.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: tuple[Tensor, ...]) -> tuple[State, State]:
        memory = self.model.encode(*source)
        parts = (_emptied(part, memory.mask) if part.dim() == 3 else part for part in memory)
        return self.model.initial_state(memory), tuple(parts)


class Decode(nn.Module):
    """One step of a decoder; a state and a memory such as these come as their tensors in turn."""

    def __init__(self, model: Any, state: State, memory: Any) -> None:
        super().__init__()
        self.model, self.state, self.kind = model, state, type(memory)

    def forward(
        self, token: Tensor, state: tuple[Tensor, ...], memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, State]:
        parts = iter(state)
        given = map_state(lambda _: next(parts), self.state)
        return self.model.step(token, given, self.kind(*memory))


def _emptied(values: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) with zeros where the mask (B, T) is False: what a pad would say is left open."""
    return values.masked_fill(~mask[:, :, None], 0.0)


def log_probs(model: Any, hidden: Tensor) -> Tensor:
    return model.head.log_probs(hidden)
