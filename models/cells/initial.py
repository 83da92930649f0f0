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
def set_gate_bias(rnn: nn.RNNBase, *, gate: int, value: float) -> None:
    """Start one gate with a bias of `value` in all; PyTorch keeps it as a sum of two vectors."""
    rows = slice(gate * rnn.hidden_size, (gate + 1) * rnn.hidden_size)
    biases: list[Tensor] = [rnn.get_parameter("bias_ih_l0"), rnn.get_parameter("bias_hh_l0")]
    biases[0][rows] = value
    biases[1][rows] = 0.0
