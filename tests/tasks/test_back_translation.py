"""Back-translation from end to end: a reverse model, its pairs, and a model that trains on them."""

import json
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import build
import predict
from data.text_codec import BOS
from tests.tasks.conftest import CONFIGS, Start

REVERSED = ["data.source_column=target", "data.target_column=source"]
CHINESE = ["2011年3月3日星期四", "1999年5月3日星期一", "2004年10月12日星期二"]


def test_pairs_of_a_reverse_model_join_the_training(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    reverse = start("translation", *REVERSED, "trainer.max_epochs=1").fit()
    assert reverse.data.example("train", 0).input.endswith(tuple("一二三四五六日"))
    texts = tmp_path / "chinese.txt"
    texts.write_text("\n".join(CHINESE), encoding="utf-8")
    capsys.readouterr()
    monkeypatch.setattr(
        "sys.argv",
        ["predict.py", str(reverse.config.paths.run_dir), "--file", str(texts), "--format",
         "pairs", "--method", "sample", "--n-best", "2", "--max-length", "12"],
    )  # fmt: skip
    predict.main()
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(capsys.readouterr().out, encoding="utf-8")
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    assert [row["target"] for row in rows] == [text for text in CHINESE for _ in range(2)]
    assert all(set(row) == {"source", "target"} for row in rows)

    run = start(
        "translation", f"data.extra.file={pairs}", "data.extra.tag=true", "trainer.max_epochs=1"
    ).fit()
    report = run.data.report()
    assert report["extra_train"] == 6
    firsts = [batch.source[:, 0] for batch in run.data.train_dataloader()]
    assert sum(int((first == BOS).sum()) for first in firsts) == 6 - report["left_out_train"]
    assert run.task.measured["val/loss"] > 0
    model = predict.load(run.config.paths.run_dir, device="cpu")
    assert model.task.codec.batch(["3 May 1999"]).source[0, 0] != BOS
    assert isinstance(model(["3 May 1999"], max_length=8)[0]["text"], str)


def test_dates_have_two_columns(start: Start) -> None:
    with pytest.raises(ValueError, match="columns source and target, got data.source_column=en"):
        start("translation", "data.source_column=en")


def test_pairs_are_of_translators(start: Start) -> None:
    with pytest.raises(ValueError, match="--format pairs is for translation, not for captioning"):
        predict.pair_columns(start("captioning").task)


def test_the_documented_commands_are_understood() -> None:
    text = (CONFIGS.parent / "docs" / "options.md").read_text(encoding="utf-8")
    commands = re.findall(
        r"^python (train|predict)\.py (.*(?:my_pairs|REVERSE_RUN).*)$", text, re.M
    )
    assert [script for script, _ in commands] == ["train", "predict", "train"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for script, line in commands:
            words = line.partition(" > ")[0].split()
            if script == "predict":
                options = predict.parser().parse_args(words)
                assert (options.format, options.method) == ("pairs", "sample")
                continue
            config = compose("config", ["paths.run_dir=run", *words])
            assert set(build.instantiate(config.data).columns()) == {"en", "zh"}
            assert build.instantiate(config.data.extra).tag == ("synthetic.jsonl" in line)
