"""One stack of recurrent layers for several models: all read with it, each answers for itself."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from models.stack import Stack


def share_stack(models: Mapping[str, nn.Module]) -> Stack:
    """Give every model the stack of the first one, and return it.

    Of an encoder and a decoder it is the encoder's. Embeddings and output layers stay each model's
    own (hard parameter sharing, Caruana 1997, doi 10.1023/A:1007379606734). ValueError names a
    model that has no stack, or the setting that two of them differ in.
    """
    owners = {name: _reader(model) for name, model in models.items()}
    for name, owner in owners.items():
        if not hasattr(owner, "stack"):
            raise ValueError(
                f"{name} reads its input with {type(owner).__name__}, which has no recurrent "
                "layers to share: leave this part out"
            )
    first, *others = owners
    shared: Stack = owners[first].stack
    for name in others:
        own: Stack = owners[name].stack
        _compare((first, shared), (name, own))
        owners[name].stack = shared
    return shared


def _reader(model: Any) -> Any:
    """The part of a model whose stack reads the input."""
    return getattr(model, "encoder", model)


def _compare(one: tuple[str, Stack], other: tuple[str, Stack]) -> None:
    (first, shared), (name, own) = one, other
    wanted, given = shared.settings, own.settings
    different = {key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key)}
    if different:
        told = "; ".join(
            f"{key} is {wanted.get(key)} and {given.get(key)}" for key in sorted(different)
        )
        keys = " and ".join(f"model.{key}" for key in sorted(different))
        raise ValueError(f"{first} and {name} cannot share one stack: {told}; set {keys} for all")
    shapes, theirs = _shapes(shared), _shapes(own)
    for key in {**shapes, **theirs}:
        if shapes.get(key) != theirs.get(key):
            raise ValueError(
                f"{first} and {name} cannot share one stack: {key} is {shapes.get(key)} and "
                f"{theirs.get(key)}; give all parts the same cell"
            )


def _shapes(stack: Stack) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in stack.state_dict().items()}
