"""A row of the ledger says what its seeds measured, and nothing else; it is run once."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict

import ledger.baselines
import ledger.form
import ledger.pictures
import ledger.report
import ledger.rows
import ledger.runs
import ledger.settings
from launch import composed

ROW = """row:
  title: Order of events
  task: classification
  data: recipes
  config: [{config}]  # a remark that stays
  metric: test/accuracy
  signature: null
  better: {better}
  published:
    - {{value: 0.9, model: GRU, source: "nobody, table 0"}}
  least: {least}
  try_for: {least}
  seeds: [1, 2]
  needs: {needs}
"""
TINY = [
    "data.train_size=64", "data.validation_size=32", "data.test_size=32", "data.batch_size=16",
    "model.hidden_size=16", "trainer=cpu", "trainer.max_epochs=1", "logger=csv", "precision=fp32",
    "callbacks.estimate=null", "trainer.log_every_n_steps=1",
]  # fmt: skip


def new(
    folder: Path, *, config: str = "cell=gru", better: str = "higher", least: float = 0.5,
    needs: str = "null",
) -> Path:  # fmt: skip
    folder.mkdir(exist_ok=True)
    text = ROW.format(config=config, better=better, least=least, needs=needs)
    (folder / "one.yaml").write_text(text)
    return folder


def seed(value: float) -> dict[str, Any]:
    return {
        "value": value, "minutes": 1.5, "parameters": 1234, "device": "a processor",
        "precision": "fp32", "versions": "torch 2", "commit": "abc", "fingerprint": "f",
        "signature": None,
    }  # fmt: skip


def done(folder: Path, number: int, value: float) -> None:
    """What a finished seed leaves beside its run."""
    measured = {key: one for key, one in seed(value).items() if key not in ("value", "minutes")}
    notes = {"config": ["cell=gru"], "minutes": 2.0, "measured": measured}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**notes, "test": {"test/accuracy": value}})
    (folder / f"{number}.json").write_text(text)


@pytest.mark.parametrize("name", ledger.rows.names())
def test_every_row_is_valid_and_its_experiment_composes(name: str) -> None:
    content = ledger.rows.read(name)
    row = content["row"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ledger.rows.ROOT / "configs"), version_base="1.3"):
        config = compose("config", overrides=row["config"], return_hydra_config=True)
    choices = config.hydra.runtime.choices
    assert (choices.task, choices.data) == (row["task"], row["data"])
    if row["signature"]:
        target = config.data.get("target_tokenizer") or config.tokenizer
        assert ("|case:lc|" in row["signature"]) == target.lowercase


@pytest.mark.parametrize(
    "better, least, values, verdict",
    [
        ("higher", 0.5, [0.4, 0.6], "reproduced"),
        ("higher", 0.5, [0.4, 0.59], "not reproduced"),
        ("lower", 0.5, [0.4, 0.6], "reproduced"),
        ("lower", 0.5, [0.4, 0.61], "not reproduced"),
        ("higher", 0.5, [0.9], "not run yet"),  # a seed is missing
        ("higher", 0.5, [], "not run yet"),
    ],
)
def test_the_verdict_follows_from_all_seeds(
    better: str, least: float, values: list[float], verdict: str, tmp_path: Path
) -> None:
    results = new(tmp_path, better=better, least=least)
    ledger.rows.write("one", {i: seed(value) for i, value in enumerate(values, 1)}, results=results)
    measured = ledger.rows.read("one", results)["measured"]
    assert measured["verdict"] == verdict
    if len(values) == 2:
        assert measured["mean"] == pytest.approx(sum(values) / 2)
        assert measured["deviation"] == pytest.approx((values[1] - values[0]) / math.sqrt(2))


@pytest.mark.parametrize(
    "value, verdict",
    [(0.46, "reproduced"), (0.54, "reproduced"), (0.44, "not reproduced"), (0.9, "not reproduced")],
)
def test_a_published_failure_is_not_reproduced_by_a_success(
    value: float, verdict: str, tmp_path: Path
) -> None:
    results = new(tmp_path)
    with (results / "one.yaml").open("a") as file:
        file.write("  within: 0.1\n")
    ledger.rows.write("one", {1: seed(value), 2: seed(value)}, results=results)
    assert ledger.rows.read("one", results)["measured"]["verdict"] == verdict
    ledger.report.write(tmp_path / "RESULTS.md", results=results, runs=tmp_path / "runs")
    assert "| 0.5 ± 10% |" in (tmp_path / "RESULTS.md").read_text()


BEATEN = {"majority": {"value": 0.5, "minutes": 0.1, "fingerprint": "f"}}


@pytest.mark.parametrize(
    "least, value, baselines, verdict",
    [
        ("0.4", 0.6, BEATEN, "reproduced"),
        ("0.4", 0.5, BEATEN, "not reproduced"),  # no better than always the same answer
        ("0.7", 0.6, BEATEN, "not reproduced"),
        ("null", 0.6, BEATEN, "reproduced"),
        ("null", 0.6, {}, "not run yet"),
    ],
)
def test_a_row_with_baselines_must_be_better_than_each(
    least: str, value: float, baselines: dict[str, Any], verdict: str, tmp_path: Path
) -> None:
    results = new(tmp_path)
    text = (results / "one.yaml").read_text().replace("least: 0.5", f"least: {least}", 1)
    (results / "one.yaml").write_text(
        f"{text}  baselines: [majority]\n".replace("try_for: 0.5", "try_for: 0.8")
    )
    seeds = {1: seed(value), 2: seed(value)}
    ledger.rows.write("one", seeds, baselines=baselines, results=results)
    content = ledger.rows.read("one", results)
    assert content["measured"]["verdict"] == verdict
    place = tmp_path / "RESULTS.md"
    ledger.report.write(place, results=results, runs=tmp_path / "runs")
    assert ("majority 0.5000" in place.read_text()) == bool(baselines)
    content["measured"]["baselines"] = {"other": BEATEN["majority"]}
    with pytest.raises(ValueError, match=r"measured\.baselines\.other"):
        ledger.form.validate("one", content)


def test_a_row_waits_for_all_of_its_baselines(tmp_path: Path) -> None:
    results = new(tmp_path)
    with (results / "one.yaml").open("a") as file:
        file.write("  baselines: [majority, bag_of_words]\n")
    seeds = {1: seed(0.6), 2: seed(0.6)}
    ledger.rows.write("one", seeds, baselines=BEATEN, results=results)
    assert ledger.rows.read("one", results)["measured"]["verdict"] == "not run yet"
    both = BEATEN | {"bag_of_words": BEATEN["majority"]}
    ledger.rows.write("one", seeds, baselines=both, results=results)
    assert ledger.rows.read("one", results)["measured"]["verdict"] == "reproduced"


def test_a_baseline_is_measured_once_on_the_row_s_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["data=recipes", "data.train_size=64", "data.validation_size=32", "data.test_size=32"]
    words.append(f"paths.cache_dir={tmp_path}")
    row = {"config": words, "metric": "test/accuracy"}
    found = ledger.baselines.measure(row, "majority", tmp_path)
    assert found["value"] == 0.5  # each recipe is there in both orders
    assert found["fingerprint"]
    monkeypatch.setattr(ledger.baselines, "_measure", lambda *_: pytest.fail("measured again"))
    assert ledger.baselines.measure(row, "majority", tmp_path) == found
    with pytest.raises(ValueError, match=r"no test/bleu, it has \['test/accuracy'\]"):
        ledger.baselines.measure({**row, "metric": "test/bleu"}, "majority", tmp_path)


def test_a_row_for_a_gpu_says_that_it_was_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = new(tmp_path, needs="gpu")
    ledger.rows.write("one", {}, results=results)
    assert ledger.rows.read("one", results)["measured"] == {"verdict": "not run here"}
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="one needs a GPU"):
        ledger.runs.measure("one", results=results, runs=tmp_path / "runs")


FORGED: list[tuple[str, Callable[[Any], Any]]] = [
    ("measured.verdict", lambda m: m.update(verdict="reproduced")),
    ("measured.mean", lambda m: m.update(mean=0.9)),
    ("measured.mean", lambda m: m.pop("mean")),
    ("measured.deviation", lambda m: m.update(deviation=0.0)),
    ("measured.seeds.2", lambda m: m["seeds"][2].update(value=0.99)),
    ("measured.seeds.7", lambda m: m["seeds"].update({7: seed(0.9)})),
    ("measured.seeds.1.commit", lambda m: m["seeds"][1].pop("commit")),
    ("measured.seeds.1.value", lambda m: m["seeds"][1].update(value="0.9")),
    ("measured.seeds.1.value", lambda m: m["seeds"][1].update(value=math.nan)),
    ("measured.seeds: ", lambda m: m["seeds"][1].update(fingerprint="other data")),
    ("measured.config", lambda m: m.update(config=["cell=lstm"])),
    ("measured.verdict", lambda m: (m.clear(), m.update(verdict="reproduced"))),
    ("measured.mean", lambda m: (m.clear(), m.update(verdict="reproduced", mean=0.9))),
    ("measured.note", lambda m: m.update(note="close enough")),
]


@pytest.mark.parametrize("key, forge", FORGED)
def test_what_the_seeds_do_not_show_is_refused(
    key: str, forge: Callable[[Any], Any], tmp_path: Path
) -> None:
    results = new(tmp_path)
    ledger.rows.write("one", {1: seed(0.4), 2: seed(0.45)}, results=results)
    content = ledger.rows.read("one", results)
    forge(content["measured"])
    expected = "measured.mean" if key == "measured.seeds.2" else key  # the value itself looks fine
    with pytest.raises(ValueError, match=f"results/one.yaml: {expected}"):
        ledger.form.validate("one", content)


@pytest.mark.parametrize(
    "key, forge",
    [
        ("row.least", lambda row: row.pop("least")),
        ("row.better", lambda row: row.update(better="more")),
        ("row.try_for", lambda row: row.update(try_for=0.1)),
        ("row.seeds", lambda row: row.update(seeds=[1, 1])),
        ("row.published", lambda row: row["published"][0].pop("source")),
        ("row.notes", lambda row: row.update(notes="")),
        ("row.note", lambda row: row.update(note=3)),
        ("row.least", lambda row: row.update(least=None)),  # and there are no baselines
        ("row.config", lambda row: row.update(config=["--multirun"])),
        ("row.within", lambda row: row.update(within=10.0)),
        ("row.within", lambda row: row.update(within=0.1, least=None, baselines=["majority"])),
    ],
)
def test_an_unfit_row_is_refused_by_its_key(
    key: str, forge: Callable[[Any], Any], tmp_path: Path
) -> None:
    row = ledger.rows.given("one", new(tmp_path))
    forge(row)
    with pytest.raises(ValueError, match=f"results/one.yaml: {key}"):
        ledger.form.validate_row("one", row)


def test_another_signature_than_the_row_s_is_refused(tmp_path: Path) -> None:
    results = new(tmp_path)
    path = results / "one.yaml"
    path.write_text(path.read_text().replace("signature: null", "signature: BLEU|nrefs:1|case:lc"))
    ledger.rows.write(
        "one", {1: seed(0.4) | {"signature": "BLEU|nrefs:1|case:lc|tok:13a"}}, results=results
    )
    with pytest.raises(ValueError, match=r"measured.seeds.1.signature.*case:mixed"):
        ledger.rows.write(
            "one", {1: seed(0.4) | {"signature": "BLEU|nrefs:1|case:mixed"}}, results=results
        )


def test_what_a_person_wrote_stays_as_it_is(tmp_path: Path) -> None:
    results = new(tmp_path)
    before = (results / "one.yaml").read_text()
    for value in (0.4, 0.6):
        ledger.rows.write("one", {1: seed(value)}, results=results)
    assert (results / "one.yaml").read_text().startswith(before)
    assert (results / "one.yaml").read_text().count("measured:") == 1


def test_a_finished_seed_is_read_and_one_of_another_config_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, runs = new(tmp_path / "results"), tmp_path / "runs"
    for number in (1, 2):
        done(runs / "one", number, 0.7)
    monkeypatch.setattr(ledger.runs, "train", lambda *_: pytest.fail("it was run again"))
    assert ledger.runs.measure("one", results=results, runs=runs) == "reproduced"
    new(tmp_path / "results", config="cell=lstm")
    with pytest.raises(ValueError, match=r"begun with cell=gru, the row now says cell=lstm"):
        ledger.runs.measure("one", results=results, runs=runs)


def test_a_seed_of_settings_that_were_changed_since_is_not_mixed_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, runs = new(tmp_path / "results"), tmp_path / "runs"
    run = runs / "one" / "2"
    done(runs / "one", 2, 0.7)
    run.mkdir()
    config = composed(["cell=gru", f"paths.run_dir={run}", "seed=2"])
    config.task.monitor = "val/accuracy"  # what was auto
    with open_dict(config):
        config.new = {"key": 3}  # of another version

    def stored(**optimizer: float) -> None:
        text = OmegaConf.to_yaml(OmegaConf.merge(config, {"optimizer": optimizer}), resolve=True)
        (run / "config.yaml").write_text(text)

    monkeypatch.setattr(ledger.runs, "run_seed", lambda row, number, folder: None)
    stored()
    monkeypatch.setenv("UNROLL_DATA", "/another/machine")
    ledger.runs.measure("one", results=results, runs=runs)
    stored(lr=0.5)
    with pytest.raises(
        ValueError, match=r"seed 2 was run .*optimizer.lr was 0.5, is .*runs/one away"
    ):
        ledger.runs.measure("one", results=results, runs=runs)


def test_sizes_that_met_a_budget_are_no_change_of_settings(tmp_path: Path) -> None:
    row = {"config": ["cell=gru", "model.budget=70k"], "seeds": [1]}
    config = composed([*row["config"], f"paths.run_dir={tmp_path}/1", "seed=1"])
    config.model.budget, config.model.hidden_size = None, 77  # as a run settles and keeps them
    (tmp_path / "1").mkdir()
    OmegaConf.save(config, tmp_path / "1" / "config.yaml", resolve=True)
    ledger.settings.check(row, tmp_path)
    without = {**row, "config": ["cell=gru"]}
    with pytest.raises(ValueError, match=r"model.hidden_size was 77, is \d+, task.model.hidden"):
        ledger.settings.check(without, tmp_path)


def test_processes_share_a_row_s_seeds_and_the_last_gives_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, runs = new(tmp_path / "results"), tmp_path / "runs"
    ran: list[int] = []

    def run_seed(row: Any, number: int, folder: Path) -> None:
        ran.append(number)
        done(folder, number, 0.4 * number)

    monkeypatch.setattr(ledger.runs, "run_seed", run_seed)
    where = {"results": results, "runs": runs}
    with FileLock(runs / "one" / "1.lock"):
        with pytest.raises(ValueError, match="seed 1 of one is being run by another process"):
            ledger.runs.measure("one", only=[1], **where)
        assert ledger.runs.measure("one", only=[2], **where) == "not run yet"
    assert list(ledger.rows.read("one", results)["measured"]["seeds"]) == [2]
    assert ledger.runs.measure("one", only=[1], **where) == "reproduced"
    assert ledger.rows.read("one", results)["measured"]["mean"] == pytest.approx(0.6)
    assert ran == [2, 1]
    with pytest.raises(ValueError, match=r"--seeds: 3 is none of one's, \[1, 2\]"):
        ledger.runs.measure("one", only=[3], **where)


def test_a_seed_of_another_machine_stays_while_settings_and_data_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_each(number: int, **changed: Any) -> list[int]:
        """The file's seeds, once another machine entered 1, and this one 2."""
        here = tmp_path / str(number)
        here.mkdir()
        results = new(here / "results")
        digest = ledger.settings.digest(ledger.rows.given("one", results))
        ledger.rows.write("one", {1: seed(0.4) | {"settings": digest} | changed}, results=results)
        monkeypatch.setenv("UNROLL_DATA", f"/machine/{number}")
        ledger.runs.measure("one", only=[2], results=results, runs=here / "runs")
        return list(ledger.rows.read("one", results)["measured"]["seeds"])

    monkeypatch.setattr(
        ledger.runs, "run_seed", lambda row, number, folder: done(folder, number, 0.7)
    )
    assert one_each(1) == [1, 2]
    assert one_each(2, settings="others") == one_each(3, fingerprint="of other data") == [2]
    run = {"results": tmp_path / "1" / "results", "runs": tmp_path / "1" / "runs"}
    assert ledger.runs.measure("one", **run) == "reproduced"  # all seeds asked for: all run here
    assert ledger.rows.read("one", run["results"])["measured"]["seeds"][1]["value"] == 0.7


