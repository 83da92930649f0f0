"""A recurrent layer that is written as one step, and runs as a loop over time."""

from collections.abc import Callable
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor

from models.product import RepeatedProduct, product
from models.recurrent import RecurrentLayer, Stepper, keep_dtype
from models.state import State, leaves

Product = Callable[[Tensor], Tensor]  # a recurrent matrix as a function: (B, H) → (B, G)


class StepwiseLayer(RecurrentLayer):
    """A cell written as one step, run as a loop over time; its state is a tuple of tensors (B, ·).

    What depends on the inputs alone goes into `project`, one product for all steps; `recur` does
    the rest. Steps are unbound once: indexing `[:, t]` under autograd is quadratic in T.
    """

    other: tuple[str, ...] = ()  # matrices, beside `recurrent`, that every step multiplies with

    def __init__(self, *, input_size: int, output_size: int, state_sizes: tuple[int, ...]) -> None:
        super().__init__(input_size=input_size, output_size=output_size)
        self.state_sizes = state_sizes

    def project(self, inputs: Tensor) -> Tensor:
        """The inputs' share of every step: (..., I) → (..., G)."""
        raise NotImplementedError

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple[Product, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step: (B, G), state → output (B, O), state.

        `products` are h → W h, one for each name in `recurrent` and then in `other`.
        """
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> State:
        return tuple(self.zeros(batch_size, size) for size in self.state_sizes)

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        current = tuple(leaves(self.begin(inputs.size(0), state)))
        products = tuple(RepeatedProduct(matrix) for matrix in self.matrices())
        valid = None
        if lengths is not None:
            places = torch.arange(inputs.size(1), device=inputs.device)
            valid = (places[:, None] < lengths).unsqueeze(-1).unbind(0)  # (B, 1) a step
        outputs = []
        for place, projected in enumerate(self.project(inputs).unbind(1)):
            output, following = self.recur(projected, current, products)
            following = tuple(map(keep_dtype, following, current))
            if valid is not None:
                following = tuple(
                    torch.where(valid[place], after, before)
                    for after, before in zip(following, current, strict=True)
                )
            current = following
            outputs.append(output)
        return torch.stack(outputs, dim=1), current

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        given = tuple(leaves(self.begin(inputs.size(0), state)))
        products = tuple(partial(product, matrix=matrix) for matrix in self.matrices())
        output, following = self.recur(self.project(inputs), given, products)
        return output, tuple(map(keep_dtype, following, given))

    def stepper(self, known: Tensor) -> Stepper:
        products = tuple(RepeatedProduct(matrix) for matrix in self.matrices())
        steps = iter(known.unbind(1))

        def step(rest: Tensor, state: State) -> tuple[Tensor, State]:
            given = tuple(leaves(self.begin(rest.size(0), state)))
            inputs = torch.cat([next(steps), rest.to(known.dtype)], dim=-1)
            output, following = self.recur(self.project(inputs), given, products)
            return output, tuple(map(keep_dtype, following, given))

        return step

    def matrices(self) -> list[Tensor]:
        """The matrices of `products`, as they are at this call."""
        # Read by name at every call: a dropped weight is then the one that runs.
        return [attrgetter(name)(self) for name in (*self.recurrent, *self.other)]
