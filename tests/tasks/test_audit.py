"""The figures of what a language model wrote, each worked out by hand."""

import math
import random
from itertools import chain
from typing import Any

import pytest
from sacrebleu.metrics import BLEU

from tasks.audit import (
    audit_text,
    copying,
    diversity,
    longest_copied,
    self_bleu,
    whole_lines,
    words,
)
from tasks.audit_code import audit_code, definitions, line_parses, parses
from tasks.audit_music import Habits, Note, audit_music, in_scale, notes
from tasks.copied import Copied


def audited(written: list[str], *training: str) -> dict[str, Any]:
    return audit_text({"written": written, "real": []}, training)["written"]


def test_words_are_those_of_any_tokenizer() -> None:
    assert words("self.x_1 = f('a b')") == "self . x_1 = f ( ' a b ' )".split()
    assert words("第1章，天a\n") == ["第", "1", "章", "，", "天", "a"]
    assert words("x == ----- #...") == ["x", "==", "-----", "#", "..."]  # a rule is one word
    assert words(" \n") == []


def test_copied_ngrams_are_a_share_of_those_that_were_written() -> None:
    # 5 words, 4 pairs, 3 triples; training has a b c, d and e, but neither c d nor d e
    found = audited(["a b c d e"], "a b c", "e d")
    assert found["words"] == 5
    assert found["copied_1"] == 1
    assert found["copied_2"] == 2 / 4  # a b, b c
    assert found["copied_3"] == 1 / 3  # a b c
    assert found["copied_4"] == 0
    assert found["copied_6"] is None and found["copied_8"] is None  # it has none of six words
    assert found["longest_copied"] == 3


def test_an_ngram_counts_as_often_as_it_is_written_but_is_new_once() -> None:
    pieces = ["v w x y", "v w x y", "a b c d", "e f g h"]
    found = audited(pieces, "v w x y z")
    assert found["copied_4"] == 2 / 4
    assert found["novelty_4"] == 2 / 3


def test_the_longest_copied_run_can_be_read() -> None:
    found = audit_text({"written": ["x the old king said, y"], "real": ["z"]},
                       ["and the old king", " said, nothing"])  # fmt: skip
    assert found["longest_copied"] == {"written": "the old king said ,", "real": ""}


def test_whole_lines_are_those_that_no_end_of_a_piece_cuts() -> None:
    text = "cut at the start\n  one two three four \nelse:\n\n  a b c d\ncut at the very end"
    assert whole_lines(text) == ["one two three four", "a b c d"]
    assert whole_lines("one line of some words") == [] == whole_lines("")


def test_lines_are_copied_whole_or_not_at_all() -> None:
    pieces = ["\na b c d\na b c d\na b c e\ntoo short\n", "\n  a b c f\n"]
    found = audited(pieces, "a b c d\na b c e g\n", "\ta b c f\n")
    assert found["lines"] == 4
    assert found["lines_copied"] == 3 / 4
    assert found["novel_lines"] == 1 / 3  # a b c e


def test_distinct_counts_over_all_pieces() -> None:
    found = diversity(["abab", "abc"])
    assert found["distinct_1"] == 3 / 7
    assert found["distinct_2"] == 3 / 5  # ab, ba, bc of ab ba ab ab bc
    assert found["distinct_3"] == 3 / 3  # aba, bab, abc


def test_self_bleu_is_100_for_copies_and_worked_out_by_hand_between() -> None:
    assert self_bleu(["a b c d e".split()] * 3) == pytest.approx(100)
    assert self_bleu([["a", "b"], ["c", "d"]]) == 0
    # of two words only n-grams of two orders count: 1 of 2 right, and 1/2 of 1 for none
    assert self_bleu([["a", "b"], ["a", "c"]]) == pytest.approx(100 * math.sqrt(0.5 * 0.5))


def test_self_bleu_is_sacrebleus_own_with_all_others_as_references() -> None:
    draw = random.Random(0)
    pieces = [draw.choices("abcdef", k=draw.randint(1, 15)) for _ in range(12)]
    pieces.append(pieces[3])
    bleu = BLEU(effective_order=True, tokenize="none")
    texts = [" ".join(piece) for piece in pieces]
    scores = [
        bleu.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score
        for i, text in enumerate(texts)
    ]
    assert self_bleu(pieces) == pytest.approx(sum(scores) / len(scores))


def test_what_has_nothing_to_count_has_no_figure() -> None:
    for written in ([], [""], ["", " \n "]):
        found = audited(written, "a b c d")
        assert found["copied_1"] is found["novelty_4"] is found["lines_copied"] is None
        assert found["distinct_1"] is found["self_bleu"] is None
        assert found["longest_copied"] == found["words"] == found["lines"] == 0
    assert self_bleu([["a"]]) is None
    assert audit_code([""]) == {"definitions": 0, "definitions_parse": None, "lines_parse": None}
    assert longest_copied([], []) == []


def test_text_shorter_than_an_ngram_has_none() -> None:
    copied = Copied(["ab"])
    copied.read("abc")
    found = copying(["ab"], copied.runs())
    assert (found["copied_2"], found["copied_3"], found["novelty_4"]) == (1, None, None)


def test_each_side_has_its_own_figures() -> None:
    sides = {"written": ["a b x"], "real": ["a b c", "c d"]}
    found = audit_text(sides, ["a b", "d"], more=lambda texts: {"pieces": len(texts)})
    assert found["written"]["copied_1"] == 2 / 3 and found["real"]["copied_1"] == 3 / 5
    assert found["written"]["pieces"] == 1 and found["real"]["pieces"] == 2