def test_the_report_has_the_numbers_and_the_curves_that_are_there(tmp_path: Path) -> None:
    results, runs = new(tmp_path / "results"), tmp_path / "runs"
    ledger.rows.write("one", {1: seed(0.4), 2: seed(0.6)}, results=results)
    place = tmp_path / "RESULTS.md"
    assert ledger.report.write(place, results=results, runs=runs) == []
    text = place.read_text()
    assert "0.9 (GRU; nobody, table 0)" in text and "0.5000 ± 0.1414 | 2 of 2 | 1,234 | 1.5" in text
    assert "| reproduced |" in text and ".png" not in text
    for number in (1, 2):
        run = runs / "one" / str(number)
        run.mkdir(parents=True)
        rows = "".join(f"{step},{0.1 * number + step / 100}\n" for step in (10, 20))
        (run / "metrics.csv").write_text(f"step,val/accuracy\n{rows}")
    assert ledger.report.write(place, results=results, runs=runs) == [results / "one.png"]
    assert "](results/one.png)" in place.read_text()
    assert (results / "one.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("mean", "deviation", "said"),
    [
        (0.5, 0.14142, "0.5000 ± 0.1414"),
        (0.1749, 0.00031, "0.1749 ± 0.0003"),
        (3.92e-5, 7.6e-6, "3.9e-05 ± 7.6e-06"),
        (3.92e-5, 0.002, "3.9e-05 ± 2.0e-03"),
        (5.3e-5, None, "5.3e-05"),
        (0.0, 0.0, "0.0000 ± 0.0000"),
        (-2e-4, None, "-2.0e-04"),
    ],
)
def test_a_small_error_is_not_said_to_be_none(mean, deviation, said: str) -> None:
    assert ledger.report.spread(mean, deviation) == said


