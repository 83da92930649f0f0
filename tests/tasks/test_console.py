"""What a run says on the terminal is what it read and wrote, sign for sign."""

from collections.abc import Callable

import pytest
from rich.console import Console

from tasks import console
from tasks.base import Table

Said = Callable[[], str]  # what was printed since the last call

# closes a tag that was never opened, opens one, is an emoji's code, ends in a backslash
STRANGE = [r"re.sub(r'\[/b]')", "[bold]loud[/bold]", "at :smile: eight", "a\\", "[/x]"]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_console", Console(width=200, highlight=False))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return lambda: capsys.readouterr().out


@pytest.mark.parametrize("text", STRANGE)
def test_text_of_the_data_is_shown_as_it_is(text: str, said: Said) -> None:
    console.show_samples(Table(["input", "output"], [[text, text]]))
    assert said().count(text) == 2
    console.show_report(text, {text: text})
    assert said().count(text) == 3
    console.show_classes(Table(["class", "f1", "support"], [[text, None, 1200]]))
    out = said()
    assert text in out and "1,200" in out and " - " in out
    console.show_metrics({text: 0.25}, [text])
    out = said()
    assert out.count(text) == 2 and "0.2500" in out


def test_numbers_of_a_report_are_easy_to_read(said: Said) -> None:
    console.show_report("mine", {"train": 1234567, "unknown": 0.00012, "from": "the Hub"})
    out = said()
    assert out.split("\n")[0] == "mine: train 1,234,567, unknown 0.00012, from the Hub"


def test_long_samples_are_cut_and_only_a_few_are_shown(said: Said) -> None:
    console.show_samples(Table(["text"], [["x" * 50]] * 20), most=3, longest=10)
    out = said()
    assert out.count("x" * 10 + "…") == 3 and "x" * 11 not in out


def test_what_there_is_nothing_of_is_not_shown(said: Said) -> None:
    console.show_samples(Table(["text"], []))
    console.show_classes(None)
    console.show_classes(Table(["class", "f1", "support"], []))
    console.show_classes(Table(["class", "f1", "support"], [["a", 1.0, 1]] * 31))  # classes.csv
    console.show_audit(None)
    assert said() == ""


def test_an_audit_has_a_row_a_figure_beside_that_of_real_text(said: Said) -> None:
    found = {
        "settings": {"pieces": 2, "top_k": None},
        "written": {"new_4": 0.5, "longest": 1200},
        "real": {"new_4": 0.25, "longest": None},
        "training": {"longest": 7},
    }
    console.show_audit(found)
    out = said()
    assert "audit: pieces 2" in out and "top_k" not in out and "None" not in out
    (line,) = [line for line in out.split("\n") if "new_4" in line]
    assert "0.5000" in line and "0.2500" in line
    (line,) = [line for line in out.split("\n") if "longest" in line]
    assert "1,200" in line and line.rstrip().endswith("-")
