"""How one symbol is drawn: which symbols are left to draw from, and the draw."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from models.decoding.hypotheses import check_at_least

Filter = Callable[[Tensor], Tensor]  # log-probs (N, V) → the same, some of them -inf


def filters(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical: float | None = None,
) -> Filter:
    """The temperature and then those filters that are not None, in this order, as one."""
    if not temperature >= 0.0:
        raise ValueError(f"temperature is 0 (greedy) or more, got {temperature}")
    if top_k is not None:
        check_at_least("top_k", top_k, 1)
    chosen: list[Filter] = []
    if temperature not in (0.0, 1.0):
        chosen.append(lambda log_probs: log_probs / temperature)
    if top_k is not None:
        chosen.append(partial(keep_top_k, count=top_k))
    for name, share, keep in (
        ("top_p", top_p, keep_top_p), ("min_p", min_p, keep_min_p),
        ("typical", typical, keep_typical),
    ):  # fmt: skip
        if share is None:
            continue
        if not 0.0 < share <= 1.0:
            raise ValueError(f"{name} is a probability above 0 and up to 1, got {share}")
        chosen.append(partial(keep, share))

    def apply(log_probs: Tensor) -> Tensor:
        for one in chosen:
            log_probs = one(log_probs)
        return log_probs

    return apply


def keep_top_k(log_probs: Tensor, count: int) -> Tensor:
    """The `count` likeliest (Fan et al. 2018, arXiv 1805.04833)."""
    if count >= log_probs.size(-1):
        return log_probs
    values, index = log_probs.topk(count)
    return torch.full_like(log_probs, -torch.inf).scatter(1, index, values)


def keep_top_p(share: float, log_probs: Tensor) -> Tensor:
    """The fewest whose mass reaches `share` (Holtzman et al. 2020, arXiv 1904.09751)."""
    return _fewest(share, log_probs, -log_probs) if share < 1.0 else log_probs


def keep_min_p(share: float, log_probs: Tensor) -> Tensor:
    """Those at least `share` times as likely as the likeliest (Nguyen et al. 2024, arXiv
    2407.01082).
    """
    mass = log_probs.softmax(-1)
    return log_probs.masked_fill(mass < mass.amax(-1, keepdim=True) * share, -torch.inf)


def keep_typical(share: float, log_probs: Tensor) -> Tensor:
    """The fewest with a mass of `share` whose surprise is nearest to the expected one.

    Locally typical sampling (Meister et al. 2023, arXiv 2202.00666).
    """
    if share >= 1.0:
        return log_probs
    surprise = -log_probs.log_softmax(-1)
    mass = log_probs.softmax(-1)
    expected = torch.where(mass > 0, mass * surprise, 0.0).sum(-1, keepdim=True)
    return _fewest(share, log_probs, (surprise - expected).abs())


def _fewest(share: float, log_probs: Tensor, cost: Tensor) -> Tensor:
    """The cheapest symbols, as few as reach a mass of `share`; at least one."""
    index = cost.argsort(dim=-1, stable=True)
    values = log_probs.gather(1, index)
    mass = values.softmax(-1)
    values = values.masked_fill(mass.cumsum(-1) - mass >= share, -torch.inf)
    return torch.full_like(log_probs, -torch.inf).scatter(1, index, values)


def draw(log_probs: Tensor, draws: Tensor) -> Tensor:
    """Symbols (N,) from uniform numbers (N,) in [0, 1): the place where the mass exceeds them."""
    mass = log_probs.softmax(-1).nan_to_num(0.0).cumsum(-1)  # nan: nothing is left
    total = mass[:, -1:]
    # Rounding may lift the product to the total: the last symbol that has any mass is meant.
    return torch.minimum((mass <= draws[:, None] * total).sum(-1), (mass < total).sum(-1))
