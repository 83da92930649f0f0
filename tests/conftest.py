"""Every test: no network, no home directory, one thread (several processes share the cores)."""

import os
from collections.abc import Iterator

import pytest

# read when torch is imported, by this process and by those that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew", action="store_true", help="write tests/trajectories anew")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared data in a folder of the session, which all workers of `-n` share."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    before = os.environ.get("UNROLL_CACHE")
    os.environ["UNROLL_CACHE"] = str(shared / "unroll")
    yield
    if before is None:
        del os.environ["UNROLL_CACHE"]
    else:
        os.environ["UNROLL_CACHE"] = before
