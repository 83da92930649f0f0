"""One answer a step, synchronised: result t depends on the data of 0..t, or of all steps."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.dropout import dropout, locked_dropout
from models.embedding import Inputs
from models.head import Head, HeadFactory, RealHead, SoftmaxHead, build_head
from models.recurrent import CellFactory
from models.stack import BidirectionalStack, RNNStack
from models.state import State


class Tagger(nn.Module):
    """Symbols or real vectors → recurrent layers → a class, or real numbers, at every step."""

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
        dropout: float = 0.0,
        variational: bool = False,
        residual: bool = False,
        layer_norm: bool = False,
        embedding_dropout: float = 0.0,
        word_dropout: float = 0.0,
        freeze_embedding: bool = False,
        normalise_embedding: bool = False,
        label_smoothing: float = 0.0,
        head: HeadFactory | None = None,
    ) -> None:
        """`real`: the answers are `num_outputs` numbers, else one of `num_outputs` classes.

        `head` makes the output layer of classes, a softmax where it is None. `dropout` stands
        between the layers and before the head.
        """
        super().__init__()
        if real and head is not None:
            raise ValueError("model.head is for classes, and this data has real numbers: leave it")
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
        self.dropout = dropout
        self.variational = variational
        size = self.stack.output_size
        self.head: Head = (
            RealHead(input_size=size, num_outputs=num_outputs)
            if real
            else build_head(
                head or SoftmaxHead,
                input_size=size,
                num_outputs=num_outputs,
                label_smoothing=label_smoothing,
                class_weights=class_weights,
            )
        )

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Symbols (B, T) or real vectors (B, T, F) → what the head reads (B, T, D), and the state
        after each row's last valid step, for the steps that follow.

        Without `lengths` all steps are valid. A bidirectional tagger takes no state: ValueError.
        """
        return self.read(self.inputs(inputs), lengths, state)

    def read(
        self, vectors: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """The same from the vectors (B, T, E) that `inputs` gives."""
        outputs, after = self.stack(vectors, state, lengths)
        if self.variational:
            return locked_dropout(outputs, self.dropout, self.training), after
        return dropout(outputs, self.dropout, self.training), after
