"""English dates in many forms, by Babel, into the one long form that Chinese has.

"Thu, 3 Mar 2011", "march 3, 2011, thursday" and "2011-03-03 (Thu)" all become 2011年3月3日星期四.
The source always determines the target: the year has four digits, a month that is a number stands
in the ISO order only, and the weekday is always there, so that nothing has to be calculated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import Any

import babel
import numpy as np
from babel.dates import format_date, format_skeleton

from data.arrays import SPLITS
from data.synthetic.generated import Generated, Rows
from data.text_pairs import TextPairs

FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2099, 12, 31)
LOCALES = ("en_US", "en_GB", "en_IN", "en_ZA")
SKELETONS = ("yMMMEd", "yMMMMEEEEd")
# in the notation of Unicode's CLDR: EEEE Thursday, EEE Thu, MMMM March, MMM Mar, MM 03, d 3
PATTERNS = (
    "EEEE d MMMM y", "EEEE, MMMM d y", "EEE d MMM y", "EEE, dd MMM y", "EEE MMM d y",
    "d MMMM y, EEEE", "MMMM d, y, EEEE", "d MMM y (EEE)", "MMM d, y (EEEE)", "dd-MMM-y EEE",
    "y MMMM d, EEEE", "y MMM dd EEE", "EEEE y-MM-dd", "y-MM-dd (EEE)", "EEE y/MM/dd",
)  # fmt: skip
CASES: tuple[Callable[[str], str], ...] = (str, str.lower, str.upper)


def to_chinese(day: date) -> str:
    """The long form with the weekday: 2011年3月3日星期四."""
    return format_date(day, "full", locale="zh")


@cache
def forms() -> tuple[Callable[[date], str], ...]:
    """Ways to write a day in English: those of the countries, and patterns of our own."""

    def as_pattern(pattern: str) -> Callable[[date], str]:
        return lambda day: format_date(day, pattern, locale="en")

    def as_full(locale: str) -> Callable[[date], str]:
        return lambda day: format_date(day, "full", locale=locale)

    def as_medium(locale: str) -> Callable[[date], str]:
        # it has no weekday of its own; "short" is left out: its order and century are guesses
        return lambda day: " ".join(
            format_date(day, style, locale=locale) for style in ("EEEE,", "medium")
        )

    def as_skeleton(locale: str, skeleton: str) -> Callable[[date], str]:
        return lambda day: format_skeleton(skeleton, day, locale=locale)

    return (
        *map(as_pattern, PATTERNS),
        *map(as_full, LOCALES),
        *map(as_medium, LOCALES),
        *(as_skeleton(locale, skeleton) for locale in LOCALES for skeleton in SKELETONS),
    )


def to_english(day: date, random: np.random.Generator) -> str:
    """A day in a form and a case (as it is, lower, upper) drawn at random."""
    form = forms()[random.integers(len(forms()))]
    return CASES[random.integers(len(CASES))](form(day))


@dataclass(kw_only=True, eq=False)
class Dates(Generated, TextPairs):
    """Pairs of texts; no day is there twice, so the splits share none.

    The columns are `source` (English) and `target` (Chinese): `data.source_column=target
    data.target_column=source` is the other direction.
    """

    train_size: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if {*self.columns()} != {"source", "target"}:
            raise ValueError(
                "data=dates has the columns source and target, got data.source_column="
                f"{self.source_column}, data.target_column={self.target_column}"
            )

    def source_key(self) -> Any:
        return ["generated", babel.__version__]  # its forms change with Unicode's

    def generate(self) -> dict[str, Rows]:
        days, count = (LAST_DAY - FIRST_DAY).days + 1, sum(self.sizes.values())
        if count > days:
            raise ValueError(
                f"data.train_size, validation_size and test_size add up to {count} days, but from "
                f"{FIRST_DAY:%Y} to {LAST_DAY:%Y} there are {days}"
            )
        random = np.random.default_rng(self.split_seed)
        rest = iter(random.permutation(days)[:count].tolist())
        rows: dict[str, Rows] = {}
        for split in SPLITS:
            chosen = [FIRST_DAY + timedelta(days=next(rest)) for _ in range(self.sizes[split])]
            rows[split] = [
                {"source": to_english(day, random), "target": to_chinese(day)} for day in chosen
            ]
        return rows
