"""PyTorch's own recurrent kernels behind the contract of a recurrent layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from models.product import RepeatedProduct
from models.recurrent import RecurrentLayer, Stepper, keep_dtype
from models.state import State, leaves, map_state


class FusedLayer(RecurrentLayer):
    """One layer of nn.LSTM, nn.GRU or nn.RNN, run by cuDNN or oneDNN in one call.

    `rnn` holds the parameters under PyTorch's names. A GPU packs rows of unequal length. Elsewhere
    packing costs more than the pads it saves, and the pads are instead run through: hidden states
    are gathered from the outputs, and what outputs do not show (an LSTM's memory cell, anything
    that comes from the right) is held by one more input column, 1 on pads, whose constant weights
    close the input gate and open the forget gate so far that both saturate exactly.
    """

    outputs_state = True
    recurrent = ("rnn.weight_hh_l0",)
    kernel: str  # "lstm" stands for torch._VF.lstm, and torch._VF.lstm_cell for one step
    pad_column: tuple[float, ...] | None = None  # what a pad adds to each gate; None: no gate holds

    def __init__(self, *, rnn: nn.RNNBase) -> None:
        super().__init__(input_size=rnn.input_size, output_size=rnn.hidden_size)
        self.rnn = rnn

    def initial_state(self, batch_size: int) -> State:
        return self.zeros(batch_size, self.output_size)

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        given = self.begin(inputs.size(0), state)
        before = [leaf.unsqueeze(0) for leaf in leaves(given)]
        outputs, after = self._run(inputs, before, self._weights(), lengths)
        return outputs, _like(given, [leaf[0] for leaf in after])

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        given = self.begin(inputs.size(0), state)
        kernel = getattr(torch._VF, f"{self.kernel}_cell")
        after = kernel(inputs, given, *self._weights())
        output = after if isinstance(after, Tensor) else after[0]
        return output, map_state(keep_dtype, after, given)

    def gate(self, entered: Tensor, recurrent: Tensor, state: State) -> State:
        """One step's pointwise part: W x + b (B, G), U h + b (B, G), state → state."""
        raise NotImplementedError

    def stepper(self, known: Tensor) -> Stepper:
        enter, recur, enter_bias, recur_bias = self._weights()
        size = known.size(-1)
        shares = iter(F.linear(known, enter[:, :size], enter_bias).unbind(1))
        feed = RepeatedProduct(enter[:, size:])
        recurrent = RepeatedProduct(recur, recur_bias)

        def step(rest: Tensor, state: State) -> tuple[Tensor, State]:
            given = self.begin(rest.size(0), state)
            before = leaves(given)[0]
            after = self.gate(
                self.full(next(shares) + feed(rest)),
                self.full(recurrent(before)),
                given,
            )
            return leaves(after)[0], after

        return step

    def both_ways(
        self, backward: RecurrentLayer, inputs: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[State, State]]:
        if lengths is not None and self.pad_column is None:
            return super().both_ways(backward, inputs, lengths)
        assert isinstance(backward, FusedLayer) and type(backward) is type(self)
        zero = self.initial_state(inputs.size(0))
        before = [torch.stack([leaf, leaf]) for leaf in leaves(zero)]
        weights = self._weights() + backward._weights()
        outputs, after = self._run(inputs, before, weights, lengths)
        forth, back = ([leaf[direction] for leaf in after] for direction in (0, 1))
        return outputs, (_like(zero, forth), _like(zero, back))

    def _weights(self) -> list[Tensor]:
        # Read by name at every call: a parametrised or dropped weight is then the one that runs.
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return [getattr(self.rnn, name) for name in names]

    def _run(
        self, inputs: Tensor, before: list[Tensor], weights: list[Tensor], lengths: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """One kernel call from the leaves `before` (directions, B, H) → outputs, leaves after."""
        if lengths is None:
            outputs, *after = self._call(inputs, None, before, weights)
        else:
            # The column is untried on cuDNN, where packing is known to be right and quick.
            run = self._packed if inputs.is_cuda else self._padded
            outputs, *after = run(inputs, before, weights, lengths)
            valid = (lengths > 0)[None, :, None]
            after = [torch.where(valid, a, b) for a, b in zip(after, before, strict=True)]
        return outputs, list(map(keep_dtype, after, before))

    def _call(
        self, data: Tensor, batch_sizes: Tensor | None, before: list[Tensor], weights: list[Tensor]
    ) -> tuple[Tensor, ...]:
        kernel = getattr(torch._VF, self.kernel)
        hx = before if len(before) > 1 else before[0]
        # Biases, one layer, no dropout; gradients wherever they are recorded, in evaluation too.
        options = (True, 1, 0.0, torch.is_grad_enabled(), len(weights) > 4)
        if batch_sizes is not None:
            return kernel(data, batch_sizes, hx, weights, *options)
        return kernel(data, hx, weights, *options, True)  # batch first

    def _padded(
        self, inputs: Tensor, before: list[Tensor], weights: list[Tensor], lengths: Tensor
    ) -> tuple[Tensor, ...]:
        """Right-padded rows as they are."""
        size = self.output_size
        if len(before) > 1 or len(weights) > 4:
            assert self.pad_column is not None
            places = torch.arange(inputs.size(1), device=inputs.device)
            pads = (places >= lengths[:, None]).to(inputs.dtype)[:, :, None]
            inputs = torch.cat([inputs, pads], dim=-1)
            gates = weights[0].new_tensor(self.pad_column).repeat_interleave(size)[:, None]
            weights = [
                torch.cat([weight, gates], dim=1) if place % 4 == 0 else weight
                for place, weight in enumerate(weights)
            ]
        outputs, hidden, *others = self._call(inputs, None, before, weights)
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, size)
        forth = outputs[:, :, :size].gather(1, last).squeeze(1)
        return outputs, torch.cat([forth[None], hidden[1:]]), *others

    def _packed(
        self, inputs: Tensor, before: list[Tensor], weights: list[Tensor], lengths: Tensor
    ) -> tuple[Tensor, ...]:
        """The plain twin of `_padded`: PyTorch's own packing."""
        packed = pack_padded_sequence(  # knows no empty row: the caller restores its state
            inputs, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        order, back = packed.sorted_indices, packed.unsorted_indices
        assert order is not None and back is not None
        sorted_before = [leaf.index_select(1, order) for leaf in before]
        data, *after = self._call(packed.data, packed.batch_sizes, sorted_before, weights)
        outputs, _ = pad_packed_sequence(
            PackedSequence(data, packed.batch_sizes, order, back),
            batch_first=True,
            total_length=inputs.size(1),
        )
        return outputs, *(leaf.index_select(1, back) for leaf in after)


def _like(state: State, parts: list[Tensor]) -> State:
    """Flat leaves in the structure of a fused layer's state: one tensor or a tuple of tensors."""
    return parts[0] if isinstance(state, Tensor) else tuple(parts)
