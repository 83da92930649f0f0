"""Classifiers that answer together, each reading in its own way."""

from pathlib import Path
from typing import Any

import pytest
import torch

from predict import load
from tasks.base import FORMAT


@pytest.fixture
def saved(start: Any, tmp_path: Path) -> Any:
    """Makes an untrained classifier's checkpoint."""
    (tmp_path / "mine.csv").write_text("text,label\n" + "a good play,1\na bad play,0\n" * 20)
    (tmp_path / "real.csv").write_text("text,label\n" + "a good play,1.5\na bad play,0.5\n" * 20)

    def made(name: str, *overrides: str, file: str = "mine.csv") -> Path:
        task = start(
            "", "task=classification", "data=text_labels", f"data.path={tmp_path}/{file}",
            "model.hidden_size=8", *overrides,
        ).task  # fmt: skip
        path = tmp_path / f"{name}.ckpt"
        record = {"format": FORMAT, **task.record}
        torch.save({"state_dict": task.state_dict(), "unroll": record}, path)
        return path

    return made


def test_the_answer_is_the_mean_of_their_probabilities(saved: Any) -> None:
    """One reads words, one characters from the end: each has a vocabulary of its own."""
    forth, back = saved("forth"), saved("back", "tokenizer=characters", "tokenizer.reverse=true")
    texts = ["a good play", "a bad good play", "a"]
    alone = [load(path, device="cpu")(texts) for path in (forth, back)]
    together = load(forth, device="cpu", ensemble=[back])(texts, batch_size=2)
    for one, other, both in zip(*alone, together, strict=True):
        assert one["scores"] != other["scores"]
        for label, score in both["scores"].items():
            mean = (one["scores"][label] + other["scores"][label]) / 2
            assert score == pytest.approx(mean, abs=2e-6)
        assert both["label"] == max(both["scores"], key=both["scores"].get)


def test_of_real_answers_it_is_the_mean(saved: Any) -> None:
    real = {"file": "real.csv"}
    paths = [saved(n, f"seed={n}", "data.real_labels=true", **real) for n in ("1", "2")]
    one, other = (load(path, device="cpu")(["a good play"])[0]["value"] for path in paths)
    (both,) = load(paths[0], device="cpu", ensemble=paths[1:])(["a good play"])
    assert one != other and both["value"] == pytest.approx((one + other) / 2)


def test_other_classes_do_not_go_together(saved: Any, tmp_path: Path) -> None:
    one = saved("one")
    (tmp_path / "mine.csv").write_text("text,label\n" + "a good play,yes\na bad play,no\n" * 20)
    with pytest.raises(ValueError, match=r"has another vocabulary \(labels\)"):
        load(one, device="cpu", ensemble=[saved("other")])
