"""verify=true: two runs are the same bit for bit, or what differs first is named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import build
import verify

ROOT = Path(__file__).parent.parent
SMALL = [
    "task=tagging", "data.train_size=32", "data.validation_size=16", "data.test_size=16",
    "data.batch_size=8", "model.hidden_size=8", "trainer=cpu", "logger=csv", "precision=fp32",
]  # fmt: skip
Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Train]:
    """A traced run of three steps; `spoil` may change its task."""
    GlobalHydra.instance().clear()

    def trained(name: str, spoil: Callable[[Any], None] = lambda task: None) -> Path:
        run = tmp_path / name
        _, _, *line = verify.command(run, SMALL, 3, accumulated=1)
        line = [f"paths.{t[6:].replace('.dir', '_dir')}" if "hydra" in t else t for t in line]
        config = compose("config", line)
        lightning.seed_everything(config.seed, verbose=False)
        data = build.data(config)
        build.choose_monitor(config, data.spec)
        task = build.task(config, data.spec, data.codec)
        spoil(task)
        trainer = build.trainer(config)
        trainer.fit(task, datamodule=data)
        trainer.test(task, datamodule=data, verbose=False)
        return run

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield trained


def test_the_first_thing_that_differs_is_named_with_its_step(train: Train) -> None:
    def noisy(task: Any) -> None:
        loss = task.loss

        def losing(batch: Any) -> Any:
            total, count = loss(batch)
            return total * (1 + 1e-6 * (task.global_step == 1)), count

        task.loss = losing

    one, same = train("one"), train("same")
    assert verify.compare(one, same) is None
    said = verify.compare(one, train("noisy", noisy)) or ""
    assert said.startswith("step 1, the loss: loss is ") and "trace_0.jsonl" in said

    samples = same / "samples" / "val.jsonl"
    kept = samples.read_text()
    first, *rest = kept.splitlines(keepends=True)
    samples.write_text("".join([first, *rest[:-1]]))
    assert "line 8 (samples/val.jsonl) in one run is step 0 (metrics.csv)" in (
        verify.compare(one, same) or ""
    )
    changed = json.loads(first)
    key = list(changed)[-1]
    samples.write_text("".join([json.dumps({**changed, key: "another"}) + "\n", *rest]))
    assert f"step 3, line 1: {key} is " in (verify.compare(one, same) or "")
    samples.write_text(kept)

    path = same / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    name = next(iter(saved["state_dict"]))
    saved["state_dict"][name].view(torch.int32)[0] ^= 1  # the last bit of one weight
    torch.save(saved, path)
    said = verify.compare(one, same) or ""
    assert said.startswith(f"step 3, state_dict: state_dict.{name} is ") and "last.ckpt" in said


@pytest.mark.parametrize(
    "keys", ["verify=0", "verify=yes", "verify=true resume=true", "verify=3 fit=false ckpt=x"]
)
def test_contradictions_are_refused(keys: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", keys.split())
    with pytest.raises(ValueError, match=r"^verify"):
        verify.check(config)


# in every process that is started with it: what is drawn from the third step on depends on it
SALT = """
import os, torch
seed = torch.manual_seed
torch.manual_seed = lambda n: seed(n + os.getpid() * (n >= 1_000_005))
"""


@pytest.mark.slow
def test_the_command_says_identical_or_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "salted").mkdir()
    (tmp_path / "salted" / "sitecustomize.py").write_text(SALT)
    for salted, code in ((False, 0), (True, 1)):
        run = tmp_path / f"run{code}"
        line = [*SMALL, "model.dropout=0.5", "verify=4", f"hydra.run.dir={run}"]
        more = {"PYTHONPATH": str(tmp_path / "salted")} if salted else {}
        done = subprocess.run(
            [sys.executable, "train.py", *line], cwd=ROOT, env=os.environ | more, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        assert run.exists() == salted
        said = "verify: different: step 2, the loss: loss is " if salted else "verify: identical"
        assert said in done.stdout
