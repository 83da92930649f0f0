"""The ledger: a file a published number, results/ROW.yaml, with what was measured against it.

A file has two parts. `row` is written by hand: the experiment, the published numbers, the least
that counts as reproduced. `measured` is written by `python reproduce.py ROW` alone, and a file
whose mean, deviation or verdict does not follow from the values of its seeds is refused.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"

GIVEN = {
    "title": str,
    "task": str,
    "data": str,
    "config": list,  # the words of train.py's command line
    "metric": str,  # of the test, as the run's JSON has it
    "signature": (str, type(None)),  # how sacreBLEU's signature begins
    "better": str,
    "published": list,  # of {value, model, source}; empty where no paper is followed
    "least": float,  # the worst mean that counts as reproduced
    "try_for": float,
    "seeds": list,
    "needs": (str, type(None)),
}
PUBLISHED = {"value": float, "model": str, "source": str}
SEED = {
    "value": float,
    "minutes": float,  # of all processes that the seed took
    "device": str,
    "precision": str,
    "versions": str,
    "commit": str,
    "fingerprint": str,  # of the rows and the vocabulary (data/arrays.py)
    "signature": (str, type(None)),
}
MEASURED = {"verdict", "mean", "deviation", "config", "seeds"}


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


def _load(name: str, results: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    path = results / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: the rows are {', '.join(names(results))}")
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: file: is no mapping of row and measured")
    return content


def write(name: str, seeds: Mapping[int, Mapping[str, Any]], results: Path = RESULTS) -> None:
    """Put the measurements of `seeds` below the row, whose own lines stay as they are."""
    from omegaconf import OmegaConf

    row = given(name, results)
    measured: dict[str, Any] = {"verdict": verdict(row, seeds)}
    if seeds:
        mean, deviation = spread(seeds)
        measured |= {
            "mean": mean,
            "deviation": deviation,
            "config": row["config"],
            "seeds": {seed: dict(seeds[seed]) for seed in sorted(seeds)},
        }
    validate(name, {"row": row, "measured": measured})
    path = results / f"{name}.yaml"
    above = path.read_text(encoding="utf-8").partition("\nmeasured:")[0].rstrip()
    fresh = path.with_suffix(".partial")
    fresh.write_text(f"{above}\n\n{OmegaConf.to_yaml({'measured': measured})}", encoding="utf-8")
    fresh.replace(path)


def spread(seeds: Mapping[int, Mapping[str, Any]]) -> tuple[float, float | None]:
    """Mean and sample deviation (None of one seed) over the values of seeds."""
    values = [seeds[seed]["value"] for seed in sorted(seeds)]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def verdict(row: Mapping[str, Any], seeds: Mapping[int, Mapping[str, Any]]) -> str:
    """What the measured seeds say of a row; nothing before all of them are there."""
    if set(row["seeds"]) - set(seeds):
        return "not run yet" if row["needs"] is None or seeds else "not run here"
    mean, _ = spread(seeds)
    reached = mean >= row["least"] if row["better"] == "higher" else mean <= row["least"]
    return "reproduced" if reached else "not reproduced"


def validate_row(name: str, row: Any) -> None:
    """ValueError where the hand-written part lacks a key, or contradicts itself."""
    refuse = _refusal(name)
    _check(row, GIVEN, "row", refuse)
    for index, one in enumerate(row["published"]):
        _check(one, PUBLISHED, f"row.published[{index}]", refuse)
    if row["better"] not in ("higher", "lower"):
        refuse("row.better", f"{row['better']} is neither higher nor lower")
    if row["needs"] not in (None, "gpu"):
        refuse("row.needs", f"{row['needs']} is neither null nor gpu")
    if (row["try_for"] - row["least"]) * (1 if row["better"] == "higher" else -1) < 0:
        refuse("row.try_for", f"{row['try_for']} is worse than the least, {row['least']}")
    if not row["seeds"] or not all(type(seed) is int for seed in row["seeds"]):
        refuse("row.seeds", f"{row['seeds']} are not whole numbers")
    if len(set(row["seeds"])) < len(row["seeds"]):
        refuse("row.seeds", f"{row['seeds']} has a seed twice")
    if not all(isinstance(word, str) and "=" in word for word in row["config"]):
        refuse("row.config", f"{row['config']} are not words such as experiment=trec")


def validate(name: str, content: Mapping[str, Any]) -> None:
    """ValueError where a file is not of the form above, or claims what its seeds do not show."""
    refuse = _refusal(name)
    _check(content, {"row": Mapping, "measured": Mapping}, "file", refuse)
    row, measured = content["row"], content["measured"]
    validate_row(name, row)
    seeds = measured.get("seeds", {})
    if not isinstance(seeds, Mapping):
        refuse("measured.seeds", f"{seeds!r} is not a mapping")
    for key in measured:
        if key not in MEASURED:
            refuse(f"measured.{key}", "is not known")
        if key != "verdict" and not seeds:
            refuse(f"measured.{key}", "stands there without the values of any seed")
    for seed, one in seeds.items():
        if seed not in row["seeds"]:
            refuse(f"measured.seeds.{seed}", f"is none of the row's seeds, {row['seeds']}")
        _check(one, SEED, f"measured.seeds.{seed}", refuse)
        if row["signature"] and not str(one["signature"]).startswith(row["signature"]):
            refuse(
                f"measured.seeds.{seed}.signature",
                f"{one['signature']} does not begin with {row['signature']}",
            )
    if len({one["fingerprint"] for one in seeds.values()}) > 1:
        refuse("measured.seeds", "were not measured on the same data: their fingerprints differ")
    if seeds:
        for key, value in zip(("mean", "deviation"), spread(seeds), strict=True):
            if not _equal(measured.get(key), value):
                refuse(f"measured.{key}", f"is {measured.get(key)}, but the seeds give {value}")
        if measured.get("config") != row["config"]:
            refuse("measured.config", f"is {measured.get('config')}, but the row's {row['config']}")
    shown = verdict(row, seeds)
    if measured.get("verdict") != shown:
        refuse("measured.verdict", f"is {measured.get('verdict')}, but the seeds show: {shown}")


Refuse = Callable[[str, str], NoReturn]


def _refusal(name: str) -> Refuse:
    def refuse(key: str, why: str) -> NoReturn:
        raise ValueError(f"results/{name}.yaml: {key}: {why}")

    return refuse


def _check(node: Any, wanted: Mapping[str, Any], where: str, refuse: Refuse) -> None:
    """Exactly the keys of `wanted`, each of its type; numbers are finite."""
    if not isinstance(node, Mapping):
        refuse(where, f"{node!r} is not a mapping")
    for key in (*wanted, *node):
        if key not in node or key not in wanted:
            refuse(f"{where}.{key}", "is missing" if key in wanted else "is not known")
    for key, kind in wanted.items():
        value = node[key]
        if isinstance(value, bool) or not isinstance(
            value, (int, float) if kind is float else kind
        ):
            refuse(f"{where}.{key}", f"{value!r} is of the wrong type")
        if kind is float and not math.isfinite(value):
            refuse(f"{where}.{key}", f"{value!r} is not a number")


def _equal(one: Any, other: float | None) -> bool:
    if one is None or other is None or type(one) not in (int, float):
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
