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

    Label smoothing is over what is said in the end, not over what the head says.
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
        gate, attention = full(self.generate(output.hidden)), full(output.attention)
        symbols = self._symbols(output, memory)
        generated = head.log_probs(output.hidden)
        copied = torch.zeros_like(generated).scatter_add(-1, symbols, attention.to(generated.dtype))
        return _mixed(gate, generated, copied)

    def loss(
        self,
        head: SoftmaxHead,
        output: DecoderOutput,
        memory: AnyMemory,
        targets: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """That of `log_probs`, without mixing what nobody asks for: only the targets' part of it,
        and with label smoothing that of the source's symbols, in which its mean differs.
        """
        gate, attention = full(self.generate(output.hidden)), full(output.attention)
        logits = full(head(output.hidden))
        total = logits.logsumexp(-1, keepdim=True)
        right, symbols = targets.unsqueeze(-1), self._symbols(output, memory)
        copied = (attention * (symbols == right)).sum(-1, keepdim=True)
        nats = -_mixed(gate, logits.gather(-1, right) - total, copied)
        if self.training and head.label_smoothing:
            same = symbols[:, 0, :, None] == symbols[:, 0, None]  # (B, S, S)
            generated = logits.gather(-1, symbols) - total
            mixed = _mixed(gate, generated, attention @ same.to(attention.dtype))
            # a symbol that stands at several places is one of the vocabulary's symbols
            more = (mixed - F.logsigmoid(gate) - generated) / same.sum(-1)[:, None]
            mean = F.logsigmoid(gate) + logits.mean(-1, keepdim=True) - total
            mean = mean + more.sum(-1, keepdim=True) / logits.size(-1)
            nats = torch.lerp(nats, -mean, head.label_smoothing)
        nats = nats.squeeze(-1).masked_fill(~mask, 0.0)
        return nats.sum(), mask.sum(dtype=torch.float32)

    def _symbols(self, output: DecoderOutput, memory: AnyMemory) -> Tensor:
        """What stands at each place, for each step: as the attention."""
        assert isinstance(memory, CopyMemory), "a memory of `encode` has the source's symbols"
        single = output.attention.dim() == 2
        symbols = memory.symbols if single else memory.symbols[:, None]
        return symbols.expand_as(output.attention)


def _mixed(gate: Tensor, generated: Tensor, copied: Tensor) -> Tensor:
    """Log-odds of generating, log-probabilities from the head, probabilities from the source."""
    # not 0: its logarithm has no gradient
    copied = copied.clamp(min=torch.finfo(copied.dtype).tiny).log()
    return torch.logaddexp(F.logsigmoid(gate) + generated, F.logsigmoid(-gate) + copied)
