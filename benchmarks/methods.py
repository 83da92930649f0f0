"""What a training method gains: the same training with and without it, in pairs of one seed.

    python benchmarks/methods.py --seeds 1 2 3 4 5 --set paths.data_dir=DIR   # all, half a day
    python benchmarks/methods.py hops average --seeds 1 2 --set paths.data_dir=DIR

Both of a pair train for the same minutes: where a step with the method takes r times as long as
one without, as short runs tell, it gets 1 / r of the steps, and its schedule ends with them. A
run that is there already is not run again, so the table grows by calling this with more methods or
seeds. Writes methods.csv, methods.md and one JSON file a run; ends with one JSON object, {method:
{"seed": [...], "without": [...], "with": [...], "step": r, ...}}.
"""

import csv
import json
import re
import statistics
import sys
import time
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import training

SHORT = 160  # steps of the runs that tell what a step costs
TURNS = 3
SLOWER = 1.1  # what costs less than this much more is taken to cost nothing


class Setting(NamedTuple):
    """A training that methods are added to."""

    words: list[str]
    metric: str
    better: str = "higher"


class Method(NamedTuple):
    setting: str
    words: list[str]  # what turns it on; {before} is a run of that setting and seed
    before: list[str] | None = None  # made first with these words, its minutes not counted
    both: tuple[str, ...] = ()  # what stands on both sides, so that the method alone differs
    equal: bool = True  # in minutes; a recipe takes those that its experiment says


VECTORS = [
    "task.vectors=${paths.data_dir}/vectors/glove.6B.50d.subset.txt.gz",
    "model.embedding_size=50",
]
SETTINGS = {
    "trec": Setting(  # as it was before its search
        ["experiment=trec", "model.hidden_size=150", "model.dropout=0.5",
         "model.embedding_dropout=0.3", "model.label_smoothing=0", "optimizer.lr=2e-3"],
        "test/accuracy",
    ),
    "sst2": Setting(["experiment=sst2_glove"], "test/accuracy"),
    "trec_plain": Setting(["data=trec", *VECTORS], "test/accuracy"),
    "sst2_plain": Setting(["data=sst2", *VECTORS], "test/accuracy"),
    "jsb_chorales": Setting(  # half of the experiment's size, and without its weight drop
        ["experiment=poly_music_jsb", "recurrent.weight_drop=0", "model.hidden_size=200",
         "data.batch_size=8", "trainer.max_epochs=30"],
        "test/nll_per_frame",
        "lower",
    ),
    "people_daily": Setting(["experiment=people_daily"], "test/accuracy"),
    "ucm_captions": Setting(["experiment=ucm_captions"], "test/cider"),
}  # fmt: skip

METHODS = {
    # classification
    "vectors": Method(
        "trec", ["task.vectors=${paths.data_dir}/vectors/glove.6B.50d.subset.txt.gz"],
        both=("task.vectors=null",),
    ),
    "hops": Method("trec", ["model.pooling=attention", "model.pooling_hops=8",
                            "model.pooling_penalty=0.1"]),
    "concat": Method("trec", ["model.pooling=concat"]),
    "class_weights": Method("trec", ["task.class_weights=balanced"]),
    "normalise_embedding": Method("trec", ["model.normalise_embedding=true"]),
    "adversarial": Method("trec", ["objective=adversarial"],
                          both=("model.normalise_embedding=true",)),
    "virtual_adversarial": Method("trec", ["objective=virtual_adversarial"],
                                  both=("model.normalise_embedding=true",)),
    "average": Method("trec", ["callbacks=ema", "callbacks.average.decay=0.99"]),
    "curriculum": Method("trec", ["data.curriculum_epochs=1"]),
    "label_smoothing": Method("trec", ["model.label_smoothing=0.1"]),
    "word_dropout": Method("trec", ["model.word_dropout=0.1"]),
    "variational": Method("trec", ["model.variational=true"]),
    "distillation": Method(
        "trec", ["objective=distillation", "task.objective.teacher={before}"],
        before=["model.bidirectional=true", "model.hidden_size=256", "model.pooling=concat"],
    ),
    "attention_sst2": Method("sst2", ["model.pooling=attention"]),
    "word_dropout_sst2": Method("sst2", ["model.word_dropout=0.1"]),
    "average_sst2": Method("sst2", ["callbacks=ema", "callbacks.average.decay=0.99"]),
    "label_smoothing_sst2": Method("sst2", ["model.label_smoothing=0.1"]),
    "adversarial_sst2": Method(
        "sst2", ["objective=adversarial"], both=("model.normalise_embedding=true",)
    ),
    # whole recipes, against what is not tuned
    "recipe_trec": Method("trec_plain", ["experiment=trec"], equal=False),
    "recipe_sst2": Method("sst2_plain", ["experiment=sst2_glove"], equal=False),
    # language models
    "weight_drop": Method("jsb_chorales", ["recurrent.weight_drop=0.3"]),
    "zoneout": Method("jsb_chorales", ["recurrent.zoneout=0.1"]),
    "activation_regularisation": Method(
        "jsb_chorales", ["task.activation_regularisation=2",
                         "task.temporal_activation_regularisation=1"]),
    "ntasgd": Method("jsb_chorales", ["callbacks=ntasgd"], both=("scheduler=constant",)),
    "average_jsb": Method("jsb_chorales", ["callbacks=ema", "callbacks.average.decay=0.99"]),
    # tagging, captioning
    "crf": Method("people_daily", ["model/head=crf"]),
    "doubly_stochastic": Method("ucm_captions", ["task.doubly_stochastic=1"]),
    "heads": Method("ucm_captions", ["model.decoder.heads=4"]),
    "caption_smoothing": Method("ucm_captions", ["model.label_smoothing=0.1"]),
}  # fmt: skip


