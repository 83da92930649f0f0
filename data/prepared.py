"""What was made of raw rows, on disk: written once, opened memory-mapped by every process."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from data.arrays import Split, fingerprint, open_splits, save_splits
from data.codec import Codec, codec_from_plain
from data.spec import DataSpec

Report = dict[str, float | int | str]


@dataclass(kw_only=True)
class Prepared:
    """All that a data module's `prepare` makes of the raw rows."""

    spec: DataSpec
    codec: Codec
    splits: dict[str, Split]
    report: Report = field(default_factory=dict)
    fingerprint: str = ""  # of rows and vocabulary; known once it was saved

    def save(self, folder: Path) -> None:
        """Write arrays and, last, `prepared.json` into the folder."""
        spec, codec = self.spec.to_plain(), self.codec.to_plain()
        self.fingerprint = fingerprint(self.splits, spec, codec)
        plain = {"spec": spec, "codec": codec, "report": self.report}
        plain["fingerprint"] = self.fingerprint
        save_splits(self.splits, folder)
        (folder / "prepared.json").write_text(json.dumps(plain), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> "Prepared":
        plain = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
        return cls(
            spec=DataSpec.from_plain(plain["spec"]),
            codec=codec_from_plain(plain["codec"]),
            splits=open_splits(folder),
            report=plain["report"],
            fingerprint=plain["fingerprint"],
        )


def make_once(folder: Path, make: Callable[[Path], None], last: str = "prepared.json") -> None:
    """Let `make` fill the folder if its `last` file is not there; of all processes that call this,
    one works.

    It is written aside and moved into place: a killed process leaves nothing half-made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / last).exists():
            return
        aside = Path(f"{folder}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            make(aside)
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def cache_key(*content: Any) -> str:
    """A hash of plain data, dataclasses, and the code of this package: data that an edited
    generator or kind made is prepared anew."""
    text = json.dumps([*content, _code_version()], sort_keys=True, default=_plain)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(settings: Any) -> Any:
    """Settings of a part, and a hash of the file that they name: not its path, not its date."""
    if not hasattr(settings, "__dataclass_fields__"):
        return str(settings)
    plain = asdict(settings)
    content = getattr(settings, "content", None)
    if content is not None:
        plain["file"] = content()
    return plain


@cache
def _code_version() -> str:
    code = hashlib.blake2b(digest_size=8)
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(file.read_bytes())
    return code.hexdigest()
