"""Linear recurrent unit."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parallel import ScanLayer
from models.scan import rotating_scan


class LRU(ScanLayer):
    """h' = λ h + γ B x with h, λ, B complex; y = gelu(Re(C h) + D x), output y σ(W y).

    Every λ = exp(-exp(ν) + i exp(θ)) lies inside the unit circle whatever ν and θ become; γ =
    sqrt(1 - |λ|²) keeps h as large as x. D is a vector, or a matrix where I is not H. State: real
    and imaginary parts (B, 2 H). Orvieto et al. 2023, arXiv 2303.06349; the gated output is what
    its blocks put behind the layer.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        min_radius: float = 0.9,
        max_radius: float = 0.999,
        max_phase: float = 2 * math.pi,
        gated: bool = True,
    ) -> None:
        """λ start uniformly on the ring between the radii, with phases up to `max_phase`.

        Without `gated` the output is Re(C h) + D x, linear in the whole sequence.
        """
        super().__init__(input_size=input_size, output_size=hidden_size, state_size=2 * hidden_size)
        if not 0 <= min_radius < max_radius < 1:
            raise ValueError(
                "the eigenvalues start on a ring 0 <= min_radius < max_radius < 1, got "
                f"{min_radius} and {max_radius}"
            )
        if not max_phase > 0:
            raise ValueError(f"max_phase is above 0, got {max_phase}")
        squares = torch.empty(hidden_size).uniform_(min_radius**2, max_radius**2)
        phases = torch.empty(hidden_size).uniform_(0, max_phase).clamp(min=1e-4)
        self.log_rate = nn.Parameter((-0.5 * squares.log()).log())  # ν
        self.log_phase = nn.Parameter(phases.log())  # θ
        self.read = nn.Linear(input_size, 2 * hidden_size, bias=False)  # B
        nn.init.normal_(self.read.weight, std=math.sqrt(0.5 / input_size))
        self.write = nn.Linear(2 * hidden_size, hidden_size, bias=False)  # C
        nn.init.normal_(self.write.weight, std=math.sqrt(0.5 / hidden_size))
        same = input_size == hidden_size
        self.skip = nn.Parameter(
            torch.randn(hidden_size if same else (hidden_size, input_size))
        )  # D
        if not same:
            nn.init.xavier_uniform_(self.skip)
        self.gate = nn.Linear(hidden_size, hidden_size) if gated else None

    def eigenvalues(self) -> tuple[Tensor, Tensor]:
        """λ, its size (H,) and its phase (H,)."""
        return torch.exp(-self.log_rate.exp()), self.log_phase.exp()

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        norm = torch.sqrt(-torch.expm1(-2 * self.log_rate.exp()))  # γ, which scales the rows of B
        weight = self.read.weight * norm.repeat_interleave(2)[:, None]
        update = self.full(F.linear(inputs, weight))
        vector = self.skip.dim() == 1
        skip = inputs * self.skip if vector else F.linear(inputs, self.skip)
        return update, skip

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        return rotating_scan(*self.eigenvalues(), coefficients[0], before)

    def readout(self, coefficients: tuple[Tensor, ...], hidden: Tensor, before: Tensor) -> Tensor:
        outputs = self.write(hidden) + coefficients[1]
        if self.gate is None:
            return outputs
        outputs = F.gelu(outputs)
        return outputs * self.gate(outputs).sigmoid()
