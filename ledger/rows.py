"""The ledger: a file a published number, results/ROW.yaml, with what was measured against it.

A file has two parts. `row` is written by hand: the experiment, the published numbers, the least
that counts as reproduced. `measured` is written by `python reproduce.py ROW` alone, and a file
whose mean, deviation or verdict does not follow from the values of its seeds is refused.
"""

from pathlib import Path
from typing import Any

from ledger.form import Baselines, Seeds, spread, validate, validate_row, verdict

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"


def names(results: Path = RESULTS) -> list[str]:
    return sorted(path.stem for path in results.glob("*.yaml"))


def given(name: str, results: Path = RESULTS) -> dict[str, Any]:
    """The part of a row's file that is written by hand, validated."""
    row = _load(name, results).get("row")
    validate_row(name, row)
    return dict(row)


def read(name: str, results: Path = RESULTS) -> dict[str, Any]:
    """A row's file → {row, measured}, validated. ValueError names the file and the key."""
    content = _load(name, results)
    validate(name, content)
    return content


def seeds(name: str, results: Path = RESULTS) -> dict[int, dict[str, Any]]:
    """The seeds of a row's file, not held against its upper part, which may have changed since."""
    return dict((_load(name, results).get("measured") or {}).get("seeds") or {})


def _load(name: str, results: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    path = results / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: the rows are {', '.join(names(results))}")
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: file: is no mapping of row and measured")
    return content


def write(
    name: str, found: Seeds, *, baselines: Baselines | None = None, results: Path = RESULTS
) -> None:
    """Put what was measured below the row, whose own lines stay as they are."""
    from omegaconf import OmegaConf

    row, baselines = given(name, results), baselines or {}
    measured: dict[str, Any] = {"verdict": verdict(row, found, baselines)}
    if found:
        mean, deviation = spread(found)
        measured |= {"mean": mean, "deviation": deviation, "config": row["config"]}
        if baselines:
            measured["baselines"] = {each: dict(one) for each, one in baselines.items()}
        measured["seeds"] = {seed: dict(found[seed]) for seed in sorted(found)}
    validate(name, {"row": row, "measured": measured})
    path = results / f"{name}.yaml"
    above = path.read_text(encoding="utf-8").partition("\nmeasured:")[0].rstrip()
    write_whole(path, f"{above}\n\n{OmegaConf.to_yaml({'measured': measured})}")


def write_whole(path: Path, text: str) -> None:
    """All of it or nothing: another process may read it at any time."""
    fresh = path.with_suffix(".partial")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
