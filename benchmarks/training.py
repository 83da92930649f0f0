"""What benchmarks of trainings share: which cells, and `train.py` on one thread of its own."""

import argparse
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CELLS = sorted(path.stem for path in (ROOT / "configs" / "cell").glob("*.yaml"))


def arguments(
    about: str | None, *, default: str, out: str, names: str = "cells"
) -> argparse.ArgumentParser:
    """A command line of cells (or what `names` says), seeds, a folder and words for train.py;
    `default` is which, as the help tells it.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    word = names[:-1].upper()
    parser.add_argument(names, nargs="*", metavar=word, help=f"default: {default}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides")
    return parser


def parsed(
    parser: argparse.ArgumentParser, *, names: str = "cells", known: Collection[str] = CELLS
) -> argparse.Namespace:
    """The command line, with cells (or what `names` says) that there are."""
    options = parser.parse_args()
    unknown = [name for name in getattr(options, names) if name not in known]
    if unknown:
        parser.error(f"no such {names[:-1]}: {', '.join(unknown)}; there are {', '.join(known)}")
    return options


def train(run: Any, words: list[str]) -> str | None:
    """What `train.py` with these words prints; None where it fails, and the end of it is shown."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "train.py", *words],
        cwd=ROOT, env=os.environ | threads, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        print(f"{run} failed:\n{found.stdout[-2000:]}{found.stderr[-2000:]}", flush=True)
        return None
    return found.stdout
