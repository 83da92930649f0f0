"""Networks as ONNX files, each held to PyTorch before it is given away.

step.onnx, sequence.onnx, encoder.onnx, decoder.onnx   what there is of these (`onnx_graphs`)
model.json      what each takes and gives, the first state, the vocabularies
"""

import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.state import leaves
from tasks.base import Task
from tasks.exported import check_free
from tasks.onnx_graphs import Export, Graph, export_of
from tasks.onnx_saving import save

VERSION = 1  # of model.json
MODEL = "model.json"
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def write(task: Task, checkpoint: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """Write a restored task's networks into a directory, new or empty → each file's largest
    difference from PyTorch.

    ValueError where the extra `onnx` is not installed, the directory holds anything, the model
    cannot be exported, or a file's outputs are further than `TOLERANCE` from PyTorch's.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"to=onnx needs {', '.join(missing)}: python -m pip install -e '.[onnx]' "
            "-c constraints.txt"
        )
    check_free(folder)
    task.eval().float()
    found: dict[str, float] = {}
    files: dict[str, Any] = {}
    made = export_of(task)
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        for graph in made.graphs:
            path = Path(place) / graph.name
            found[graph.name] = save(graph, path, _label(task, checkpoint))
            files[graph.name] = _described(graph, path) | {"difference": found[graph.name]}
        content = json.dumps(
            _description(task, checkpoint, made, files), ensure_ascii=False, indent=1
        )
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            shutil.move(Path(place) / name, folder / name)
        (folder / MODEL).write_text(content + "\n", encoding="utf-8")  # last: all is there
    return found


def _label(task: Task, checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """What every file says of itself in its metadata."""
    record = checkpoint["unroll"]
    cell = record["config"].get("cell") or {}
    return {
        "unroll.version": str(VERSION),
        "unroll.task": task.name,
        "unroll.cell": str(cell.get("_target_", "")).rpartition(".")[2],
        "unroll.fingerprint": record["fingerprint"],
    }


def _description(
    task: Task, checkpoint: Mapping[str, Any], made: Export, files: Mapping[str, Any]
) -> dict[str, Any]:
    """All that must be known to run the files, as plain JSON."""
    label = _label(task, checkpoint)
    texts = {"input_symbols": task.codec.inputs, "output_symbols": task.codec.outputs}
    return {
        "version": VERSION,
        "task": task.name,
        "cell": label["unroll.cell"],
        "fingerprint": label["unroll.fingerprint"],
        "training_step": checkpoint.get("global_step", 0),
        "files": dict(files),
        "initial_state": {
            f"state.{place}": _first(leaf[0])
            for place, leaf in enumerate(leaves(made.initial_state))
        },
        "writing": made.writing,
        **{name: text.symbols for name, text in texts.items() if text is not None},
        "spec": task.spec.to_plain(),
        "codec": task.codec.to_plain(),
    }


def _first(row: Tensor) -> dict[str, Any]:
    """What a row begins with: one number all over, or its own."""
    values = row.unique().tolist()
    if len(values) > 1:
        return {"shape": [*row.shape], "values": row.tolist()}
    return {"shape": [*row.shape], "fill": values[0] if values else 0.0}


def _described(graph: Graph, path: Path) -> dict[str, Any]:
    """What a file takes and gives, in the order of its tensors; sizes of any number by name."""
    given = graph.draw(3, 5)
    tensors = leaves(given), leaves(graph.plain(*given))
    takes, gives = (
        [
            {
                "name": name,
                "type": str(tensor.dtype).removeprefix("torch."),
                "shape": [*dims, *tensor.shape[len(dims) :]],
            }
            for (name, dims), tensor in zip(named.items(), several, strict=True)
        ]
        for named, several in zip((graph.inputs, graph.outputs), tensors, strict=True)
    )
    return {
        "about": graph.about,
        "inputs": takes,
        "outputs": gives,
        "carried": dict(graph.carried),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
