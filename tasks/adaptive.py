"""Evaluation that looks closer at a language model, or lets it learn from what it has read.

Every function reads the batches of a split in order, in a pass of its own: the plain numbers stay
as they are, and these stand beside them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from data.batches import StreamBatch
from data.declared import check_values
from models.head import Head
from models.language_model import LanguageModel
from models.state import State, detach, leaves, where_rows

INVERSES = [0.5 + 0.1 * i for i in range(11)]  # of the temperatures that are tried


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured after the test, beside its plain numbers (`task.evaluation`).

    `dynamic_rate` moves a weight by so much where a gradient is as large as those of its matrix
    usually are; `dynamic_decay` is the share of the way back to the trained weights a step.
    """

    positions: bool = True
    temperature: bool = False
    cache: bool = False
    cache_size: int = 500
    cache_theta: float = 0.3
    cache_lambda: float = 0.1
    dynamic: bool = False
    dynamic_rate: float = 1e-3
    dynamic_decay: float = 1e-3
    dynamic_batches: int = 100
    audit: bool = False
    audit_pieces: int = 200
    audit_length: int = 400
    judge: bool = False
    judge_pieces: int = 1000
    judge_length: int = 100

    def __post_init__(self) -> None:
        ranges = {
            "cache_size": (1, 1e9), "cache_theta": (0, 1e9), "cache_lambda": (0, 1),
            "dynamic_rate": (0, 1e9), "dynamic_decay": (0, 1), "dynamic_batches": (1, 1e9),
            "audit_pieces": (2, 1e6), "audit_length": (4, 1e6),
            "judge_pieces": (20, 1e6), "judge_length": (4, 1e6),
        }  # fmt: skip
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"task.evaluation.{name} is {least} to {most:g}, got {value}")
        if self.judge and not self.audit:
            raise ValueError(
                "task.evaluation.judge=true is a part of the audit: set task.evaluation.audit=true"
            )

    @property
    def beside(self) -> list[str]:
        """The names of the ways of predicting that are asked for beside the plain one."""
        return [name for name in ("temperature", "cache", "dynamic") if getattr(self, name)]

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> "Evaluation":
        """Some of the settings, by name → all of them. ValueError for a name that is none."""
        names = {field.name for field in fields(cls)}
        for name in settings or {}:
            if name not in names:
                raise ValueError(f"task.evaluation.{name}: choose {', '.join(sorted(names))}")
        check_values(settings or {}, cls, "task.evaluation.")
        return cls(**(settings or {}))


def carry_on(model: LanguageModel, batch: StreamBatch, before: State | None) -> State | None:
    """The state that a batch's rows go on from: `before`, but the initial one where they start."""
    if before is None:
        return None
    rows = batch.start.size(0)
    if leaves(before)[0].size(0) != rows:  # whole pieces of music, which all start anew
        return None
    return where_rows(batch.start, model.initial_state(rows), before)


def read(
    model: LanguageModel, batches: Iterable[StreamBatch]
) -> Iterator[tuple[StreamBatch, Tensor]]:
    """Each batch with its hidden vectors (B, T, D), the state carried from one to the next."""
    state: State | None = None
    for batch in batches:
        hidden, after = model(batch.inputs, carry_on(model, batch, state))
        state = detach(after)
        yield batch, hidden


