"""A sentence as a memory: a vector for each of its symbols, in the light of the others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.dropout import dropout, locked_dropout
from models.embedding import Inputs
from models.encoders.memory import Encoder, Memory
from models.recurrent import CellFactory
from models.stack import BidirectionalStack, RNNStack


class TextEncoder(Encoder):
    """Symbols (B, S) → Memory of size `output_size`, twice the cells' where it reads both ways.

    Sutskever et al. 2014, arXiv 1409.3215; both ways as in Bahdanau et al. 2014, arXiv 1409.0473.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        cell: CellFactory,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        variational: bool = False,
        residual: bool = False,
        layer_norm: bool = False,
        embedding_dropout: float = 0.0,
        word_dropout: float = 0.0,
        word_replacement: float = 0.0,
        embedding_range: float = 1.0,
        pad_id: int = 0,
        unk_id: int | None = None,
        kept_ids: Sequence[int] = (),
    ) -> None:
        """`dropout` falls between the layers and on the memory; `word_dropout` and
        `word_replacement` on the symbols that are read (`models.embedding.Inputs`). Vectors start
        within ±`embedding_range`: where they are as small as those of an output layer, memories
        differ so little at first that attention takes hundreds of steps to tell their places apart.
        """
        super().__init__()
        self.inputs = Inputs(
            vocabulary_size=vocabulary_size,
            input_features=None,
            embedding_size=embedding_size,
            pad_id=pad_id,
            unk_id=unk_id,
            kept_ids=kept_ids,
            dropout=embedding_dropout,
            variational=variational,
            word_dropout=word_dropout,
            word_replacement=word_replacement,
            initial_range=embedding_range,
        )
        self.stack = (BidirectionalStack if bidirectional else RNNStack)(
            input_size=embedding_size,
            hidden_size=hidden_size,
            cell=cell,
            num_layers=num_layers,
            dropout=dropout,
            variational=variational,
            residual=residual,
            layer_norm=layer_norm,
        )
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.variational = variational
        self.output_size = self.stack.output_size

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Memory:
        """Right-padded (B, S), lengths (B,) or None where nothing is padded → Memory.

        The summary is what each direction has read when it is through: the forward half at the
        last symbol, the backward half at the first. An empty row has a summary of zeros.
        """
        batch, places = tokens.shape
        # Causal outputs never see a pad: lengths matter only to what comes from the right.
        outputs, _ = self.stack(self.inputs(tokens), None, lengths if self.bidirectional else None)
        values = (
            locked_dropout(outputs, self.dropout, self.training)
            if self.variational
            else dropout(outputs, self.dropout, self.training)
        )
        if lengths is None:
            lengths = torch.full((batch,), places, device=tokens.device)
        mask = torch.arange(places, device=tokens.device) < lengths[:, None]
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.output_size)
        summary = values.gather(1, last).squeeze(1)
        if self.bidirectional:
            half = self.output_size // 2
            summary = torch.cat([summary[:, :half], values[:, 0, half:]], dim=-1)
        return Memory(values, mask, summary.masked_fill((lengths == 0)[:, None], 0.0))
