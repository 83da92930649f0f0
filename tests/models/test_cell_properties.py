"""What the papers say of their cells, where it is exact; long sequences; half precision."""

from collections.abc import Callable
from pathlib import Path

import hydra.utils
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from models.cells.deltanet import DeltaNet, delta_rule
from models.cells.hgrn import HGRN
from models.cells.indrnn import IndRNN
from models.cells.initial import gate_bias
from models.cells.irnn import IRNN
from models.cells.lmu import LMU, legendre_delay
from models.cells.lru import LRU
from models.cells.mlstm import MLSTM
from models.cells.mogrifier_lstm import MogrifierLSTM
from models.cells.rhn import RHN
from models.cells.slstm import SLSTM
from models.recurrent import RecurrentLayer
from models.state import leaves

CELLS = sorted((Path(__file__).parents[2] / "configs" / "cell").glob("*.yaml"))
every_cell = pytest.mark.parametrize("name", [path.stem for path in CELLS])
D, H = 5, 16


def build(name: str, size: int = H, inputs: int = D, dtype=torch.float32, **options):
    torch.manual_seed(1)
    config = yaml.safe_load((CELLS[0].parent / f"{name}.yaml").read_text())
    cell: Callable[..., RecurrentLayer] = hydra.utils.instantiate({**config, **options})
    return cell(input_size=inputs, hidden_size=size).to(dtype)


def sequence(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)


# Long sequences and half precision, of every cell

GROWS = {"irnn"}  # an identity with relu adds up its inputs: large is what it should become