def token_nats(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    """Hidden (B, T, D) and targets (B, T) → the negative log-likelihood of each, (B, T)."""
    # a row at a time: all their distributions at once may not fit
    rows = [
        head.log_probs(own).gather(1, ids[:, None])[:, 0]
        for own, ids in zip(hidden, targets, strict=True)
    ]
    return -torch.stack(rows)


def by_position(model: LanguageModel, batches: Iterable[StreamBatch], *, steps: int) -> Tensor:
    """Sums (3, T) by place in a window of `steps`: nats, nats without the past, tokens.

    Without the past each window is read from the initial state, as if nothing stood before it.
    """
    sums = torch.zeros(3, steps, dtype=torch.float64)
    for batch, hidden in read(model, batches):
        anew, _ = model(batch.inputs, None)
        for row, vectors in enumerate((hidden, anew)):
            nats = token_nats(model.head, vectors, batch.targets) * batch.mask
            sums[row, : nats.size(1)] += nats.double().sum(0).cpu()
        sums[2, : batch.mask.size(1)] += batch.mask.double().sum(0).cpu()
    return sums


def at_temperatures(
    model: LanguageModel, batches: Iterable[StreamBatch], inverses: list[float]
) -> Tensor:
    """The nats (N,) of all tokens under the softmax with its logits times each of `inverses`."""
    sums = torch.zeros(len(inverses), dtype=torch.float64)
    for batch, hidden in read(model, batches):
        for own, ids, mask in zip(hidden, batch.targets, batch.mask, strict=True):
            logs = model.head.log_probs(own[mask])
            right = logs.gather(1, ids[mask][:, None])[:, 0]
            for place, inverse in enumerate(inverses):
                # log-probabilities differ from logits by a constant, which cancels
                total = logs if inverse == 1 else torch.logsumexp(logs * inverse, dim=1)
                nats = -right if inverse == 1 else total - right * inverse
                sums[place] += nats.double().sum().cpu()
    return sums


def best_temperature(sums: Tensor) -> float:
    """The temperature of least nats, from those at `INVERSES` (N,).

    They are convex in the inverse temperature, so a parabola through the lowest three finds the
    lowest between them.
    """
    place = int(sums.argmin())
    inverse = INVERSES[place]
    if 0 < place < len(INVERSES) - 1:
        left, low, right = sums[place - 1 : place + 2].tolist()
        bend = left - 2 * low + right
        if bend > 0:
            inverse += 0.5 * (left - right) / bend * (INVERSES[1] - INVERSES[0])
    return 1 / inverse


class NeuralCache:
    """What followed the states most like the present one, of the last `size` of each stream.

    Grave et al. 2017, arXiv 1612.04426. With `theta` 0 every state is alike: the cache is then the
    unigram distribution of the last `size` tokens (Kuhn and De Mori 1990).
    """

    def __init__(self, *, size: int, theta: float) -> None:
        self.size, self.theta = size, theta
        self.past: tuple[Tensor, Tensor, Tensor] | None = None

    def attend(self, batch: StreamBatch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """A batch and its hidden vectors (B, T, D) → weights (B, T, N) of words (B, N).

        A place's weights add up to 1, or to 0 where its stream has nothing before it.
        """
        hidden = hidden.float()
        if self.past is None:
            self.past = (hidden[:, :0], batch.targets[:, :0], batch.mask[:, :0])
        keys, words, seen = self.past
        count = keys.size(1)
        keys = torch.cat([keys, hidden], 1)
        words = torch.cat([words, batch.targets], 1)
        seen = torch.cat([seen & ~batch.start[:, None], batch.mask], 1)
        place = torch.arange(keys.size(1), device=hidden.device)
        now = place[count:, None]
        allowed = seen[:, None] & (place < now) & (place >= now - self.size)  # (B, T, N)
        scores = self.theta * (hidden @ keys.transpose(1, 2))
        weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1) * allowed
        self.past = (keys[:, -self.size :], words[:, -self.size :], seen[:, -self.size :])
        return weights, words


def mixed(log_probs: Tensor, weights: Tensor, words: Tensor, asked: Tensor, share: float) -> Tensor:
    """The log-probability (B, T) of `asked` (B, T) in a mixture of a model and a cache.

    `log_probs` (B, T) is the model's own of the same words. Where the cache is empty the model
    stands alone.
    """
    found = (weights * (words[:, None] == asked[..., None])).sum(-1)
    used = share * (weights.sum(-1) > 0)
    return ((1 - used) * log_probs.exp() + used * found).clamp(min=1e-38).log()


def with_cache(
    model: LanguageModel, batches: Iterable[StreamBatch], settings: Evaluation
) -> Tensor:
    """Sum and count (2,) of the nats of all tokens with a neural cache beside the model."""
    cache = NeuralCache(size=settings.cache_size, theta=settings.cache_theta)
    sums = torch.zeros(2, dtype=torch.float64)
    for batch, hidden in read(model, batches):
        weights, words = cache.attend(batch, hidden)
        plain = -token_nats(model.head, hidden, batch.targets)
        nats = -mixed(plain, weights, words, batch.targets, settings.cache_lambda) * batch.mask
        sums += torch.stack([nats.double().sum(), batch.mask.double().sum()]).cpu()
    return sums


Context = Callable[[], AbstractContextManager[Any]]


def losses(
    model: LanguageModel, batches: Iterable[StreamBatch], precision: Context
) -> Iterator[tuple[Tensor, Tensor]]:
    """The loss of each window, summed and with its gradient, and how many tokens it is of."""
    state: State | None = None
    for batch in batches:
        # entered anew each time: autocast keeps its copies of the weights, which change between
        with precision():
            hidden, after = model(batch.inputs, carry_on(model, batch, state))
            found = model.head.loss(hidden, batch.targets, batch.mask)
        state = detach(after)
        yield found


def usual_gradients(
    model: LanguageModel, batches: Iterable[StreamBatch], precision: Context = nullcontext
) -> list[Tensor]:
    """The root mean square, over training batches, of each trained weight's gradient."""
    weights = [p for p in model.parameters() if p.requires_grad]
    squares, count = [torch.zeros_like(p) for p in weights], 0
    for loss, tokens in losses(model, batches, precision):
        gradients = torch.autograd.grad(loss / tokens.clamp(min=1), weights, allow_unused=True)
        for square, gradient in zip(squares, gradients, strict=True):
            if gradient is not None:
                square += gradient.square()
        count += 1
    return [(square / max(count, 1)).sqrt() for square in squares]


def dynamic(
    model: LanguageModel,
    batches: Iterable[StreamBatch],
    training: Iterable[StreamBatch],
    settings: Evaluation,
    precision: Context = nullcontext,
) -> Tensor:
    """Sum and count (2,) of the nats of all tokens where the weights follow the text.

    Each window is scored, and then learnt from: gradients over their usual size, and a pull back to
    the trained weights, stronger for those of large gradients. Krause et al. 2018, arXiv
    1709.07432. Afterwards the weights are what they were, bit for bit.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    # a test runs in inference mode; cuDNN has no backward pass outside training
    with torch.inference_mode(False), torch.enable_grad(), torch.backends.cudnn.flags(False):
        trained = [p.detach().clone() for p in weights]
        sums = torch.zeros(2, dtype=torch.float64)
        try:
            roots = usual_gradients(model, training, precision)
            mean = torch.cat([root.flatten() for root in roots]).mean().clamp(min=1e-12)
            pulls = [(settings.dynamic_decay * root / mean).clamp(max=1) for root in roots]
            for loss, tokens in losses(model, batches, precision):
                sums += torch.stack([loss.detach().double(), tokens.double()]).cpu()
                if not tokens:
                    continue
                gradients = torch.autograd.grad(loss / tokens, weights, allow_unused=True)
                with torch.no_grad():
                    for own, gradient, root, pull, start in zip(
                        weights, gradients, roots, pulls, trained, strict=True
                    ):
                        if gradient is not None:
                            step = settings.dynamic_rate * gradient / (root + mean)
                            own += pull * (start - own) - step
        finally:
            _restore(weights, trained)
    return sums


@torch.no_grad()
def _restore(weights: list[nn.Parameter], trained: list[Tensor]) -> None:
    for own, start in zip(weights, trained, strict=True):
        own.copy_(start)
