"""Many to one: a sequence is read, and one answer given."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from models.dropout import dropout
from models.embedding import Inputs
from models.head import Head, RealHead, SoftmaxHead
from models.pooling import build_pooling, valid_steps
from models.recurrent import CellFactory
from models.stack import BidirectionalStack, RNNStack


class ClassifierOutput(NamedTuple):
    hidden: Tensor  # (B, P): what the output head reads
    attention: Tensor | None  # (B, R, T): the weights of the steps, where the pooling has weights


class Classifier(nn.Module):
    """Symbols or real vectors → recurrent layers → pooling over time → a class, or real numbers."""

    def __init__(
        self,
        *,
        vocabulary_size: int | None,
        input_features: int | None,
        num_outputs: int,
        real: bool,
        class_weights: Sequence[float] | None = None,
        pad_id: int,
        unk_id: int | None,
        cell: CellFactory,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        pooling: str = "last",
        pooling_hops: int = 1,
        pooling_penalty: float = 0.0,
        dropout: float = 0.0,
        variational: bool = False,
        residual: bool = False,
        layer_norm: bool = False,
        embedding_dropout: float = 0.0,
        word_dropout: float = 0.0,
        freeze_embedding: bool = False,
        normalise_embedding: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        """`real`: the answer is `num_outputs` numbers, else one of `num_outputs` classes.

        `dropout` stands between the layers and before the head. `pooling_hops` and
        `pooling_penalty` are for pooling by attention (`models.pooling.Attention`).
        """
        super().__init__()
        self.inputs = Inputs(
            vocabulary_size=vocabulary_size,
            input_features=input_features,
            embedding_size=embedding_size,
            pad_id=pad_id,
            unk_id=unk_id,
            dropout=embedding_dropout,
            variational=variational,
            word_dropout=word_dropout,
            freeze=freeze_embedding,
            normalise=normalise_embedding,
        )
        self.stack = (BidirectionalStack if bidirectional else RNNStack)(
            input_size=self.inputs.output_size,
            hidden_size=hidden_size,
            cell=cell,
            num_layers=num_layers,
            dropout=dropout,
            variational=variational,
            residual=residual,
            layer_norm=layer_norm,
        )
        self.pooling = build_pooling(
            pooling,
            input_size=self.stack.output_size,
            bidirectional=bidirectional,
            hops=pooling_hops,
            penalty=pooling_penalty,
        )
        self.bidirectional = bidirectional
        self.dropout = dropout
        size = self.pooling.output_size
        self.head: Head = (
            RealHead(input_size=size, num_outputs=num_outputs)
            if real
            else SoftmaxHead(
                input_size=size,
                num_outputs=num_outputs,
                label_smoothing=label_smoothing,
                class_weights=class_weights,
            )
        )

    def forward(self, inputs: Tensor, lengths: Tensor) -> ClassifierOutput:
        """Symbols (B, T) or real vectors (B, T, F), lengths (B,) → what the head reads."""
        return self.read(self.inputs(inputs), lengths)

    def read(self, vectors: Tensor, lengths: Tensor) -> ClassifierOutput:
        """The same from the vectors (B, T, E) that `inputs` gives."""
        # Causal outputs never see a pad, and the state that would is not used: the shortest way.
        outputs, _ = self.stack(vectors, None, lengths if self.bidirectional else None)
        pooled, weights = self.pooling(outputs, valid_steps(lengths, vectors.size(1)))
        return ClassifierOutput(dropout(pooled, self.dropout, self.training), weights)
