"""Does a language model leave the region it knows? Entropy along its own text and along real text.

Both go on from the same held-out context. On real text (teacher forcing) a calibrated model's mean
entropy equals its mean negative log-likelihood. On text that it draws itself at temperature 1 the
two agree by construction, so there it is their change with the position that tells: entropy that
rises is a model getting lost in its own text, entropy that falls one that repeats itself
(Braverman et al. 2020, arXiv 1906.05664; exposure bias: Ranzato et al. 2016, arXiv 1511.06732).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.language_model import LanguageModel
from tasks.rows import Row, mean

ROWS, CONTEXT, SLICES = 16, 32, 8
CURVES = ("forced_entropy", "forced_nll", "free_entropy", "free_nll")
CHUNK = 16  # positions whose whole distributions are held at a time


def windows(ids: Sequence[int] | np.ndarray, length: int) -> Tensor:
    """A text's symbols (N,) → (R, CONTEXT + length): windows spread over it, as long as it allows.

    No rows where the text is too short to go on from.
    """
    size = min(CONTEXT + length, len(ids))
    if size <= CONTEXT:
        return torch.zeros(0, CONTEXT, dtype=torch.long)
    starts = np.unique(np.linspace(0, len(ids) - size, ROWS).astype(int))
    return torch.from_numpy(np.stack([np.asarray(ids[s : s + size]) for s in starts])).long()


def openings(rolls: Sequence[np.ndarray], length: int) -> Tensor:
    """Pieces of keys (T, K) → (R, CONTEXT + length, K): the openings of those that are long enough.

    As long as half of the pieces allow, and at most 8 · ROWS of them, since pieces are short.
    """
    size = min(CONTEXT + length, int(np.median([len(roll) for roll in rolls])))
    kept = [roll[:size] for roll in rolls if len(roll) >= size][: 8 * ROWS]
    return torch.from_numpy(np.stack(kept)).float()


@torch.no_grad()
def drift(
    model: LanguageModel, real: Tensor, *, keys: bool = False, seed: int = 0, context: int = CONTEXT
) -> list[Row]:
    """Held-out symbols (B, C + L) or keys (B, C + L, K) → a row a slice of the L positions.

    Entropies and negative log-likelihoods are in nats a symbol, or a frame.
    """
    if not len(real) or real.size(1) <= context:
        return []
    generator = torch.Generator(real.device).manual_seed(seed)
    own = _go_on(model, real[:, :context], real.size(1) - context, keys, generator)
    curves = [*_measure(model, real, context, keys), *_measure(model, own, context, keys)]
    places = torch.arange(real.size(1) - context).tensor_split(SLICES)
    return [
        {"from": int(place[0]) + 1, "to": int(place[-1]) + 1, "count": len(real) * len(place)}
        | {name: float(curve[place].mean()) for name, curve in zip(CURVES, curves, strict=True)}
        for place in places
        if len(place)
    ]


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Mean entropies, and how far the one of own text has gone from the other in the later half."""
    if not rows:
        return {}
    later = rows[len(rows) // 2 :]
    return {
        "forced_entropy": mean(rows, "forced_entropy"),
        "free_entropy": mean(rows, "free_entropy"),
        "entropy_drift": mean(later, "free_entropy") - mean(later, "forced_entropy"),
    }


def _go_on(
    model: LanguageModel, prompt: Tensor, length: int, keys: bool, generator: torch.Generator
) -> Tensor:
    """The prompt and what the model draws after it, nothing forbidden: (B, C + L, ...)."""
    hidden, state = model(prompt, model.initial_state(len(prompt)))
    last, drawn = hidden[:, -1], [prompt]
    for place in range(length):
        chances = model.head.log_probs(last).exp()
        if keys:
            symbols = torch.bernoulli(chances, generator=generator).to(prompt.dtype)
        else:
            symbols = torch.multinomial(chances, 1, generator=generator)[:, 0]
        drawn.append(symbols[:, None])
        if place + 1 < length:
            last, state = model.step(symbols, state)
    return torch.cat(drawn, dim=1)


def _measure(model: LanguageModel, text: Tensor, context: int, keys: bool) -> tuple[Tensor, Tensor]:
    """Entropy and negative log-likelihood by position after the context: (L,), (L,)."""
    hidden, _ = model(text[:, :-1], model.initial_state(len(text)))
    parts: list[tuple[Tensor, Tensor]] = []
    for some, right in zip(
        hidden[:, context - 1 :].split(CHUNK, 1), text[:, context:].split(CHUNK, 1), strict=True
    ):
        parts.append(_of_keys(model, some, right) if keys else _of_symbols(model, some, right))
    entropy, nll = (
        torch.cat(side, dim=1).double().mean(0).cpu() for side in zip(*parts, strict=True)
    )
    return entropy, nll


def _of_symbols(model: LanguageModel, hidden: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    log_probs = model.head.log_probs(hidden)
    nll = -log_probs.gather(-1, right[..., None])[..., 0]
    return torch.special.entr(log_probs.exp()).sum(-1), nll


def _of_keys(model: LanguageModel, hidden: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    logits: Any = model.head(hidden).float()
    entropy = F.binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none")
    nll = F.binary_cross_entropy_with_logits(logits, right.float(), reduction="none")
    return entropy.sum(-1), nll.sum(-1)
