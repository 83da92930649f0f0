"""The recipes of recipes.py with an answer after every word: which sauce went in first?

The tag of a word depends on that word and those before it alone, as of somebody who reads along:
"nothing yet" until sauce A or B is added, and from that word on which of the two it was. Each tag
covers a third of the words on average, and the word itself says next to nothing about it: both
orders of every recipe are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from data.arrays import SPLITS
from data.synthetic.generated import Generated, Rows
from data.synthetic.recipes import FIRST, SECOND, split_pairs
from data.tagged_text import TaggedText

NOTHING, A_FIRST, B_FIRST = "nothing_yet", "A_first", "B_first"


def words_and_tags(steps: Sequence[str]) -> tuple[list[str], list[str]]:
    """Steps → their words, with a comma between two steps, and the state after each word."""
    words: list[str] = []
    tags: list[str] = []
    state = NOTHING
    for number, step in enumerate(steps):
        own = step.split() if number == 0 else [",", *step.split()]
        words += own
        tags += [state] * len(own)
        if state == NOTHING and step in (FIRST, SECOND):
            state = A_FIRST if step == FIRST else B_FIRST
            tags[-1] = state  # it is known with the step's last word: "add sauce A"
    return words, tags


@dataclass(kw_only=True, eq=False)
class RecipesOnline(Generated, TaggedText):
    """Words of a recipe, each with the tag nothing_yet, A_first or B_first."""

    train_size: int = 2000
    validation_size: int = 400
    test_size: int = 400
    min_steps: int = 10
    max_steps: int = 30

    def generate(self) -> dict[str, Rows]:
        rows: dict[str, Rows] = {split: [] for split in SPLITS}
        for split, steps, _ in split_pairs(
            self.split_seed, self.sizes, min_steps=self.min_steps, max_steps=self.max_steps
        ):
            words, tags = words_and_tags(steps)
            rows[split].append({self.tokens_column: words, self.tags_column: tags})
        return rows
