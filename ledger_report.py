"""RESULTS.md: the ledger as a table, and the learning curves of the rows whose runs are there."""

import csv
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ledger
from ledger_runs import RUNS

Curve = dict[int, float]  # step → value

HEAD = """# Results against published numbers

Written by `python reproduce.py report` from `results/*.yaml`; do not edit. To run a row:
`python reproduce.py ROW`. A row is *reproduced* where the mean over its seeds is as good as "least"
or better, and better than each of its baselines; ± is the sample deviation over seeds (n − 1).
Minutes are those of one seed on the clock, on a machine that may have done other work as well.

| row | metric | published | baselines | least | try for | measured | seeds | parameters | minutes | verdict |
| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""  # noqa: E501


def listing(results: Path = ledger.RESULTS) -> str:
    """A line a row: what is to be reached, what was, and the verdict."""
    lines = [f"{'row':22}{'metric':27}{'least':>9}{'measured':>19}{'seeds':>7}  verdict"]
    lines += [line(name, ledger.read(name, results)) for name in ledger.names(results)]
    return "\n".join(lines)


def line(name: str, content: Mapping[str, Any]) -> str:
    row, measured = content["row"], content["measured"]
    done = f"{len(measured.get('seeds', {}))}/{len(row['seeds'])}"
    return (
        f"{name:22}{row['metric']:27}{_bound(row):>9}{_mean(content):>19}{done:>7}"
        f"  {measured['verdict']}"
    )


def write(place: Path, *, results: Path = ledger.RESULTS, runs: Path = RUNS) -> list[Path]:
    """Write the table to `place` and a picture RESULTS/ROW.png of each row whose runs' metrics.csv
    are below `runs`; a picture from before stays. Returns the pictures drawn now."""
    contents = {name: ledger.read(name, results) for name in ledger.names(results)}
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
    text = HEAD + "\n".join(table) + "\n" + "".join(f"\n{part}" for part in below)
    place.write_text(text, encoding="utf-8")
    return drawn


def draw(content: Mapping[str, Any], folder: Path, path: Path) -> bool:
    """The metric on validation over steps: a line a seed, and their mean ± deviation as a band.

    Returns False, and draws nothing, where no run of a measured seed is below `folder`.
    """
    row = content["row"]
    name = row["metric"].replace("test/", "val/", 1)
    files = [folder / str(seed) / "metrics.csv" for seed in content["measured"]["seeds"]]
    found = [_curve(file, name) for file in files if file.is_file()]
    curves = [curve for curve in found if curve]
    if not curves:
        return False
    from tasks.drawing import save, style, subplots

    with style():
        figure, (ax,) = subplots(1, columns=1, size=(5.6, 3.4))
        for curve in curves:
            ax.plot(list(curve), list(curve.values()), color="C0", alpha=0.35, linewidth=0.8)
        steps, means, deviations = band(curves)
        low, high = ([m + sign * d for m, d in zip(means, deviations, strict=True)]
                     for sign in (-1, 1))  # fmt: skip
        ax.fill_between(steps, low, high, color="C0", alpha=0.2, linewidth=0)
        ax.plot(steps, means, color="C0", marker="o", markersize=3,
                label=f"validation, mean ± deviation (seeds: {len(curves)})")  # fmt: skip
        mean = content["measured"]["mean"]
        ax.axhline(mean, color="C1", linewidth=1, label=f"test, mean {mean:.4g}")
        if row["least"] is not None:
            ax.axhline(row["least"], color="C7", linewidth=1, linestyle="--",
                       label=f"test, least {row['least']:.4g}")  # fmt: skip
        known = content["measured"].get("baselines", {})
        for number, (baseline, one) in enumerate(known.items(), 2):
            ax.axhline(one["value"], color=f"C{number}", linewidth=1, linestyle=":",
                       label=f"test, {baseline} {one['value']:.4g}")  # fmt: skip
        ax.set_title(row["title"])
        ax.set_xlabel("steps")
        ax.set_ylabel(name)
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
        save(figure, path)
    return True


def band(curves: list[Curve]) -> tuple[list[int], list[float], list[float]]:
    """Steps that all curves have, with the mean and the sample deviation (0 of one) there."""
    steps = sorted(set(curves[0]).intersection(*curves))
    columns = [[curve[step] for curve in curves] for step in steps]
    spreads = [statistics.stdev(own) if len(own) > 1 else 0.0 for own in columns]
    return steps, [statistics.fmean(own) for own in columns], spreads


def _curve(path: Path, name: str) -> Curve:
    """A metric of a metrics.csv by step, in order; of two rows of a step the later holds."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(int(row["step"]), row.get(name)) for row in csv.DictReader(file)]
    return dict(sorted({step: float(value) for step, value in rows if value}.items()))


def _cells(name: str, content: Mapping[str, Any]) -> str:
    row, measured = content["row"], content["measured"]
    seeds = measured.get("seeds", {})
    minutes = f"{statistics.fmean(s['minutes'] for s in seeds.values()):.1f}" if seeds else "–"
    published = "; ".join(
        f"{one['value']:g} ({one['model']}; {one['source']})" for one in row["published"]
    )
    known = measured.get("baselines", {})
    baselines = ", ".join(
        f"{one} {known[one]['value']:.4f}" if one in known else one
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

    values = ", ".join(f"{one['value']:.4f} (seed {seed})" for seed, one in seeds.items())
    baselines = measured.get("baselines", {})
    facts = {
        "note": row.get("note", ""),
        "command": f"`python train.py {' '.join(row['config'])} seed=SEED`",
        "seeds": values,
        "baselines": ", ".join(f"{one['value']:.4f} ({name})" for name, one in baselines.items()),
        "parameters": all_of("parameters"),
        "signature": all_of("signature"),
        "on": f"{all_of('device')}; {all_of('precision')}",
        "versions": all_of("versions"),
        "commit": all_of("commit"),
        "data": f"{row['data']}, fingerprint `{all_of('fingerprint')}`",
    }
    lines = [f"- {key}: {value}" for key, value in facts.items() if value]
    return f"## {row['title']}\n\n" + "\n".join(lines) + "\n"


def _bound(row: Mapping[str, Any]) -> str:
    if row["least"] is None:
        return "baselines"
    return f"{'≥' if row['better'] == 'higher' else '≤'} {row['least']:g}"


def _mean(content: Mapping[str, Any]) -> str:
    measured = content["measured"]
    if not measured.get("seeds"):
        return "–"
    deviation = measured["deviation"]
    return f"{measured['mean']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
