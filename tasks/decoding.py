"""How texts are found: the options of `models.decoding`, and those that speak of words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sacrebleu

from data.declared import check_values
from data.text_codec import TextCodec
from models.decoding import DecodingOptions
from models.decoding.options import READ_BY

MARK = "▁"  # what a subword that begins a word begins with
METRICS = ("chrf", "bleu")
# what is asked for in vain, where another method is taken
ONLY = {**READ_BY, **dict.fromkeys(("beam_size", "required"), ("beam",))}
NAMES = tuple(field.name for field in fields(DecodingOptions))


def configured(given: Mapping[str, Any] | None, **own: Any) -> DecodingOptions:
    """Options from `task.decoding`; `own` come from keys of the task. Errors name the key."""
    if not isinstance(given or {}, Mapping):
        raise ValueError(f"task.decoding is a mapping such as {{min_length: 3}}, got {given!r}")
    given = dict(given or {})
    for name in given:
        if name not in NAMES:
            raise ValueError(f"task.decoding.{name} is unknown: choose {', '.join(NAMES)}")
        if name in own:
            raise ValueError(f"task.decoding.{name} is given as task.{name}")
    check_values(given, DecodingOptions, "task.decoding.")
    try:
        return DecodingOptions(**own, **given)
    except ValueError as error:
        raise ValueError(f"task.decoding.{error}") from error


def check_drawing(**options: Any) -> None:
    """ValueError names the key of a task that no samples can be drawn with."""
    try:
        DecodingOptions(method="sample", **options)
    except ValueError as error:
        raise ValueError(f"task.{error}") from error


def greedier(options: DecodingOptions, beam_size: int) -> DecodingOptions:
    """The same with another beam, for validation: one group, and one answer."""
    return options.by("beam", beam_size=beam_size, groups=1, n_best=1)


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What is asked of a text's words. Wrong values are a ValueError when it is made."""

    banned: Sequence[str] = ()
    required: Sequence[str] = ()
    prefix: str | None = None  # how every text begins
    replace_unknown: bool = False  # by the word of the input that was attended most
    mbr: int = 0  # choose among so many samples; 0: take the likeliest
    mbr_metric: str = "chrf"

    def __post_init__(self) -> None:
        for name in ("banned", "required"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is a list of words, got {getattr(self, name)!r}")
        if self.mbr < 0 or self.mbr == 1:
            raise ValueError(f"mbr is 0 (off) or 2 samples or more, got {self.mbr}")
        if self.mbr_metric not in METRICS:
            raise ValueError(f"mbr_metric is one of {', '.join(METRICS)}, got {self.mbr_metric!r}")
        both = set(self.banned) & set(self.required)
        if both:
            raise ValueError(f"{sorted(both)[0]!r} is both banned and required: drop one")


def known(codec: TextCodec, text: str, option: str, unk_id: int | None) -> list[int]:
    """A text's symbols. ValueError where it has none or the vocabulary lacks one."""
    ids = codec.encode(text)
    if not ids or unk_id in ids:
        raise ValueError(f"{option}: {text!r} is not in the model's vocabulary")
    return ids


def spellings(codec: TextCodec, word: str, unk_id: int | None) -> list[list[int]]:
    """A word's symbols at the start of a word and, where subwords mark it, inside of one."""
    ids = known(codec, word, "banned", unk_id)
    number = {symbol: place for place, symbol in enumerate(codec.symbols)}
    first = codec.symbols[ids[0]]
    found = [ids]
    if first == MARK and len(ids) > 1:
        found.append(ids[1:])
    elif first.startswith(MARK) and first[1:] in number:
        found.append([number[first[1:]], *ids[1:]])
    elif not first.startswith(MARK) and MARK + first in number:
        found.append([number[MARK + first], *ids[1:]])
    return found


def consensus(texts: Sequence[str], metric: str) -> list[float]:
    """Each sample's mean sentence score against the others: minimum Bayes risk with samples.

    Eikema and Aziz 2020, arXiv 2005.10283.
    """
    chinese = any("\u4e00" <= letter <= "\u9fff" for text in texts for letter in text)
    scorer: Any = sacrebleu.CHRF()
    if metric == "bleu":
        scorer = sacrebleu.BLEU(effective_order=True, tokenize="zh" if chinese else "13a")
    kept: dict[tuple[str, str], float] = {}

    def against(one: str, other: str) -> float:
        if (one, other) not in kept:
            kept[one, other] = scorer.sentence_score(one, [other]).score
        return kept[one, other]

    others = max(1, len(texts) - 1)
    return [
        sum(against(one, other) for j, other in enumerate(texts) if j != i) / others
        for i, one in enumerate(texts)
    ]


def source_words(codec: TextCodec, text: str) -> list[str]:
    """For each symbol of an input, the whole word that it is part of, as it was written."""
    tokens, pieces = codec.tokens(codec.encode(text)), codec.pieces(text)
    if not any(token.startswith(MARK) for token in tokens):
        return pieces
    groups: list[list[str]] = []
    for token, piece in zip(tokens, pieces, strict=True):
        if token.startswith(MARK) or not groups:
            groups.append([])
        groups[-1].append(piece)
    return ["".join(group) for group in groups for _ in group]