@pytest.mark.slow
@every_cell
def test_4096_steps_neither_overflow_nor_lose_the_gradient(name: str) -> None:
    layer = build(name)
    inputs = sequence(2, 4096, D).requires_grad_()
    outputs, state = layer(inputs)
    assert outputs.isfinite().all() and all(leaf.isfinite().all() for leaf in leaves(state))
    if name not in GROWS:
        assert outputs.abs().max() < 1e3
    outputs[:, -1].sum().backward()
    gradients = [inputs.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert inputs.grad[:, -1].any()


# An identity keeps every rounding error it ever made. An LSTM with layer normalisation, whose gains
# start at one, makes each a hundred times as large, in float32 as in bfloat16.
ROUGH = {"irnn": 0.1, "layernorm_lstm": 0.5}


@every_cell
def test_bf16_stays_within_two_percent_of_fp32_over_512_steps(name: str) -> None:
    layer = build(name, size=32, inputs=32)
    inputs = sequence(4, 512, 32)
    with torch.no_grad():
        outputs, _ = layer(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rough, _ = layer(inputs)
    error = (rough.float() - outputs).norm() / outputs.norm()
    assert error < ROUGH.get(name, 2e-2)


# One cell at a time


def test_indrnn_with_unit_weight_sums_its_input() -> None:
    layer = IndRNN(input_size=H, hidden_size=H)
    with torch.no_grad():
        layer.recurrence.fill_(1.0)
        layer.linear.weight.copy_(torch.eye(H))
    inputs = sequence(3, 40, H).abs()
    torch.testing.assert_close(layer(inputs)[0], inputs.cumsum(1))


def test_irnn_starts_as_an_identity() -> None:
    layer = IRNN(input_size=D, hidden_size=H)
    state = sequence(3, H).abs()
    torch.testing.assert_close(layer(torch.zeros(3, 9, D), state)[1], state)


def test_lru_eigenvalues_stay_inside_the_unit_circle_through_training() -> None:
    torch.manual_seed(3)
    layer = LRU(input_size=D, hidden_size=H)
    radius = layer.eigenvalues()[0]
    assert radius.min() >= 0.9 - 1e-4 and radius.max() <= 0.999 + 1e-4
    optimizer = torch.optim.SGD(layer.parameters(), lr=3.0)
    inputs = sequence(4, 30, D)
    for _ in range(60):  # steps that are far too large, towards ever larger outputs
        optimizer.zero_grad()
        (-layer(inputs)[0].square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        assert (layer.eigenvalues()[0] < 1).all()


def test_rhn_of_depth_one_is_a_highway_step() -> None:
    torch.manual_seed(3)
    layer = RHN(input_size=D, hidden_size=H, depth=1)
    inputs, state = sequence(4, D), sequence(4, H)
    weight, transform = layer.enter.weight.split(H)
    recurrent, recurrent_transform = layer.recurrences[0].split(H)
    bias, transform_bias = layer.biases[0].split(H)
    candidate = torch.tanh(inputs @ weight.T + state @ recurrent.T + bias)
    gate = torch.sigmoid(inputs @ transform.T + state @ recurrent_transform.T + transform_bias)
    expected = gate * candidate + (1 - gate) * state
    torch.testing.assert_close(layer.step(inputs, (state,))[0], expected)


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exponential"])
def test_the_stabiliser_of_slstm_changes_no_output(forget_gate: str) -> None:
    outputs = []
    for stabilised in (True, False):
        torch.manual_seed(3)
        layer = SLSTM(
            input_size=D, hidden_size=H, stabilised=stabilised, forget_gate=forget_gate
        ).double()
        outputs.append(layer(sequence(4, 20, D, dtype=torch.float64))[0])
    torch.testing.assert_close(*outputs)


def test_slstm_survives_gates_that_would_overflow() -> None:
    layer = SLSTM(input_size=D, hidden_size=H)
    with torch.no_grad():
        layer.enter.weight *= 300
    outputs, state = layer(sequence(4, 100, D))
    outputs.sum().backward()
    assert outputs.isfinite().all() and all(leaf.isfinite().all() for leaf in leaves(state))


def test_slstm_is_its_equations() -> None:
    torch.manual_seed(3)
    layer = SLSTM(input_size=D, hidden_size=H, heads=2).double()
    inputs = sequence(4, 6, D, dtype=torch.float64)
    c, n, h = (torch.zeros(4, H).double() for _ in range(3))
    for x in inputs.unbind(1):
        parts = [h[:, k * 8 : k * 8 + 8] @ layer.recurrence[k].T for k in range(2)]
        by_gate = [torch.cat([p[:, g * 8 : g * 8 + 8] for p in parts], 1) for g in range(4)]
        gates = layer.enter(x) + torch.cat(by_gate, 1)
        i, f, z, o = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.exp() * z.tanh()
        n = f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
    torch.testing.assert_close(layer(inputs)[0][:, -1], h)


def test_a_mogrifier_without_rounds_is_an_lstm() -> None:
    layer = MogrifierLSTM(input_size=D, hidden_size=H, rounds=0)
    lstm = torch.nn.LSTM(D, H, batch_first=True)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(layer.enter)
        lstm.weight_hh_l0.copy_(layer.recurrence)
        lstm.bias_ih_l0.copy_(layer.bias)
        lstm.bias_hh_l0.zero_()
    torch.testing.assert_close(layer(sequence(4, 9, D))[0], lstm(sequence(4, 9, D))[0])


@pytest.mark.parametrize("rank", [None, 3])
def test_the_mogrifier_gates_input_and_state_in_turn(rank: int | None) -> None:
    torch.manual_seed(3)
    layer = MogrifierLSTM(input_size=D, hidden_size=H, rounds=3, rank=rank)
    x, h, c = sequence(4, D), sequence(4, H), sequence(4, H)
    found = layer.step(x, (h, c))[0]
    matrices = list(layer.gatings)
    if rank is not None:
        matrices = [matrices[2 * k + 1] @ matrices[2 * k] for k in range(3)]
    x = 2 * torch.sigmoid(h @ matrices[0].T) * x
    h = 2 * torch.sigmoid(x @ matrices[1].T) * h
    x = 2 * torch.sigmoid(h @ matrices[2].T) * x
    i, f, g, o = (x @ layer.enter.T + h @ layer.recurrence.T + layer.bias).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    torch.testing.assert_close(found, o.sigmoid() * c.tanh())


def test_the_legendre_memory_holds_the_window() -> None:
    """What went in `window` steps ago is read off the coefficients: the delay line of the paper."""
    order, window = 24, 100
    transition, entry = (part.double() for part in legendre_delay(order, window))
    steps = torch.arange(400, dtype=torch.float64)
    signal = torch.sin(2 * torch.pi * steps / 80)
    memory, read = torch.zeros(order).double(), []
    for value in signal:
        memory = transition @ memory + entry * value
        read.append(memory.sum())  # every shifted Legendre polynomial is 1 at the window's far end
    # held constant between two steps, the signal is half a step late
    delayed = torch.stack(read)[2 * window :]
    torch.testing.assert_close(delayed, signal[window:-window], atol=0.05, rtol=0)


def test_lmu_memory_sees_what_is_encoded() -> None:
    layer = LMU(input_size=1, hidden_size=H, order=8, window=20)
    _, (_, memory) = layer(torch.zeros(2, 30, 1))
    assert not memory.any()
    assert layer(torch.ones(2, 30, 1))[1][1].abs().max() > 0.1


def test_hgrn_forgets_no_faster_than_its_bound() -> None:
    layer = HGRN(input_size=D, hidden_size=H, lower_bound=0.75)
    keep, _, _ = layer.coefficients(100 * sequence(4, 9, D), None)
    assert keep.min() >= 0.75 and keep.max() <= 1.0


def test_the_delta_rule_replaces_what_a_key_stood_for() -> None:
    """With β = 1 a key read back gives the last value stored under it, others are kept."""
    keys = torch.eye(4)[[0, 1, 0]].view(1, 1, 3, 4)
    values = sequence(1, 1, 3, 4)
    _, matrix = delta_rule(keys, keys, values, torch.ones(1, 1, 3), torch.zeros(1, 1, 4, 4), 8)
    torch.testing.assert_close(matrix[0, 0, 0], values[0, 0, 2])
    torch.testing.assert_close(matrix[0, 0, 1], values[0, 0, 1])


@pytest.mark.parametrize("cell", [MLSTM, DeltaNet])
@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
def test_the_chunk_changes_speed_alone(cell, chunk: int) -> None:
    outputs = []
    for size in (chunk, 5):
        torch.manual_seed(3)
        layer = cell(input_size=D, hidden_size=H, chunk=size).double()
        inputs = sequence(2, 17, D, dtype=torch.float64).requires_grad_()
        found = layer(inputs)[0]
        found.square().sum().backward()
        outputs.append((found, inputs.grad))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other)


def test_mlstm_is_its_equations() -> None:
    torch.manual_seed(3)
    layer = MLSTM(input_size=D, hidden_size=H, heads=2).double()
    with torch.no_grad():
        layer.gates.weight.normal_(std=0.5)
    inputs = sequence(3, 6, D, dtype=torch.float64)
    query, key, value, output = layer.enter(inputs).chunk(4, -1)
    write, forget = layer.gates(inputs).chunk(2, -1)
    matrix, norm = torch.zeros(3, 2, 8, 8).double(), torch.zeros(3, 2, 8).double()
    for t in range(6):
        q, k, v = (part[:, t].view(3, 2, 8) for part in (query, key / 8**0.5, value))
        f, i = forget[:, t].sigmoid()[..., None], write[:, t].exp()[..., None]
        matrix = f[..., None] * matrix + i[..., None] * v[..., None] * k[..., None, :]
        norm = f * norm + i * k
        read = (matrix @ q[..., None]).squeeze(-1)
        read = read / (norm * q).sum(-1, keepdim=True).abs().clamp(min=1)
    read = F.rms_norm(read, (8,), layer.norm.weight, 1e-5).flatten(1)
    expected = output[:, -1].sigmoid() * read
    torch.testing.assert_close(layer(inputs)[0][:, -1], expected)


def test_chrono_biases_remember_up_to_the_steps_given() -> None:
    bias = torch.empty(3 * 4000)
    gate_bias(bias, gates=3, gate=1, value=1.0, chrono_steps=100)
    others, forget = torch.cat([bias[:4000], bias[8000:]]), bias[4000:8000]
    assert not others.any()
    # σ(log u) = u / (1 + u): a feature forgets with rate 1 / (1 + u), u uniform up to T - 1
    horizon = 1 / (1 - forget.sigmoid())
    assert horizon.min() >= 2 and horizon.max() <= 100 and abs(horizon.mean() - 51) < 2
    with pytest.raises(ValueError, match="3 or more, got 2"):
        gate_bias(bias, gates=3, gate=1, value=1.0, chrono_steps=2)


def test_chrono_starts_fused_cells_too() -> None:
    lstm, gru = build("lstm", chrono_steps=50).rnn, build("gru", chrono_steps=50).rnn
    write, forget, *_ = (lstm.bias_ih_l0 + lstm.bias_hh_l0).chunk(4)
    _, update, _ = (gru.bias_ih_l0 + gru.bias_hh_l0).chunk(3)
    torch.testing.assert_close(write, -forget)
    for bias in (forget, update):
        assert bias.min() >= 0 and bias.max() <= torch.tensor(49.0).log() and bias.std() > 0.1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("indrnn", {"max_steps": 0}, "max_steps is 1 or more"),
        ("rhn", {"depth": 0}, "depth is 1 to 1000"),
        ("lru", {"min_radius": 0.9, "max_radius": 1.0}, "ring"),
        ("slstm", {"forget_gate": "tanh"}, "sigmoid, exponential, got 'tanh'"),
        ("mogrifier_lstm", {"rounds": -1}, "rounds is 0 to 1000"),
        ("mogrifier_lstm", {"rank": 0}, "rank is 1 or more"),
        ("lmu", {"order": 0}, "order is 1 to 10000 and window"),
        ("hgrn", {"lower_bound": 1.0}, "below 1"),
        ("rglru", {"window": 1}, "window is 2 steps or more"),
        ("mamba", {"states": 0}, "states and expand"),
        ("mlstm", {"heads": 0}, "heads is 1 or more"),
        ("deltanet", {"chunk": 0}, "chunk is 1 or more"),
    ],
)
def test_a_wrong_option_is_named(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)
