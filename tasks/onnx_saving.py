"""A network as a file of ONNX, compared with PyTorch before anybody has it."""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.state import State, leaves, map_state
from tasks.onnx_graphs import Graph

OPSET = 20
TOLERANCE = 1e-4
LARGE = 10.0  # numbers beyond it may differ by as much as their size is above it


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
        except Exception as error:  # the exporter's packages raise any kind
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


def _like(state: State, parts: Iterable[Any]) -> Any:
    """These in the structure of a state."""
    rest = iter(parts)
    return map_state(lambda _: next(rest), state)
