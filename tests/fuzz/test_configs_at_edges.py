"""Every key of the config at its edges: it trains a step, or one line says which value is wrong.

A seeded sample in the default run; all of them in the slow one.
"""

import logging
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from tests.fuzz.configs_at_edges import Case, cases, in_range, outcome
from tests.fuzz.conftest import TIMES
from tests.tasks.conftest import CONFIGS


@pytest.fixture(scope="module", autouse=True)
def configs() -> Iterator[None]:
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def every() -> list[Case]:
    """In a random order, the same in every run unless `UNROLL_FUZZ` is set."""
    found = list(cases())
    random.Random(None if TIMES else 0).shuffle(found)
    return found


def named(case: Case, told: str) -> bool:
    """Whether an error says the key, or at least the value as it stands in the config."""
    value = (
        {None: "null", True: "true", False: "false"}.get(case.value)
        if (case.value is None or isinstance(case.value, bool))
        else repr(case.value)
    )
    if isinstance(case.value, int):
        told = told.replace(",", "")  # 1,000,000
    return case.key.rpartition(".")[2] in told or str(value).strip("'") in told


def check(some: list[Case], folder: Path, outcomes: Counter[str]) -> None:
    """All cases are tried before those that failed are told."""
    failed = []
    for case in some:
        try:
            told = outcome(case, str(folder))
        except Exception as error:
            failed.append(f"{case}: {type(error).__name__}: {error}")
            continue
        outcomes[told.partition(":")[0]] += 1
        if told != "trained" and ("\n" in told or not named(case, told)):
            failed.append(f"{case}: told as {told}")
    assert not failed, "\n".join(failed)


def test_a_sample_of_all_keys(every: list[Case], tmp_path: Path, outcomes: Counter[str]) -> None:
    wrong_types = [case for case in every if not in_range(case.value)]
    numbers = [case for case in every if in_range(case.value)]
    check(wrong_types[: 30 * max(1, TIMES)], tmp_path, outcomes)
    check(numbers[: 20 * max(1, TIMES)], tmp_path, outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(8))
def test_all_keys(share: int, every: list[Case], tmp_path: Path, outcomes: Counter[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(every[share::8], tmp_path, outcomes)
