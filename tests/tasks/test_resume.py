"""A run that goes on from the middle of an epoch equals one that was never stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint


def written(folder: Path) -> Path:
    rows = [f"{'good' if i % 2 else 'bad'} film {i},{i % 2}" for i in range(300)]
    file = folder / "mine.csv"
    file.write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("streaming", [False, True], ids=["ordinary", "streaming"])
def test_resumed_equals_not_interrupted(
    streaming: bool, start: Callable[..., Any], tmp_path: Path
) -> None:
    stream = [
        "task=classification", "data=text_labels", "model.hidden_size=24",
        "data.streaming=true", "data.num_workers=1", "data.held_out=30",
        f"data.path='{written(tmp_path)}'",
    ]  # fmt: skip
    shape = "rows of one's own" if streaming else "classification"
    steps = ["trainer.max_steps=9", "data.batch_size=4"]
    options = [*(stream if streaming else ()), *steps]
    whole = start(shape, *options)
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=4, save_top_k=-1)
    whole.trainer.callbacks.append(keep)
    whole.fit()
    resumed = start(shape, *options)
    (saved,) = (tmp_path / "kept").glob("*4.ckpt")
    resumed.trainer.fit(resumed.task, datamodule=resumed.data, ckpt_path=saved, weights_only=True)
    assert resumed.trainer.global_step == whole.trainer.global_step == 9
    for a, b in zip(whole.task.parameters(), resumed.task.parameters(), strict=True):
        assert torch.equal(a, b)
