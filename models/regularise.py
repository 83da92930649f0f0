"""What regularises the recurrence of any cell: dropped weights and zoneout.

Batch normalisation between steps (Cooijmans et al. 2016, arXiv 1603.09025) is left out on purpose:
it keeps statistics of every step apart, so that a model knows no step beyond the longest of
training, and what a row gives would depend on its batch; layer normalisation does its work.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter

import torch
from torch import Tensor

from models.dropout import check_probability, dropout
from models.recurrent import CellFactory, RecurrentLayer, Stepper
from models.state import State, leaves, map_state, where_rows


class Regularised:
    """Regularises the layers that another factory makes; with zeros it changes nothing.

    `weight_drop` is a probability, `zoneout` one for all of the state or one for each part of it,
    such as (0.05, 0.5) for the h and c of an LSTM.
    """

    def __init__(
        self, *, cell: CellFactory, weight_drop: float = 0.0, zoneout: float | Sequence[float] = 0.0
    ) -> None:
        self.cell, self.weight_drop, self.zoneout = cell, weight_drop, zoneout

    def __call__(self, *, input_size: int, hidden_size: int) -> RecurrentLayer:
        layer = self.cell(input_size=input_size, hidden_size=hidden_size)
        if self.weight_drop:
            layer = WeightDrop(layer=layer, probability=self.weight_drop)
        if self.zoneout:
            layer = Zoneout(layer=layer, probabilities=self.zoneout)
        return layer


class Around(RecurrentLayer):
    """A layer that runs another one."""

    def __init__(self, *, layer: RecurrentLayer) -> None:
        super().__init__(input_size=layer.input_size, output_size=layer.output_size)
        self.layer = layer
        self.fillable, self.recurrent = layer.fillable, layer.recurrent
        self.outputs_state = layer.outputs_state

    def initial_state(self, batch_size: int) -> State:
        return self.layer.initial_state(batch_size)


class WeightDrop(Around):
    """Drops entries of the recurrent matrices, the same ones through a whole sequence.

    DropConnect on the recurrence (Merity et al. 2018, arXiv 1708.02182): nothing is scaled or
    dropped in evaluation.
    """

    def __init__(self, *, layer: RecurrentLayer, probability: float) -> None:
        super().__init__(layer=layer)
        check_probability("weight_drop", probability)
        if not layer.recurrent:
            raise ValueError(
                f"weight_drop={probability} drops entries of recurrent matrices, and "
                f"{type(layer).__name__} has none: set recurrent.weight_drop=0"
            )
        self.probability = probability

    def drawn(self) -> RecurrentLayer:
        if not self.training:
            return self
        weights = {
            name: dropout(attrgetter(name)(self.layer), self.probability, True)
            for name in self.recurrent
        }
        return _Dropped(self.layer, weights)

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        layer = self.drawn() if self.training else self.layer
        return layer(inputs, state, lengths)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        assert not self.training, "weights are dropped once a sequence: step with `drawn()`"
        return self.layer.step(inputs, state)


class _Dropped(Around):
    """A layer with other weights than its own, for one sequence."""

    def __init__(self, layer: RecurrentLayer, weights: dict[str, Tensor]) -> None:
        super().__init__(layer=layer)
        self.weights = weights

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        with replaced(self.layer, self.weights):
            return self.layer(inputs, state, lengths)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        with replaced(self.layer, self.weights):
            return self.layer.step(inputs, state)

    def stepper(self, known: Tensor) -> Stepper:
        with replaced(self.layer, self.weights):
            inner = self.layer.stepper(known)

        def step(rest: Tensor, state: State) -> tuple[Tensor, State]:
            with replaced(self.layer, self.weights):  # for layers that read them at every step
                return inner(rest, state)

        return step


@contextmanager
def replaced(layer: RecurrentLayer, weights: dict[str, Tensor]) -> Iterator[None]:
    """Let the layer find these tensors where it has its parameters."""
    owners = {name: layer.get_submodule(name.rpartition(".")[0]) for name in weights}
    own = {name: attrgetter(name)(layer) for name in weights}

    def put(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            owners[name]._parameters[name.rpartition(".")[2]] = tensor  # type: ignore[assignment]

    put(weights)
    try:
        yield
    finally:
        put(own)


class Zoneout(Around):
    """Features of the state stay as they were, with some probability, drawn at every step.

    In evaluation each is the mean of what it would be. Runs step by step. Krueger et al. 2017,
    arXiv 1606.01305.
    """

    def __init__(self, *, layer: RecurrentLayer, probabilities: float | Sequence[float]) -> None:
        super().__init__(layer=layer)
        if not layer.outputs_state:
            raise ValueError(
                f"zoneout={probabilities} is for cells whose output is their state, and that of "
                f"{type(layer).__name__} is not: set recurrent.zoneout=0"
            )
        count = len(layer.fillable)
        given = (
            [float(probabilities)] * count
            if isinstance(probabilities, int | float)
            else [float(probability) for probability in probabilities]
        )
        if len(given) != count:
            raise ValueError(
                f"zoneout is one probability, or {count} for the parts of the state, got {given}"
            )
        for probability in given:
            check_probability("zoneout", probability)
        self.probabilities = dict(zip(layer.fillable, given, strict=True))

    def drawn(self) -> RecurrentLayer:
        inner = self.layer.drawn()
        if inner is self.layer:
            return self
        zoned = Zoneout(layer=inner, probabilities=tuple(self.probabilities.values()))
        return zoned.train(self.training)

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        layer = self.drawn()
        current = self.begin(inputs.size(0), state)
        outputs = []
        for place, here in enumerate(inputs.unbind(1)):
            output, following = layer.step(here, current)
            if lengths is not None:
                following = where_rows(lengths > place, following, current)
            current = following
            outputs.append(output)
        return torch.stack(outputs, dim=1), current

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        given = self.begin(inputs.size(0), state)
        before = leaves(given)
        after = leaves(self.layer.step(inputs, given)[1])
        for index, probability in self.probabilities.items():
            if self.training:
                stays = torch.rand_like(after[index]) < probability
                after[index] = torch.where(stays, before[index], after[index])
            else:
                after[index] = torch.lerp(after[index], before[index], probability)
        parts = iter(after)
        return after[0], map_state(lambda _: next(parts), given)
