"""Weight drop and zoneout around cells."""

from pathlib import Path

import hydra.utils
import pytest
import torch
import yaml
from torch import Tensor

from models.cells.lstm import LSTM
from models.cells.memoryless import Memoryless
from models.cells.qrnn import QRNN
from models.recurrent import RecurrentLayer
from models.regularise import Regularised, WeightDrop, Zoneout
from models.stack import RNNStack
from models.state import leaves

B, T, D, H = 4, 6, 3, 8
LENGTHS = torch.tensor([6, 2, 0, 4])
CELLS = sorted((Path(__file__).parents[2] / "configs" / "cell").glob("*.yaml"))


def every_cell_that(attribute: str) -> list[str]:
    names = [path.stem for path in CELLS]
    return [name for name in names if getattr(build(name), attribute)]


def build(name: str, **noise: float) -> RecurrentLayer:
    torch.manual_seed(1)
    path = next(path for path in CELLS if path.stem == name)
    cell = hydra.utils.instantiate(yaml.safe_load(path.read_text()))
    return Regularised(cell=cell, **noise)(input_size=D, hidden_size=H).double()


def sequence(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(shape or (B, T, D), generator=generator, dtype=torch.float64)


def close(one, other) -> None:
    for a, b in zip(leaves(one), leaves(other), strict=True):
        torch.testing.assert_close(a, b)


def test_without_noise_the_cell_is_what_it_was() -> None:
    assert type(build("lstm")) is LSTM


@pytest.mark.parametrize("name", every_cell_that("recurrent"))
def test_weight_drop_zeroes_recurrent_weights_in_training_alone(name: str) -> None:
    layer, plain = build(name, weight_drop=0.5), build(name)
    assert isinstance(layer, WeightDrop)
    inputs = sequence()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    dropped = layer(inputs)[0]
    layer.eval()
    torch.testing.assert_close(layer(inputs)[0], plain(inputs)[0])
    close(
        layer.step(inputs[:, 0], layer.initial_state(B)),
        plain.step(inputs[:, 0], plain.initial_state(B)),
    )
    assert not torch.allclose(dropped, plain(inputs)[0])
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", every_cell_that("recurrent"))
def test_dropped_weights_last_a_sequence_and_get_no_gradient(name: str) -> None:
    layer = build(name, weight_drop=0.5)
    drawn = layer.drawn()
    inputs = sequence()
    outputs, _ = drawn(inputs)
    state, stepped = layer.initial_state(B), []
    for here in inputs.unbind(1):
        output, state = drawn.step(here, state)
        stepped.append(output)
    torch.testing.assert_close(torch.stack(stepped, 1), outputs)
    (outputs**2).sum().backward()
    for key, weight in drawn.weights.items():
        own = dict(layer.layer.named_parameters())[key]
        kept = weight != 0
        assert not own.grad[~kept & (own != 0)].any() and own.grad[kept].any()
        torch.testing.assert_close(weight[kept], 2 * own[kept])


def test_weights_are_put_back_after_an_error() -> None:
    layer = build("lstm", weight_drop=0.5)
    with pytest.raises(RuntimeError):
        layer(torch.zeros(B, T, D + 1).double())
    assert all(isinstance(p, torch.nn.Parameter) for p in layer.layer.rnn._parameters.values())


def test_another_sequence_loses_other_weights() -> None:
    layer = build("lstm", weight_drop=0.5)
    assert not torch.equal(layer(sequence())[0], layer(sequence())[0])


@pytest.mark.parametrize("name", every_cell_that("outputs_state"))
def test_zoneout_in_evaluation_is_the_mean_of_old_and_new(name: str) -> None:
    layer, plain = build(name, zoneout=0.25).eval(), build(name).eval()
    assert isinstance(layer, Zoneout)
    inputs = sequence()
    state = plain(sequence(B, 3, D))[1]
    output, after = layer.step(inputs[:, 0], state)
    new = leaves(plain.step(inputs[:, 0], state)[1])
    for index, leaf in enumerate(leaves(after)):
        old = leaves(state)[index]
        mean = 0.25 * old + 0.75 * new[index] if index in plain.fillable else new[index]
        torch.testing.assert_close(leaf, mean)
    torch.testing.assert_close(output, leaves(after)[0])


def test_zoneout_in_training_keeps_features_as_they_were() -> None:
    torch.manual_seed(3)
    layer, plain = build("lstm", zoneout=(0.3, 0.6)), build("lstm")
    state = plain(sequence(200, 3, D))[1]
    inputs = sequence(200, D)
    _, after = layer.step(inputs, state)
    new = plain.step(inputs, state)[1]
    for old, zoned, fresh, share in zip(state, after, new, (0.3, 0.6), strict=True):
        stayed = zoned == old
        torch.testing.assert_close(zoned[~stayed], fresh[~stayed])
        assert abs(stayed.double().mean().item() - share) < 0.05


def test_zoneout_knows_lengths_and_carries_states() -> None:
    layer = build("gru", zoneout=0.2).eval()
    inputs = sequence()
    outputs, after = layer(inputs, None, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = slice(row, row + 1)
        if length:
            expected, state = layer(inputs[alone, :length])
            torch.testing.assert_close(outputs[alone, :length], expected)
            close(after[alone], state)
        else:
            assert not after[alone].any()
    first, state = layer(inputs[:, :2])
    second, state = layer(inputs[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), layer(inputs)[0])


def test_a_stack_draws_for_all_its_layers_once() -> None:
    torch.manual_seed(4)
    cell = Regularised(cell=LSTM, weight_drop=0.5)
    stack = RNNStack(input_size=D, hidden_size=H, cell=cell, num_layers=2).double()
    drawn = stack.draw(B)
    outputs, _ = stack(sequence(), drawn=drawn)
    state, stepped = stack.initial_state(B), []
    for here in sequence().unbind(1):
        output, state = stack.step(here, state, drawn)
        stepped.append(output)
    torch.testing.assert_close(torch.stack(stepped, 1), outputs)


def test_both_together_train() -> None:
    layer = build("lstm", weight_drop=0.3, zoneout=0.1)
    outputs, _ = layer(sequence())
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_mistakes_are_named() -> None:
    for noise, cell, message in (
        ({"weight_drop": 0.5}, Memoryless, "Memoryless has none"),
        ({"weight_drop": 1.0}, LSTM, "weight_drop is a probability"),
        ({"zoneout": 0.5}, QRNN, "cells whose output is their state"),
        ({"zoneout": (0.1, 0.1, 0.1)}, LSTM, "one probability, or 2"),
        ({"zoneout": 1.5}, LSTM, "zoneout is a probability"),
    ):
        with pytest.raises(ValueError, match=message):
            Regularised(cell=cell, **noise)(input_size=D, hidden_size=H)
