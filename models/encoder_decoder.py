"""An encoder, a decoder that reads its memory, and the head that turns its output into symbols."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.decoder import AttentionDecoder, DecoderOutput
from models.embedding import Inputs
from models.encoders.memory import AnyMemory, Encoder
from models.head import SoftmaxHead
from models.pointer import Generated, Pointer
from models.state import State

TIES = ("none", "decoder", "all")


class EncoderDecoder(nn.Module):
    """Text or picture in, text out: translation and captioning are this one network."""

    def __init__(
        self,
        *,
        encoder: Callable[..., Encoder],
        decoder: Callable[..., AttentionDecoder],
        target_vocabulary_size: int,
        source_vocabulary_size: int | None = None,
        picture_shape: Sequence[int] | None = None,
        shared_vocabulary: bool = False,
        tie_weights: str = "decoder",
        label_smoothing: float = 0.0,
        copy: bool = False,
        copies: Sequence[int] | None = None,
        pad_id: int = 0,
        bos_id: int = 1,
        eos_id: int | None = None,
        unk_id: int | None = None,
    ) -> None:
        """`tie_weights`: "decoder" makes the decoder's embedding the output layer's weights as well
        (Press and Wolf 2016, arXiv 1608.05859), "all" the encoder's too, which needs one vocabulary
        for both sides. With `copy` symbols of the source may be copied (`models.pointer`); without
        a `shared_vocabulary`, `copies` says as which of the target's.
        """
        super().__init__()
        if tie_weights not in TIES:
            raise ValueError(f"tie_weights is one of {', '.join(TIES)}, got {tie_weights!r}")
        ends = (bos_id,) if eos_id is None else (bos_id, eos_id)
        symbols = {"pad_id": pad_id, "unk_id": unk_id, "kept_ids": ends}
        self.encoder = _build_encoder(encoder, source_vocabulary_size, picture_shape, symbols)
        self.decoder = decoder(
            vocabulary_size=target_vocabulary_size,
            memory_size=self.encoder.output_size,
            **symbols,
        )
        if tie_weights == "all":
            _tie(self.encoder, self.decoder, shared_vocabulary)
        self.head = SoftmaxHead(
            input_size=self.decoder.output_size,
            num_outputs=target_vocabulary_size,
            label_smoothing=label_smoothing,
            tied=None if tie_weights == "none" else self.decoder.inputs.embedding,
        )
        self.output = Generated()
        if copy:
            self.output = _pointer(self.decoder, picture_shape, shared_vocabulary, copies)
        self.never_said = (pad_id, bos_id)

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> AnyMemory:
        """Text (B, S) with lengths (B,), or pictures (B, C, H, W) → what `step` reads."""
        memory = self.encoder(source) if lengths is None else self.encoder(source, lengths)
        return self.output.remember(self.decoder.prepare(memory), source)

    def encode_features(self, features: Tensor) -> AnyMemory:
        """`encode` from what a `cacheable` encoder's `features` gave: (B, S, D)."""
        return self.decoder.prepare(self.encoder.from_features(features))

    def initial_state(self, memory: AnyMemory) -> State:
        return self.decoder.initial_state(memory)

    def forward(
        self,
        memory: AnyMemory,
        target_in: Tensor,
        teacher_forcing: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput:
        """The right text so far (B, T), from bos → what the head reads (B, T, D), attention.

        With `teacher_forcing` below 1 each symbol but the first is, with what is left of the
        probability, one that the model itself says there (scheduled sampling, Bengio et al. 2015,
        arXiv 1506.03099). Gradients do not pass through the choice.
        """
        if not 0.0 <= teacher_forcing <= 1.0:
            raise ValueError(f"teacher_forcing is a probability, 0 to 1, got {teacher_forcing}")
        if teacher_forcing == 1.0:
            output, _ = self.decoder(target_in, memory)
            return cast(DecoderOutput, output)
        memory = self.decoder.prepare(memory)
        state, masks = self.initial_state(memory), self.decoder.draw_masks(target_in.size(0))
        steps: list[DecoderOutput] = []
        for right in target_in.unbind(1):
            token = right
            if steps:
                forced = _uniform(right.shape, right.device, generator) < teacher_forcing
                token = torch.where(forced, right, self._say(steps[-1], memory, generator))
            output, state = self.decoder.step(token, state, memory, masks)
            steps.append(output)
        return DecoderOutput(*(torch.stack(parts, dim=1) for parts in zip(*steps, strict=True)))

    def log_probs(self, output: DecoderOutput, memory: AnyMemory) -> Tensor:
        """Of the next symbol, in float32: what the decoder gave, (B, D) or (B, T, D) → (..., V)."""
        return self.output.log_probs(self.head, output, memory)

    def loss(
        self, output: DecoderOutput, memory: AnyMemory, targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `forward` gave, targets (B, T), those that count (B, T) → sum of nats, count."""
        return self.output.loss(self.head, output, memory, targets, mask)

    def step(self, token: Tensor, state: State, memory: AnyMemory) -> tuple[Tensor, Tensor, State]:
        """One symbol (B,) → log-probabilities of the next (B, V) in fp32, attention (B, S), state.

        `memory` should come from `encode`: another is right too, but its keys are computed anew.
        """
        output, state = self.decoder.step(token, state, memory)
        return self.log_probs(output, memory), output.attention, state

    @torch.no_grad()
    def _say(
        self, output: DecoderOutput, memory: AnyMemory, generator: torch.Generator | None
    ) -> Tensor:
        """Draw each row's next symbol after one step: → (B,)."""
        log_probs = self.log_probs(output, memory)
        log_probs[:, self.never_said] = -torch.inf
        # The greatest of log p + Gumbel noise is a draw from p, on any device for any generator.
        uniform = _uniform(log_probs.shape, log_probs.device, generator).clamp(1e-20, 1.0 - 1e-7)
        return (log_probs - (-uniform.log()).log()).argmax(dim=-1)


def _uniform(shape: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    where = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=where).to(device)


def _build_encoder(
    factory: Callable[..., Encoder],
    vocabulary_size: int | None,
    picture_shape: Sequence[int] | None,
    symbols: Mapping[str, object],
) -> Encoder:
    if (vocabulary_size is None) == (picture_shape is None):
        raise ValueError(
            "an encoder reads text or pictures: give either source_vocabulary_size or "
            f"picture_shape, got {vocabulary_size} and {picture_shape}"
        )
    reads, wanted = inspect.signature(factory).parameters, "pictures"
    given: dict[str, object] = {"picture_shape": picture_shape}
    if picture_shape is None:
        given, wanted = {"vocabulary_size": vocabulary_size, **symbols}, "text"
    if not given.keys() <= reads.keys():
        raise ValueError(
            f"the data gives {wanted}, which this encoder does not read (it takes "
            f"{', '.join(reads)}): choose a model for {wanted}, such as "
            f"model={'translator' if wanted == 'text' else 'captioner'}"
        )
    return factory(**given)


def _pointer(
    decoder: AttentionDecoder,
    picture_shape: Sequence[int] | None,
    shared_vocabulary: bool,
    copies: Sequence[int] | None,
) -> Pointer:
    if picture_shape is not None:
        raise ValueError(
            "copy=true copies symbols of a text, but the data gives pictures: unset it"
        )
    if decoder.attention is None:
        raise ValueError(
            "copy=true copies what is attended, but attention=none: set copy=false or "
            "decoder.attention=additive"
        )
    if copies is None and not shared_vocabulary:
        raise ValueError(
            "copy=true needs one vocabulary for source and target (data.joint=true), or `copies`"
        )
    return Pointer(input_size=decoder.output_size, copies=None if shared_vocabulary else copies)


def _tie(encoder: Encoder, decoder: AttentionDecoder, shared_vocabulary: bool) -> None:
    """One embedding for both sides: the target's, which starts as small as output weights do."""
    if not shared_vocabulary:
        raise ValueError(
            "tie_weights=all needs one vocabulary for source and target: set "
            "data.joint=true or model.tie_weights=decoder"
        )
    source = cast(Inputs, encoder.inputs)  # who has a vocabulary has an embedding
    sizes = source.output_size, decoder.inputs.output_size
    if sizes[0] != sizes[1]:
        raise ValueError(
            "tie_weights=all needs equal embedding sizes, got encoder "
            f"{sizes[0]} and decoder {sizes[1]}"
        )
    source.embedding = decoder.inputs.embedding
