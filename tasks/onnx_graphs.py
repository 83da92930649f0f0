"""What of each task is exported to ONNX: networks as functions of plain tensors."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.rolled import rolled
from models.state import State, leaves
from tasks.base import Task
from tasks.onnx_networks import Answer, Decode, Encode, Step, Whole, log_probs

Dims = tuple[
    str, ...
]  # the names of a tensor's first dimensions, of any size; the others are fixed


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A network that is one file: `network` is written, and must equal `plain` in PyTorch.

    Both are called with what `draw(batch, length)` gives, tensors in nested tuples, which `inputs`
    names from left to right; they return tensors in nested tuples, which `outputs` names. Of a step
    `carried` says which output is which input of the next one.
    """

    name: str
    about: str
    network: nn.Module
    plain: nn.Module
    draw: Callable[[int, int], tuple[State, ...]]
    inputs: dict[str, Dims]
    outputs: dict[str, Dims]
    carried: dict[str, str] = field(default_factory=dict)


BATCH: Dims = ("batch",)
SEQUENCE: Dims = ("batch", "time")
MEMORY: Dims = ("batch", "places")


@dataclass(frozen=True)
class Export:
    """All of a task that is exported."""

    graphs: list[Graph]
    initial_state: State = ()  # (1, ...) before the first step of step.onnx
    # the ids that begin and end a text, and those never written
    writing: dict[str, Any] = field(default_factory=dict)


def export_of(task: Task) -> Export:
    """What a trained task is in ONNX. ValueError where it is nothing."""
    if task.name not in TASKS:
        raise ValueError(
            f"to=onnx is for {', '.join(TASKS)}; what task={task.name} does is not exported yet"
        )
    return TASKS[task.name](task)


def _language_model(task: Any) -> Export:
    name, what = ("keys", "one frame of keys") if task.plays else ("tokens", "one symbol")
    about = f"{what} → the log-probabilities of the next"
    writing = {} if task.plays else {"first": task.codec.lead, "never": [*task.never], "end": None}
    state = task.model.initial_state(1)
    return Export([_step(task, about, log_probs, name, "log_probs")], state, writing)


def _labelling(task: Any) -> Export:
    """Sequences of any length and, where nothing is read from the right, the step."""
    model, per_step = task.model, task.spec.per_step
    if not model.head.stepwise:
        raise ValueError(
            f"to=onnx: {type(model.head).__name__} searches whole sequences for its answers, which "
            "is not exported; train with model.head=null"
        )

    def values(model: Any, hidden: Tensor) -> Tensor:
        return task.codec.restore(model.head(hidden))

    answer, answers = (values, "values") if task.real else (log_probs, "log_probs")
    every = "an answer a step" if per_step else "one answer"
    reads = "tokens" if task.spec.input_vocabulary else "features"
    whole = Graph(
        name="sequence.onnx",
        about=f"right-padded sequences with their lengths → {every}",
        network=Whole(rolled(model), answer),
        plain=Whole(model, answer),
        draw=lambda batch, length: (_drawn(task, batch, length), _lengths(batch, length)),
        inputs={reads: SEQUENCE, "lengths": BATCH},
        outputs={answers: SEQUENCE if per_step else BATCH},
    )
    if not hasattr(model.stack, "step") or (not per_step and model.pooling.needs_all):
        return Export([whole])
    said = "its answer" if per_step else "the answer if the sequence ended there"
    step = _step(task, f"one step → {said}", answer, reads, answers)
    return Export([whole, step], model.stack.initial_state(1))


def stepping(
    model: Any,
    answer: Answer,
    reads: str,
    answers: str,
    *,
    draw: Callable[[int, int], tuple[State, ...]],
    about: str = "",
) -> Graph:
    """The step of a model that has `inputs`, a `stack` and a `head`; `draw` gives input and state.

    `reads` and `answers` name the input and the output.
    """
    states = _numbered("state", leaves(model.stack.initial_state(1)))
    following = {f"next_{name}": name for name in states}
    return Graph(
        name="step.onnx",
        about=about,
        network=Step(rolled(model), answer),
        plain=Step(model, answer),
        draw=draw,
        inputs={reads: BATCH, **states},
        outputs={answers: BATCH, **dict.fromkeys(following, BATCH)},
        carried=following,
    )


