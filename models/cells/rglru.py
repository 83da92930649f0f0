"""Real-gated linear recurrent unit."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cells.heads import heads_of
from models.convolution import depthwise, windows
from models.recurrent import ScanLayer
from models.scan import linear_scan

SHARPNESS = 8.0  # c of the paper


class RGLRU(ScanLayer):
    """h' = a h + sqrt(1 - a²) (i * u) with a = σ(Λ)^(8 r), in the recurrent block of Griffin.

    u is a causal convolution over W_u x; r = σ(W_r u) and i = σ(W_i u), block-diagonal; the output
    is W_o (h * gelu(W_g x)). State: h (B, H) and the convolution's last inputs (B, window - 1, H).
    De et al. 2024, arXiv 2402.19427.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        window: int = 4,
        blocks: int = 8,
        min_decay: float = 0.9,
        max_decay: float = 0.999,
    ) -> None:
        """The decays σ(Λ)^8 start between the two; `blocks` is an upper bound: it must divide H."""
        super().__init__(
            input_size=input_size,
            output_size=hidden_size,
            state_size=hidden_size,
            window=window,
            convolved=hidden_size,
        )
        if window < 2:
            raise ValueError(f"window is 2 steps or more, got {window}")
        self.enter = nn.Linear(input_size, 2 * hidden_size)
        self.filters = nn.Parameter(torch.empty(window, hidden_size).normal_(std=window**-0.5))
        self.filter_bias = nn.Parameter(torch.zeros(hidden_size))
        blocks = heads_of(hidden_size, blocks)
        size = hidden_size // blocks
        self.gates = nn.Parameter(torch.empty(blocks, size, 2 * size).normal_(std=size**-0.5))
        self.gates_bias = nn.Parameter(torch.zeros(blocks, 1, 2 * size))
        decays = torch.empty(hidden_size).uniform_(min_decay**2, max_decay**2).sqrt()
        self.decay = nn.Parameter(torch.logit(decays ** (1 / SHARPNESS)))  # Λ
        self.leave = nn.Linear(hidden_size, hidden_size)

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        assert tail is not None
        entered, gate = self.enter(inputs).chunk(2, dim=-1)
        filtered = self.full(depthwise(windows(entered, tail), self.filters, self.filter_bias))
        recurrence, write = self._block_diagonal(filtered)
        decay = torch.exp(-SHARPNESS * F.softplus(-self.decay) * recurrence.sigmoid())
        norm = torch.sqrt((1 - decay.square()).clamp(min=1e-6))  # the root has no slope at zero
        return decay, norm * write.sigmoid() * filtered, gate, entered

    def _block_diagonal(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, H) → two gates (B, T, H)."""
        blocks, size, _ = self.gates.shape
        parts = inputs.reshape(-1, blocks, size).transpose(0, 1)
        gates = self.full(torch.baddbmm(self.gates_bias.expand(-1, 1, -1), parts, self.gates))
        both = gates.unflatten(-1, (2, size)).permute(2, 1, 0, 3)  # (2, B T, blocks, size)
        first, second = both.reshape(2, *inputs.shape)
        return first, second

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        keep, update, *_ = coefficients
        return linear_scan(keep, update, before)

    def readout(self, coefficients: tuple[Tensor, ...], hidden: Tensor, before: Tensor) -> Tensor:
        return self.leave(hidden * F.gelu(coefficients[2], approximate="tanh"))