class Run(NamedTuple):
    """One training: a setting, and what is set beyond it."""

    setting: str
    beyond: tuple[str, ...]
    seed: int
    before: tuple[str, ...] | None = None  # what the run that {before} names has set

    def file(self, folder: Path) -> Path:
        name = re.sub(r"[^\w=.,:-]+", "_", ",".join(self.beyond)) or "plain"  # no ${}
        return folder / self.setting / f"{name}-{self.seed}.json"

    def place(self, folder: Path) -> Path:
        """Where it trains."""
        return self.file(folder).with_suffix("").resolve()

    @property
    def first(self) -> "Run | None":
        """What has to be trained before."""
        return None if self.before is None else Run(self.setting, self.before, self.seed)

    def words(self, folder: Path) -> list[str]:
        """Of train.py's command line."""
        known = "" if self.first is None else str(self.first.place(folder))
        told = [*SETTINGS[self.setting].words, *self.beyond, f"seed={self.seed}"]
        return [word.replace("{before}", known) for word in told]


def main() -> None:
    parser = training.arguments(__doc__, default="all", out="runs/methods", names="methods")
    options = training.parsed(parser, names="methods", known=METHODS)
    failed = 0
    for seed in options.seeds:
        for name in options.methods or METHODS:
            failed += not pair(name, seed, options.out, options.overrides)
            write(collect(options.out), options.out)
    print(json.dumps(collect(options.out)))
    if failed:
        sys.exit(f"{failed} pairs failed")


def runs(method: Method, seed: int) -> tuple[Run, Run]:
    """Without the method and with it."""
    before = None if method.before is None else (*method.both, *method.before)
    having = Run(method.setting, (*method.both, *method.words), seed, before)
    return Run(method.setting, method.both, seed), having


def pair(name: str, seed: int, folder: Path, overrides: list[str]) -> bool:
    """Train and test without the method and with it, for as long; False where one failed."""
    method = METHODS[name]
    without, having = runs(method, seed)
    if having.first is not None and once(having.first, folder, overrides) is None:
        return False
    plain = once(without, folder, overrides)
    ratio = cost(name, seed, folder, overrides)
    if plain is None or ratio is None:
        return False
    if ratio > SLOWER and method.equal:
        overrides = [*overrides, f"trainer.max_steps={max(1, round(plain['steps'] / ratio))}"]
    return once(having, folder, overrides) is not None