def _step(task: Any, about: str, answer: Answer, reads: str, answers: str) -> Graph:
    def draw(batch: int, _: int) -> tuple[State, ...]:
        return _drawn(task, batch), task.model.stack.initial_state(batch)

    return stepping(task.model, answer, reads, answers, draw=draw, about=about)


def _generation(task: Any) -> Export:
    """The encoder over whole inputs, and the decoder's step."""
    model, copy = task.model, rolled(task.model)
    text = task.spec.input_vocabulary is not None

    def source(batch: int, length: int) -> tuple[State]:
        drawn = _drawn(task, batch, *[length] * text)
        return ((drawn, _lengths(batch, length)) if text else (drawn,),)

    def given(batch: int, length: int) -> tuple[State, ...]:
        token = torch.randint(task.spec.output_vocabulary.size, (batch,))
        state, memory = Encode(model)(*source(batch, length))
        return token, tuple(leaves(state)), memory

    memory = model.encode(*source(1, 1)[0])
    begin = of_layers, fed, seen = model.initial_state(memory)
    plain = leaves((of_layers, fed))
    states = _numbered("state", plain) | _numbered("state", leaves(seen), len(plain), MEMORY)
    parts = {f"memory.{name}": BATCH if name == "summary" else MEMORY for name in memory._fields}
    following = {f"next_{name}": name for name in states}
    encoder = Graph(
        name="encoder.onnx",
        about=f"{'right-padded texts with their lengths' if text else 'pictures'} → the decoder's "
        "first state, and the memory that it reads",
        network=Encode(copy),
        plain=Encode(model),
        draw=source,
        inputs={"tokens": MEMORY, "lengths": BATCH} if text else {"pictures": BATCH},
        outputs={**states, **parts},
    )
    decoder = Graph(
        name="decoder.onnx",
        about="the symbol before → the log-probabilities of the next, and where it looked",
        network=Decode(copy, begin, memory),
        plain=Decode(model, begin, memory),
        draw=given,
        inputs={"tokens": BATCH, **states, **parts},
        outputs={
            "log_probs": BATCH,
            "attention": MEMORY,
            **{name: states[of] for name, of in following.items()},
        },
        carried=following,
    )
    never, first = [*model.never_said], task.bos_id
    return Export([encoder, decoder], (), {"first": first, "never": never, "end": task.eos_id})


TASKS: dict[str, Callable[[Any], Export]] = {
    "language_model": _language_model,
    "classification": _labelling,
    "tagging": _labelling,
    "translation": _generation,
    "captioning": _generation,
}


def _numbered(
    name: str, tensors: list[Tensor], first: int = 0, dims: Dims = BATCH
) -> dict[str, Dims]:
    return {f"{name}.{first + place}": dims for place in range(len(tensors))}


def _drawn(task: Task, batch: int, *length: int) -> Tensor:
    """Random inputs of a task: symbols, features or keys (batch, *length, ...), or pictures."""
    spec = task.spec
    if spec.picture_shape is not None:
        return torch.randn(batch, *spec.picture_shape)
    if spec.keys is not None:
        return torch.randint(2, (batch, *length, spec.keys)).float()
    if spec.input_vocabulary is not None:
        return torch.randint(spec.input_vocabulary.size, (batch, *length))
    assert spec.input_features is not None
    return torch.randn(batch, *length, spec.input_features)


def _lengths(batch: int, length: int) -> Tensor:
    """One row is full, the others are of any length."""
    return torch.cat([torch.tensor([length]), torch.randint(1, length + 1, (batch - 1,))])
