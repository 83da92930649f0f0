"""Training on inputs that are moved a little, to where the model is worst.

Symbols cannot be moved, their vectors can. An objective is called with the task and a batch, and
gives the sum of the losses and their count. Every reading of one batch drops the same units, so
that only the perturbation tells two readings apart.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from data.batches import SequenceBatch

if TYPE_CHECKING:
    from tasks.labelling import Labelling


class Adversarial:
    """The loss, and `weight` times the loss where the vectors of each row went by `epsilon` along
    its gradient: the fast gradient method of Goodfellow et al. 2015, on embeddings as in Miyato et
    al. 2017, arXiv 1605.07725.

    `epsilon` is the norm of a whole row's perturbation (T, E).
    """

    tasks: ClassVar = ("classification", "tagging")

    def __init__(self, *, epsilon: float = 1.0, weight: float = 1.0) -> None:
        check_positive(epsilon=epsilon, weight=weight)
        self.epsilon, self.weight = epsilon, weight

    def __call__(self, task: "Labelling", batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        vectors, seed = movable(task.model.inputs(batch.inputs)), draw_seed()
        torch.manual_seed(seed)
        loss, count = task.nats(task.read(vectors, batch), batch)
        (slope,) = torch.autograd.grad(loss, vectors, retain_graph=True)
        torch.manual_seed(seed)
        worse, _ = task.nats(task.read(vectors + self.epsilon * unit(slope), batch), batch)
        return loss + self.weight * worse, count


class VirtualAdversarial:
    """The loss, and `weight` times KL(p(v) ‖ p(v + r)) for the r of norm `epsilon` that changes the
    answer's distribution most: Miyato et al. 2017, arXiv 1605.07725.

    r is found by `iterations` of the power method, each from a step of length `xi`, and needs no
    right answers.
    """

    tasks: ClassVar = ("classification", "tagging")

    def __init__(
        self, *, epsilon: float = 1.0, weight: float = 1.0, xi: float = 0.1, iterations: int = 1
    ) -> None:
        check_positive(epsilon=epsilon, weight=weight, xi=xi, iterations=iterations)
        if iterations > 100:
            raise ValueError(
                f"objective: iterations is 100 at most (one is enough), got {iterations}"
            )
        self.epsilon, self.weight, self.xi, self.iterations = epsilon, weight, xi, iterations

    def __call__(self, task: "Labelling", batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        if task.real:
            raise ValueError(
                "objective=virtual_adversarial compares probabilities, and real numbers have none: "
                "set objective=adversarial"
            )
        vectors, seed = task.model.inputs(batch.inputs), draw_seed()
        torch.manual_seed(seed)
        reading = task.read(vectors, batch)
        loss, count = task.nats(reading, batch)
        given = task.log_probs(reading, batch).detach()

        def change(moved: Tensor) -> Tensor:
            torch.manual_seed(seed)
            found = task.log_probs(task.read(moved, batch), batch)
            if not found.requires_grad:
                raise ValueError(
                    "objective=virtual_adversarial needs probabilities with a gradient, which this "
                    "output layer does not give: set objective=adversarial"
                )
            nats = F.kl_div(found, given, reduction="none", log_target=True).sum(-1)
            return nats.masked_fill(~task.mask(batch), 0.0).sum()

        start = vectors.detach()
        direction = unit(torch.randn_like(start))
        for _ in range(self.iterations):
            step = movable(self.xi * direction)
            (slope,) = torch.autograd.grad(change(start + step), step)
            direction = unit(slope)
        return loss + self.weight * change(vectors + self.epsilon * direction), count


def unit(slopes: Tensor) -> Tensor:
    """Each row of (B, T, E) with a norm of 1; of zeros, zeros."""
    norms = slopes.flatten(1).norm(dim=1)[:, None, None]
    return slopes / norms.clamp(min=torch.finfo(slopes.dtype).tiny)


def movable(vectors: Tensor) -> Tensor:
    """Vectors by which a loss can be derived, those that nothing trains too."""
    return vectors if vectors.requires_grad else vectors.detach().requires_grad_()


def draw_seed() -> int:
    return int(torch.randint(2**31, ()))


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"objective: {name} is above 0, got {value}")
