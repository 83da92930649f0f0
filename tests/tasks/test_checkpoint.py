"""A checkpoint is complete, safe and checked before use."""

from pathlib import Path
from typing import Any

import pytest
import torch

import build
from building.trained import of_checkpoint
from tasks import checkpoint as checkpoints
from tasks.predict_options import PredictOptions


def saved(run: Any) -> Path:
    run.fit()
    return Path(run.config.paths.run_dir)


def test_a_task_is_rebuilt_from_it_without_the_data(shape: str, start: Any) -> None:
    run = start(shape, "trainer.max_epochs=1")
    read = checkpoints.read(saved(run))
    again = build.task_of_checkpoint(read["unroll"])
    checkpoints.restore(again, read)
    checkpoints.restore(run.task, read)
    raw = [run.data.example("test", i).input for i in range(3)]
    if shape == "language_model":
        raw = ["import ", "", "x = "]
    options = PredictOptions(max_length=8)
    with torch.no_grad():
        assert again.eval().predict(raw, options) == run.task.eval().predict(raw, options)


def test_it_holds_plain_data_alone(start: Any) -> None:
    record = checkpoints.read(saved(start("classification", "trainer.max_epochs=1")))["unroll"]

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (bool, int, float, str)

    assert record["format"] == 1 and record["fingerprint"]
    assert plain(record)


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        checkpoints.read(tmp_path / "missing")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        checkpoints.read(tmp_path)
    text = tmp_path / "text.ckpt"
    text.write_text("not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoints.read(text)
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, other)
    with pytest.raises(ValueError, match="not a checkpoint of Unroll"):
        checkpoints.read(other)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    later = tmp_path / "later.ckpt"
    record = {"format": 99, "config": {}, "spec": {}, "codec": {}}
    torch.save({"state_dict": {}, "unroll": record}, later)
    with pytest.raises(ValueError, match="format 99"):
        checkpoints.read(later)


class Harm:
    """Would write a file if it were ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_it_is_ever_executed(tmp_path: Path) -> None:
    bad, mark = tmp_path / "bad.ckpt", tmp_path / "executed"
    torch.save({"state_dict": {}, "unroll": Harm(mark)}, bad)
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoints.read(bad)
    assert not mark.exists()


def test_a_target_outside_the_list_is_not_built(start: Any) -> None:
    record = checkpoints.read(saved(start("classification", "trainer.max_epochs=1")))["unroll"]
    record["config"]["task"]["model"]["cell"]["_target_"] = "os.system"
    with pytest.raises(ValueError, match=r"os\.system"):
        build.task_of_checkpoint(record)


def test_weights_that_do_not_fit_are_named(start: Any) -> None:
    read = checkpoints.read(saved(start("classification", "trainer.max_epochs=1")))
    other = start("classification", "model.hidden_size=7").task
    with pytest.raises(ValueError, match=r"does not fit the model: .* has shape"):
        checkpoints.restore(other, read)
    other = start("classification", "cell=lstm", "model.num_layers=2").task
    with pytest.raises(ValueError, match="does not fit the model"):
        checkpoints.restore(other, read)


def test_a_vocabulary_that_does_not_fit_is_refused_by_its_hash(start: Any) -> None:
    run = start("translation", "trainer.max_epochs=1")
    read = checkpoints.read(saved(run))
    other = build.task_of_checkpoint(read["unroll"])
    checkpoints.restore(other, read)
    # as many symbols, two of them in each other's place
    outputs = other.codec.outputs
    own = outputs.hash
    outputs.symbols[5], outputs.symbols[6] = outputs.symbols[6], outputs.symbols[5]
    assert outputs.hash != own
    with pytest.raises(
        ValueError, match=rf"\(outputs\): {own} .* has {outputs.hash} \(\d+ symbols"
    ):
        checkpoints.restore(other, read)


def test_another_tokenizer_than_the_checkpoints_is_refused(start: Any) -> None:
    run = start("translation", "trainer.max_epochs=1")
    stored = checkpoints.read(saved(run))["unroll"]["config"]
    again = ["data.limit=48", "tokenizer=characters"]  # the command line of the run, once more
    same = of_checkpoint(run.config, stored, again)
    assert build.plain(same)["tokenizer"] == stored["tokenizer"]
    new = start("translation", "tokenizer=bpe", "tokenizer.vocab_size=90").config
    with pytest.raises(ValueError, match=r"tokenizer=bpe: the checkpoint brings its own"):
        of_checkpoint(new, stored, ["tokenizer=bpe", "tokenizer.vocab_size=90"])
