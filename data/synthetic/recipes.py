"""Lists of cooking steps: was sauce A added before sauce B?

The story that tutorials on recurrent networks begin with. Every recipe is there twice, once in
either order and otherwise word for word the same, and both are in one split. So the two labels
have exactly the same bags of words and the same last steps, a network without memory gives both
of a pair the same answer, and its accuracy is one half whatever it learns and however it pools.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from data.arrays import SPLITS
from data.synthetic.generated import Generated, Rows
from data.text_labels import TextLabels

RIGHT, WRONG = "right order", "wrong order"
FIRST, SECOND = "add sauce A", "add sauce B"
INGREDIENTS = (
    "onions", "garlic", "ginger", "carrots", "celery", "leeks", "potatoes", "tomatoes", "peppers",
    "mushrooms", "beans", "peas", "lentils", "spinach", "cabbage", "noodles", "chicken", "beef",
    "prawns", "tofu",
)  # fmt: skip
WITH_INGREDIENT = ("wash", "peel", "chop", "slice", "fry", "boil", "roast", "drain", "add")
ALONE = (
    "heat oil", "boil water", "add salt", "add pepper", "add sugar", "add stock", "stir well",
    "taste", "cover", "simmer", "lower heat", "wait 5 minutes", "wait 10 minutes",
    # the words of the question, in steps that do not answer it
    "taste sauce A", "taste sauce B", "shake sauce A", "shake sauce B", "add sauce C",
    "add sauce D", "add sauce E", "taste sauce C",
)  # fmt: skip
LAST = ("serve", "serve hot", "serve cold", "serve with rice", "serve with bread", "eat")


@cache
def distractors() -> tuple[str, ...]:
    """Steps that the answer does not depend on."""
    return (*ALONE, *(f"{verb} {what}" for verb in WITH_INGREDIENT for what in INGREDIENTS))


def generate_pairs(
    seed: int, count: int, *, min_steps: int = 10, max_steps: int = 30
) -> list[tuple[list[str], list[str]]]:
    """`count` recipes of different bags of steps, each in the right order and in the wrong one."""
    if min_steps < 3 or max_steps < min_steps:
        raise ValueError(
            "a recipe has two sauces and a last step, so data.min_steps must be at least 3 and "
            f"data.max_steps no less: got {min_steps} and {max_steps}"
        )
    random = np.random.default_rng(seed)
    seen: set[tuple[str, ...]] = set()
    pairs: list[tuple[list[str], list[str]]] = []
    for _ in range(20 * count):
        if len(pairs) == count:
            return pairs
        right = _filling(random, int(random.integers(min_steps, max_steps + 1)))
        # any two places but the last one, which says the same in both
        i, j = sorted(random.choice(len(right) - 1, size=2, replace=False).tolist())
        wrong = list(right)
        right[i], right[j] = FIRST, SECOND
        wrong[i], wrong[j] = SECOND, FIRST
        bag = tuple(sorted(right))
        if bag not in seen:
            seen.add(bag)
            pairs.append((right, wrong))
    raise ValueError(
        f"there are not {count} different recipes of {min_steps} to {max_steps} steps: raise "
        "data.max_steps or lower data.train_size"
    )


def _filling(random: np.random.Generator, length: int) -> list[str]:
    # a common step is as frequent as all that is done to one ingredient
    alone = random.random(length - 1) < 0.5
    common = random.integers(len(ALONE), size=length - 1)
    other = random.integers(len(ALONE), len(distractors()), size=length - 1)
    places = np.where(alone, common, other).tolist()
    return [*(distractors()[i] for i in places), LAST[random.integers(len(LAST))]]


def split_pairs(
    seed: int, sizes: dict[str, int], *, min_steps: int, max_steps: int
) -> Iterator[tuple[str, list[str], bool]]:
    """(split, steps, whether the order is right), both members of a pair in one split."""
    for split, size in sizes.items():
        if size % 2:
            raise ValueError(
                f"data.{split}_size must be even, got {size}: every recipe is there in both orders"
            )
    count = sum(sizes.values()) // 2
    rest = iter(generate_pairs(seed, count, min_steps=min_steps, max_steps=max_steps))
    for split, size in sizes.items():
        for _ in range(size // 2):
            for steps, is_right in zip(next(rest), (True, False), strict=True):
                yield split, steps, is_right


@dataclass(kw_only=True, eq=False)
class Recipes(Generated, TextLabels):
    """Texts such as "heat oil, add sauce A, chop onions, add sauce B, serve" with their label."""

    train_size: int = 6000
    min_steps: int = 10
    max_steps: int = 30

    def generate(self) -> dict[str, Rows]:
        rows: dict[str, Rows] = {split: [] for split in SPLITS}
        for split, steps, is_right in split_pairs(
            self.split_seed, self.sizes, min_steps=self.min_steps, max_steps=self.max_steps
        ):
            label = RIGHT if is_right else WRONG
            rows[split].append({self.text_column: ", ".join(steps), self.label_column: label})
        return rows
