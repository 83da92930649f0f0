"""The same answers, gradients and streams on one, two and three ranks.

Each rank runs train.py with the environment that `torchrun` gives it.
"""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import build
import resume
from tests import commands

ROOT = Path(__file__).parents[2]
COMMON = ["logger=csv", "precision=fp32", "data.num_workers=0"]

# neither 2 nor 3 divides how many examples are tested, nor how many lines of text
UNEVEN = {
    "classification": ["data.test_size=38", "data.limit=37"],
    "tagging": ["data.limit=37"],
    "captioning": ["data.train_size=43", "data.validation_size=11", "data.test_size=13"],
    "translation": ["data.limit=37"],
    "language_model": ["data.test_size=2503", "data.eval_streams=7"],
}
# nothing random in training; a captioner's CNN normalises over the pictures of its own rank
STILL = {
    "classification": ["model.dropout=0"],
    "tagging": ["model.dropout=0"],
    "translation": [
        "model.encoder.dropout=0", "model.encoder.embedding_dropout=0",
        "model.decoder.dropout=0", "model.decoder.embedding_dropout=0",
    ],
    "language_model": [
        "model.dropout=0", "model.embedding_dropout=0", "model.output_dropout=0",
    ],
}  # fmt: skip


# train.py as it is, in a process whose first rank is told to stop in a step
STOPS = """
import os, runpy, signal, sys
stop, *sys.argv = int(sys.argv[1]), *sys.argv[2:]
from tasks.base import Task
begin = Task.on_train_batch_start

def watch(task, batch, batch_idx):
    if task.global_step == stop - 1 and task.global_rank == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    begin(task, batch, batch_idx)

Task.on_train_batch_start = watch
runpy.run_path("train.py", run_name="__main__")
"""


