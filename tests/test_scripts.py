"""train.py and predict.py as a user calls them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import commands

ROOT = Path(__file__).parent.parent
Call = Callable[..., subprocess.CompletedProcess[str]]

TINY = [
    "data.train_size=200", "data.validation_size=20", "data.test_size=20", "model.hidden_size=16",
    "trainer.max_epochs=1", "trainer=cpu", "logger=csv",
]  # fmt: skip


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """A script in a folder of its own; its runs are below."""
    folder = tmp_path_factory.mktemp("scripts")

    def started(
        script: str, *arguments: str, stdin: str = "", unset: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key not in unset}
        return commands.run([ROOT / script, *arguments], cwd=folder, env=environment, stdin=stdin)

    return started


def result(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def trained(call: Call) -> str:
    """The directory of a small run."""
    return str(result(call("train.py", *TINY))["run"])


def test_help_names_the_groups_and_examples_and_is_quick_to_say(call: Call) -> None:
    said = call("train.py", "--help").stdout
    for words in ("cell: deltanet, gru", "task: captioning", "fit=false ckpt=", "--multirun"):
        assert words in said
    assert "--n-best" in call("predict.py", "--help").stdout
    loaded = "import sys; sys.argv = ['train.py']; import train; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", loaded], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task=clasification", "did you mean classification?"),
        ("cell=lstmm", "lru, lstm, mamba, memoryless"),
        ("data=imbd", "did you mean imdb?"),
        ("model.hiden_size=3", "did you mean hidden_size?"),
        ("taks=tagging", "did you mean task?"),
        ("task.optimizer.lr=1", "task.optimizer is ${optimizer}; set optimizer.lr"),
        ("task.optimizer.lrr=1", "there is no key 'optimizer.lrr' (did you mean lr?)"),
    ],
)
def test_an_unknown_name_is_told_with_what_exists(call: Call, override: str, said: str) -> None:
    done = call("train.py", override)
    assert done.returncode != 0
    assert done.stderr.startswith("error: ") and said in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_an_unknown_key_of_a_mapping_is_told_by_its_own_name(call: Call) -> None:
    done = call("train.py", "task=translation", "task.decoding={min_lenght: 3}")
    assert done.stderr.startswith("error: there is no key 'task.decoding.min_lenght' (did you mean")
    assert "(did you mean min_length?)" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data=text_labels", "data.path=/没有/it's, here"], "/没有/it's, here does not exist"),
        (["data=text_labels"], "set data.path"),
        (["precision=fp8"], "choose auto, fp32, bf16, fp16"),
        (["fit=false"], "ckpt=RUN_OR_FILE"),
        (["ckpt=nowhere"], "nowhere does not exist"),
        (["experiment=captioning/best"], "RUN does not exist: give a run's directory"),
        (["experiment=classification/best_sst2"], "RUN does not exist: give a run's directory"),
        (["task=translation", "data=recipes"], "needs pairs of texts"),
        (["task=tagging", "data=recipes"], "use task=classification"),
        (["data.batch_size=0"], "data.batch_size must be at least 1, got 0"),
        (["task.vectors=nothing.txt"], "task.vectors=nothing.txt does not exist"),
        (["model.pooling=median"], "median"),
        (["model.dropout=1.5"], "1.5"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_any_work(
    call: Call, overrides: list[str], said: str
) -> None:
    done = call("train.py", *overrides)
    assert done.returncode != 0 and said in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_last_line_is_one_json_object(call: Call, trained: str) -> None:
    folder = Path(trained)
    assert folder.parts[-3:-1] == ("classification", "recipes-gru")
    again = result(call("train.py", "fit=false", f"ckpt={trained}", "trainer=cpu"))
    assert set(again) == {"run", "monitor", "value", "test"}
    assert again["monitor"] == "val/accuracy"
    measured = {"test/loss", "test/accuracy", "test/f1", "test/ece"}
    assert set(again["test"]) == measured  # type: ignore[arg-type]


@pytest.mark.slow
def test_testing_again_gives_the_same_numbers(call: Call, trained: str) -> None:
    rows = (Path(trained) / "metrics.csv").read_text().splitlines()
    header, last = rows[0].split(","), rows[-1].split(",")
    measured = float(last[header.index("test/loss")])
    again = result(call("train.py", "fit=false", f"ckpt={trained}", "trainer=cpu"))
    assert again["test"]["test/loss"] == pytest.approx(measured, rel=1e-5)  # type: ignore[index]


@pytest.mark.slow
def test_predictions_from_arguments_files_and_standard_input_agree(
    call: Call, trained: str, tmp_path: Path
) -> None:
    texts = ["heat oil, add sauce A, serve", '先放"酱料" A', ""]
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    asked = [
        call("predict.py", trained, *texts, "--format", "json"),
        call("predict.py", trained, "--file", str(file), "--format", "json"),
        call("predict.py", trained, "--format", "json", stdin="\n".join(texts) + "\n"),
    ]
    answers = [[json.loads(line) for line in done.stdout.splitlines()] for done in asked]
    assert answers[0] == answers[1] == answers[2]
    assert [answer["input"] for answer in answers[0]] == texts
    assert {"label", "scores"} <= set(answers[0][0])


@pytest.mark.slow
def test_a_checkpoint_that_is_cut_short_is_told(call: Call, trained: str, tmp_path: Path) -> None:
    whole = (Path(trained) / "checkpoints" / "best.ckpt").read_bytes()
    short = tmp_path / "short.ckpt"
    short.write_bytes(whole[: len(whole) // 2])
    for script, arguments in [("predict.py", [str(short), "x"]),
                              ("train.py", ["fit=false", f"ckpt={short}"])]:  # fmt: skip
        done = call(script, *arguments)
        assert done.returncode != 0
        assert done.stderr.startswith("error: ") and "cut short" in done.stderr


@pytest.mark.slow
def test_a_checkpoint_of_another_task_or_cell_is_refused(call: Call, trained: str) -> None:
    done = call("train.py", "fit=false", f"ckpt={trained}", "task=tagging")
    assert done.returncode != 0 and "the checkpoint is of" in done.stderr
    done = call("train.py", "fit=false", f"ckpt={trained}", "cell=lstm")
    assert done.returncode != 0 and "brings its own cell" in done.stderr


@pytest.mark.slow
def test_an_offline_run_of_wandb_can_be_synchronised(call: Call) -> None:
    options = [one for one in TINY if one != "logger=csv"]
    done = call("train.py", *options, unset=("WANDB_API_KEY", "WANDB_MODE"))
    folder = Path(str(result(done)["run"]))
    runs = list((folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 1 and list(runs[0].glob("*.wandb"))


@pytest.mark.slow
def test_a_sweep_leaves_a_run_an_entry(call: Call) -> None:
    done = call("train.py", "--multirun", "cell=gru,memoryless", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"run"')]
    folders = [Path(str(one["run"])) for one in results]
    assert [folder.name for folder in folders] == ["0", "1"]
    assert len({folder.parent for folder in folders}) == 1
    refused = call("train.py", "--multirun", "trainer=ddp_cpu", "cell=gru,rnn")
    assert refused.returncode != 0 and "torchrun" in refused.stderr


@pytest.mark.slow
def test_ranks_that_torchrun_starts_share_one_directory(call: Call, tmp_path: Path) -> None:
    options = [one for one in TINY if one != "trainer=cpu"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(ROOT / "train.py"), "trainer=ddp_cpu", *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if line.startswith('{"run"')]
    assert len(said) == 1, done.stdout + done.stderr
    assert len(list((tmp_path / "runs" / "classification" / "recipes-gru").iterdir())) == 1
