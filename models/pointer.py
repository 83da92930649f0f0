"""What comes next, from what a decoder gives: generated from the vocabulary, or copied as well."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoder import DecoderOutput
from models.encoders.memory import AnyMemory, CopyMemory, keys_of
from models.head import SoftmaxHead, full


class Generated(nn.Module):
    """Every symbol comes from the head alone."""

    def remember(self, memory: AnyMemory, source: Tensor) -> AnyMemory:
        """Add to the memory what `log_probs` needs of the source (B, S)."""
        return memory

    def log_probs(self, head: SoftmaxHead, output: DecoderOutput, memory: AnyMemory) -> Tensor:
        """Log-probabilities in float32: hidden (B, D) or (B, T, D) → (..., V)."""
        return head.log_probs(output.hidden)

    def loss(
        self,
        head: SoftmaxHead,
        output: DecoderOutput,
        memory: AnyMemory,
        targets: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Targets (B, T), those that count (B, T) → the sum of nats and the count."""
        return head.loss(output.hidden, targets, mask)


class Pointer(Generated):
    """Generate or copy: p P(w) + (1 - p) * the attention to the places where the source has w.

    See et al. 2017, arXiv 1704.04368; Gu et al. 2016, arXiv 1603.06393. p is a sigmoid of what the
    head reads, in which state and context are joined. `copies` is for each symbol of the source the
    one of the target's vocabulary that stands for it, None: one vocabulary. A word that neither
    vocabulary has is <unk> on both sides, and is copied as such.

    The whole distribution is mixed, so that label smoothing is over what is said in the end.
    """

    copies: Tensor | None

    def __init__(self, *, input_size: int, copies: Sequence[int] | None = None) -> None:
        super().__init__()
        self.generate = nn.Linear(input_size, 1)
        known = None if copies is None else torch.tensor(list(copies))
        self.register_buffer("copies", known, persistent=False)  # the codec has it

    def remember(self, memory: AnyMemory, source: Tensor) -> CopyMemory:
        symbols = source if self.copies is None else self.copies[source]
        return CopyMemory(*memory[:3], keys_of(memory), symbols)

    def log_probs(self, head: SoftmaxHead, output: DecoderOutput, memory: AnyMemory) -> Tensor:
        assert isinstance(memory, CopyMemory), "a memory of `encode` has the source's symbols"
        hidden, attention = output
        symbols = memory.symbols if attention.dim() == 2 else memory.symbols[:, None]
        gate = full(self.generate(hidden))
        generated = F.logsigmoid(gate) + head.log_probs(hidden)
        copied = torch.zeros_like(generated).scatter_add(
            -1, symbols.expand_as(attention), attention.to(generated.dtype)
        )
        # not 0: its logarithm has no gradient
        copied = copied.clamp(min=torch.finfo(copied.dtype).tiny).log() + F.logsigmoid(-gate)
        return torch.logaddexp(generated, copied)

    def loss(
        self,
        head: SoftmaxHead,
        output: DecoderOutput,
        memory: AnyMemory,
        targets: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        log_probs = self.log_probs(head, output, memory)
        nats = -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        if self.training and head.label_smoothing:
            nats = torch.lerp(nats, -log_probs.mean(-1), head.label_smoothing)
        return nats.masked_fill(~mask, 0.0).sum(), mask.sum(dtype=torch.float32)
