"""The decoder that captions and translations share: a recurrent network that reads a memory."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from models.attention import Attention, MemoryReader
from models.coverage import CoverageAttention
from models.dropout import Mask, apply_mask, draw_mask, dropout
from models.embedding import Inputs
from models.encoders.memory import AnyMemory, KeyedMemory, Memory, keys_of
from models.multi_head import MultiHeadAttention
from models.product import RepeatedProduct
from models.recurrent import CellFactory
from models.stack import Drawn, RNNStack
from models.state import State, leaves, map_state


class DecoderOutput(NamedTuple):
    """Without T where it is one step."""

    hidden: Tensor  # (B, T, D): what the output head reads
    attention: Tensor  # (B, T, S); S is 0 in a decoder without attention


class DecoderMasks(NamedTuple):
    """What is random in one sequence."""

    inputs: Mask
    stack: Drawn
    hidden: Mask


DecoderState = tuple[State, State, State]  # of the layers, what is fed back, of attention


class AttentionDecoder(nn.Module):
    """Symbols so far and a memory → what the output head reads, `output_size` numbers a step.

    A step is tanh(W [s; c]), s from the recurrent layers and c the context that s attends to (Luong
    et al. 2015, arXiv 1508.04025), so that all steps of a known text are one call of the layers and
    one of attention. With `input_feeding` each step also reads that of the step before, and
    runs alone; with `coverage` only attention does. With attention "none" the memory's summary is
    all there is: it starts the recurrent layers (Vinyals et al. 2014, arXiv 1411.4555).
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        memory_size: int,
        cell: CellFactory,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        attention: str = "additive",
        attention_size: int | None = None,
        heads: int = 1,
        coverage: bool = False,
        input_feeding: bool = False,
        dropout: float = 0.0,
        variational: bool = False,
        residual: bool = False,
        layer_norm: bool = False,
        embedding_dropout: float = 0.0,
        word_dropout: float = 0.0,
        word_replacement: float = 0.0,
        pad_id: int = 0,
        unk_id: int | None = None,
        kept_ids: Sequence[int] = (),
    ) -> None:
        """`attention` is additive, general, dot or none, by so many `heads`; with `coverage` it
        sees the sum of its weights so far (`models.coverage`). `dropout` falls between the layers
        and on what the output head reads, `word_dropout` and `word_replacement` on the symbols so
        far (`models.embedding.Inputs`), never on those to be said.
        """
        super().__init__()
        if input_feeding and attention == "none":
            raise ValueError(
                "input_feeding feeds back what was attended, but attention=none: set "
                "input_feeding=false or attention=additive"
            )
        for name, off, value in [("heads", 1, heads), ("coverage", False, coverage)]:
            if value != off and attention == "none":
                raise ValueError(
                    f"{name}={value} is of attention, but attention=none: set {name}={off} or "
                    "attention=additive"
                )
        if attention_size is not None and attention_size < 1:
            raise ValueError(f"attention_size is 1 or more, got {attention_size}")
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
        )
        self.stack = RNNStack(
            input_size=embedding_size + (hidden_size if input_feeding else 0),
            hidden_size=hidden_size,
            cell=cell,
            num_layers=num_layers,
            dropout=dropout,
            variational=variational,
            residual=residual,
            layer_norm=layer_norm,
        )
        start = leaves(self.stack.initial_state(1))
        self.filled_sizes = [start[index].numel() for index in self.stack.fillable]
        # Where there is nothing to fill, the summary joins the symbol's vector at each step.
        self.bridge = nn.Linear(memory_size, sum(self.filled_sizes) or embedding_size)
        size = self.stack.output_size
        self.attention: MemoryReader | None = None
        if attention != "none":
            made = Attention if heads == 1 else partial(MultiHeadAttention, heads=heads)
            plain: MemoryReader = made(
                kind=attention,
                query_size=size,
                value_size=memory_size,
                attention_size=attention_size,
            )
            self.attention = CoverageAttention(plain) if coverage else plain
            self.combine = nn.Linear(size + memory_size, hidden_size, bias=False)
            size = hidden_size
        self.input_feeding = input_feeding
        self.dropout = dropout
        self.variational = variational
        self.output_size = size

    def prepare(self, memory: AnyMemory) -> AnyMemory:
        """Add the keys that attention computes from a memory; decoding does so once a sentence."""
        if self.attention is None or not isinstance(memory, Memory):
            return memory
        keys = self.attention.prepare(memory.values)
        return memory if keys is memory.values else KeyedMemory(*memory, keys)

    def initial_state(self, memory: AnyMemory) -> State:
        """The state before the first symbol: tanh(W summary) in every leaf that may be filled.

        It is the layers', then what is fed back and what attention keeps, each () where there is
        none.
        """
        batch = memory.summary.size(0)
        state = self.stack.initial_state(batch)
        if self.filled_sizes:
            flat = leaves(state)
            parts = torch.tanh(self.bridge(memory.summary)).split(self.filled_sizes, dim=-1)
            for index, part in zip(self.stack.fillable, parts, strict=True):
                flat[index] = part.to(flat[index].dtype).reshape(flat[index].shape)
            filled = iter(flat)
            state = map_state(lambda _: next(filled), state)
        fed = self.bridge.weight.new_zeros(batch, self.output_size) if self.input_feeding else ()
        return state, fed, () if self.attention is None else self.attention.start(memory.mask)

    def draw_masks(self, batch_size: int) -> DecoderMasks:
        """The masks of one sequence, to be passed to `forward` or to each `step` of it."""
        hidden = None
        if self.training and self.variational and self.dropout > 0.0:
            shape = (batch_size, self.output_size)
            hidden = draw_mask(self.bridge.weight, shape, self.dropout)
        return DecoderMasks(self.inputs.draw_mask(batch_size), self.stack.draw(batch_size), hidden)

    def forward(
        self,
        tokens: Tensor,
        memory: AnyMemory,
        state: State | None = None,
        masks: DecoderMasks | None = None,
    ) -> tuple[DecoderOutput, State]:
        """Read a known text: (B, T), memory → hidden (B, T, D), attention (B, T, S), state."""
        masks = self.draw_masks(tokens.size(0)) if masks is None else masks
        memory = self.prepare(memory)
        state = self.initial_state(memory) if state is None else state
        inputs = self._read(tokens, memory, masks)
        if self.input_feeding:
            return self._feed(inputs, state, memory, masks)
        stack_state, fed, seen = cast(DecoderState, state)
        outputs, stack_state = self.stack(inputs, stack_state, drawn=masks.stack)
        output, seen = self._attend(outputs, seen, memory, masks)
        return output, (stack_state, fed, seen)

    def step(
        self,
        token: Tensor,
        state: State,
        memory: AnyMemory,
        masks: DecoderMasks | None = None,
    ) -> tuple[DecoderOutput, State]:
        """Read one symbol, as `forward` does for T = 1: (B,) → hidden (B, D), attention (B, S)."""
        if masks is None:
            assert not (self.training and self.variational), (
                "draw_masks once a sequence and pass them to each step"
            )
            masks = self.draw_masks(token.size(0))
        memory = self.prepare(memory)
        return self._advance(self._read(token, memory, masks), state, memory, masks)

    def _read(self, tokens: Tensor, memory: AnyMemory, masks: DecoderMasks) -> Tensor:
        vectors: Tensor = self.inputs(tokens, masks.inputs)
        if self.filled_sizes:
            return vectors
        summary: Tensor = self.bridge(memory.summary)
        return vectors + (summary.unsqueeze(1) if vectors.dim() == 3 else summary)

    def _advance(
        self, inputs: Tensor, state: State, memory: AnyMemory, masks: DecoderMasks
    ) -> tuple[DecoderOutput, State]:
        stack_state, fed, seen = cast(DecoderState, state)
        if isinstance(fed, Tensor):
            inputs = torch.cat([inputs, fed.to(inputs.dtype)], dim=-1)
        outputs, stack_state = self.stack.step(inputs, stack_state, masks.stack)
        output, seen = self._attend(outputs, seen, memory, masks)
        if isinstance(fed, Tensor):
            fed = output.hidden.to(fed.dtype)
        return output, (stack_state, fed, seen)

    def _feed(
        self, inputs: Tensor, state: State, memory: AnyMemory, masks: DecoderMasks
    ) -> tuple[DecoderOutput, State]:
        """A loop of `_advance` over all steps, with what they share done once."""
        stack_state, fed, seen = cast(DecoderState, state)
        assert self.attention is not None and isinstance(fed, Tensor)
        keys = keys_of(memory)
        run = self.stack.stepper(inputs, masks.stack)
        attend = self.attention.stepper(keys, memory.values, memory.mask, seen)
        combine = RepeatedProduct(self.combine.weight)
        dtype, steps = fed.dtype, []
        for _ in range(inputs.size(1)):
            outputs, stack_state = run(fed, stack_state)
            context, weights = attend(outputs)
            both = torch.cat([outputs, context.to(outputs.dtype)], dim=-1)
            fed = self._drop(torch.tanh(combine(both)), masks)
            steps.append((fed, weights))
        hidden, attention = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        seen = self.attention.after(seen, attention)
        return DecoderOutput(hidden, attention), (stack_state, fed.to(dtype), seen)

    def _drop(self, hidden: Tensor, masks: DecoderMasks) -> Tensor:
        if self.variational:
            return apply_mask(hidden, masks.hidden)
        return dropout(hidden, self.dropout, self.training)

    def _attend(
        self, outputs: Tensor, seen: State, memory: AnyMemory, masks: DecoderMasks
    ) -> tuple[DecoderOutput, State]:
        """(B, T, H), or one step (B, H)."""
        if self.attention is None:
            hidden, weights = outputs, outputs.new_zeros(*outputs.shape[:-1], 0)
        else:
            context, weights = self.attention(
                outputs, keys_of(memory), memory.values, memory.mask, seen
            )
            seen = self.attention.after(seen, weights)
            both = torch.cat([outputs, context.to(outputs.dtype)], dim=-1)
            hidden = torch.tanh(self.combine(both))
        return DecoderOutput(self._drop(hidden, masks), weights), seen
