"""What is copied is found, whole and in parts, whatever the text it is looked for in."""

import random

import pytest

from tasks.copied import Copied


def runs(pieces: list[str], *text: str) -> list[list[int]]:
    copied = Copied(pieces)
    for part in text:
        copied.read(part)
    return copied.runs()


def by_looking(piece: str, text: str) -> list[int]:
    ends = range(1, len(piece) + 1)
    return [max(n for n in range(end + 1) if piece[end - n : end] in text) for end in ends]


def test_a_run_is_counted_at_each_of_its_words() -> None:
    assert runs(["xabcya"], "zabcz") == [[0, 1, 2, 3, 0, 1]]
    assert runs(["abcab"], "ab", "ca") == [[1, 2, 3, 4, 2]]  # parts of one text


def test_pieces_do_not_run_into_each_other() -> None:
    assert runs(["ab", "cd", "abc"], "abcd") == [[1, 2], [1, 2], [1, 2, 3]]


def test_nothing_is_copied_from_or_into_nothing() -> None:
    assert runs([], "abc") == []
    assert runs(["", "ab"], "") == [[], [0, 0]]
    assert runs(["", "ab"], "xyz") == [[], [0, 0]]


@pytest.mark.parametrize("letters", ["ab", "abcd"])
def test_runs_are_those_that_are_found_by_looking(letters: str) -> None:
    draw = random.Random(len(letters))
    for _ in range(300):
        pieces = ["".join(draw.choices(letters, k=draw.randint(0, 12))) for _ in range(4)]
        text = "".join(draw.choices(letters, k=draw.randint(0, 25)))
        middle = draw.randint(0, len(text))
        expected = [by_looking(piece, text) for piece in pieces]
        assert runs(pieces, text[:middle], text[middle:]) == expected
