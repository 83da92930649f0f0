"""The standard library of the running Python: programs for a language model of characters.

Whole modules belong to a split, by a hash of their names: a module is in the same split under
every version of Python. What is tested on differs between versions all the same, so results are
comparable on one version only.
"""

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data.arrays import SPLITS
from data.synthetic.generated import Generated, Rows
from data.text import TextStreams

# tests, tables, what installers add, and what is no longer there in later versions
SKIPPED = frozenset(
    ("test", "tests", "idle_test", "lib2to3", "distutils", "idlelib", "turtledemo", "encodings",
     "pydoc_data", "ensurepip", "site-packages", "dist-packages", "__pycache__")
)  # fmt: skip
SHORTEST = 500  # characters; below are only stubs
SHARE = 0.1  # of the modules, for each of validation and test


def modules(root: Path) -> Iterator[tuple[str, str]]:
    """(dotted name, text) of the modules below a folder: ASCII, no two the same."""
    seen = set()
    for folder, inner, files in os.walk(root):
        # no symbolic links are followed; a folder whose name has a hyphen is no package
        inner[:] = sorted(n for n in inner if n.isidentifier() and n not in SKIPPED)
        for file in sorted(files):
            path = Path(folder, file)
            if path.suffix != ".py" or file.startswith("_sysconfigdata"):
                continue
            text = _read(path)
            if text is not None and len(text) >= SHORTEST and text not in seen:
                seen.add(text)
                yield ".".join(path.relative_to(root).with_suffix("").parts), text


def _read(path: Path) -> str | None:
    """A module's text; None where it cannot be read or is not all ASCII."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


def place_of(name: str, seed: int) -> float:
    """A module's place between 0 and 1, by a hash of its name."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


@dataclass(kw_only=True, eq=False)
class PythonSource(Generated, TextStreams):
    """Modules as documents. Sizes are characters; a split ends with the module that fills it."""

    train_size: int = 2_500_000
    validation_size: int = 150_000
    test_size: int = 150_000
    library: str | None = None  # the folder of the modules; None: of the running Python

    not_prepared: ClassVar[frozenset[str]] = TextStreams.not_prepared | {"seed"}

    def source_key(self) -> Any:
        return ["generated", sys.version, str(self.root)]

    @property
    def language(self) -> str:
        return "python"

    @property
    def root(self) -> Path:
        # in a virtual environment too, this is the folder of the Python it was made with
        return Path(self.library or sysconfig.get_path("stdlib")).expanduser()

    def generate(self) -> dict[str, Rows]:
        rows: dict[str, Rows] = {split: [] for split in SPLITS}
        found = dict(modules(self.root))
        filled = dict.fromkeys(SPLITS, 0)
        places = {name: place_of(name, self.split_seed) for name in found}
        for name in sorted(places, key=places.__getitem__):
            place = places[name]
            split = "validation" if place < SHARE else "test" if place < 2 * SHARE else "train"
            if filled[split] < self.sizes[split]:
                rows[split].append({self.text_column: found[name], "module": name})
                filled[split] += len(found[name])
        empty = [split for split in SPLITS if not rows[split]]
        if empty:
            raise ValueError(
                f"{self.root} holds {len(found)} Python modules, which leave none for "
                f"{' and '.join(empty)}: this Python was installed without the sources of its "
                "standard library; name a folder of programs with data.library, or use data=text"
            )
        return rows