# Programs

PROGRAM = """\
t off
class A(B):
    def f(self,
          x):
        if x:
            return 1

        return 2

    def g(self)
        pass
x = [
    1,
]
def h():
    pass
def cut():
    retu"""


def test_definitions_begin_and_end_within_the_text() -> None:
    found = definitions(PROGRAM)
    assert [source.split("\n")[0] for source in found] == [
        "class A(B):", "def f(self,", "def g(self)", "def h():",
    ]  # fmt: skip
    assert [parses(source) for source in found] == [False, True, False, True]
    assert found[2].endswith("    pass")  # indented as if it stood alone


def test_a_bracket_that_closes_goes_on_with_its_definition() -> None:
    (source,) = definitions("\ndef f(\n    x,\n):\n    return x\ny = 1\n")
    assert source == "def f(\n    x,\n):\n    return x" and parses(source)


def test_the_share_that_parses_is_of_whole_definitions_and_whole_lines() -> None:
    found = audit_code([PROGRAM])
    assert found["definitions"] == 4 and found["definitions_parse"] == 2 / 4
    # of 14 lines that hold something: not `def f(self,`, `x):`, `def g(self)`, `x = [`, `]`
    assert found["lines_parse"] == 9 / 14


@pytest.mark.parametrize(
    "line",
    ["x = 1", "if x:", "elif x:", "else:", "except E as e:", "finally:", "case [1, *_]:",
     "@cache", "class A:", "return x", "# a comment", "async with a as b:", "case = 1"],
)  # fmt: skip
def test_a_statement_and_the_head_of_one_parse_alone(line: str) -> None:
    assert line_parses(f"    {line}")


@pytest.mark.parametrize("line", ["x = (", "x)", "if x", "@", "else", "a word or two", "x\0"])
def test_a_part_of_a_statement_does_not(line: str) -> None:
    assert not line_parses(line)


def test_nothing_is_said_of_programs_that_python_reads_with_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    assert parses(r"x = '\d'") and not parses("(" * 10_000)
    assert not recwarn.list


# Music


def test_a_note_is_a_key_that_sounds_without_a_break() -> None:
    frames = [[60, 64], [60], [60, 64], []]
    assert sorted(notes(frames)) == [Note(60, 3), Note(64, 1), Note(64, 1)]
    assert list(notes([])) == list(notes([[], []])) == []
    assert list(notes([[60]])) == [Note(60, 1)]


def test_habits_are_those_of_training() -> None:
    training = [[[50]] * 4 + [[]], *([[60]] for _ in range(99))]
    habits = Habits.of(training)
    assert habits == (50, 60, 1)  # 99 of 100 notes last one frame
    assert Habits.of(training[:51]).longest == 4
    found = habits.kept([[[49], [49]], [[61], []], [[55, 60]]])
    assert found["notes"] == 4
    assert found["out_of_range"] == 2 / 4
    assert found["held_too_long"] == 1 / 4
    assert Habits.of(training).kept([]) == {
        "notes": 0, "out_of_range": None, "held_too_long": None, "in_scale": None,
    }  # fmt: skip


def of_keys(*keys: int) -> list[Note]:
    return [Note(key, 1) for key in keys]


def test_notes_are_held_against_the_scale_that_fits_them_best() -> None:
    major = of_keys(62, 64, 66, 67, 69, 71, 73)  # D major
    assert in_scale(major) == 7
    assert in_scale([*major, *of_keys(65)]) == 7  # F natural is not in it
    assert in_scale(of_keys(57, 59, 60, 62, 64, 65, 68)) == 7  # A harmonic minor
    assert in_scale(of_keys(57, 59, 60, 62, 64, 65, 67)) == 7  # A natural minor, as C major
    assert in_scale(of_keys(*range(60, 72))) == 7  # all twelve
    assert in_scale([]) == 0


def test_chords_are_copied_on_the_same_keys_only() -> None:
    training = [[[60, 64], [62], [60]], [[65]]]
    written = [[[60, 64], [62], [60], [65]], [[61, 65], [63]]]
    found = audit_music({"written": written, "real": training}, training)
    assert found["written"]["copied_1"] == 4 / 6
    assert found["written"]["copied_3"] == 1 / 2  # the pieces of training do not join
    assert found["longest_copied"]["written"] == [[60, 64], [62], [60]]
    assert found["real"]["copied_1"] == found["real"]["copied_3"] == 1
    assert found["training"] == {"lowest": 60, "highest": 65, "longest": 1}


def test_music_without_a_note_has_none_to_audit() -> None:
    with pytest.raises(ValueError, match="training has no note"):
        audit_music({"written": [], "real": []}, [[[], []]])
    found = audit_music({"written": [[[], []]], "real": []}, [[[60]]])
    assert found["written"]["in_scale"] is None and found["written"]["copied_1"] == 0


def test_random_keys_keep_no_scale_and_real_ones_do() -> None:
    draw = random.Random(0)
    anything = [of_keys(*draw.choices(range(40, 90), k=60)) for _ in range(50)]
    scale = [key for key in range(40, 90) if key % 12 in (0, 2, 4, 5, 7, 9, 11)]
    kept = [of_keys(*draw.choices(scale, k=60)) for _ in range(50)]
    shares = [sum(map(in_scale, some)) / len(list(chain(*some))) for some in (anything, kept)]
    assert 7 / 12 < shares[0] < 0.75 and shares[1] == 1
