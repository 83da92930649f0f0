"""All options of a search in one place, and the search that they describe."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from models.decoding.beam import beam_search, diverse_beam_search
from models.decoding.constraints import (
    BlockedNgrams,
    Constraint,
    MinLength,
    RepetitionPenalty,
    Required,
)
from models.decoding.hypotheses import (
    Context,
    Hypotheses,
    Step,
    check_at_least,
    first_symbols,
    trim,
)
from models.decoding.penalties import LengthNorm, Penalty
from models.decoding.rollout import greedy, sample
from models.decoding.sampling import filters
from models.decoding.selection import WithRequired, likeliest
from models.decoding.stochastic import stochastic_beam_search
from models.state import State

MOST = 10_000  # hypotheses of a row, each with a state
METHODS = ("beam", "sample", "distinct")
# options that only some methods read
READ_BY = {
    **dict.fromkeys(("top_k", "top_p", "min_p", "typical"), ("sample",)),
    "temperature": ("sample", "distinct"),
    **dict.fromkeys(("coverage_penalty", "patience", "groups"), ("beam",)),
}


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How sequences are found. Wrong values, and those that the method would ignore, are a
    ValueError when it is made; the beam's size and length penalty alone are ignored in silence.
    """

    method: str = "beam"  # beam | sample | distinct: drawn without replacement
    beam_size: int = 5  # prefixes that are followed; 1: greedy
    n_best: int = 1  # so many answers, or samples
    length_penalty: float = 1.0  # 0 favours short ones, 1 compares means
    length_norm: str = "power"  # power: length ** penalty | gnmt: ((5 + length) / 6) ** penalty
    coverage_penalty: float = 0.0  # what neglected places of the input cost
    patience: float = 1.0  # search on until patience * beam_size have ended
    groups: int = 1  # of the beam, which avoid each other
    diversity: float = 0.5  # how much, in nats
    min_length: int = 0  # symbols, not counting the end
    block_ngrams: int = 0  # no so many symbols in a row come twice; 0: they may
    repetition_penalty: float = 1.0  # 1: none
    temperature: float = 1.0  # 0: the likeliest symbol always
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is one of {', '.join(METHODS)}, got {self.method!r}")
        for name in ("beam_size", "n_best", "groups"):
            check_at_least(name, getattr(self, name), 1)
            if getattr(self, name) > MOST:
                raise ValueError(f"{name} is {MOST:,} at most, got {getattr(self, name):,}")
        for name in ("coverage_penalty", "diversity", "min_length", "block_ngrams"):
            check_at_least(name, getattr(self, name), 0)
        if not self.patience > 0:
            raise ValueError(f"patience is above 0, got {self.patience}")
        if not self.repetition_penalty >= 1:
            raise ValueError(
                f"repetition_penalty is 1 (none) or more, got {self.repetition_penalty}"
            )
        LengthNorm(self.length_penalty, self.length_norm)
        filters(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p,
            typical=self.typical,
        )  # fmt: skip
        for name, default in unread(self.method).items():
            if getattr(self, name) != default:
                raise ValueError(
                    f"method={self.method} has no {name}, got {getattr(self, name)}: "
                    f"leave it at {default}, or choose another method"
                )
        if self.method == "distinct" and self.temperature == 0:
            raise ValueError(
                "temperature=0 leaves nothing to draw without replacement: use method=beam"
            )
        if self.method == "beam" and self.n_best > self.beam_size:
            raise ValueError(
                f"n_best={self.n_best} needs a beam of as many, got beam_size={self.beam_size}"
            )
        if self.method == "beam" and self.beam_size % self.groups:
            raise ValueError(f"groups={self.groups} must divide beam_size={self.beam_size}")

    def by(self, method: str, **changed: Any) -> "DecodingOptions":
        """The same for another method, without what that one does not read, and with changes."""
        return replace(self, **{"method": method, **unread(method), **changed})

    def constraints(self, eos_id: int | None, history: Tensor | None = None) -> list[Constraint]:
        """Those that these options name. `history` (B, H): a prompt, -1 where a row has none."""
        found: list[Constraint] = []
        if self.min_length and eos_id is not None:
            found.append(MinLength(self.min_length, eos_id))
        if self.block_ngrams:
            found.append(BlockedNgrams(self.block_ngrams, history))
        if self.repetition_penalty != 1.0:
            found.append(RepetitionPenalty(self.repetition_penalty, history))
        return found


