"""Several recurrent layers, one above the other."""

from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from models.dropout import Mask, apply_mask, check_probability, draw_mask, dropout
from models.recurrent import CellFactory, RecurrentLayer, Stepper
from models.state import State, leaves


class Drawn(NamedTuple):
    """The noise of one sequence, a part for each layer."""

    masks: tuple[Mask, ...]  # of its input; the first is None
    layers: tuple[RecurrentLayer, ...]  # as they run through it


class Stack(nn.Module):
    """What stands between the layers, whichever way they run.

    A layer computes x + layer(dropout(x)), then layer normalisation, where these are asked for:
    dropout never touches the sum that residual connections carry. The first layer's input and the
    last one's output are left to the model; the residual is left out where sizes differ.
    """

    directions: ClassVar[int] = 1

    def __init__(
        self,
        *,
        input_size: int,
        layer_sizes: list[int],
        dropout: float,
        variational: bool,
        residual: bool,
        layer_norm: bool,
    ) -> None:
        super().__init__()
        check_probability("dropout", dropout)
        self.input_size = input_size
        self.output_size = layer_sizes[-1]
        self.num_layers = len(layer_sizes)
        self.dropout = dropout
        self.variational = variational
        self.residual = residual
        self.input_sizes = [input_size, *layer_sizes[:-1]]
        self.norms = nn.ModuleList(
            nn.LayerNorm(size) if layer_norm else nn.Identity() for size in layer_sizes
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What stacks of one kind of cell may differ in, as a config calls it."""
        sizes = [size // self.directions for size in (*self.input_sizes[1:], self.output_size)]
        settings = {
            "embedding_size": self.input_size,
            "hidden_size": sizes[0] if len(set(sizes)) == 1 else sizes,
            "num_layers": self.num_layers,
            "bidirectional": self.directions == 2,
            "residual": self.residual,
            "layer_norm": any(True for _ in self.norms.parameters()),
        }
        between = {"dropout": self.dropout, "variational": self.variational}
        return settings | (between if self.num_layers > 1 else {})

    def draw_masks(self, batch_size: int) -> tuple[Mask, ...]:
        """The masks of one sequence, one for each layer's input.

        All None where nothing is to be drawn: in evaluation, and for plain dropout, which draws
        anew at every step.
        """
        if not (self.training and self.variational and self.dropout > 0.0):
            return (None,) * self.num_layers
        like = next(self.parameters())
        sizes = self.input_sizes[1:]
        return None, *(draw_mask(like, (batch_size, size), self.dropout) for size in sizes)

    def draw(self, batch_size: int) -> Drawn:
        """The noise of one sequence, to be passed to `forward` and, where there is one, `step`."""
        return Drawn(self.draw_masks(batch_size), ())

    def _enter(self, index: int, inputs: Tensor, mask: Mask) -> Tensor:
        if index == 0:
            return inputs
        if self.variational:
            return apply_mask(inputs, mask)
        return dropout(inputs, self.dropout, self.training)

    def _leave(self, index: int, inputs: Tensor, outputs: Tensor) -> Tensor:
        if self.residual and inputs.size(-1) == outputs.size(-1):
            outputs = inputs + outputs
        return self.norms[index](outputs)


class RNNStack(Stack):
    """Causal layers with the contract of one: a state in, a state out, and a `step`."""

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        cell: CellFactory,
        num_layers: int = 1,
        dropout: float = 0.0,
        variational: bool = False,
        residual: bool = False,
        layer_norm: bool = False,
        last_hidden_size: int | None = None,
    ) -> None:
        """`last_hidden_size` is the last layer's, None: `hidden_size`."""
        layers = build_layers(
            input_size,
            hidden_size,
            cell,
            num_layers,
            directions=1,
            last_hidden_size=last_hidden_size,
        )
        super().__init__(
            input_size=input_size,
            layer_sizes=[layer.output_size for layer in layers],
            dropout=dropout,
            variational=variational,
            residual=residual,
            layer_norm=layer_norm,
        )
        self.layers = nn.ModuleList(layers)

    def initial_state(self, batch_size: int) -> State:
        """A tuple with each layer's state."""
        return tuple(layer.initial_state(batch_size) for layer in self._layers())

    def draw(self, batch_size: int) -> Drawn:
        masks, _ = super().draw(batch_size)
        return Drawn(masks, tuple(layer.drawn() for layer in self._layers()))

    @property
    def fillable(self) -> tuple[int, ...]:
        """Indices into leaves(initial_state) that a bridge may fill."""
        found: list[int] = []
        offset = 0
        for layer in self._layers():
            found += [offset + index for index in layer.fillable]
            offset += len(leaves(layer.initial_state(1)))
        return tuple(found)

    def forward(
        self,
        inputs: Tensor,
        state: State | None = None,
        lengths: Tensor | None = None,
        drawn: Drawn | None = None,
    ) -> tuple[Tensor, State]:
        """Run a sequence: (B, T, I), lengths (B,) → (B, T, O), a state per layer."""
        masks, layers = self.draw(inputs.size(0)) if drawn is None else drawn
        before = self.initial_state(inputs.size(0)) if state is None else state
        after = []
        for index, layer in enumerate(layers):
            outputs, following = layer(
                self._enter(index, inputs, masks[index]), before[index], lengths
            )
            inputs = self._leave(index, inputs, outputs)
            after.append(following)
        return inputs, tuple(after)

    def step(
        self, inputs: Tensor, state: State, drawn: Drawn | None = None
    ) -> tuple[Tensor, State]:
        """Run one step: (B, I) → (B, O), state.

        In training what is random must come from `draw`: drawn here, it would differ at every step.
        """
        if drawn is None:
            assert not (self.training and self.variational and self.dropout), (
                "draw once a sequence and pass what was drawn to each step"
            )
            drawn = Drawn((None,) * self.num_layers, tuple(self._layers()))
        masks, layers = drawn
        after = []
        for index, layer in enumerate(layers):
            outputs, following = layer.step(self._enter(index, inputs, masks[index]), state[index])
            inputs = self._leave(index, inputs, outputs)
            after.append(following)
        return inputs, tuple(after)

    def stepper(self, known: Tensor, drawn: Drawn) -> Stepper:
        """`step` for the steps of one sequence in turn: see `RecurrentLayer.stepper`."""
        masks, layers = drawn
        steppers = [
            layer.stepper(known if index == 0 else known[:, :, :0])
            for index, layer in enumerate(layers)
        ]
        # a residual around the first layer needs the whole of its input
        firsts = iter(known.unbind(1)) if self.residual else None

        def step(rest: Tensor, state: State) -> tuple[Tensor, State]:
            after, inputs = [], rest
            for index, run in enumerate(steppers):
                outputs, following = run(self._enter(index, inputs, masks[index]), state[index])
                if index == 0 and firsts is not None:
                    inputs = torch.cat([next(firsts), inputs.to(known.dtype)], dim=-1)
                inputs = self._leave(index, inputs, outputs)
                after.append(following)
            return inputs, tuple(after)

        return step

    def _layers(self) -> list[RecurrentLayer]:
        return [cast(RecurrentLayer, layer) for layer in self.layers]


class BidirectionalStack(Stack):
    """Layers that each read both ways, for encoders: `output_size` is twice the cells'; no `step`.

    Schuster and Paliwal 1997, doi 10.1109/78.650093.
    """

    directions = 2

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        cell: CellFactory,
        num_layers: int = 1,
        dropout: float = 0.0,
        variational: bool = False,
        residual: bool = False,
        layer_norm: bool = False,
    ) -> None:
        layers = build_layers(input_size, hidden_size, cell, num_layers, directions=2)
        super().__init__(
            input_size=input_size,
            layer_sizes=[2 * layer.output_size for layer in layers[::2]],
            dropout=dropout,
            variational=variational,
            residual=residual,
            layer_norm=layer_norm,
        )
        self.forward_layers = nn.ModuleList(layers[::2])
        self.backward_layers = nn.ModuleList(layers[1::2])

    def forward(
        self,
        inputs: Tensor,
        state: State | None = None,
        lengths: Tensor | None = None,
        drawn: Drawn | None = None,
    ) -> tuple[Tensor, State]:
        """Whole sequences (B, T, I), lengths (B,) → (B, T, 2H), a pair of states per layer."""
        if state is not None:
            raise ValueError(
                "a bidirectional stack reads whole sequences from their ends and takes no state; "
                "to carry one use models.stack.RNNStack"
            )
        masks, _ = self.draw(inputs.size(0)) if drawn is None else drawn
        states = []
        pairs = zip(self.forward_layers, self.backward_layers, strict=True)
        for index, (forth, back) in enumerate(pairs):
            layer = cast(RecurrentLayer, forth)
            outputs, both = layer.both_ways(
                cast(RecurrentLayer, back), self._enter(index, inputs, masks[index]), lengths
            )
            inputs = self._leave(index, inputs, outputs)
            states.append(both)
        return inputs, tuple(states)


def build_layers(
    input_size: int,
    hidden_size: int,
    cell: CellFactory,
    num_layers: int,
    *,
    directions: int,
    last_hidden_size: int | None = None,
) -> list[RecurrentLayer]:
    """`num_layers` levels of `directions` layers, each level fed by all of the one below."""
    if not 1 <= num_layers <= 1000:
        raise ValueError(f"num_layers is 1 to 1000, got {num_layers}")
    sizes = [hidden_size] * (num_layers - 1)
    sizes.append(hidden_size if last_hidden_size is None else last_hidden_size)
    for name, size in [("hidden_size", hidden_size), ("last_hidden_size", sizes[-1])]:
        if size < 1:
            raise ValueError(f"{name} is 1 or more, got {size}")
    layers: list[RecurrentLayer] = []
    for size in sizes:
        level = [cell(input_size=input_size, hidden_size=size) for _ in range(directions)]
        layers += level
        input_size = sum(layer.output_size for layer in level)
    return layers
