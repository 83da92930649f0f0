"""What a network reads at each step: the vectors of symbols, or real features as they are."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.dropout import (
    Mask,
    apply_mask,
    check_probability,
    draw_mask,
    drop_symbols,
    dropout,
    redraw_symbols,
    replace_symbols,
)
from models.normalised import NormalisedEmbedding

INITIAL_RANGE = 0.1  # small enough for weights that are also the output layer's
LARGEST_RANGE = 100.0


class Inputs(nn.Module):
    """Symbols (B, T) → their vectors (B, T, E); real features (B, T, F) pass as they are.

    Pads have a vector like any symbol: whoever reads the result masks them.
    """

    special: Tensor
    words: Tensor

    def __init__(
        self,
        *,
        vocabulary_size: int | None,
        input_features: int | None,
        embedding_size: int,
        pad_id: int = 0,
        unk_id: int | None = None,
        dropout: float = 0.0,
        variational: bool = False,
        word_dropout: float = 0.0,
        word_replacement: float = 0.0,
        kept_ids: Sequence[int] = (),
        freeze: bool = False,
        normalise: bool = False,
        initial_range: float = INITIAL_RANGE,
    ) -> None:
        """Vectors start as uniform numbers of at most `initial_range`. `word_dropout` hides symbols
        in training: each one that is met becomes `unk_id`; with `variational` a symbol instead
        loses its vector wherever it stands in the batch (Gal and Ghahramani 2015, arXiv
        1512.05287). `word_replacement` puts in training any symbol at all in the place of each one
        with that probability (Xie et al. 2017, arXiv 1703.02573; Wang et al. 2018, arXiv
        1808.07512). Neither touches pads and `kept_ids`, such as a text's ends. `variational` also
        makes `dropout` take the same features at every step of a row. `freeze` keeps the vectors as
        they are, or were loaded; `normalise` gives what is read of them mean 0 and variance 1
        (`NormalisedEmbedding`).
        """
        super().__init__()
        if (vocabulary_size is None) == (input_features is None):
            raise ValueError(
                "a network reads symbols or real features: give either vocabulary_size or "
                f"input_features, got {vocabulary_size} and {input_features}"
            )
        check_probability("embedding_dropout", dropout)
        check_probability("word_dropout", word_dropout)
        check_probability("word_replacement", word_replacement)
        if not 0.0 < initial_range <= LARGEST_RANGE:
            raise ValueError(
                f"embedding_range is above 0 and at most {LARGEST_RANGE:g}, got {initial_range}"
            )
        self.vocabulary_size = vocabulary_size
        self.pad_id = pad_id
        self.unk_id = unk_id
        self.dropout = dropout
        self.variational = variational
        self.word_dropout = word_dropout
        self.word_replacement = word_replacement
        self.embedding: nn.Embedding | None = None
        if vocabulary_size is None:
            assert input_features is not None
            given = {
                "freeze_embedding": freeze,
                "word_dropout": word_dropout,
                "word_replacement": word_replacement,
                "normalise_embedding": normalise,
            }
            if any(given.values()):
                asked = ", ".join(f"{key}={value}" for key, value in given.items() if value)
                raise ValueError(f"real features have no embedding: leave out {asked}")
            self.output_size = input_features
            return
        if vocabulary_size < 1 or embedding_size < 1:
            raise ValueError(
                "an embedding needs sizes of 1 or more, got vocabulary_size "
                f"{vocabulary_size}, embedding_size {embedding_size}"
            )
        if word_dropout and not variational and unk_id is None:
            raise ValueError(
                f"word_dropout {word_dropout} replaces symbols by the unknown one, which this "
                "vocabulary lacks: set word_dropout=0, or variational=true to drop their vectors"
            )
        special = {pad_id, *kept_ids}
        words = sorted(set(range(vocabulary_size)) - special - {unk_id})
        if word_replacement and not words:
            raise ValueError(
                f"word_replacement {word_replacement}: all {vocabulary_size} symbols are special, "
                "so there is nothing to draw from: set word_replacement=0"
            )
        # not in the state_dict: they follow from the arguments
        self.register_buffer("special", torch.tensor(sorted(special)), persistent=False)
        self.register_buffer("words", torch.tensor(words), persistent=False)
        self.output_size = embedding_size
        self.embedding = (
            NormalisedEmbedding(vocabulary_size, embedding_size, pad_id=pad_id)
            if normalise
            else nn.Embedding(vocabulary_size, embedding_size)
        )
        nn.init.uniform_(self.embedding.weight, -initial_range, initial_range)
        self.embedding.weight.requires_grad_(not freeze)

    def draw_mask(self, batch_size: int) -> Mask:
        """The mask of one sequence, for `forward`; None where nothing is drawn once a sequence."""
        if not (self.training and self.variational and self.dropout and self.embedding):
            return None
        return draw_mask(self.embedding.weight, (batch_size, self.output_size), self.dropout)

    def forward(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        """Read symbols (B, T) or features (B, T, F), or one step: (B,) or (B, F) → (..., E).

        With variational dropout `mask` makes the steps of one sequence agree; drawn here if None.
        """
        vectors = inputs if self.embedding is None else self._look_up(self.embedding, inputs)
        if not (self.training and self.dropout):
            return vectors
        if not self.variational:
            return dropout(vectors, self.dropout, True)
        if mask is None:
            assert vectors.dim() == 3, "draw_mask once a sequence and pass it to each step"
            mask = draw_mask(vectors, (vectors.size(0), vectors.size(2)), self.dropout)
        return apply_mask(vectors, mask)

    @torch.no_grad()
    def load_vectors(self, matrix: Tensor, known: Tensor) -> None:
        """Copy the rows of `matrix` (V, E) that are `known` (V,), such as pretrained vectors."""
        if self.embedding is None:
            raise ValueError("vectors were given, but this network reads real features")
        weight = self.embedding.weight
        if matrix.shape != weight.shape:
            raise ValueError(
                f"vectors of shape {tuple(matrix.shape)} do not fit an embedding of shape "
                f"{tuple(weight.shape)}: set model.embedding_size={matrix.size(-1)}"
            )
        known = known.to(weight.device)
        weight[known] = matrix.to(weight)[known]

    def _look_up(self, embedding: nn.Embedding, symbols: Tensor) -> Tensor:
        hides = self.word_dropout and not self.variational
        if self.training and (hides or self.word_replacement):
            symbols = self._noised(symbols)
        vectors: Tensor = embedding(symbols)
        if not self.variational:
            return vectors
        return drop_symbols(
            vectors, symbols, embedding.num_embeddings, self.word_dropout, self.training
        )

    def _noised(self, symbols: Tensor) -> Tensor:
        usual = ~torch.isin(symbols, self.special)
        symbols = redraw_symbols(symbols, usual, self.words, self.word_replacement, self.training)
        if self.variational:  # vectors are dropped, not symbols
            return symbols
        assert self.unk_id is not None or not self.word_dropout
        return replace_symbols(symbols, usual, self.unk_id or 0, self.word_dropout, self.training)
