"""How many cases are tried: a seeded sample in the default run, many more in the slow one.

`UNROLL_FUZZ=N` tries N times as many, by another seed each time: to look for what is not known yet.
"""

import os
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("UNROLL_FUZZ", "0"))


def cases(number: int) -> Callable[[Any], Any]:
    """So many examples, the same ones in every run unless `UNROLL_FUZZ` is set."""
    return settings(
        max_examples=number * max(1, TIMES), derandomize=not TIMES, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """More than four gigabytes beyond what is in use now are not to be had."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 1024**3, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """How the cases of a file ended; printed with -s."""
    found: Counter[str] = Counter()
    yield found
    told = ", ".join(f"{name} {count:,}" for name, count in sorted(found.items()))
    print(f"\n{request.node.name}: {sum(found.values()):,} cases ({told})")
