"""Networks as ONNX files, each held to PyTorch before it is given away.

step.onnx, sequence.onnx, encoder.onnx, decoder.onnx   what there is of these (`onnx_graphs`)
model.json      what each takes and gives, the first state, the vocabularies
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import math
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.state import State, leaves, map_state
from tasks.base import Task
from tasks.exported import check_free
from tasks.onnx_graphs import Export, Graph, export_of

VERSION = 1  # of model.json
OPSET = 20
MODEL = "model.json"
TOLERANCE = 1e-4
LARGE = 10.0  # numbers beyond it may differ by as much as their size is above it
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


def save(graph: Graph, path: Path, label: Mapping[str, str] | None = None) -> float:
    """Write one network, with a label as its metadata → its largest difference from PyTorch.

    ValueError where ONNX lacks what it does, or it is further than `TOLERANCE` from PyTorch's.
    """
    _export(graph, path, label or {})
    apart = difference(graph, path)
    if not apart <= TOLERANCE:
        raise ValueError(
            f"{graph.name} is not what PyTorch computes: their outputs differ by {apart:.2g}, "
            f"more than {TOLERANCE:g}"
        )
    return apart


def difference(graph: Graph, path: Path, steps: int = 20) -> float:
    """How far a file's outputs are from PyTorch's at most, run with onnxruntime on random inputs:
    one row and several, short and long; a step so many times, each carrying a state of its own.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for batch, length in [(1, 1), (3, 11), (4, 30)]:
            ours: dict[str, Tensor] = {}  # what is carried by PyTorch
            theirs: dict[str, Tensor] = {}
            for _ in range(steps if graph.carried else 1):
                given = graph.draw(batch, length)
                fresh = dict(zip(graph.inputs, leaves(given), strict=True))
                right = leaves(graph.plain(*_like(given, (fresh | ours).values())))
                feed = {name: value.numpy() for name, value in (fresh | theirs).items()}
                got = [torch.from_numpy(value) for value in session.run([*graph.outputs], feed)]
                worst = max([worst, *map(_apart, got, right)])
                ours, theirs = (_carried(graph, values) for values in (right, got))
    return worst


def _carried(graph: Graph, outputs: list[Tensor]) -> dict[str, Tensor]:
    """What of a step's outputs the next one takes, by the names it has there."""
    named = dict(zip(graph.outputs, outputs, strict=True))
    return {into: named[of] for of, into in graph.carried.items()}


def _apart(got: Tensor, right: Tensor) -> float:
    """The largest difference, that of large numbers scaled down; infinite where one is NaN."""
    if got.shape != right.shape:
        return math.inf
    scale = (right.double().abs() / LARGE).clamp(min=1)
    apart = (got.double() - right.double()).abs() / scale
    apart = apart.masked_fill(got == right, 0.0).nan_to_num(nan=math.inf, posinf=math.inf)
    return apart.max().item() if apart.numel() else 0.0


def _export(graph: Graph, path: Path, label: Mapping[str, str]) -> None:
    given = graph.draw(3, 5)
    dims = (dict(enumerate(named)) for named in graph.inputs.values())
    shapes = _like(given, dims)
    with _quiet():
        try:
            program = torch.onnx.export(
                graph.network, given, dynamo=True, dynamic_shapes=shapes, opset_version=OPSET,
                input_names=[*graph.inputs], output_names=[*graph.outputs], verbose=False,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            raise ValueError(
                f"{graph.name} cannot be written: what it does is not in ONNX ({_reason(error)})"
            ) from error
    assert program is not None
    program.model.metadata_props.update(label)
    program.save(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own progress."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first cause of an exporter's error, in its first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__


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


def _like(state: State, parts: Iterable[Any]) -> Any:
    """These in the structure of a state."""
    rest = iter(parts)
    return map_state(lambda _: next(rest), state)
