"""Measure what a row of the ledger must be better than: a baseline, once a row, on the row's data.

Beside the directories of the row's runs lies baseline-NAME.json: its value, and how long it took.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ledger.rows
from launch import composed


def measure(row: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """{value, minutes, fingerprint} of a baseline: read where it is there, else measured.

    ValueError where there is none of that name, or it has not the row's metric.
    """
    file = folder / f"baseline-{name}.json"
    if not file.is_file():
        found = _measure(row["config"], name)
        file.parent.mkdir(parents=True, exist_ok=True)
        ledger.rows.write_whole(file, json.dumps(found))
    known = json.loads(file.read_text(encoding="utf-8"))
    if known["config"] != row["config"]:
        raise ValueError(f"{file} is of {known['config']}, the row now says {row['config']}")
    if row["metric"] not in known["test"]:
        raise ValueError(f"baseline {name} has no {row['metric']}, it has {list(known['test'])}")
    value = known["test"][row["metric"]]
    return {"value": value, "minutes": known["minutes"], "fingerprint": known["fingerprint"]}


def _measure(words: list[str], name: str) -> dict[str, Any]:
    import build
    from tasks.baselines import BASELINES

    if name not in BASELINES:
        raise ValueError(f"no baseline {name!r}: there are {', '.join(BASELINES)}")
    data = build.data(composed(words))
    began = time.monotonic()
    test = BASELINES[name](data)
    minutes = round((time.monotonic() - began) / 60, 2)
    print(f"baseline {name}: {test}, {minutes} minutes", flush=True)
    return {
        "config": words, "test": test, "minutes": minutes, "fingerprint": data.fingerprint
    }  # fmt: skip
