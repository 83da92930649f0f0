"""Many to many, shifted by one: predict the next symbol, or the next frame of keys."""

from torch import Tensor, nn

from models.dropout import check_probability, dropout, locked_dropout
from models.embedding import Inputs
from models.head import BernoulliHead, Head, HeadFactory, SoftmaxHead, build_head
from models.recurrent import CellFactory
from models.stack import RNNStack
from models.state import State


class LanguageModel(nn.Module):
    """Symbols, or keys on and off → recurrent layers → what comes next.

    Mikolov et al. 2010, doi 10.21437/Interspeech.2010-343; with dropout Zaremba et al. 2014, arXiv
    1409.2329, or `variational` Gal and Ghahramani 2015, arXiv 1512.05287.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int | None,
        keys: int | None,
        pad_id: int,
        unk_id: int | None,
        cell: CellFactory,
        head: HeadFactory | None = None,
        embedding_size: int | None,
        hidden_size: int,
        num_layers: int = 1,
        tie_weights: bool = True,
        embedding_dropout: float = 0.0,
        dropout: float = 0.0,
        output_dropout: float = 0.0,
        variational: bool = True,
        word_dropout: float = 0.0,
        residual: bool = False,
        layer_norm: bool = False,
        label_smoothing: float = 0.0,
        last_hidden_size: int | None = None,
    ) -> None:
        """Either `vocabulary_size` symbols or `keys` independent keys, which are read as they are.

        `head` makes the distribution of symbols, None a softmax; keys have their own.
        `tie_weights`: the output layer is the embedding's matrix, behind a projection where the
        last layer has another size. `embedding_size` and `last_hidden_size` null are
        `hidden_size`. `embedding_dropout` stands before the layers, `dropout` between them and
        `output_dropout` after.
        """
        super().__init__()
        check_probability("output_dropout", output_dropout)
        self.inputs = Inputs(
            vocabulary_size=vocabulary_size,
            input_features=keys,
            embedding_size=hidden_size if embedding_size is None else embedding_size,
            pad_id=pad_id,
            unk_id=unk_id,
            dropout=embedding_dropout,
            variational=variational,
            word_dropout=word_dropout,
        )
        self.stack = RNNStack(
            input_size=self.inputs.output_size,
            hidden_size=hidden_size,
            cell=cell,
            num_layers=num_layers,
            dropout=dropout,
            variational=variational,
            residual=residual,
            layer_norm=layer_norm,
            last_hidden_size=last_hidden_size,
        )
        self.output_dropout = output_dropout
        self.variational = variational
        size = self.stack.output_size
        self.head: Head
        if vocabulary_size is None:
            assert keys is not None
            if tie_weights:
                raise ValueError(
                    "tie_weights shares an embedding, and keys have none: set "
                    "model.tie_weights=false or take model=music"
                )
            if head is not None:
                raise ValueError(
                    "model/head is of symbols, and keys have a distribution of their own: set "
                    "model/head=null"
                )
            self.head = BernoulliHead(input_size=size, keys=keys)
            return
        self.head = build_head(
            head or SoftmaxHead,
            input_size=size,
            num_outputs=vocabulary_size,
            label_smoothing=label_smoothing,
            tied=self.inputs.embedding if tie_weights else None,
        )

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step."""
        return self.stack.initial_state(batch_size)

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Symbols (B, T) or keys (B, T, K) → what the head reads (B, T, D), and the state after.

        Passing the state on makes windows of a text one long text.
        """
        outputs, after = self.read(inputs, state)
        return self.drop(outputs), after

    def read(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """`forward` up to the outputs (B, T, D) of the last layer, which `drop` is still to see."""
        outputs, after = self.stack(self.inputs(inputs), state)
        return outputs, after

    def drop(self, outputs: Tensor) -> Tensor:
        """Dropout behind the last layer, (B, T, D) → (B, T, D)."""
        if self.variational:
            return locked_dropout(outputs, self.output_dropout, self.training)
        return dropout(outputs, self.output_dropout, self.training)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step, for generation: symbols (B,) or keys (B, K) → (B, D), state. Drops nothing."""
        assert not self.training or not self.variational, "generate in evaluation mode"
        output, after = self.stack.step(self.inputs(inputs), state)
        return dropout(output, self.output_dropout, self.training), after
