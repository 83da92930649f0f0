"""Initial weights that the gated and the plain cells share."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def orthogonal_gates(rnn: nn.RNNBase) -> None:
    """Orthogonal recurrent matrices, Glorot input matrices, biases of zero; gate by gate.

    An orthogonal matrix keeps lengths, so that gradients neither vanish nor explode at the start
    (Saxe et al. 2013, arXiv 1312.6120).
    """
    for name, parameter in rnn.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
            continue
        fill = nn.init.orthogonal_ if name.startswith("weight_hh") else nn.init.xavier_uniform_
        for gate in parameter.split(rnn.hidden_size):
            fill(gate)


@torch.no_grad()
def set_gate_bias(rnn: nn.RNNBase, *, gate: int, value: float | Tensor) -> None:
    """Start one gate with a bias of `value` in all; PyTorch keeps it as a sum of two vectors."""
    rows = slice(gate * rnn.hidden_size, (gate + 1) * rnn.hidden_size)
    biases: list[Tensor] = [rnn.get_parameter("bias_ih_l0"), rnn.get_parameter("bias_hh_l0")]
    biases[0][rows] = value
    biases[1][rows] = 0.0


@torch.no_grad()
def gate_bias(
    bias: Tensor, *, gates: int, gate: int, value: float, chrono_steps: int | None
) -> None:
    """Biases (gates * H,) of zero, but for one gate that keeps the state σ(bias) of a step.

    It starts at `value`, or with `chrono_steps` as `chrono_biases` says.
    """
    nn.init.zeros_(bias)
    set_rows(bias, gate=gate, gates=gates, value=value)
    if chrono_steps is not None:
        bias.view(gates, -1)[gate] = chrono_biases(len(bias) // gates, chrono_steps)


def chrono_biases(size: int, steps: int) -> Tensor:
    """Biases (size,) of gates that keep the state for 1 to `steps` steps: log U(1, steps - 1).

    Tallec and Ollivier 2018, arXiv 1804.11188.
    """
    if steps < 3:
        raise ValueError(f"chrono_steps is 3 or more, got {steps}")
    return torch.empty(size).uniform_(1, steps - 1).log_()


@torch.no_grad()
def set_rows(bias: Tensor, *, gate: int, gates: int, value: float) -> None:
    """Fill the share of one gate in the biases (gates * H,)."""
    bias.view(gates, -1)[gate] = value


def orthogonal_matrix(gates: int, size: int) -> Tensor:
    """A recurrent matrix (gates * size, size), orthogonal gate by gate."""
    return torch.cat([nn.init.orthogonal_(torch.empty(size, size)) for _ in range(gates)])
