"""Several tasks on one stack: one module, each task's own gradient and metrics, exact resuming."""

import copy
import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

import build
import export
import predict
from building import parts
from data.batches import PartBatch, StreamBatch
from tasks import checkpoint as checkpoints
from tasks.finite import tensors
from tasks.layers import by_depth, parameter_groups
from tasks.part_checkpoint import take_part
from tasks.predict_options import PredictOptions
from tasks.transfer import begin_from
from tests import commands

pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]
ORDER = ["data.train_size=64", "data.validation_size=32", "data.test_size=32"]
TAGS = ["task=tagging", "data=recipes_online", "data.limit=32"]
WORDS = [
    "task=language_model", "data=python_source", "data.train_size=6000",
    "data.validation_size=2000", "data.test_size=2000", "data.steps=20", "task.sample_length=10",
    "model.embedding_dropout=0", "model.output_dropout=0",
]  # fmt: skip
DATES = [
    "task=translation", "data=dates", "data.limit=48", "model.encoder.bidirectional=false",
    "model.decoder.hidden_size=24", "model.decoder.embedding_size=16", "task.max_new_tokens=10",
]  # fmt: skip
PARTS = {"recipes": ORDER, "recipes_online": TAGS, "python_source": WORDS, "dates": DATES}
SIZES = ["model.embedding_size=16", "model.hidden_size=24"]


def words(*names: str) -> list[str]:
    """The overrides of a run of several parts."""
    each = []
    for name in names:
        given = [word.replace("=", ": ", 1) for word in ["data=recipes", *PARTS[name]]]
        keys = dict(word.split(": ", 1) for word in given)  # a key once, the last
        each.append("{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}")
    plain = ["callbacks.learning_curves=null", "callbacks.throughput=null"]
    return ["task=multi", f"parts=[{','.join(each)}]", "data.batch_size=8", *SIZES, *plain]


BOTH = words("recipes", "recipes_online")


def alone(start: Any, name: str) -> Any:
    """A run of one part, without the others."""
    place = "model.encoder" if name == "dates" else "model"
    sizes = [size.replace("model", place) for size in SIZES]
    return start(name, *PARTS[name], "data.batch_size=8", *sizes, *(
        ["model.num_layers=1"] if name == "python_source" else ["model.encoder.num_layers=1"]
        if name == "dates" else []
    ))  # fmt: skip


def first_batch(data: Any, split: str = "train") -> Any:
    return next(iter(data.loader(split)))


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    named = module.named_parameters(remove_duplicate=False)
    return {name: parameter.grad for name, parameter in named}


def test_the_stack_is_one_and_a_step_on_a_part_has_the_gradient_of_the_part_alone(
    start: Any,
) -> None:
    run = start("multi", *words(*PARTS))
    tasks = run.task.tasks
    stacks = [getattr(task.model, "encoder", task.model).stack for task in tasks.values()]
    assert all(stack is stacks[0] for stack in stacks)
    each = [sum(p.numel() for p in task.parameters()) for task in tasks.values()]
    once = sum(each) - 3 * sum(p.numel() for p in stacks[0].parameters())
    assert sum(p.numel() for p in run.task.parameters()) == once
    optimizer = run.task.optimizer(parameter_groups(run.task, layer_decay=1.0))
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == once

    inputs, *_ = by_depth(run.task)
    assert {name.split(".")[1] for name in inputs} == {*tasks} - {"dates"}  # its encoder is apart
    assert all(".inputs." in name for name in inputs)

    run.task.eval()  # nothing is dropped
    for name, task in tasks.items():
        own = alone(start, name)
        own.task.load_state_dict(task.state_dict())
        own.task.eval()
        batch = first_batch(own.data)
        run.task.zero_grad()
        nats = {}
        for one, given in ((own.task, batch), (run.task, PartBatch(name, batch))):
            loss, count = one.loss(given)
            (loss / count).backward()
            nats[one] = loss.item()
        assert nats[own.task] == nats[run.task]
        for key, gradient in gradients(own.task).items():
            found = gradients(task)[key]
            assert torch.equal(gradient, found) if gradient is not None else found is None, key
        others = [n for n, g in gradients(run.task).items() if g is not None]
        assert {n.split(".")[1] for n in others if ".stack." not in n} == {name}


