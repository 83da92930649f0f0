"""The layout's promises: who may import whom, and that no code asks which model it holds."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "tasks", "data")
ROOMS = ("building", "ledger", "sweeping")  # of build.py, reproduce.py and sweep.py
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
COMMANDS = {"train", "predict", "sweep", "reproduce", "export"}
FILES = sorted(
    path.relative_to(ROOT)
    for path in [
        *ROOT.glob("*.py"),
        *(file for name in (*PACKAGES, *ROOMS) for file in (ROOT / name).rglob("*.py")),
    ]
)
OWN = {*PACKAGES, *ROOMS, *SCRIPTS}
CONFIGURATION = {"hydra", "omegaconf"}
CELLS = sorted(path.stem for path in (ROOT / "configs" / "cell").glob("*.yaml"))


def module_name(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def tree(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), str(file))


def imported(file: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            names.add((node.module or "").partition(".")[0])
    return names


def of(package: str) -> list[Path]:
    return [file for file in FILES if file.parts[0] == package]


def ids(files: list[Path]) -> Any:
    return pytest.mark.parametrize("file", files, ids=map(str, files))


@ids(of("models"))
def test_models_are_plain_torch(file: Path) -> None:
    allowed = {"models", "torch", *sys.stdlib_module_names}
    if file == Path("models/encoders/backbone.py"):
        allowed |= {"torchvision"}
    assert imported(file) <= allowed


@ids(of("data"))
def test_data_knows_neither_models_nor_tasks(file: Path) -> None:
    assert not imported(file) & ((OWN - {"data"}) | CONFIGURATION)


@ids(of("tasks"))
def test_tasks_know_models_and_data_alone(file: Path) -> None:
    assert not imported(file) & ((OWN - set(PACKAGES)) | CONFIGURATION)


def test_build_knows_no_script() -> None:
    assert not imported(Path("build.py")) & ({*SCRIPTS, *ROOMS} - {"build", "building"})


@ids([*of("ledger"), *of("sweeping")])
def test_what_a_script_is_made_of_knows_no_script_and_not_the_other_one(file: Path) -> None:
    assert not imported(file) & (COMMANDS | {"ledger", "sweeping"} - {file.parts[0]})


@ids(of("building"))
def test_what_build_is_made_of_knows_no_script(file: Path) -> None:
    assert not imported(file) & ({*SCRIPTS, *ROOMS} - {"building", "launch"})


@ids(FILES)
def test_every_module_imports(file: Path) -> None:
    importlib.import_module(module_name(file))


def test_no_folder_of_leftovers_and_no_name_that_hides_a_package() -> None:
    names = {part for file in FILES for part in file.with_suffix("").parts}
    assert not names & {"utils", "util", "helpers", "misc", "common"}
    tops = {path.stem for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert not tops & {"datasets", "evaluate", "tokenizers", "test"}
    assert not tops & {"sweeps"}  # W&B's local controller imports a package of this name
    # a package tests.data would hide `data`
    assert not list((ROOT / "tests").rglob("__init__.py"))


def choices(module: ast.Module) -> Iterator[tuple[int, Any]]:
    """Constants that something is compared or matched with, and their lines."""
    for node in ast.walk(module):
        if isinstance(node, ast.Compare):
            sides: list[ast.AST] = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        else:
            continue
        for side in sides:
            for part in ast.walk(side):
                if isinstance(part, ast.Constant):
                    yield node.lineno, part.value


@ids(FILES)
def test_no_code_asks_for_the_name_of_a_cell(file: Path) -> None:
    assert [line for line, value in choices(tree(file)) if value in CELLS] == []


def asked_types(module: ModuleType, parsed: ast.Module) -> Iterator[tuple[int, type]]:
    """The types of every isinstance that decides something: assertions may state what is so."""
    stated = {
        id(inner)
        for node in ast.walk(parsed)
        if isinstance(node, ast.Assert)
        for inner in ast.walk(node)
    }
    for node in ast.walk(parsed):
        name = (
            node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        )
        if name not in ("isinstance", "issubclass") or id(node) in stated:
            continue
        for part in ast.walk(node.args[1]):
            if isinstance(part, (ast.Name, ast.Attribute)):
                try:
                    found = eval(ast.unparse(part), vars(module))
                except NameError:  # imported within a function
                    continue
                if isinstance(found, type):
                    yield node.lineno, found


def models_asked(module: ModuleType, parsed: ast.Module) -> list[tuple[int, type]]:
    return [
        (line, kind) for line, kind in asked_types(module, parsed) if issubclass(kind, nn.Module)
    ]


@ids(FILES)
def test_no_code_asks_for_the_type_of_a_model(file: Path) -> None:
    assert models_asked(importlib.import_module(module_name(file)), tree(file)) == []


def test_these_tests_see_what_they_forbid() -> None:
    parsed = ast.parse(
        "if isinstance(cell, (int, nn.LSTM)) or name in ('gru', 'x'): pass\n"
        "assert isinstance(cell, nn.GRU)\n"
        "match name:\n"
        "    case 'lstm': pass\n"
    )
    module = ModuleType("example")
    module.nn = torch.nn  # type: ignore[attr-defined]
    assert models_asked(module, parsed) == [(1, nn.LSTM)]
    assert [(n, v) for n, v in choices(parsed) if v in ("gru", "lstm")] == [(1, "gru"), (4, "lstm")]
