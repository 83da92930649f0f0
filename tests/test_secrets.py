"""No key, token or password of the environment is ever written."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import secrets

ROOT = Path(__file__).parent.parent
SMALL = [
    "task=tagging", "data.train_size=32", "data.validation_size=16", "data.test_size=16",
    "model.hidden_size=8", "trainer=cpu", "trainer.max_epochs=1", "callbacks.estimate=null",
]  # fmt: skip
SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_nobodysTokenNobodysTokenNobodys",
    "HUGGING_FACE_HUB_TOKEN": "hf_anotherTokenAnotherTokenAnother",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYNOTONE",
    "DATABASE_PASSWORD": "correct horse battery staple",
}


def train(*overrides: str) -> tuple[int, str]:
    line = sorted([*SMALL, *overrides], key=lambda text: not text.startswith("--"))
    done = subprocess.run(
        [sys.executable, "train.py", *line], cwd=ROOT, env=os.environ | SECRETS, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500,
    )  # fmt: skip
    return done.returncode, done.stdout


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file's name and bytes, and those of the entries of every archive."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        yield f"{path}: {name}", archive.read(name)


@pytest.mark.slow
def test_nothing_that_a_run_leaves_holds_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, said = train("logger=all", f"hydra.run.dir={run}")
    assert code == 0, said
    seen = dict(contents(run))
    for part in (".wandb", "data.pkl", "config.yaml"):  # in which a value of the config is read
        assert any(name.endswith(part) and b"batch_size" in held for name, held in seen.items())
    for name, value in SECRETS.items():
        holding = [file for file, held in seen.items() if value.encode() in held]
        assert not holding, f"{name} is in {holding}"
        assert value not in said


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [[], ["--multirun", "seed=1,2"]], ids=["run", "sweep"])
def test_one_that_the_config_names_is_refused_and_not_written(
    sweep: list[str], tmp_path: Path
) -> None:
    place = [f"hydra.run.dir={tmp_path / 'run'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    code, said = train("logger.wandb.group='${oc.env:HF_TOKEN}'", *sweep, *place)
    assert code == 1
    assert "logger.wandb.group holds the value of the environment's HF_TOKEN" in said
    everything = b"".join(held for _, held in contents(tmp_path)) + said.encode()
    assert SECRETS["HF_TOKEN"].encode() not in everything


def test_a_config_or_a_command_line_with_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
        config = {"data": {"path": [f"https://me:{value}@host/x"]}, "seed": 1}
        with pytest.raises(
            ValueError, match=rf"^data\.path holds .* environment's {name},"
        ) as told:
            secrets.refuse(config)
        assert value not in str(told.value)
        with pytest.raises(ValueError, match="^the command line holds the value"):
            secrets.refuse_line(["train.py", f"logger.wandb.name={value}"])
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", "/where/it/lies")
    monkeypatch.setenv("SHORT_KEY", "text")
    secrets.refuse({"path": "/where/it/lies", "column": "text", "tags": [None, 3]})
