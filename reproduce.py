"""Reproduce published numbers, compare two runs on the same test examples, sum up a sweep.

python reproduce.py                the rows of the ledger (results/*.yaml) and their verdicts
python reproduce.py ROW            run a row's seeds; fails where the mean misses the tolerance
python reproduce.py ROW --seeds 2  some of them, while another process or machine runs others
python reproduce.py report         write RESULTS.md
python reproduce.py compare RUN_A RUN_B --samples 1000 --seed 1
python reproduce.py summary runs/sweeps/TIME
"""

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ledger.report
import ledger.rows
import ledger.runs
from building.leaves import leaves


def read_run(run: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run's task config and its test answers. ValueError where it left none."""
    from omegaconf import OmegaConf

    folder = Path(run)
    answers = folder / "predictions" / "test.jsonl"
    if not answers.exists():
        raise ValueError(
            f"{answers} does not exist: test the run (train.py fit=false ckpt=...); "
            "language models and real-valued answers leave none"
        )
    config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    if not rows:
        raise ValueError(f"{answers} is empty: test the run again (train.py fit=false ckpt=...)")
    return config["task"], rows


def compare(run_a: str, run_b: str, *, samples: int, seed: int) -> dict[str, Any]:
    """Paired bootstrap of two runs, by metric. ValueError where they cannot be compared."""
    import sacrebleu

    from tasks.captioning_metrics import bleu_of, bleu_statistics
    from tasks.cider import cider_by_picture
    from tasks.metrics import exact_matches, reference_columns
    from tasks.significance import mean_score, paired_bootstrap
    from tasks.translation import bleu_tokenizer

    (task, rows_a), (other, rows_b) = read_run(run_a), read_run(run_b)
    if task["_target_"] != other["_target_"]:
        raise ValueError(f"different tasks: {task['_target_']} and {other['_target_']}")
    keys = [
        [(row["index"], row.get("references", row.get("target"))) for row in rows]
        for rows in (rows_a, rows_b)
    ]
    if keys[0] != keys[1]:
        raise ValueError(
            f"different test examples: {len(rows_a)} and {len(rows_b)}; test both on the same data"
        )
    if "target" in rows_a[0]:
        hits = [[[sum(g == r for g, r in zip(row["prediction"], row["target"], strict=True)),
                  len(row["target"])] for row in rows] for rows in (rows_a, rows_b)]  # fmt: skip
        sums = [np.array(own, float) for own in hits]
        found = paired_bootstrap(*sums, mean_score, samples=samples, seed=seed)
        return {"accuracy": found._asdict()}
    references = [row["references"] for row in rows_a]
    texts = [[row["prediction"] for row in rows] for rows in (rows_a, rows_b)]
    columns = reference_columns(references)
    found = {}
    captions = "bleu_tokenize" not in task
    chosen: dict[str, Any] = {"chrf": sacrebleu.CHRF()}
    if captions:  # as the test of captioning has it, 0 to 1

        def bleu4(sums: Any) -> Any:
            return np.array([bleu_of(row)[3] for row in sums])

        stats = [np.array(bleu_statistics(own, references), float) for own in texts]
        found["bleu4"] = paired_bootstrap(*stats, bleu4, samples=samples, seed=seed)
    else:
        tokenize = bleu_tokenizer(task["bleu_tokenize"], references)
        chosen = {"bleu": sacrebleu.BLEU(tokenize=tokenize), **chosen}
    for name, metric in chosen.items():

        def score(sums: Any, metric: Any = metric) -> Any:
            return np.array([metric._compute_score_from_stats(row.tolist()).score for row in sums])

        stats = [np.array(metric._extract_corpus_statistics(own, columns), float) for own in texts]
        found[name] = paired_bootstrap(*stats, score, samples=samples, seed=seed)

    def means(values: Sequence[Sequence[float]]) -> Any:
        pairs = [np.stack([np.array(own, float), np.ones(len(own))], axis=1) for own in values]
        return paired_bootstrap(*pairs, mean_score, samples=samples, seed=seed)

    found["exact_match"] = means([exact_matches(own, references) for own in texts])
    if captions:
        found["cider"] = means([cider_by_picture(own, references) for own in texts])
    return {name: result._asdict() for name, result in found.items()}


def last_test(path: Path) -> dict[str, float]:
    """The latest value of each test metric in a run's metrics.csv; none before its test."""
    found = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found |= {k: float(v) for k, v in row.items() if k and k.startswith("test/") and v}
    return found


def differing(configs: list[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """What tells the kinds of a sweep's runs apart: (key, its value in each run).

    Seeds, folds and directories repeat an experiment and do not count; of keys that follow one
    another the shortest stands for all.
    """
    flats = [dict(leaves(config, empty=False)) for config in configs]
    folders = [str(one.get("paths.run_dir")) for one in flats]
    found: dict[str, str] = {}  # values → key
    columns: dict[str, list[Any]] = {}
    for key in sorted(set().union(*flats), key=lambda key: (key.count("."), len(key), key)):
        values = [one.get(key) for one in flats]
        same = all(value == values[0] for value in values)
        inside = all(folder in str(v) for folder, v in zip(folders, values, strict=True))
        if same or inside or key.split(".")[-1] in ("seed", "fold"):
            continue
        if found.setdefault(repr(values), key) == key:
            columns[key] = values
    return list(columns.items())


def summary(sweep: str) -> list[dict[str, Any]]:
    """Mean and sample deviation of the test metrics over the runs of each kind of a sweep.

    Each entry has its `kind` (the keys that set it apart), `runs`, `missing` (folds without a
    finished run) and `metrics`: name → (mean, deviation; None of one run).
    ValueError where no run below `sweep` has been tested.
    """
    from omegaconf import OmegaConf

    runs = []
    for path in sorted(Path(sweep).glob("*/config.yaml"), key=lambda path: path.parent.name):
        metrics = path.with_name("metrics.csv")
        if metrics.exists() and (tested := last_test(metrics)):
            config: Any = OmegaConf.to_container(OmegaConf.load(path))
            runs.append((config, tested))
    if not runs:
        raise ValueError(
            f"{sweep} holds no tested run: name the directory of a sweep (runs/sweeps/TIME), whose "
            "runs wrote config.yaml and metrics.csv (logger=csv or default)"
        )
    columns = differing([config for config, _ in runs])
    kinds: dict[str, list[Any]] = {}
    for i, run in enumerate(runs):
        kinds.setdefault(", ".join(f"{k}={v[i]}" for k, v in columns), []).append(run)
    found = []
    for kind, several in kinds.items():
        data = [config["data"] for config, _ in several]
        wanted = set(range(data[0].get("folds") or 0))
        values: dict[str, list[float]] = {}
        for _, tested in several:
            for name, value in tested.items():
                values.setdefault(name, []).append(value)
        spread = {
            name: (statistics.fmean(own), statistics.stdev(own) if len(own) > 1 else None)
            for name, own in values.items()
        }
        missing = sorted(wanted - {one.get("fold") for one in data})
        found.append({"kind": kind, "runs": len(several), "missing": missing, "metrics": spread})
    return found


def show_summary(sweep: str) -> None:
    found = summary(sweep)
    for one in found:
        print(f"{one['kind'] or sweep}: {one['runs']} runs")
        if one["missing"]:
            print(f"  not tested: fold {', '.join(map(str, one['missing']))}")
        for name, (mean, deviation) in one["metrics"].items():
            print(f"  {name:24}{ledger.report.spread(mean, deviation, width=10)}")
    print(json.dumps({"sweep": sweep, "kinds": found}))


def show_row(name: str, only: list[int] | None) -> None:
    """Run a row; SystemExit where its mean falls outside the tolerance."""
    verdict = ledger.runs.measure(name, only=only)
    content = ledger.rows.read(name)
    print(ledger.report.line(name, content))
    print(json.dumps({"row": name, "metric": content["row"]["metric"], **content["measured"]}))
    if verdict == "not reproduced":
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND or ROW")
    commands.add_parser("report", help="write RESULTS.md")
    commands.add_parser("summary", help="mean and deviation over a sweep's runs").add_argument(
        "sweep", metavar="SWEEP"
    )
    command = commands.add_parser("compare", help="is the difference of two runs luck?")
    command.add_argument("run_a", metavar="RUN_A")
    command.add_argument("run_b", metavar="RUN_B")
    command.add_argument("--samples", type=int, default=1000)
    command.add_argument("--seed", type=int, default=1)
    for row in ledger.rows.names():
        commands.add_parser(row, help="a row of the ledger").add_argument(
            "--seeds", type=int, nargs="+", help="of the row's seeds; all unless given"
        )
    given = parser.parse_args()
    if given.command is None:
        print(ledger.report.listing())
        return
    if given.command == "report":
        pictures = ledger.report.write(ledger.rows.ROOT / "RESULTS.md")
        print("RESULTS.md", *(picture.relative_to(ledger.rows.ROOT) for picture in pictures))
        return
    if given.command == "summary":
        show_summary(given.sweep)
        return
    if given.command != "compare":
        show_row(given.command, given.seeds)
        return
    found = compare(given.run_a, given.run_b, samples=given.samples, seed=given.seed)
    print(f"{'metric':12}{'A':>10}{'B':>10}{'B - A':>10}{'95% interval':>24}{'p':>9}")
    for name, one in found.items():
        interval = f"[{one['low']:.4f}, {one['high']:.4f}]"
        print(f"{name:12}{one['first']:10.4f}{one['second']:10.4f}{one['difference']:10.4f}"
              f"{interval:>24}{one['p']:9.4f}")  # fmt: skip
    print(json.dumps({"a": given.run_a, "b": given.run_b, "samples": given.samples,
                      "seed": given.seed, "metrics": found}))  # fmt: skip


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
