"""Small pictures of two shapes and what they show: "a red circle above a blue square".

The picture determines the sentence: it begins with the upper or the left one of the two, and
either the one is clearly above the other or clearly beside it. Whole combinations (shape, colour,
relation, shape, colour) are held out for validation and test: what is scored is a sentence that
training never showed, made of words that it did.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from data.arrays import SPLITS
from data.image_captions import ImageCaptions
from data.synthetic.generated import Generated, Rows

PICTURE = 64  # pixels, height and width
JITTER = 6  # how far a pair may lie from the middle of the picture, either way
COLOURS = {
    "red": (215, 35, 35),
    "green": (35, 160, 55),
    "blue": (40, 70, 220),
    "yellow": (235, 215, 40),
    "purple": (150, 45, 190),
    "orange": (245, 135, 25),
}
Box = tuple[int, int, int, int]  # left, upper, right, lower; all of them inside


def _circle(draw: ImageDraw.ImageDraw, box: Box, fill: tuple[int, ...]) -> None:
    draw.ellipse(box, fill)


def _square(draw: ImageDraw.ImageDraw, box: Box, fill: tuple[int, ...]) -> None:
    draw.rectangle(box, fill)


def _triangle(draw: ImageDraw.ImageDraw, box: Box, fill: tuple[int, ...]) -> None:
    left, upper, right, lower = box
    draw.polygon([((left + right) // 2, upper), (right, lower), (left, lower)], fill)


def _cross(draw: ImageDraw.ImageDraw, box: Box, fill: tuple[int, ...]) -> None:
    left, upper, right, lower = box
    third = (right - left + 1) // 3
    draw.rectangle((left + third, upper, right - third, lower), fill)
    draw.rectangle((left, upper + third, right, lower - third), fill)


SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, Box, tuple[int, ...]], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}
RELATIONS = ("above", "to the left of")


class Scene(NamedTuple):
    """What a picture shows; the first is above the second, or to its left."""

    first_colour: str
    first_shape: str
    relation: str
    second_colour: str
    second_shape: str

    @property
    def caption(self) -> str:
        first, second = f"{self.first_colour} {self.first_shape}", self[3:]
        return f"{_article(first)} {self.relation} {_article(' '.join(second))}"


def _article(thing: str) -> str:
    return f"an {thing}" if thing.startswith("o") else f"a {thing}"


def scenes() -> list[Scene]:
    """Every combination: 4 shapes of 6 colours, twice, in 2 relations."""
    things = list(product(COLOURS, SHAPES))
    return [Scene(*a, relation, *b) for a, relation, b in product(things, RELATIONS, things)]


def draw_scene(scene: Scene, random: np.random.Generator) -> Image.Image:
    """Two shapes of random size and place, slightly off their colours, on noisy grey."""
    grey = int(random.integers(20, 236)) + random.integers(-8, 9, (PICTURE, PICTURE, 1))
    picture = Image.fromarray(np.repeat(grey, 3, axis=2).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    boxes = place(random, upright=scene.relation == "above")
    things = ((scene.first_colour, scene.first_shape), (scene.second_colour, scene.second_shape))
    for (colour, shape), box in zip(things, boxes, strict=True):
        off = random.integers(-15, 16, 3) + COLOURS[colour]
        SHAPES[shape](draw, box, tuple(off.clip(0, 255).tolist()))
    return picture


def place(random: np.random.Generator, *, upright: bool) -> tuple[Box, Box]:
    """Two boxes with a gap between them, side by side about the middle of the picture.

    They are far less apart across the relation than along it. Near the middle, the place of one
    of them nearly tells the relation, which a small network then learns from fewer pictures.
    """
    first, second = random.integers(15, 26, 2).tolist()  # sizes
    gap = int(random.integers(8, PICTURE - 2 - first - second + 1))
    start = _near((PICTURE - first - gap - second) // 2, JITTER, random)
    middle = _near(PICTURE // 2, JITTER, random)
    other = _near(middle, ((first + second) // 2 + gap) // 4, random)
    start = min(max(start, 1), PICTURE - 1 - first - gap - second)
    boxes = [
        (begin, centre - size // 2, begin + size - 1, centre - size // 2 + size - 1)
        for begin, centre, size in [(start, middle, first), (start + first + gap, other, second)]
    ]
    if upright:
        boxes = [(upper, left, lower, right) for left, upper, right, lower in boxes]
    return boxes[0], boxes[1]


def _near(value: int, most: int, random: np.random.Generator) -> int:
    return value + int(random.integers(-most, most + 1))


@dataclass(kw_only=True, eq=False)
class Shapes(Generated, ImageCaptions):
    """Pictures with one sentence each; the splits share no combination."""

    train_size: int = 8000
    size: tuple[int, int] = (PICTURE, PICTURE)

    def generate(self) -> dict[str, Rows]:
        random = np.random.default_rng(self.split_seed)
        every = scenes()
        order = random.permutation(len(every)).tolist()
        tenth = len(every) // 10
        parts = {"validation": order[:tenth], "test": order[tenth : 2 * tenth]}
        parts["train"] = order[2 * tenth :]
        rows: dict[str, Rows] = {}
        for split in SPLITS:
            chosen = random.choice(parts[split], self.sizes[split]).tolist()
            rows[split] = [
                {
                    self.image_column: {"bytes": _png(draw_scene(every[i], random)), "path": None},
                    self.captions_column: [every[i].caption],
                }
                for i in chosen
            ]
        return rows


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG", compress_level=0)  # these bytes live for seconds
    return file.getvalue()
