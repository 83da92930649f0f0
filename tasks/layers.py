"""The layers of a model from its input to its answer, and how fast each of them learns."""

from collections.abc import Iterator
from typing import Any

from torch import nn

TOP = "top"  # what answers: pooling, head, attention, bridge


def by_depth(module: nn.Module) -> list[dict[str, nn.Parameter]]:
    """Every parameter by its name, a dictionary a layer, from the input to the top.

    Layers are the embedding, each recurrent layer (with its normalisation, and both directions),
    each block of a convolutional encoder, and what answers. A decoder stands above its encoder. A
    matrix that two layers share belongs to the upper one.
    """
    found: dict[str, dict[str, nn.Parameter]] = {TOP: {}}
    places: dict[nn.Parameter, tuple[str, str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter in places:
            layer, first = places.pop(parameter)
            del found[layer][first]
        layer = _layer_of(name.split("model.", 1)[-1])  # of task=multi: parts.<name>.model.
        found.setdefault(layer, {})[name] = parameter
        places[parameter] = layer, name
    layers: list[dict[str, nn.Parameter]] = []
    for parameters in (*(found[layer] for layer in found if layer != TOP), found[TOP]):
        # a normalisation that stands alone goes with what it normalises
        if layers and all(parameter.dim() <= 1 for parameter in parameters.values()):
            layers[-1] |= parameters
        elif parameters:
            layers.append(parameters)
    return layers


def _layer_of(name: str) -> str:
    """`encoder.stack.layers.1.rnn.weight_ih_l0` → `encoder.stack.1`."""
    names = name.split(".")[:-1]
    own = names[1:] if names[0] in ("encoder", "decoder") else names
    if names[0] != "encoder" and own[:1] not in (["inputs"], ["stack"]):
        return TOP
    number = next((i for i, part in enumerate(names) if part.isdigit()), None)
    if own[0] == "stack" and number is not None:  # layers, forward_layers, backward_layers, norms
        return ".".join([*names[: number - 1], names[number]])
    return ".".join(names if number is None else names[: number + 1])


def parameter_groups(module: nn.Module, *, layer_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: matrices, and vectors (biases, normalisations) without weight decay.

    With a `layer_decay` below 1 each layer has its own two groups, whose `share` of the learning
    rate is 1 at the top and so many times less a layer further down (discriminative fine-tuning,
    Howard and Ruder 2018, arXiv 1801.06146, with 1 / 2.6).
    """
    if not 0.0 < layer_decay <= 1.0:
        raise ValueError(
            f"task.layer_decay is above 0 and at most 1 (all layers alike), got {layer_decay}"
        )
    layers = [list(module.parameters())]
    if layer_decay < 1.0:
        layers = [list(layer.values()) for layer in reversed(by_depth(module))]
    return [
        {**group, "share": layer_decay**depth}
        for depth, layer in enumerate(layers)
        for group in _by_kind([parameter for parameter in layer if parameter.requires_grad])
    ]


def _by_kind(parameters: list[nn.Parameter]) -> Iterator[dict[str, Any]]:
    if matrices := [p for p in parameters if p.dim() > 1]:
        yield {"params": matrices}
    if vectors := [p for p in parameters if p.dim() <= 1]:
        yield {"params": vectors, "weight_decay": 0.0}