def train(ranks: int, *overrides: str, stop: int | None = None) -> str:
    """What the ranks of one run say; overrides that come later win. `stop`: the number of the step
    in which the first rank is told to stop.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # a key once: the last value of it
    keys = {key.partition("=")[0]: key for key in [*COMMON, *overrides]}
    line = ["train.py", "trainer=ddp_cpu", *keys.values(), f"trainer.devices={ranks}"]
    line = line if stop is None else ["-c", STOPS, str(stop), *line]
    together = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "ranks",
    }  # fmt: skip
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    started = [commands.Command(line, env={**together, **place}) for place in places]
    texts = [process.end(200) for process in started]
    code = 0 if stop is None else 128 + signal.SIGTERM
    assert [process.returncode for process in started] == [code] * ranks, "\n".join(texts)
    return "\n".join(texts)


def result(said: str) -> dict[str, Any]:
    (line,) = [line for line in said.splitlines() if line.startswith('{"run"')]
    return json.loads(line)  # type: ignore[no-any-return]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """Lines of a file of the run; those of samples without the step, which a test alone lacks."""
    file = folder / name
    lines = file.read_text().splitlines() if file.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "step"} for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / "checkpoints" / "last.ckpt"
    found: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return found


@pytest.mark.slow
def test_metrics_and_answers_are_the_same_on_1_2_and_3_ranks(
    shape: str, small: list[str], tmp_path: Path
) -> None:
    options = [*small, *UNEVEN[shape], "trainer.max_steps=4", f"hydra.run.dir={tmp_path}/run1"]
    one = result(train(1, *options))["test"]
    answers = rows(tmp_path / "run1", "predictions/test.jsonl")
    samples = rows(tmp_path / "run1", "samples/test.jsonl")
    assert samples
    if shape not in ("tagging", "language_model"):  # whose answers are numbers, or one long text
        assert [row["index"] for row in answers] == list(range(len(answers)))
        assert len(answers) == (13 if shape == "captioning" else 37)
    for ranks in (2, 3):
        folder = tmp_path / f"run{ranks}"
        place = f"hydra.run.dir={folder}"
        said = train(ranks, "fit=false", f"ckpt={tmp_path}/run1", place)
        assert result(said)["test"] == pytest.approx(one, rel=1e-6, nan_ok=True)
        assert rows(folder, "predictions/test.jsonl") == answers
        assert rows(folder, "samples/test.jsonl") == samples


@pytest.mark.slow
def test_cache_and_temperature_are_the_same_on_1_2_and_3_ranks(
    smalls: dict[str, list[str]], tmp_path: Path
) -> None:
    closer = {"temperature": "true", "cache": "true", "cache_theta": "0", "cache_size": "50"}
    options = [
        *smalls["language_model"], *UNEVEN["language_model"], "trainer.max_steps=8",
        *(f"task.evaluation.{name}={value}" for name, value in closer.items()),
    ]  # fmt: skip
    folder = tmp_path / "run1"
    one = result(train(1, *options, f"hydra.run.dir={folder}"))["test"]
    beside = {
        name: value for name, value in one.items() if "cache" in name or "temperature" in name
    }
    assert len(beside) >= 2 and all(value != one["test/loss"] for value in beside.values())
    for ranks in (2, 3):
        place = f"hydra.run.dir={tmp_path}/run{ranks}"
        said = train(ranks, "fit=false", f"ckpt={folder}", place)
        assert result(said)["test"] == pytest.approx(one, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", STILL)
def test_two_ranks_of_batch_b_learn_what_one_of_2b_does(
    shape: str, smalls: dict[str, list[str]], tmp_path: Path
) -> None:
    common = [
        *smalls[shape], *UNEVEN[shape], *STILL[shape], "optimizer=sgd", "optimizer.lr=0.5",
        "trainer.max_steps=3", "trainer.log_every_n_steps=1", "trainer.limit_test_batches=1",
    ]  # fmt: skip
    learnt, logged = [], []
    for ranks, batch in ((1, 8), (2, 4)):
        folder = tmp_path / f"{ranks}"
        place = [f"data.batch_size={batch}", f"hydra.run.dir={folder}"]
        said = train(ranks, *common, *place)
        assert f"batch {batch} × 1 accumulated × {ranks} rank" in said and "= 8 rows" in said
        assert "; 3 steps in all" in said
        learnt.append(weights(folder))
        logged.append(losses(folder))
    for name, value in learnt[0].items():
        assert torch.allclose(value, learnt[1][name], rtol=1e-5, atol=1e-6), name
    assert len(logged[0]) == 3
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)


def losses(folder: Path) -> list[float]:
    header, *lines = (folder / "metrics.csv").read_text().splitlines()
    place = header.split(",").index("train/loss")
    return [float(value) for line in lines if (value := line.split(",")[place])]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_streams_go_on_on_another_number_of_ranks(
    before: int, after: int, smalls: dict[str, list[str]], tmp_path: Path
) -> None:
    common = [
        *smalls["language_model"], *STILL["language_model"], "scheduler=constant",
        "trainer.max_steps=12",
    ]  # fmt: skip

    def rows(ranks: int) -> str:
        return f"data.batch_size={8 // ranks}"

    train(1, *common, rows(1), f"hydra.run.dir={tmp_path}/whole")
    begun = [*common, rows(before), f"hydra.run.dir={tmp_path}/run"]
    assert "stopped after step 5" in train(before, *begun, stop=5)
    again = [*common, rows(after), f"hydra.run.dir={tmp_path}/other", f"resume={tmp_path}/run"]
    keys = {key.partition("=")[0]: key for key in [*COMMON, *again]}
    done = commands.run(["train.py", "trainer=ddp_cpu", f"trainer.devices={after}", *keys.values()])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resume: going on after step 5" in done.stdout
    assert f"data.batch_size is {8 // after}, was {8 // before}" in done.stdout
    assert "begins anew" not in done.stdout
    # the rest of the epoch from the same state, and the next epochs: the run that never stopped
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "run")
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["trainer=ddp_cpu", "trainer.devices=2", "data.batch_size=4"],
            "data.batch_size is 4, was 8",
        ),
        (["data.num_workers=3", "data.eval_batch_size=5"], "data.num_workers is 3, was 0"),
        (["trainer=ddp_cpu", "trainer.devices=3"], "warning: a step is 8 × 3 rank(s), was 8 × 1"),
    ],
)
def test_what_is_learnt_from_in_a_step_may_be_cut_up_in_another_way(
    changes: list[str], said: str, earlier: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier(changes)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.batch_size=4"], r"a step would be 4 × 1 rank\(s\), was 8 × 1: only a batch"),
        (["data.steps=21", "data.num_workers=3"], "other data: data.steps is 21, was 20; give"),
    ],
)
def test_what_changes_the_steps_is_refused(changes: list[str], message: str, earlier: Any) -> None:
    with pytest.raises(ValueError, match=message):
        earlier(changes)


@pytest.fixture
def earlier(
    smalls: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[list[str]], None]]:
    """Go on with a run of one rank, some keys changed; ValueError where that is refused."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    GlobalHydra.instance().clear()
    common = [*smalls["language_model"], "trainer=cpu", f"paths.run_dir={tmp_path}"]

    def go_on(changes: list[str]) -> None:
        OmegaConf.save(OmegaConf.create(build.plain(compose("config", common))), file)
        checkpoint = {"ranks": 1, "unroll": {"fingerprint": "same"}, "global_step": 5}
        keys = {key.partition("=")[0]: key for key in [*common, *changes]}
        found = resume.Earlier(tmp_path, checkpoint)
        resume._compare(compose("config", list(keys.values())), found, "same")

    file = tmp_path / "config.yaml"
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield go_on


def test_ranks_that_read_different_data_are_told_so(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = start("tagging").data
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)

    def gathered(values: list[str], own: str) -> None:
        values[:] = [own, "another"]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    with pytest.raises(ValueError, match=f"rank 0 {data.fingerprint}, rank 1 another"):
        data.setup("fit")
