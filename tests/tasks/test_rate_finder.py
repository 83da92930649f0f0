"""The learning-rate finder: what it tries, what it suggests, and what it leaves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose

import build
from building.find_rate import find_rate
from tasks.rate_finder import growing, suggestion


def test_rates_grow_by_equal_factors_and_keep_their_shares() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": parameters[:1], "lr": 0.3}, {"params": parameters[1:], "lr": 0.03}]
    optimizer = torch.optim.SGD(groups)
    scheduler = growing(optimizer, 5, lowest=1e-4, highest=1.0, steps=5)["scheduler"]
    seen = []
    for _ in range(5):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert seen == [pytest.approx([10.0**n, 10.0 ** (n - 1)]) for n in range(-4, 1)]


def test_it_suggests_where_the_loss_falls_most_steeply() -> None:
    rates = [10.0**n for n in range(-6, 1)]
    assert suggestion(rates, [5.0, 4.9, 4.5, 3.0, 2.5, 2.6, 9.0]) == pytest.approx(1e-3, rel=1e-9)
    # a fall after the loss has gone astray is none
    assert suggestion(rates, [5.0, 4.9, 4.8, 6.0, 9.0, 4.9, float("nan")]) == pytest.approx(1e-5)
    # nor is it the last rate before that
    assert suggestion(rates, [5.0, 5.0, 5.0, 4.9, 1.0, 6.0, 9.0]) == pytest.approx(1e-3)
    assert suggestion(rates, [1.0, 1.1, 1.2, 2.0, 3.0, 4.0, 5.0]) is None
    assert suggestion([], []) is None


def test_it_finds_a_rate_at_which_training_falls_and_leaves_a_picture(
    start: Any, smalls: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["task.layer_decay=0.5", "trainer.accumulate_grad_batches=2", "trainer=cpu"]
    folder = tmp_path / "run"
    config = compose("config", [*smalls["classification"], *keys, f"paths.run_dir={folder}"])
    find_rate(config)
    data = build.data(config)
    build.choose_monitor(config, data.spec)
    trainer = build.trainer(config)
    trainer.fit(build.task(config, data.spec, data.codec), datamodule=data)
    (finder,) = (c for c in trainer.callbacks if hasattr(c, "rates"))
    assert len(finder.rates) == len(finder.losses) <= 100
    assert finder.rates[0] == pytest.approx(1e-7) and finder.rates[-1] > 1e-3
    assert finder.losses[-1] > min(finder.losses)
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["lr_finder.png"]
    said = capsys.readouterr()
    found = float((said.out + said.err).split("optimizer.lr=")[1].split()[0])
    assert 1e-6 < found < 1


@pytest.mark.parametrize("key", ["ckpt=RUN", "fit=false", "resume=true"])
def test_only_a_new_run_is_tried(key: str, start: Any) -> None:
    config = compose("config", [key, "find_lr=true"])
    with pytest.raises(ValueError, match="find_lr=true tries rates on a new model"):
        find_rate(config)
