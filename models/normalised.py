"""Vectors of symbols on one scale, whatever their training makes of them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NormalisedEmbedding(nn.Embedding):
    """Symbols (...) → vectors (..., E) with mean 0 and variance 1 in each feature, over the symbols
    as often as each is read: (v − E[v]) / √Var[v].

    A perturbation of a given size then means the same all through training: larger vectors would
    make light of it (Miyato et al. 2017, arXiv 1605.07725). How often each symbol is read is
    counted in training and kept; pads do not count.
    """

    counts: Tensor

    def __init__(self, vocabulary_size: int, embedding_size: int, *, pad_id: int) -> None:
        super().__init__(vocabulary_size, embedding_size)
        self.pad_id = pad_id
        counts = torch.ones(vocabulary_size, dtype=torch.int64)
        counts[pad_id] = 0
        self.register_buffer("counts", counts)

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            read = torch.bincount(input.flatten(), minlength=self.num_embeddings)
            read[self.pad_id] = 0
            self.counts += read
        share = (self.counts / self.counts.sum()).to(self.weight.dtype)[:, None]
        mean = (share * self.weight).sum(0)
        variance = (share * (self.weight - mean).square()).sum(0)
        return (F.embedding(input, self.weight) - mean) * (variance + 1e-6).rsqrt()
