"""An output layer that mixes several softmaxes."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cross_entropy import IGNORED
from models.dropout import check_probability, locked_dropout
from models.head import Head, counted, full, output_layer, tied_size
from models.linear_nats import linear_nats


class MixtureHead(Head):
    """`components` softmaxes over one matrix, mixed anew at each position.

    One softmax can give only log-probabilities whose matrix has the rank of the hidden size; a
    mixture, any. Yang et al. 2018, arXiv 1711.03953. `latent_dropout` drops the same features of
    the components' vectors at every step of a row. `tied` shares the matrix of an embedding.
    """

    def __init__(
        self,
        *,
        input_size: int,
        num_outputs: int,
        components: int = 10,
        latent_dropout: float = 0.0,
        bias: bool = True,
        label_smoothing: float = 0.0,
        tied: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components is 1 or more, got {components}")
        if label_smoothing:
            raise ValueError(
                f"label_smoothing={label_smoothing} is for one softmax: set "
                "model.label_smoothing=0 with a mixture"
            )
        check_probability("latent_dropout", latent_dropout)
        self.num_outputs, self.components = num_outputs, components
        self.latent_dropout = latent_dropout
        size = input_size if tied is None else tied_size(tied, num_outputs)
        self.prior = nn.Linear(input_size, components, bias=False)
        self.latent = nn.Linear(input_size, components * size)
        self.linear = output_layer(size, num_outputs, bias=bias, tied=tied)

    def forward(self, hidden: Tensor) -> Tensor:
        """Log-probabilities, which are logits of the mixture: (..., D) → (..., V)."""
        return self.log_probs(hidden)

    def log_probs(self, hidden: Tensor) -> Tensor:
        shares, latents = self._shares(hidden), self._latents(hidden)
        parts = zip(shares.unbind(-1), latents.unbind(-2), strict=True)
        return reduce(
            torch.logaddexp,
            (share[..., None] + F.log_softmax(full(self.linear(v)), -1) for share, v in parts),
        )

    def loss(
        self, hidden: Tensor, targets: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        counts = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask
        rows = hidden.reshape(hidden.size(0), -1, hidden.size(-1))
        latents = self._latents(rows).flatten(2)
        latents = locked_dropout(latents, self.latent_dropout, self.training)
        ids = targets.masked_fill(~counts, IGNORED).reshape(-1, 1).expand(-1, self.components)
        nats = linear_nats(
            latents.reshape(-1, self.linear.in_features), self.linear.weight, self.linear.bias,
            ids.reshape(-1),
        ).view(-1, self.components)  # fmt: skip
        shares = self._shares(rows).flatten(0, 1)
        mixed = -(shares - nats).logsumexp(-1)
        return mixed.masked_fill(~counts.reshape(-1), 0.0).sum(), counted(targets, mask)

    def _shares(self, hidden: Tensor) -> Tensor:
        """The logarithms of the components' shares: (..., D) → (..., K)."""
        return F.log_softmax(full(self.prior(hidden)), dim=-1)

    def _latents(self, hidden: Tensor) -> Tensor:
        """What each component's softmax reads: (..., D) → (..., K, E)."""
        latents: Tensor = torch.tanh(self.latent(hidden))
        return latents.unflatten(-1, (self.components, -1))
