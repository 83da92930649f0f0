"""What a run writes: a table that survives kills and resumes, W&B without network or question."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from lightning.pytorch.loggers import Logger
from PIL import Image

from tasks import loggers
from tasks.loggers import AppendingCSV, TensorBoard, Wandb, log_config, log_picture, log_table


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
    return path


def test_every_call_is_a_row_on_disk_at_once(tmp_path: Path) -> None:
    table = AppendingCSV(folder=str(tmp_path / "run"))
    table.log_metrics({"train/loss": 1.5, "epoch": 0.0}, step=3)
    assert rows(tmp_path / "run") == [{"step": "3", "epoch": "0", "train/loss": "1.5"}]
    table.log_metrics({"lr": 0.1, "epoch": 1}, step=4)
    assert rows(tmp_path / "run")[0]["lr"] == ""
    assert rows(tmp_path / "run")[1] == {"step": "4", "epoch": "1", "train/loss": "", "lr": "0.1"}


def test_a_resumed_run_goes_on_below(tmp_path: Path) -> None:
    AppendingCSV(folder=str(tmp_path)).log_metrics({"a": 1}, step=0)
    again = AppendingCSV(folder=str(tmp_path))
    again.log_metrics({"a": 2}, step=1)
    again.log_metrics({"b": 3}, step=1)
    assert [(row["a"], row["b"]) for row in rows(tmp_path)] == [
        ("1.0", ""),
        ("2.0", ""),
        ("", "3.0"),
    ]
    assert not list(tmp_path.glob("*.new"))


def test_what_a_logger_cannot_take_is_passed_over(tmp_path: Path, picture: Path) -> None:
    table = AppendingCSV(folder=str(tmp_path))
    log_config([table], {"seed": 1})
    log_table([table], "samples", ["a"], [[1]])
    log_picture([table], "curves", picture)
    assert not table.path.exists()


def test_every_logger_gets_tables_pictures_and_the_config() -> None:
    calls: list[tuple[Any, ...]] = []

    class Spy(Logger):
        name, version = "", ""

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...

        def log_hyperparams(self, params: Any) -> None:
            calls.append(("config", params))

        def log_table(self, name: str, columns: Any, data: Any, step: int | None = None) -> None:
            calls.append(("table", name, columns, data, step))

        def log_image(self, name: str, images: list[str], step: int | None = None) -> None:
            calls.append(("picture", name, images, step))

    several = [Spy(), Spy()]
    log_config(several, {"seed": 1})
    log_table(several, "samples", ("a", "b"), [("x", 1)], step=5)
    log_picture(several, "curves", Path("a.png"), step=5)
    assert (
        calls[::2]
        == calls[1::2]
        == [
            ("config", {"seed": 1}),
            ("table", "samples", ["a", "b"], [["x", 1]], 5),
            ("picture", "curves", ["a.png"], 5),
        ]
    )


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path, picture: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoard(folder=str(tmp_path))
    logger.log_metrics({"val/loss": 0.5}, step=7)
    log_table([logger], "samples", ["in", "out"], [["a|b", "c\nd"]], step=7)
    log_picture([logger], "curves", picture, step=7)
    logger.finalize("success")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/loss")] == [(7, 0.5)]
    assert (events.Images("curves")[0].width, events.Images("curves")[0].height) == (6, 4)
    [text] = events.Tensors("samples/text_summary")
    assert text.tensor_proto.string_val[0].decode() == (
        "| in | out |\n| --- | --- |\n| a\\|b | c<br>d |"
    )


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without a key, in an empty home."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def fresh_wandb(nobody: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """wandb as it reads its settings in a process that starts, in an empty folder."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield wandb
    wandb.teardown()


def give_key(host: str) -> None:
    text = f"machine {host}\nlogin user\npassword {'0' * 40}\n"
    Path(os.environ["NETRC"]).write_text(text, encoding="utf-8")


def test_wandb_is_offline_unless_there_is_a_key(
    fresh_wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loggers.wandb_mode() == "offline"
    give_key("another.example")
    assert loggers.wandb_mode() == "offline"
    give_key(urlsplit(fresh_wandb.setup().settings.base_url).netloc)
    assert loggers.wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert loggers.wandb_mode() == "offline"


def test_a_key_of_the_host_that_wandb_had_before_counts(fresh_wandb: Any) -> None:
    # wandb's own default host has changed; it still reads the key that was saved for this one
    give_key("api.wandb.ai")
    assert loggers.wandb_mode() == "online"


def test_an_earlier_run_of_the_folder_goes_on_under_its_id(tmp_path: Path) -> None:
    assert loggers._earlier_id(tmp_path) is None
    for number, name in enumerate(("run-20260101_000000-first", "offline-run-20260102_000000-b2")):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        os.utime(tmp_path / "wandb" / name, (number, number))
    (tmp_path / "wandb" / "latest-run").symlink_to(tmp_path / "wandb" / name)
    assert loggers._earlier_id(tmp_path) == "b2"


OFFLINE = """
import socket, sys
def refuse(*a, **k): raise OSError("no network in this test")
connect = socket.socket.connect
socket.socket.connect = lambda self, place: (
    connect(self, place) if self.family == socket.AF_UNIX or place[0] in ("127.0.0.1", "::1")
    else refuse()
)
from tasks.loggers import Wandb, log_config, log_picture, log_table
folder, picture = sys.argv[1:]
logger = Wandb(folder=folder, name="a run")
log_config([logger], {"seed": 1, "model": {"size": 2}})
logger.log_metrics({"train/loss": 1.0}, step=1)
log_table([logger], "samples", ["in", "out"], [["你好", "hello"]], step=1)
log_picture([logger], "curves", picture, step=1)
logger.finalize("success")
print(logger.version)
"""


@pytest.mark.slow
def test_a_run_without_a_key_is_one_that_wandb_sync_accepts(
    nobody: None, picture: Path, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    root = Path(__file__).parent.parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "WANDB_BASE_URL": "http://127.0.0.1:9"}

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE, str(tmp_path / "run"), str(picture)],
            cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout.split()[-1]

    first, again = run(), run()
    assert first == again
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) in (1, 2)  # two that begin in one second share a folder
    for folder in folders:
        [transaction] = folder.glob("*.wandb")
        assert transaction.stat().st_size > 100
    for name in ("curves*.png", "samples*.json"):  # what was logged at a step is not logged again
        assert [bool(list(folder.rglob(name))) for folder in folders] == [True, False][
            : len(folders)
        ]
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", *map(str, folders)],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert folders[0].name in done.stdout + done.stderr or first in done.stdout + done.stderr


def test_building_the_wandb_logger_touches_neither_wandb_nor_the_disk(tmp_path: Path) -> None:
    Wandb(folder=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
