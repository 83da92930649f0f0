"""Pieces that a language model wrote beside real ones of the same number and length.

Both stand where held-out text goes on: each written piece follows the same context as the real one
of its number, so that neither begins as a document does, and none is told apart by that.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.specials import UNK
from models.decoding import sample
from models.language_model import LanguageModel
from models.state import State

if TYPE_CHECKING:
    from tasks.language_model import LanguageModel as Task

CONTEXT = 100  # symbols that are read before a piece
CONTEXT_FRAMES = 16  # four beats: chorales are short
ENOUGH = 50  # pieces; where the text has less of the length asked for, they are made shorter,
SHORTEST = 25  # but not below this
BATCH = 128  # pieces that are written side by side


class Pieces(NamedTuple):
    """Symbols (N, L), or keys (N, L, K), on the CPU."""

    contexts: Tensor  # (N, C, ...): what stands before both
    real: Tensor
    written: Tensor


def pieces(task: "Task", *, count: int, length: int, splits: Sequence[str] = ("test",)) -> Pieces:
    """Pieces that a task writes as it is configured (temperature, top_k, top_p, seed), and real
    ones of these splits of its data: as many and as long as `held_out` finds.
    """
    contexts, real = held_out(task, count=count, length=length, splits=splits)
    seed, size = task.seed * 1_000_003, real.size(1)
    return Pieces(contexts, real, go_on(task, contexts, length=size, seed=seed, never=task.never))


def go_on(
    task: "Task", contexts: Tensor, *, length: int, seed: int, never: Sequence[int]
) -> Tensor:
    """Contexts (N, C, ...) → what a task, as it is configured, puts behind them (N, L, ...), on the
    CPU. Row n is drawn from `seed` + n, or music from that of its `BATCH`; symbols of `never` are
    not written.
    """
    was_training = task.training
    task.eval()
    written = []
    for first in range(0, len(contexts), BATCH):
        some = contexts[first : first + BATCH].to(task.device)
        drawn = {"length": length, "seed": seed + first, "temperature": task.temperature}
        if task.plays:
            own = play(task.model, some, **drawn)
        else:
            chosen = {"top_k": task.top_k, "top_p": task.top_p, "forbidden": tuple(never)}
            own = write(task.model, some, **drawn, **chosen)
        written.append(own.cpu())
    task.train(was_training)
    return torch.cat(written)


def held_out(
    task: "Task", *, count: int, length: int, splits: Sequence[str] = ("test",)
) -> tuple[Tensor, Tensor]:
    """Contexts (N, C, ...) and the real pieces (N, L, ...) that follow them, of a task's data."""
    documents = [document for split in splits for document in task.documents(split)]
    context = CONTEXT_FRAMES if task.plays else CONTEXT
    found = spread(documents, count=count, length=length, context=context)
    kind = torch.float if task.plays else torch.long
    before, after = (torch.from_numpy(rows).to(kind) for rows in found)
    return before, after


def spread(
    documents: Sequence[np.ndarray], *, count: int, length: int, context: int
) -> tuple[np.ndarray, np.ndarray]:
    """Documents (T,) or (T, K) → contexts (N, C, ...) and the pieces (N, L, ...) that
    follow: at most `count`, spread evenly, none over another, and none with an unknown symbol.

    L is `length`, halved while there are fewer than `count` and `ENOUGH` of them, but not below
    `SHORTEST`. ValueError where the text is too short for any.
    """
    size = length
    while True:
        found = [
            (number, start)
            for number, document in enumerate(documents)
            for start in starts(document, context=context, length=size)
        ]
        if len(found) >= min(count, ENOUGH) or size // 2 < SHORTEST:
            break
        size //= 2
    if not found:
        raise ValueError(
            f"the held-out text has no {context} symbols (or frames) and {size} known ones after "
            "them to compare with what is written: give more of it, or set "
            f"task.evaluation.audit_length below {size}"
        )
    chosen = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    rows = np.stack(
        [documents[i][s - context : s + size] for i, s in (found[place] for place in chosen)]
    )
    return rows[:, :context], rows[:, context:]


def starts(document: np.ndarray, *, context: int, length: int) -> Iterator[int]:
    """Where pieces of a document may begin, one after the other."""
    place = context
    # keys are on or off: nothing of them is unknown
    unknown = np.flatnonzero(document == UNK) if document.ndim == 1 else np.zeros(0, int)
    while place + length <= len(document):
        first, last = np.searchsorted(unknown, (place, place + length))
        if first < last:
            place = int(unknown[last - 1]) + 1
        else:
            yield place
            place += length


@torch.no_grad()
def write(
    model: LanguageModel,
    contexts: Tensor,
    *,
    length: int,
    seed: int,
    forbidden: tuple[int, ...],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Contexts (N, C) → the symbols (N, L) that the model goes on with, each row by a seed."""

    def step(symbols: Tensor, state: State, _: Any) -> tuple[Tensor, State]:
        hidden, after = model.step(symbols, state)
        return model.head.log_probs(hidden), after

    _, state = model(contexts[:, :-1], model.initial_state(len(contexts)))
    found = sample(
        step, state, prompt=contexts[:, -1:], max_new_tokens=length, temperature=temperature,
        top_k=top_k, top_p=top_p, seeds=range(seed, seed + len(contexts)), forbidden=forbidden,
    )  # fmt: skip
    return found.tokens[:, 0]


@torch.no_grad()
def play(
    model: LanguageModel, contexts: Tensor, *, length: int, seed: int, temperature: float = 1.0
) -> Tensor:
    """Contexts (N, C, K) of keys → the keys (N, L, K) that the model goes on with."""
    generator = torch.Generator().manual_seed(seed)  # the same notes on any device
    hidden, state = model(contexts, model.initial_state(len(contexts)))
    last, frames = hidden[:, -1], []
    for _ in range(length):
        logits = model.head(last).float()
        chances = (logits > 0).float() if temperature == 0 else (logits / temperature).sigmoid()
        drawn = torch.rand(chances.shape, generator=generator).to(chances.device)
        frames.append((drawn < chances).float())
        last, state = model.step(frames[-1], state)
    return torch.stack(frames, dim=1)
