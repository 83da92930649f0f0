"""CONTRIBUTING.md by doing it: its files, written into a copy of the repository, work."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COPIED = (*sorted(path.name for path in ROOT.glob("*.py")), "pyproject.toml")
FOLDERS = ("building", "configs", "data", "ledger", "models", "sweeping", "tasks", "tests")
Run = Callable[..., str]

TRY = """
import itertools, json, sys
from hydra import compose, initialize_config_dir
from pathlib import Path
import build

with initialize_config_dir(str(Path("configs").absolute()), version_base="1.3"):
    config = compose("config", overrides=["paths.run_dir=run", *sys.argv[1:]])
data = build.data(config)
build.choose_monitor(config, data.spec)
task = build.task(config, data.spec, data.codec)
task.train()
for batch in itertools.islice(data.train_dataloader(), 2):
    loss, count = task.loss(batch)
    (loss / count).backward()
gradients = [bool(p.grad.abs().sum() > 0) for p in task.parameters()]
kinds = sorted({type(m).__name__ for m in task.modules()})
print(json.dumps({
    "name": data.name, "kinds": kinds, "labels": data.spec.labels, "learns": any(gradients),
    "loss": (loss / count).item(), "epochs": config.trainer.max_epochs,
}))
"""


def examples() -> dict[str, str]:
    """The code blocks of CONTRIBUTING.md that name a file, by the file's path."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the files of CONTRIBUTING.md, and nothing else changed."""
    copy = tmp_path_factory.mktemp("contributing") / "tree"
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in COPIED:
        shutil.copy(ROOT / name, copy / name)
    for name, text in examples().items():
        assert not (copy / name).exists(), f"CONTRIBUTING.md adds {name}, which is there already"
        (copy / name).write_text(text, encoding="utf-8")
    return copy


@pytest.fixture
def run(tree: Path) -> Run:
    def start(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return start


def test_it_shows_one_code_file_at_most_and_one_yaml_each() -> None:
    assert sorted(examples()) == [
        "configs/cell/mgu.yaml",
        "configs/data/first_letter.yaml",
        "configs/data/my_reviews.yaml",
        "configs/experiment/first_letter_mgu.yaml",
        "data/synthetic/first_letter.py",
        "models/cells/mgu.py",
    ]


def test_a_cell_a_data_set_and_an_experiment_are_there_at_once(run: Run) -> None:
    found = json.loads(run("-c", TRY, "experiment=first_letter_mgu").splitlines()[-1])
    assert found["name"] == "first_letter" and found["labels"] == list("abcd")
    assert "MGU" in found["kinds"] and found["learns"] and 0 < found["loss"] < 5
    assert found["epochs"] == 8


@pytest.mark.slow
def test_files_of_ones_own_need_one_yaml_file(run: Run, tree: Path) -> None:
    folder = tree / "mine" / "my_reviews"
    folder.mkdir(parents=True)
    rows = "".join(f"good and bad {i},{i % 5 + 1}\n" for i in range(60))
    (folder / "train.csv").write_text("body,stars\n" + rows, encoding="utf-8")
    options = ("data=my_reviews", "paths.data_dir=mine", "cell=mgu")
    found = json.loads(run("-c", TRY, *options).splitlines()[-1])
    assert found["labels"] == ["1", "2", "3", "4", "5"] and found["learns"]


@pytest.mark.slow
def test_they_train_from_the_command_line(run: Run) -> None:
    printed = run("train.py", "experiment=first_letter_mgu", "debug=fast", "trainer=cpu")
    result = json.loads(printed.splitlines()[-1])
    assert 0 <= result["test"]["test/accuracy"] <= 1
    assert "first_letter-mgu" in result["run"]


@pytest.mark.slow
def test_the_tests_hold_them_to_the_contracts_unasked(run: Run) -> None:
    several = ["tests/models/test_cells.py", "tests/test_configs.py", "tests/test_structure.py"]
    printed = run("-m", "pytest", "-q", "-k", "mgu or first_letter or my_reviews", *several)
    assert int(re.search(r"(\d+) passed", printed)[1]) >= 30  # type: ignore[index]