def unread(method: str) -> dict[str, Any]:
    """The options that a method does not read, with their defaults."""
    return {
        field.name: field.default
        for field in fields(DecodingOptions)
        if field.name in READ_BY and method not in READ_BY[field.name]
    }


def search(
    step: Step,
    state: State,
    context: Context = None,
    *,
    options: DecodingOptions,
    bos_id: int | Tensor,
    eos_id: int | None,
    max_length: int | Tensor,
    seeds: Sequence[int] | None = None,
    constraints: Sequence[Constraint] = (),
    required: Required | None = None,
    penalty: Penalty | None = None,
    history: Tensor | None = None,
    forbidden: tuple[int, ...] = (),
    pad_id: int = 0,
) -> Hypotheses:
    """Hypotheses (B, n_best, L) as `options` say; `constraints` come after the options' own.

    `seeds`, one a row, are for the methods that draw. `history` (B, H), -1 at the left where a row
    has less, is what the options' constraints take as written before: a prompt. A coverage penalty
    is given as `penalty`, for a step that keeps the attention: see `penalties.covering`.
    """
    if options.method != "beam" and required is not None:
        raise ValueError(f"required words need method=beam, got method={options.method}")
    if options.coverage_penalty and penalty is None:
        raise ValueError(
            f"coverage_penalty={options.coverage_penalty} needs a model that attends to its input: "
            "set it to 0"
        )
    constraints = (*options.constraints(eos_id, history), *constraints)
    if required is not None:
        constraints = (*constraints, required)
    if options.method == "sample":
        return sample(
            step, state, context,
            prompt=first_symbols(state, bos_id)[:, None], max_new_tokens=max_length,
            temperature=options.temperature, top_k=options.top_k, top_p=options.top_p,
            min_p=options.min_p, typical=options.typical, count=options.n_best, seeds=seeds,
            eos_id=eos_id, constraints=constraints, forbidden=forbidden, pad_id=pad_id,
        )  # fmt: skip
    if options.method == "distinct":
        if seeds is None:
            raise ValueError("method=distinct draws: it needs seeds, one a row, got None")
        drawn = stochastic_beam_search(
            step, state, context, bos_id=bos_id, eos_id=eos_id, beam_size=options.n_best,
            max_length=max_length, seeds=seeds, temperature=options.temperature,
            constraints=constraints, forbidden=forbidden, pad_id=pad_id,
        )  # fmt: skip
        return trim(Hypotheses(*drawn[:3]), options.n_best)
    plain = penalty is None and required is None and options.patience <= 1
    if options.beam_size == 1 and plain:
        return greedy(
            step, state, context, bos_id=bos_id, eos_id=eos_id, max_length=max_length,
            length_penalty=options.length_penalty, length_norm=options.length_norm,
            constraints=constraints, forbidden=forbidden, pad_id=pad_id,
        )  # fmt: skip
    if options.groups > 1:
        if required is not None:
            raise ValueError(
                f"required words and groups={options.groups} exclude each other: set groups=1"
            )
        return diverse_beam_search(
            step, state, context, bos_id=bos_id, eos_id=eos_id, beam_size=options.beam_size,
            groups=options.groups, diversity=options.diversity, max_length=max_length,
            n_best=options.n_best, constraints=constraints, forbidden=forbidden,
            length_penalty=options.length_penalty, length_norm=options.length_norm,
            patience=options.patience, penalty=penalty, pad_id=pad_id,
        )  # fmt: skip
    return beam_search(
        step, state, context, bos_id=bos_id, eos_id=eos_id, beam_size=options.beam_size,
        max_length=max_length, length_penalty=options.length_penalty,
        length_norm=options.length_norm, n_best=options.n_best, patience=options.patience,
        constraints=constraints, penalty=penalty,
        selection=likeliest if required is None else WithRequired(required),
        forbidden=forbidden, pad_id=pad_id,
    )  # fmt: skip
