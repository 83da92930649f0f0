"""What a row of the ledger must hold, and what its seeds show: the checks behind rows.py."""

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

GIVEN = {
    "title": str,
    "task": str,
    "data": str,
    "config": list,  # the words of train.py's command line
    "metric": str,  # of the test, as the run's JSON has it
    "signature": (str, type(None)),  # how sacreBLEU's signature begins
    "better": str,
    "published": list,  # of {value, model, source}; empty where no paper is followed
    "least": (int, float, type(None)),  # the worst mean that counts as reproduced; null: baselines
    "try_for": float,
    "seeds": list,
    "needs": (str, type(None)),
}
ALSO = {  # what a row may say beside
    "baselines": list,  # of tasks/baselines.py: the mean must be better than each
    "within": float,  # a failure was published: how near to `least`, as a share of it
    "runs": str,  # the row of the same config whose runs are these, too
    "note": str,  # what a reader of the table must know
}
PUBLISHED = {"value": float, "model": str, "source": str}
SEED = {
    "value": float,
    "minutes": float,  # of all processes that the seed took
    "parameters": int,  # of the model, frozen ones too
    "device": str,
    "precision": str,
    "versions": str,
    "commit": str,
    "fingerprint": str,  # of the rows and the vocabulary (data/arrays.py)
    "signature": (str, type(None)),
}
ALSO_SEED = {"settings": str}  # their digest (settings.py); seeds of before it was noted lack it
BASELINE = {"value": float, "minutes": float, "fingerprint": str}
MEASURED = {"verdict", "mean", "deviation", "config", "seeds", "baselines"}

Seeds = Mapping[int, Mapping[str, Any]]
Baselines = Mapping[str, Mapping[str, Any]]


def spread(seeds: Seeds) -> tuple[float, float | None]:
    """Mean and sample deviation (None of one seed) over the values of seeds."""
    values = [seeds[seed]["value"] for seed in sorted(seeds)]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def verdict(row: Mapping[str, Any], seeds: Seeds, baselines: Baselines) -> str:
    """What the measured seeds say of a row; nothing before they and all baselines are there."""
    if set(row["seeds"]) - set(seeds) or set(row.get("baselines", [])) - set(baselines):
        return "not run yet" if row["needs"] is None or seeds else "not run here"
    mean, _ = spread(seeds)
    sign = 1 if row["better"] == "higher" else -1
    enough = row["least"] is None or sign * (mean - row["least"]) >= 0
    if "within" in row:
        enough = abs(mean - row["least"]) <= row["within"] * abs(row["least"])
    above = all(sign * (mean - one["value"]) > 0 for one in baselines.values())
    return "reproduced" if enough and above else "not reproduced"


def validate_row(name: str, row: Any) -> None:
    """ValueError where the hand-written part lacks a key, or contradicts itself."""
    refuse = _refusal(name)
    _check(row, GIVEN, "row", refuse, also=ALSO)
    for index, one in enumerate(row["published"]):
        _check(one, PUBLISHED, f"row.published[{index}]", refuse)
    if row["better"] not in ("higher", "lower"):
        refuse("row.better", f"{row['better']} is neither higher nor lower")
    if row["needs"] not in (None, "gpu"):
        refuse("row.needs", f"{row['needs']} is neither null nor gpu")
    least, sign = row["least"], 1 if row["better"] == "higher" else -1
    if least is None and not row.get("baselines"):
        refuse("row.least", "is null, and there are no baselines to be better than")
    if least is not None and (row["try_for"] - least) * sign < 0:
        refuse("row.try_for", f"{row['try_for']} is worse than the least, {least}")
    if "within" in row and (least is None or not 0 < row["within"] < 1):
        refuse("row.within", f"{row['within']} is no share of row.least, {least}")
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
    seeds, baselines = measured.get("seeds", {}), measured.get("baselines", {})
    for key, value in (("seeds", seeds), ("baselines", baselines)):
        if not isinstance(value, Mapping):
            refuse(f"measured.{key}", f"{value!r} is not a mapping")
    for key in measured:
        if key not in MEASURED:
            refuse(f"measured.{key}", "is not known")
        if key != "verdict" and not seeds:
            refuse(f"measured.{key}", "stands there without the values of any seed")
    for seed, one in seeds.items():
        if seed not in row["seeds"]:
            refuse(f"measured.seeds.{seed}", f"is none of the row's seeds, {row['seeds']}")
        _check(one, SEED, f"measured.seeds.{seed}", refuse, also=ALSO_SEED)
        if row["signature"] and not str(one["signature"]).startswith(row["signature"]):
            refuse(
                f"measured.seeds.{seed}.signature",
                f"{one['signature']} does not begin with {row['signature']}",
            )
    for baseline, one in baselines.items():
        if baseline not in row.get("baselines", []):
            refuse(f"measured.baselines.{baseline}", "is none of the row's baselines")
        _check(one, BASELINE, f"measured.baselines.{baseline}", refuse)
    everything = [*seeds.values(), *baselines.values()]
    if len({one["fingerprint"] for one in everything}) > 1:
        refuse("measured.seeds", "were not measured on the same data: their fingerprints differ")
    if seeds:
        for key, value in zip(("mean", "deviation"), spread(seeds), strict=True):
            if not _equal(measured.get(key), value):
                refuse(f"measured.{key}", f"is {measured.get(key)}, but the seeds give {value}")
        if measured.get("config") != row["config"]:
            refuse("measured.config", f"is {measured.get('config')}, but the row's {row['config']}")
    shown = verdict(row, seeds, baselines)
    if measured.get("verdict") != shown:
        refuse("measured.verdict", f"is {measured.get('verdict')}, but the seeds show: {shown}")


Refuse = Callable[[str, str], NoReturn]


def _refusal(name: str) -> Refuse:
    def refuse(key: str, why: str) -> NoReturn:
        raise ValueError(f"results/{name}.yaml: {key}: {why}")

    return refuse


def _check(
    node: Any,
    wanted: Mapping[str, Any],
    where: str,
    refuse: Refuse,
    *,
    also: Mapping[str, Any] | None = None,
) -> None:
    """The keys of `wanted`, and of those of `also` any, each of its type; numbers are finite."""
    if not isinstance(node, Mapping):
        refuse(where, f"{node!r} is not a mapping")
    kinds = {**wanted, **{key: kind for key, kind in (also or {}).items() if key in node}}
    for key in (*wanted, *node):
        if key not in node or key not in kinds:
            refuse(f"{where}.{key}", "is missing" if key in wanted else "is not known")
    for key, kind in kinds.items():
        value = node[key]
        if isinstance(value, bool) or not isinstance(
            value, (int, float) if kind is float else kind
        ):
            refuse(f"{where}.{key}", f"{value!r} is of the wrong type")
        if isinstance(value, float) and not math.isfinite(value):
            refuse(f"{where}.{key}", f"{value!r} is not a number")


def _equal(one: Any, other: float | None) -> bool:
    if one is None or other is None or type(one) not in (int, float):
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
