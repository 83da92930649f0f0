"""docs/data.md: its commands compose, and name every kind of data with its columns."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import build
from building.checks import check_stream
from launch import quote_plain_values

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python train\.py (.*)$", TEXT, re.MULTILINE)
KINDS = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \|$", TEXT, re.MULTILINE)


@pytest.fixture(autouse=True)
def configs() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield


def test_it_shows_commands_and_every_kind() -> None:
    kinds = {p.stem for p in (ROOT / "configs" / "data").glob("*.yaml")}
    assert len(COMMANDS) >= 5 and {kind for kind, _, _ in KINDS} <= kinds and len(KINDS) == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str) -> None:
    config = compose("config", ["paths.run_dir=run", *quote_plain_values(shlex.split(command))])
    check_stream(config)
    assert build.instantiate(config.data).columns()


@pytest.mark.parametrize(("kind", "task", "columns"), KINDS)
def test_a_kind_has_the_columns_that_it_says(kind: str, task: str, columns: str) -> None:
    config = compose("config", [f"task={task}", f"data={kind}", "paths.run_dir=run"])
    for name, value in re.findall(r"`data\.(\w+)=([\w\[\].]+)`", columns):
        assert name in config.data and value in ("[...]", config.data[name])


def test_the_numbers_that_it_names_are_those_of_the_config() -> None:
    data = compose("config", ["data=text", "task=language_model", "paths.run_dir=run"]).data
    for name in ("tokenizer_rows", "held_out", "shuffle_buffer"):
        said = re.search(rf"`data\.{name}` rows\s+\(([\d,]+)", TEXT)
        assert said and int(said[1].replace(",", "")) == data[name]
