"""The control: a network with no memory."""

import torch
from torch import Tensor, nn

from models.recurrent import RecurrentLayer
from models.state import State


class Memoryless(RecurrentLayer):
    """The same feed-forward network at every step; nothing is carried, state one empty leaf (B, 0).

    Its second matrix takes the place of a plain RNN's recurrent one, so both have as many weights
    to learn with: what it cannot learn needs memory.
    """

    fillable = ()

    def __init__(self, *, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size=input_size, output_size=hidden_size)
        self.network = nn.Sequential(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.Tanh(),
        )

    def initial_state(self, batch_size: int) -> State:
        return self.zeros(batch_size, 0)

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        return self.network(inputs), self.begin(inputs.size(0), state)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        return self.network(inputs), self.begin(inputs.size(0), state)

    def both_ways(
        self, backward: RecurrentLayer, inputs: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[State, State]]:
        """Direction is nothing to a network without memory: no reversing."""
        outputs, state = self(inputs)
        reverse_outputs, reverse_state = backward(inputs)
        return torch.cat([outputs, reverse_outputs], dim=-1), (state, reverse_state)