def cost(name: str, seed: int, folder: Path, overrides: list[str]) -> float | None:
    """How many times as long a step takes with the method: the median, over turns, of what two
    short runs need for a symbol. Start, validation and test are not in it.
    """
    method = METHODS[name]
    file = folder / method.setting / f"{name}.step"
    if file.exists():
        return float(file.read_text(encoding="utf-8"))
    ratios = []
    for turn in range(TURNS):
        speeds = []
        for side, run in zip(("without", "with"), runs(method, seed), strict=True):
            place = file.with_suffix("") / f"{side}-{turn}"
            short = [f"trainer.max_steps={SHORT}", "trainer.limit_val_batches=1",
                     "trainer.limit_test_batches=1", "logger=csv",
                     f"hydra.run.dir={place.resolve()}"]  # fmt: skip
            words = [*run.words(folder), *overrides, *short]
            if training.train(f"{name}, {SHORT} steps", words) is None:
                return None
            speeds.append(statistics.median(column(place, "tokens_per_second")))
        ratios.append(speeds[0] / speeds[1])
    ratio = statistics.median(ratios)
    file.write_text(f"{ratio:.3f}", encoding="utf-8")
    return ratio


def once(run: Run, folder: Path, overrides: list[str]) -> dict[str, Any] | None:
    """Train and test, unless that was done before with the same words; None where it failed."""
    file, place = run.file(folder), run.place(folder)
    words = [*run.words(folder), *overrides]
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found["words"] == words:
            return found
    start = time.perf_counter()
    said = training.train(run, [*words, "logger=csv", f"hydra.run.dir={place}"])
    if said is None:
        return None
    last = json.loads(said.splitlines()[-1])
    result = {
        "setting": run.setting,
        "seed": run.seed,
        "value": last["test"][SETTINGS[run.setting].metric],
        "validation": last["value"],  # of what is monitored
        "steps": int(max(column(place, "step"))) + 1,
        "minutes": round((time.perf_counter() - start) / 60, 2),  # with start, validation, test
        "words": words,
    }
    file.write_text(json.dumps(result), encoding="utf-8")
    print(f"{run.setting} {file.stem}: {result['value']:.4f}", flush=True)
    return result


def column(place: Path, name: str) -> list[float]:
    """What was logged under this name."""
    with (place / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def collect(folder: Path) -> dict[str, dict[str, Any]]:
    """All pairs that were measured below the folder."""
    found = {}
    for name, method in METHODS.items():
        pairs = []
        _, first = runs(method, 0)
        for file in first.file(folder).parent.glob(f"{escape(first.file(folder).stem[:-1])}*.json"):
            having = json.loads(file.read_text(encoding="utf-8"))
            other = runs(method, having["seed"])[0].file(folder)
            pairs.append((json.loads(other.read_text(encoding="utf-8")), having))
        pairs.sort(key=lambda both: both[1]["seed"])
        step = folder / method.setting / f"{name}.step"
        if pairs and step.exists():
            found[name] = {
                "seed": [having["seed"] for _, having in pairs],
                "without": [without["value"] for without, _ in pairs],
                "with": [having["value"] for _, having in pairs],
                "validation_without": [without["validation"] for without, _ in pairs],
                "validation_with": [having["validation"] for _, having in pairs],
                "minutes": [having["minutes"] for _, having in pairs],
                "step": float(step.read_text(encoding="utf-8")),
            }
    return found


def write(results: dict[str, dict[str, Any]], folder: Path) -> None:
    """methods.csv, a line a pair; methods.md, a table of paired differences."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = ["seed", "without", "with", "validation_without", "validation_with", "minutes"]
    with (folder / "methods.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "setting", "metric", *keys, "step"])
        for name, entry in results.items():
            setting = METHODS[name].setting
            for line in zip(*(entry[key] for key in keys), strict=True):
                start = [name, setting, SETTINGS[setting].metric]
                writer.writerow([*start, *line, entry["step"]])
    lines = ["| method | data | test metric | without | with | difference | a step | pairs |",
             "|---|---|---|--:|--:|--:|--:|--:|"]  # fmt: skip
    for name, entry in results.items():
        setting = METHODS[name].setting
        metric = SETTINGS[setting].metric.removeprefix("test/")
        means = (statistics.fmean(entry[side]) for side in ("without", "with"))
        cells = [f"`{name}`", setting, metric, *(f"{mean:.4f}" for mean in means)]
        cells += [difference(entry), f"× {entry['step']:.2f}", str(len(entry["seed"]))]
        lines.append("| " + " | ".join(cells) + " |")
    (folder / "methods.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def difference(entry: dict[str, Any]) -> str:
    """Mean and sample deviation of the paired differences."""
    found = [b - a for a, b in zip(entry["without"], entry["with"], strict=True)]
    spread = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):+.4f}{spread}"


if __name__ == "__main__":
    main()
