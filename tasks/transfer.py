"""A new run begins with the weights of another one: the parts that match by name, symbol by symbol.

Howard and Ruder 2018, arXiv 1801.06146, begin a classifier with the encoder of a language model;
self-critical training (Rennie et al. 2017, arXiv 1612.00563) begins with a run of the same task.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.codec import Codec, codec_from_plain
from data.spec import DataSpec
from data.specials import SPECIALS
from tasks.base import Task

# What reads the hidden vectors depends on what is answered: it is taken where it fits as a whole,
# and begins anew elsewhere. All other parts that both models have must fit.
ANSWERING = ("head", "pooling")


class Taken(NamedTuple):
    """What a task took from a checkpoint."""

    parts: list[str]
    new: list[str]  # parts that begin anew
    left: list[str]  # parts that this model has not
    known: dict[str, tuple[int, int]]  # vocabulary: symbols that were known, and all

    def __str__(self) -> str:
        said = [f"took {', '.join(self.parts)}"]
        for name, (known, count) in self.known.items():
            share = f"{known:,} of {count:,} {name} symbols ({known / count:.1%})"
            said.append(f"knows {share}, the others begin as the mean")
        said += [f"new: {', '.join(self.new)}"] * bool(self.new)
        said += [f"left out: {', '.join(self.left)}"] * bool(self.left)
        return "; ".join(said)


class Rows(NamedTuple):
    """What the rows of a matrix stand for."""

    vocabulary: str | None = None
    names: Sequence[str] = ()


def begin_from(task: Task, checkpoint: Mapping[str, Any], *, where: str) -> Taken:
    """Put the weights of another run's checkpoint into a new task.

    Rows that stand for symbols go where the task has the same symbol; a symbol that the checkpoint
    does not know begins as the mean of all of its rows. ValueError names a cell, a size or another
    setting that differs.
    """
    record, theirs = checkpoint["unroll"], _by_part(checkpoint["state_dict"])
    _check_several(task.spec, record["spec"], where)
    own = _by_part(task.state_dict())
    settings = task.record["config"], record["config"]
    _check_settings(*settings, where)
    codec = codec_from_plain(record["codec"])
    _check_direction(task.codec, codec, where)
    mine = _rows(task.spec, task.codec)
    given = _rows(DataSpec.from_plain(record["spec"]), codec)
    state, taken = dict(task.state_dict()), Taken([], [], [], {})
    for part, tensors in own.items():
        found = _moved(tensors, theirs.get(part, {}), part, mine, given)
        if found is None and part in theirs and part not in ANSWERING:
            raise ValueError(
                _misfit(tensors, theirs[part], part, where, _differing(*settings, SIZES))
            )
        if found is None:
            taken.new.append(part)
            continue
        taken.parts.append(part)
        state.update({tensors[name].key: value for name, value in found.items()})
        for name in tensors:
            to, source = (_rows_of(part, name, rows) for rows in (mine, given))
            if to.vocabulary and to != source:
                taken.known[to.vocabulary] = _count(to.names, source.names, where)
    if all(part in ANSWERING for part in taken.parts):
        raise ValueError(
            f"init={where} has nothing that this model could begin with: its parts are "
            f"{', '.join(theirs)}, this model's {', '.join(own)}"
        )
    taken.left.extend(part for part in theirs if part not in own)
    task.load_state_dict(state)
    return taken


class Entry(NamedTuple):
    key: str  # in the state dictionary
    value: Tensor


Entries = dict[str, Entry]


def _by_part(state: Mapping[str, Tensor]) -> dict[str, Entries]:
    """{"encoder.stack": {"layers.0.rnn.weight_ih_l0": ...}}; what regularises a cell has no say."""
    parts: dict[str, Entries] = {}
    for key, value in state.items():
        names = [name for name in key.removeprefix("model.").split(".") if name != "layer"]
        cut = 2 if names[0] in ("encoder", "decoder") else 1
        entries = parts.setdefault(".".join(names[:cut]), {})
        entries[".".join(names[cut:])] = Entry(key, value)
    return parts


def _rows(spec: DataSpec, codec: Codec) -> dict[str, Rows]:
    """What rows of the input's and of the output's matrices stand for."""
    inputs = Rows("input", codec.inputs.symbols) if spec.input_vocabulary and codec.inputs else None
    spoken = codec.outputs or codec.inputs
    outputs = Rows(None, codec.labels or ())
    if spec.output_vocabulary and spoken:
        outputs = inputs if spoken is codec.inputs and inputs else Rows("output", spoken.symbols)
    return {"input": inputs or Rows(), "output": outputs}


def _rows_of(part: str, name: str, rows: Mapping[str, Rows]) -> Rows:
    if part == "head" and name.startswith("linear."):
        return rows["output"]
    if part.endswith("inputs") and name == "embedding.weight":
        return rows["output" if part.startswith("decoder.") else "input"]
    return Rows()


def _moved(
    own: Entries, theirs: Entries, part: str, mine: Mapping[str, Rows], given: Mapping[str, Rows]
) -> dict[str, Tensor] | None:
    """The checkpoint's values for a part, None where one does not fit."""
    if own.keys() != theirs.keys():
        return None
    found = {}
    for name, (_, like) in own.items():
        value = theirs[name].value
        to, source = _rows_of(part, name, mine), _rows_of(part, name, given)
        if to != source:
            if None in (to.vocabulary, source.vocabulary) or len(source.names) != len(value):
                return None
            value = remapped(value, source.names, to.names)
        if value.shape != like.shape:
            return None
        found[name] = value
    return found


