"""Every picture is drawn, without a display, a warning or a font for what it shows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks import drawing, pictures

pytestmark = pytest.mark.filterwarnings("error")
RANDOM = np.random.default_rng(0)


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture that is more than a blank page."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
        return picture.size


def weights(rows: int, columns: int) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)).softmax(-1)


HEADER = "step,epoch,train/loss,val/loss,val/accuracy,lr\n"


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The titles of the panels of each picture that is saved."""
    saved: list[list[str]] = []
    save = pictures.save

    def spy(figure: object, path: Path) -> None:
        saved.append([ax.get_title() or ax.get_title("left") for ax in figure.axes])  # type: ignore[attr-defined]
        save(figure, path)

    monkeypatch.setattr(pictures, "save", spy)
    return saved


def test_learning_curves_have_a_panel_a_metric(tmp_path: Path, titles: list[list[str]]) -> None:
    table, path = tmp_path / "metrics.csv", tmp_path / "learning_curves.png"
    rows = ["0,0,0.9,,,0.1", "9,0,0.5,,,0.1", "9,0,,0.6,0.7,", "19,1,nan,0.4,0.8,"]
    table.write_text(HEADER + "\n".join(rows) + "\n")
    assert pictures.learning_curves(table, path)
    assert titles == [["loss", "accuracy"]]
    assert size(path)[0] > 600


def test_of_a_step_that_stands_twice_the_later_row_holds(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text(HEADER + "5,0,0.9,,,\n9,0,0.5,,,\n9,0,0.4,,,\n5,0,0.8,,,\n")
    assert pictures._curves(table)["train/loss"] == [(5.0, 0.8), (9.0, 0.4)]


@pytest.mark.parametrize("text", ["", HEADER, HEADER + "3,0,,,,0.1\n", HEADER + "3"])
def test_nothing_is_drawn_of_a_run_that_measured_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    assert not pictures.learning_curves(tmp_path / "metrics.csv", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (150, 120)])
def test_attention_over_text_of_any_length(rows: int, columns: int, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.png"
    source, target = [f"w{i}" for i in range(columns)], list("年" * rows)
    pictures.attention_over_text(weights(rows, columns).bfloat16(), source, target, path)
    assert max(size(path)) < 4000


def test_tokens_stand_as_they_are_and_dollars_open_no_formula(tmp_path: Path) -> None:
    tokens = ["$x", "y$", "\\frac{", "\n", " ", "", "_", "▁the", "​", "\ud800", "😀"]
    pictures.attention_over_text(np.eye(len(tokens)), tokens, tokens, tmp_path / "a.png")
    assert size(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("positions", "grid", "words"), [(36, None, 40), (8, None, 3), (16, (2, 8), 1)]
)
def test_attention_over_a_picture(
    positions: int, grid: tuple[int, int] | None, words: int, tmp_path: Path
) -> None:
    picture = RANDOM.integers(0, 256, (20, 40, 3), dtype=np.uint8)
    tokens = [f"word{i}" for i in range(words)]
    path = tmp_path / "a.png"
    pictures.attention_over_picture(picture, weights(words, positions), tokens, path, grid)
    assert size(path)[0] < 2000


def test_a_grid_that_is_no_square_follows_the_picture() -> None:
    assert pictures._grid_of(8, ratio=0.5) == (2, 4)
    assert pictures._grid_of(8, ratio=2.0) == (4, 2)
    assert pictures._grid_of(7, ratio=1.0) in [(1, 7), (7, 1)]


@pytest.mark.parametrize(("shape", "inputs"), [((30,), None), ((30, 1), (30,)), ((30, 3), (30, 9))])
def test_series(shape: tuple[int, ...], inputs: tuple[int, ...] | None, tmp_path: Path) -> None:
    right = RANDOM.normal(size=shape)
    given = None if inputs is None else RANDOM.normal(size=inputs)
    pictures.series((right + 0.1).tolist(), right.tolist(), tmp_path / "a.png", inputs=given)
    assert size(tmp_path / "a.png")


@pytest.mark.parametrize("right", [["D", "N", "V"] * 40, None])
def test_tags(right: list[str] | None, tmp_path: Path) -> None:
    tokens, predicted = ["the", "dog", "跑"] * 40, ["D", "N", "N"] * 40
    pictures.tags(tokens, predicted, right, tmp_path / "a.png")
    assert size(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("frames", "reference"),
    [([[60, 64, 67]] * 30 + [[]], [[60, 64], [48]]), ([[]], None), ([], [])],
)
def test_piano_roll(
    frames: list[list[int]], reference: list[list[int]] | None, tmp_path: Path
) -> None:
    pictures.piano_roll(frames, tmp_path / "a.png", reference=reference)
    assert size(tmp_path / "a.png")


@pytest.mark.parametrize("classes", [1, 2, 30])
def test_confusion(classes: int, tmp_path: Path) -> None:
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    counts[0, 0] = 7
    pictures.confusion(counts, [f"类 {i}" for i in range(classes)], tmp_path / "a.png")
    assert size(tmp_path / "a.png")


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) has labels for \(2, 2\)"):
        pictures.attention_over_text(weights(2, 3), ["a", "b"], ["c", "d"], tmp_path / "a.png")


def test_characters_without_a_font_are_told_by_their_code_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "_characters", lambda: frozenset(map(ord, "abc␣∅")))
    assert drawing.readable("a年") == "a[5E74]"
    assert drawing.readable("年") == "[5E74]"
    monkeypatch.setattr(drawing, "_characters", lambda: frozenset(map(ord, "abc␣∅年")))
    assert [drawing.readable(t) for t in ("a年", "", " a")] == ["a年", "∅", "␣a"]


def test_fonts_are_only_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing.fonts.cache_clear()
    monkeypatch.setattr(
        drawing.fontManager, "get_font_names", lambda: ["SimHei", "Courier", "DejaVu Sans"]
    )
    assert drawing.fonts() == ["DejaVu Sans", "SimHei"]
    drawing.fonts.cache_clear()
