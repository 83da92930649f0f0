"""What a trained model says of itself: its record and its measured numbers, as Markdown."""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.spec import DataSpec
from tasks.base import Task
from tasks.checkpoint_files import BEST
from tasks.journal import METRICS

SIZES = ("_size", "layers", "channels", "bidirectional")  # how the keys of a model's sizes end


def card(
    task: Task, checkpoint: Mapping[str, Any], measured: Mapping[str, float], name: str
) -> str:
    """The model card of a task that was rebuilt from a checkpoint, exported as `name`."""
    record = checkpoint["unroll"]
    config = record["config"]
    model, data = config["task"]["model"], config["data"]
    trainable = sum(p.numel() for p in task.parameters() if p.requires_grad)
    count = sum(p.numel() for p in task.parameters())
    facts = {
        "Task": task.name,
        "Cell": _name(config["cell"]),
        "Model": _name(model),
        "Sizes": ", ".join(f"{key} {value}" for key, value in _sizes(model)) or "none",
        "Parameters": f"{count:,}"
        + (f", {trainable:,} of them trained" if trainable < count else ""),
        "Reads": _input(task.spec),
        "Writes": _output(task.spec),
        "Data": data["name"],
        "Data's fingerprint": record["fingerprint"] or "none",
        "Steps of training": f"{checkpoint.get('global_step', 0):,}",
        "Seed": config.get("seed"),
    }
    title = f"{task.name.replace('_', ' ').capitalize()} with {facts['Cell']}, on {facts['Data']}"
    lines = [f"# {_line(title)}", "", "A recurrent network, trained and exported with Unroll.", ""]
    lines += [f"- {key}: {_line(value)}" for key, value in facts.items()]
    lines += ["", "## Measured on the test split", ""]
    lines += [f"- {_line(key)}: {value:.6g}" for key, value in measured.items()]
    lines += [] if measured else ["Nothing: the run was not tested, or its numbers were not kept."]
    lines += ["", "## Predict", "", "In a checkout of Unroll:", ""]
    lines += [f"    python predict.py {name} {_example(task)}", "", "or from Python:", ""]
    lines += ["    from predict import load", f"    model = load({name!r})"]
    lines += ["", "`config.json` holds every setting of the training."]
    return "\n".join(lines) + "\n"


def measured_by(checkpoint: Path) -> dict[str, float]:
    """The test metrics that a run left beside its best checkpoint, in the run's metrics.csv; the
    last of each. Other checkpoints of a run were not tested: nothing.
    """
    file = checkpoint.parent.parent / METRICS
    if checkpoint.name != BEST or not file.is_file():
        return {}
    found = {}
    with file.open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            for key, text in row.items():
                if key and key.startswith("test/") and text and math.isfinite(float(text)):
                    found[key] = float(text)
    return found


def _name(node: Any) -> str:
    return str(node.get("_target_", "?")).rpartition(".")[2] if isinstance(node, Mapping) else "?"


def _sizes(model: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """The sizes of a model and its parts by their keys; a cell's own are left out."""
    for key, value in model.items():
        if isinstance(value, Mapping):
            yield from () if key == "cell" else _sizes(value, f"{where}{key}.")
        elif key.endswith(SIZES) and value not in (None, False):
            yield f"{where}{key}", value


def _input(spec: DataSpec) -> str:
    if spec.picture_shape is not None:
        return f"pictures of {' x '.join(map(str, spec.picture_shape))} (channels, height, width)"
    if spec.keys is not None:
        return f"music, {spec.keys} keys a frame"
    if spec.input_vocabulary is not None:
        return f"text, {spec.input_vocabulary.size:,} symbols"
    return f"{spec.input_features} numbers a step"


def _output(spec: DataSpec) -> str:
    rate = " a step" if spec.per_step else ""
    if spec.keys is not None:
        return f"music, {spec.keys} keys a frame"
    if spec.output_vocabulary is not None:
        return f"text, {spec.output_vocabulary.size:,} symbols"
    if spec.labels is not None:
        shown = ", ".join(spec.labels[:20]) + (", ..." if len(spec.labels) > 20 else "")
        return f"one of {len(spec.labels)} classes{rate}: {shown}"
    return f"{spec.output_features} numbers{rate}"


def _example(task: Task) -> str:
    if task.spec.keys is not None:
        return "--output songs"
    return "picture.jpg" if task.spec.picture_shape is not None else '"an input"'


def _line(value: Any) -> str:
    return " ".join(str(value).split())
