"""RESULTS.md: the ledger as a table, with the pictures of pictures.py."""

import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ledger.rows
from ledger import comparison
from ledger.pictures import draw, overview
from ledger.runs import RUNS

OVERVIEW = "overview"  # the picture of all rows, RESULTS/overview.png
SHAPES = "cells_shapes.csv"  # what benchmarks/cells_shapes.py measured, RESULTS/cells_shapes.csv

HEAD = """# Results against published numbers

Written by `python reproduce.py report` from `results/`; do not edit. To run a row:
`python reproduce.py ROW`. A row is *reproduced* where the mean over its seeds is as good as "least"
or better, and better than each of its baselines; where a failure was published (least ± %), where
it lies so near to that, on either side. ± is the sample deviation over seeds (n − 1).
Minutes are those of one seed on the clock, on a machine that may have done other work as well.

| row | metric | published | baselines | least | try for | measured | seeds | parameters | minutes | verdict |
| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""  # noqa: E501


def listing(results: Path = ledger.rows.RESULTS) -> str:
    """A line a row: what is to be reached, what was, and the verdict."""
    lines = [f"{'row':29}{'metric':27}{'least':>13}{'measured':>19}{'seeds':>7}  verdict"]
    lines += [line(name, ledger.rows.read(name, results)) for name in ledger.rows.names(results)]
    return "\n".join(lines)


def line(name: str, content: Mapping[str, Any]) -> str:
    row, measured = content["row"], content["measured"]
    done = f"{len(measured.get('seeds', {}))}/{len(row['seeds'])}"
    return (
        f"{name:29}{row['metric']:27}{_bound(row):>13}{_mean(content):>19}{done:>7}"
        f"  {measured['verdict']}"
    )


def write(place: Path, *, results: Path = ledger.rows.RESULTS, runs: Path = RUNS) -> list[Path]:
    """Write the table to `place`, a picture RESULTS/ROW.png of each row whose runs' metrics.csv are
    below `runs`, and one of all measured rows; a picture from before stays. Returns the pictures
    drawn now."""
    contents = {name: ledger.rows.read(name, results) for name in ledger.rows.names(results)}
    table, below, drawn = [], [], []
    for name, content in contents.items():
        table.append(_cells(name, content))
        if not content["measured"].get("seeds"):
            continue
        below.append(_section(name, content))
        picture = results / f"{name}.png"
        if draw(content, runs / content["row"].get("runs", name), picture):
            drawn.append(picture)
        if picture.is_file():
            link = os.path.relpath(picture, place.parent)
            below.append(f"![Learning curves of {name}]({link})\n")
    picture = results / f"{OVERVIEW}.png"
    if overview(contents, picture):
        drawn.append(picture)
        link = os.path.relpath(picture, place.parent)
        below.insert(0, f"![Quality against minutes and parameters]({link})\n")
    below.append(_shapes(comparison.read(results / SHAPES)))
    text = HEAD + "\n".join(table) + "\n" + "".join(f"\n{part}" for part in below if part)
    place.write_text(text, encoding="utf-8")
    return drawn


def _cells(name: str, content: Mapping[str, Any]) -> str:
    row, measured = content["row"], content["measured"]
    seeds = measured.get("seeds", {})
    minutes = f"{statistics.fmean(s['minutes'] for s in seeds.values()):.1f}" if seeds else "–"
    published = "; ".join(
        f"{one['value']:g} ({one['model']}; {one['source']})" for one in row["published"]
    )
    known = measured.get("baselines", {})
    baselines = ", ".join(
        f"{one} {number(known[one]['value'])}" if one in known else one
        for one in row.get("baselines", [])
    )
    sizes = sorted({f"{one['parameters']:,}" for one in seeds.values()})
    cells = [
        f"`{name}`", f"`{row['metric']}`", published or "none", baselines or "–", _bound(row),
        f"{row['try_for']:g}", _mean(content), f"{len(seeds)} of {len(row['seeds'])}",
        "; ".join(sizes) or "–", minutes, measured["verdict"],
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _section(name: str, content: Mapping[str, Any]) -> str:
    """What a reader needs to repeat a measured row, and each seed's own number."""
    row, measured = content["row"], content["measured"]
    seeds = measured["seeds"]

    def all_of(key: str) -> str:
        return "; ".join(sorted({str(one[key]) for one in seeds.values() if one[key] is not None}))

    values = ", ".join(f"{number(one['value'])} (seed {seed})" for seed, one in seeds.items())
    baselines = measured.get("baselines", {})
    facts = {
        "note": row.get("note", ""),
        "command": f"`python train.py {' '.join(row['config'])} seed=SEED`",
        "seeds": values,
        "baselines": ", ".join(f"{number(b['value'])} ({name})" for name, b in baselines.items()),
        "parameters": all_of("parameters"),
        "signature": all_of("signature"),
        "on": f"{all_of('device')}; {all_of('precision')}",
        "versions": all_of("versions"),
        "commit": all_of("commit"),
        "data": f"{row['data']}, fingerprint `{all_of('fingerprint')}`",
    }
    lines = [f"- {key}: {value}" for key, value in facts.items() if value]
    return f"## {row['title']}\n\n" + "\n".join(lines) + "\n"


def _shapes(runs: comparison.Runs) -> str:
    """The cells compared on a data set of each shape; empty where none was run."""
    if not runs:
        return ""
    return (
        "## Cells over shapes\n\nOf a cell the mean ± the sample deviation over seeds of the test, "
        "and the steps that it made of the minutes that all had (`trainer.max_time`), by the mean "
        "of its places; `benchmarks/cells_shapes.py` measures it.\n\n"
        f"{comparison.table(runs)}\n\n{comparison.conditions(runs)}\n"
    )


def _bound(row: Mapping[str, Any]) -> str:
    if row["least"] is None:
        return "baselines"
    if "within" in row:
        return f"{row['least']:g} ± {row['within']:.0%}"
    return f"{'≥' if row['better'] == 'higher' else '≤'} {row['least']:g}"


def _mean(content: Mapping[str, Any]) -> str:
    measured = content["measured"]
    if not measured.get("seeds"):
        return "–"
    return spread(measured["mean"], measured["deviation"])


def number(value: float, *, like: float | None = None) -> str:
    """Four decimals; a power of ten where they would say little of `like`, by default `value`."""
    small = 0 < abs(value if like is None else like) < 1e-3
    return f"{value:.1e}" if small else f"{value:.4f}"


def spread(mean: float, deviation: float | None, *, width: int = 0) -> str:
    """mean ± deviation in one notation, the mean to the right of `width` characters."""
    own = "" if deviation is None else f" ± {number(deviation, like=mean)}"
    return f"{number(mean):>{width}}{own}"