class Watch(Callback):
    """The part of each step."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
        self.parts.append(batch.part)


def test_an_epoch_has_each_part_as_often_as_asked(start: Any) -> None:
    asked = ["data.proportions={recipes: 1, recipes_online: 3}", "data.epoch_steps=8"]
    data = start("multi", *BOTH, *asked).data
    wanted = {"recipes": 2, "recipes_online": 6}
    assert Counter(batch.part for batch in data.train_dataloader()) == wanted
    report = data.report()
    assert {name: report[f"{name}/steps"] for name in wanted} == wanted
    assert report["recipes/train"] == 64


def test_batches_that_are_accumulated_make_a_step_of_one_part(start: Any) -> None:
    options = ["trainer.accumulate_grad_batches=2", "trainer.max_epochs=1"]
    run = start("multi", *BOTH, *options, "trainer.limit_val_batches=0")
    watch = Watch()
    run.trainer.callbacks.append(watch)
    run.fit()
    assert Counter(watch.parts) == {"recipes": 8, "recipes_online": 4}
    assert watch.parts[::2] == watch.parts[1::2] and run.trainer.global_step == 6


def test_workers_hand_out_the_same_batches(start: Any) -> None:
    loaders = [
        start("multi", *BOTH, f"data.num_workers={n}").data.train_dataloader() for n in (0, 1)
    ]
    for one, other in zip(*loaders, strict=True):
        assert one.part == other.part
        assert torch.equal(one.batch.inputs, other.batch.inputs)


@pytest.fixture
def trained(start: Any) -> Any:
    """A run of a classifier, a language model and a translator."""
    brief = ["trainer.max_epochs=1", "trainer.limit_train_batches=4"]
    return start("multi", *words("recipes", "python_source", "dates"), *brief).fit()


@pytest.mark.slow  # pictures
def test_every_part_measures_what_it_measures_alone(
    trained: Any, start: Any, tmp_path: Path
) -> None:
    measured = trained.test()
    place = Path(trained.config.paths.run_dir)
    checkpoint = torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)
    for name in ("recipes", "python_source"):
        own = alone(start, name)
        checkpoints.restore(own.task, take_part(checkpoint, name))
        for key, value in own.test().items():
            found = measured[key.replace("test/", f"test/{name}/", 1)]
            assert found == pytest.approx(value, nan_ok=True), (name, key)
        written = place / "parts" / name
        own_run = Path(own.config.paths.run_dir)
        for file in ("predictions/test.jsonl", "samples/test.jsonl", "classes.csv"):
            assert (written / file).exists() == (own_run / file).exists()
        assert list((written / "pictures").glob("*.png"))
    assert measured["test/loss"] == pytest.approx(
        sum(measured[f"test/{name}/loss"] for name in trained.task.tasks) / 3
    )


def test_the_metrics_of_each_part_and_their_means_are_logged(trained: Any) -> None:
    place = Path(trained.config.paths.run_dir)
    header, *rows = (place / "metrics.csv").read_text().splitlines()
    columns = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert {"val/recipes/accuracy", "val/python_source/perplexity", "val/dates/bleu"} <= set(
        columns
    )
    assert "val/accuracy" not in columns  # not all parts have classes
    losses = [float(columns[f"val/{name}/loss"]) for name in trained.task.tasks]
    assert float(columns["val/loss"]) == pytest.approx(sum(losses) / 3)
    assert {path.name for path in (place / "parts").iterdir()} == set(trained.task.tasks)


def test_a_part_predicts_and_is_exported_as_a_run_of_its_own(trained: Any, tmp_path: Path) -> None:
    place = Path(trained.config.paths.run_dir)
    options = PredictOptions(max_length=5)
    for name, raw in (("recipes", ["add sauce A"]), ("python_source", ["def "]), ("dates", ["1"])):
        model = predict.load(place, precision="fp32", part=name)
        folder = export.export(place, tmp_path / name, part=name)
        again = predict.load(folder, precision="fp32")
        assert model.task.name == again.task.name
        assert model(raw) == again(raw)
        best = build.task_of_checkpoint(checkpoints.read(place)["unroll"])
        checkpoints.restore(best, checkpoints.read(place))
        with torch.no_grad():
            assert model.task.predict(raw, options) == best.eval().tasks[name].predict(raw, options)
        data = json.loads((folder / "config.json").read_text())
        assert data["config"]["data"]["name"] == name and "parts" not in data["config"]
        assert data["fingerprint"] == trained.data.modules[name].fingerprint
    with pytest.raises(ValueError, match="several tasks: say which part; there are recipes, "):
        predict.load(place)
    with pytest.raises(ValueError, match="there is no part 'recipe'; there are recipes, "):
        export.export(place, tmp_path / "none", part="recipe")
    with pytest.raises(ValueError, match="is of one task: it has no part 'recipes'"):
        predict.load(tmp_path / "recipes", part="recipes")


def test_what_chooses_the_best_checkpoint_is_the_mean_or_a_metric_of_one_part(start: Any) -> None:
    run = start("multi", *BOTH)
    assert (run.task.monitor, run.task.mode) == ("val/accuracy", "max")
    chosen = "val/recipes/loss"
    run = start("multi", *BOTH, f"task.monitor={chosen}", "trainer.max_epochs=1").fit()
    assert (run.task.monitor, run.task.mode) == (chosen, "min")
    best, values = build.best_checkpoint(run.trainer), run.trainer.callback_metrics
    assert best is not None and best.best_model_score == values[chosen]
    assert values["val/accuracy"] == pytest.approx(
        (values["val/recipes/accuracy"] + values["val/recipes_online/accuracy"]) / 2
    )


def test_a_weight_multiplies_the_loss_of_its_part_alone(start: Any) -> None:
    plain, weighted = (
        start("multi", *BOTH, *more) for more in ([], ["task.weights={recipes: 0.25}"])
    )
    weighted.task.load_state_dict(plain.task.state_dict())
    for name, factor in (("recipes", 0.25), ("recipes_online", 1.0)):
        batch = PartBatch(name, first_batch(plain.data.modules[name]))
        (one, count), (other, same) = plain.task.loss(batch), weighted.task.loss(batch)
        assert other.item() == pytest.approx(factor * one.item()) and count == same


class Killed(Exception):
    """As a machine that is taken away."""


class Kill(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


def logged(run: Any) -> list[dict[str, str]]:
    """The rows of a run's metrics, without what is empty."""
    with (Path(run.config.paths.run_dir) / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


@pytest.mark.parametrize("group", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_that_goes_on_ends_bit_for_bit_as_one_that_was_not_stopped(
    group: int, start: Any, tmp_path: Path
) -> None:
    options = [
        *words("recipes", "python_source"), "trainer.max_epochs=2", "data.epoch_steps=7",
        "data.temperature=2", f"trainer.accumulate_grad_batches={group}", "model.dropout=0.2",
        "trainer.log_every_n_steps=1",
    ]  # fmt: skip
    whole = start("multi", *options).fit()
    stopped = start("multi", *options)
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=3, save_top_k=-1)
    stopped.trainer.callbacks += [keep, Kill(5)]
    with pytest.raises(Killed):
        stopped.fit()
    resumed = start("multi", *options)
    (saved,) = (tmp_path / "kept").glob("*3.ckpt")
    kept = torch.load(saved, weights_only=True)["parts"]
    assert kept["python_source"]["carried"] and kept["recipes"] == {}
    resumed.trainer.fit(resumed.task, datamodule=resumed.data, ckpt_path=saved, weights_only=True)
    assert resumed.trainer.global_step == whole.trainer.global_step == 14
    for a, b in zip(whole.task.parameters(), resumed.task.parameters(), strict=True):
        assert torch.equal(a, b)
    one, other = (logged(run) for run in (whole, resumed))
    assert len(one) > len(other) and one[-len(other) :] == other


@pytest.fixture(scope="module")
def default() -> Any:
    """The config of task=multi, before its parts are composed."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(parts.CONFIGS), version_base="1.3"):
        return compose("config", ["task=multi"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["recipes", "recipes"], "two of them are called recipes"),
        (["recipe"], "parts: data=recipe cannot be composed: In 'config': Could"),
        ([{"data": "recipes", "data.limits": 3}], "data.limits=3 cannot be composed: Could not"),
        ([{"data": "recipes", "cell": "lstm"}], "cell is of the whole run"),
        ([{"data": "recipes", "data.batch_size": 3}], "data.batch_size is of all parts"),
        ([{"data": "recipes", "model.budget": "1M"}], "model.budget=1M of recipes"),
        ([{"data": "recipes", "data.name": "a.b"}], "'a.b' names metrics and folders"),
        ([], "give a list of data sets"),
        ([3], "3 is neither a data set's name nor a mapping"),
    ],
)
def test_a_part_that_cannot_be_composed_is_told_with_the_mend(
    asked: list[Any], said: str, default: Any
) -> None:
    config = copy.deepcopy(default)
    config.parts = asked
    with pytest.raises(ValueError, match=re.escape(said)):
        parts.composed(config)


def test_a_part_may_nest_its_keys_and_beats_what_all_have(default: Any) -> None:
    config = copy.deepcopy(default)
    config.model.hidden_size = 32
    nested = {"data": "recipes", "model": {"dropout": 0.1, "hidden_size": 16}}
    config.parts = [nested, {"task": "translation", "data": "dates"}]
    made = parts.composed(config).task.parts
    assert (made.recipes.model.hidden_size, made.recipes.model.dropout) == (16, 0.1)
    assert made.dates.model.encoder.hidden_size == 32


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["parts=[recipes,{task: tagging,data: recipes_online,model.hidden_size: 32}]"],
            "recipes and recipes_online cannot share one stack: hidden_size is 24 and 32; set "
            "model.hidden_size for all",
        ),
        (
            ["parts=[recipes,{task: tagging,data: recipes,data.name: other}]"],
            "use task=classification",
        ),
        (["parts=[{data: recipes,task.layer_decay: 0.5}]"], "task.layer_decay=0.5 of recipes"),
        (["task.weights={recipe: 1}"], "task.weights.recipe=1 is no weight"),
    ],
)
def test_a_mistake_is_told_with_its_mend(overrides: list[str], said: str, start: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        start("multi", *BOTH, *overrides)


def test_one_task_refuses_a_mixture_and_several_refuse_one_data_set(start: Any) -> None:
    with pytest.raises(ValueError, match="task=multi needs several data sets"):
        start("multi", *BOTH, "data=recipes")
    with pytest.raises(ValueError, match="data=mixed has no parts"):
        start("one", "data=mixed")


def test_a_run_of_one_task_begins_with_an_exported_part_and_not_with_all(start: Any) -> None:
    run = start("multi", *BOTH)
    record = {"format": 1, **run.task.record}
    saved = {"unroll": record, "state_dict": run.task.state_dict(), "path": "RUN"}
    own = alone(start, "recipes").task
    with pytest.raises(ValueError, match="of several tasks, this run of one; take a part of it"):
        begin_from(own, saved, where="RUN")
    with pytest.raises(ValueError, match="of one task, this run of several"):
        begin_from(run.task, {"unroll": own.record, "state_dict": {}}, where="RUN")
    taken = begin_from(own, take_part(saved, "recipes"), where="RUN")
    assert taken.parts == ["inputs", "stack", "head"] and not taken.new
    shared = run.task.tasks["recipes_online"].model.stack.state_dict()
    for name, value in own.model.stack.state_dict().items():
        assert torch.equal(value, shared[name])


def test_a_batch_that_is_not_finite_is_kept_with_its_tensors() -> None:
    batch = StreamBatch(*(torch.full((1,), float(place)) for place in range(5)))
    assert dict(tensors(PartBatch("words", batch))) == dict(tensors(batch)) != {}


def train(*overrides: str) -> str:
    done = commands.run(["train.py", "logger=csv", "precision=fp32", *overrides])
    return done.stdout + done.stderr


@pytest.mark.slow
def test_two_ranks_learn_and_measure_what_one_does(tmp_path: Path) -> None:
    still = ["optimizer=sgd", "optimizer.lr=0.5", "trainer.max_epochs=1", "trainer=ddp_cpu"]
    common = [word for word in BOTH if not word.startswith("data.batch_size")]
    common += [*still, "trainer.log_every_n_steps=1"]
    refused = train(*common, "trainer.devices=2", f"hydra.run.dir={tmp_path}/refused")
    assert "set trainer.strategy.find_unused_parameters=true" in refused
    weights, measured, losses = [], [], []
    for ranks, size in ((1, 8), (2, 4)):
        run = tmp_path / str(ranks)
        said = train(
            *common, f"data.batch_size={size}", f"trainer.devices={ranks}",
            "trainer.strategy.find_unused_parameters=true", f"hydra.run.dir={run}",
        )  # fmt: skip
        (line,) = [line for line in said.splitlines() if line.startswith('{"run"')]
        measured.append(json.loads(line)["test"])
        weights.append(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
        with (run / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["train/loss"]]
        keys = ("train/recipes/loss", "train/recipes_online/loss")
        losses.append([float(row[key]) for row in rows for key in keys if row[key]])
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], rtol=1e-4, atol=1e-5), name
    assert len(losses[0]) > 12 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert measured[1] == pytest.approx(measured[0], rel=1e-3)


@pytest.mark.slow
def test_the_command_line_trains_tests_goes_on_and_predicts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = ["task=multi", "trainer=cpu", f"hydra.run.dir={run}", "trainer.max_epochs=1"]
    first = json.loads(train(*asked).splitlines()[-1])
    assert first["monitor"] == "val/accuracy"
    assert first["test"]["test/recipes/accuracy"] > 0.6
    tested = json.loads(train("fit=false", "trainer=cpu", f"ckpt={run}").splitlines()[-1])
    assert tested["test"] == pytest.approx(first["test"])
    place = f"resume={run}"
    again = train(*asked[:-1], "trainer.max_epochs=2", place)
    assert "resume: going on after step" in again and '"test"' in again
    other = train(*asked, place, "parts=[recipes]")
    assert "cannot go on with another model or other data: data.parts.recipes_online" in other
    done = commands.run(["predict.py", run, "add sauce A", "--part", "recipes"])
    assert done.stdout.split("\t")[0] in ("right order", "wrong order"), done.stderr