def remapped(values: Tensor, source: Sequence[str], to: Sequence[str]) -> Tensor:
    """A row for each symbol of `source` (V, ...) → one for each of `to`, the mean where unknown."""
    places = {symbol: i for i, symbol in enumerate(source)}
    index = torch.tensor([places.get(symbol, -1) for symbol in to])
    moved = values[index.clamp(min=0)]
    moved[index < 0] = values.mean(0)
    return moved


def _count(mine: Sequence[str], given: Sequence[str], where: str) -> tuple[int, int]:
    """How many symbols are known, of how many."""
    words = set(mine).difference(SPECIALS)
    known = len(words.intersection(given))
    if not known:
        raise ValueError(
            f"init={where} knows no symbol of this data: take the tokenizer of that run"
        )
    return known, len(words)


# Settings under which the same weights would compute something else, and those that give shapes
MEANING = ("tie_weights", "residual", "layer_norm", "normalise_embedding")
SIZES = ("bidirectional", "num_layers", "embedding_size", "hidden_size")


def _check_several(own: DataSpec, given: Mapping[str, Any], where: str) -> None:
    """ValueError where one of two runs is of several tasks, and the other is not."""
    several = given.get("parts") is not None
    if several != (own.parts is not None):
        counts = ("several tasks", "one") if several else ("one task", "several")
        mend = f"take a part of it: python export.py ckpt={where} part=NAME to=DIR, init=DIR"
        raise ValueError(
            f"init={where} is of {counts[0]}, this run of {counts[1]}; "
            f"{mend if several else 'begin with a run of the same parts'}"
        )


def _check_settings(own: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> None:
    """ValueError where equal weights would not mean the same."""
    cells = [str((c.get("cell") or {}).get("_target_", "")) for c in (own, theirs)]
    if all(cells) and cells[0] != cells[1]:
        mine, given = (cell.rpartition(".")[2] for cell in cells)
        raise ValueError(f"init={where}: its cell is {given}, this model's {mine}; take one cell")
    if mend := _differing(own, theirs, MEANING):
        raise ValueError(f"init={where} was trained with other settings: set {mend}")


def _check_direction(own: Codec, theirs: Codec, where: str) -> None:
    """ValueError where one reads its texts from the end and the other does not."""
    if (
        own.inputs
        and theirs.inputs
        and own.inputs.settings.reverse != theirs.inputs.settings.reverse
    ):
        reverse = str(theirs.inputs.settings.reverse).lower()
        raise ValueError(f"init={where} reads the other way: set tokenizer.reverse={reverse}")


def _misfit(own: Entries, theirs: Entries, part: str, where: str, mend: str) -> str:
    if lacks := own.keys() ^ theirs.keys():
        name = sorted(lacks)[0]
        said = f"only {'this model' if name in own else 'the checkpoint'} has {part}.{name}"
    else:
        name = next(n for n in own if own[n].value.shape != theirs[n].value.shape)
        shapes = (tuple(entries[name].value.shape) for entries in (theirs, own))
        said = "{}.{} has shape {}, this model wants {}".format(part, name, *shapes)
    return f"init={where} does not fit this model: {said}{mend and f'; set {mend}'}"


def _differing(own: Mapping[str, Any], theirs: Mapping[str, Any], names: Iterable[str]) -> str:
    """What would make the settings of these names agree, as a command line says it."""
    mine, given = (_settings(c.get("model", {})) for c in (own, theirs))
    for choice in ("bidirectional", "normalise_embedding"):  # which a language model has not
        given.setdefault(f"model.{choice}", False)
    return " ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in given.items()
        if key.rpartition(".")[2] in names and key in mine and mine[key] != value
    )


def _settings(model: Mapping[str, Any], where: str = "model") -> dict[str, Any]:
    """A model's settings by their keys; an embedding of no size has that of the hidden layers."""
    found: dict[str, Any] = {}
    for key, value in model.items():
        if isinstance(value, Mapping):
            found |= {} if key == "cell" else _settings(value, f"{where}.{key}")
        else:
            none = key == "embedding_size" and value is None
            found[f"{where}.{key}"] = model.get("hidden_size") if none else value
    return found
