"""What all workers of a sweep must agree on, in plan.json and in the study itself."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all workers of a sweep must agree on, and where they meet."""

    name: str
    storage: str
    folder: str
    program: str  # train.py
    words: list[str]  # of train.py's command line, the same for all trials
    space: dict[str, str]
    monitor: str
    mode: str
    seed: int
    sampler: str
    pruner: str
    trials: int
    lease: float
    give_up: int
    gpus: int  # a trial
    share: int
    workers: int  # on this machine

    @property
    def trial_folder(self) -> Path:
        return Path(self.folder) / "trials"

    def write(self) -> Path:
        path = Path(self.folder) / "plan.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}.new")
        new.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        new.replace(path)
        return path


def read_plan(folder: str | Path) -> Plan:
    return Plan(**json.loads((Path(folder) / "plan.json").read_text(encoding="utf-8")))