def test_all_rows_are_in_one_picture_by_what_they_cost(tmp_path: Path) -> None:
    results = new(tmp_path / "results", least=0.5)
    (results / "two.yaml").write_text((results / "one.yaml").read_text())
    ledger.rows.write("two", {}, results=results)
    ledger.rows.write("one", {1: seed(0.5), 2: seed(0.6)}, results=results)
    place = tmp_path / "RESULTS.md"
    assert ledger.report.write(place, results=results, runs=tmp_path) == []  # one row is no picture
    ledger.rows.write("two", {1: seed(0.4), 2: seed(0.4)}, results=results)
    drawn = ledger.report.write(place, results=results, runs=tmp_path)
    assert drawn == [results / "overview.png"] and "(results/overview.png)" in place.read_text()
    rows = {name: ledger.rows.read(name, results) for name in ("one", "two")}
    above = {name: ledger.pictures.advantage(row) for name, row in rows.items()}
    assert above == {"one": pytest.approx(10), "two": pytest.approx(-20)}


def test_a_band_has_the_steps_of_all_seeds() -> None:
    steps, means, deviations = ledger.pictures.band([{1: 0.0, 2: 1.0, 3: 9.0}, {1: 2.0, 2: 1.0}])
    assert (steps, means) == ([1, 2], [1.0, 1.0])
    assert deviations == pytest.approx([math.sqrt(2), 0.0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_run_save_and_the_row_goes_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    """A stand-in for train.py: it says when it began, and what it does at a signal."""
    (tmp_path / "train.py").write_text(
        "import signal, sys, time\n"
        "def save(number, _):\n"
        "    time.sleep(0.3)\n"
        "    print('saved', flush=True)\n"
        "    sys.exit(128 + number)\n"
        "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, save)\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    new(tmp_path / "results")
    program = (
        "import signal, sys; from pathlib import Path; import ledger.rows, ledger.runs\n"
        # a shell's background job begins with Ctrl-C ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"folder = Path({str(tmp_path)!r}); ledger.rows.ROOT = folder\n"
        "ledger.runs.measure('one', results=folder / 'results', runs=folder / 'runs')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    while "begun" not in said:
        line = process.stdout.readline()
        assert line, process.communicate()
        said += line
    if number == signal.SIGINT:  # a terminal sends it to all
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode != 0 and "saved" in out
    assert ("ended with 143" if number == signal.SIGTERM else "KeyboardInterrupt") in error
    notes = json.loads((tmp_path / "runs" / "one" / "1.json").read_text())
    assert notes["measured"] is None and notes["minutes"] > 0


@pytest.mark.slow
def test_a_row_runs_over_its_seeds_and_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = new(tmp_path / "results", config=", ".join(TINY), least=0.0)
    runs = tmp_path / "runs"
    ended = ledger.runs.train

    def killed(words: list[str], said: list[str]) -> None:
        ended(words, said)
        if "seed=2" in words:  # its result is lost, its checkpoints are there
            raise KeyboardInterrupt

    monkeypatch.setattr(ledger.runs, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.runs.measure("one", results=results, runs=runs)
    half = ledger.rows.read("one", results)["measured"]
    assert half["verdict"] == "not run yet" and list(half["seeds"]) == [1]

    started: list[list[str]] = []

    def noted(words: list[str], said: list[str]) -> None:
        started.append(words)
        ended(words, said)
        assert any("resume: going on after step 4" in line for line in said)

    monkeypatch.setattr(ledger.runs, "train", noted)
    assert ledger.runs.measure("one", results=results, runs=runs) == "reproduced"
    assert len(started) == 1 and "seed=2" in started[0]
    measured = ledger.rows.read("one", results)["measured"]
    assert measured["seeds"][1] == half["seeds"][1]
    assert measured["seeds"][1]["precision"] == "32-true"
    assert measured["seeds"][2]["fingerprint"] == half["seeds"][1]["fingerprint"]
    assert ledger.report.write(tmp_path / "RESULTS.md", results=results, runs=runs)
