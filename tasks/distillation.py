"""Training on what a trained model answers, beside what is right."""

from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.base import Task
from tasks.checkpoint import check_vocabularies


class Learner(Protocol):
    """What a task has that can teach or be taught: a batch is read once, and then asked."""

    def reading(self, batch: Any) -> Any: ...

    def nats(self, reading: Any, batch: Any) -> tuple[Tensor, Tensor]: ...

    def log_probs(self, reading: Any, batch: Any) -> Tensor: ...

    def mask(self, batch: Any) -> Tensor: ...


class Distillation:
    """(1 − w) · the loss + w · T² · KL(teacher ‖ student), both softened by the temperature T.

    Hinton et al. 2015, arXiv 1503.02531; at each symbol of a text given the right ones before it:
    Kim and Rush 2016, arXiv 1606.07947 (word level). T² keeps the gradient's size as T grows. The
    teacher, a run's directory or a checkpoint of the same task with any cell and size, is opened
    for training (`learn_from`), belongs to no model, and so is neither trained nor saved. It drops
    nothing; along a text it carries a state of its own.
    """

    tasks: ClassVar = ("classification", "tagging", "language_model", "translation", "captioning")
    reads_pictures: ClassVar = (
        True  # with an encoder of its own, so that no features stand for them
    )

    def __init__(
        self, *, teacher: str | None, temperature: float = 2.0, weight: float = 0.5
    ) -> None:
        if not temperature > 0.0 or not 0.0 <= weight <= 1.0:
            raise ValueError(
                "objective: temperature is above 0 and weight 0 to 1, got "
                f"{temperature} and {weight}"
            )
        self.teacher, self.temperature, self.weight = teacher, temperature, weight
        self.opened: Any = None  # the teacher's task

    def place(self) -> str:
        """Where the teacher is. ValueError where nothing says so."""
        if self.teacher is None:
            raise ValueError(
                "objective=distillation learns from a trained run: set task.objective.teacher=RUN"
            )
        return self.teacher

    def learn_from(self, teacher: Task, task: Task) -> None:
        """Take a task with its trained weights as the teacher of another.

        ValueError where their answers cannot be compared.
        """
        where = f"task.objective.teacher={self.teacher}"
        if teacher.name != task.name:
            raise ValueError(f"{where} is of task={teacher.name}, this run of task={task.name}")
        if task.spec.labels is None and task.spec.output_vocabulary is None:
            raise ValueError(
                "objective=distillation compares the probabilities of classes or symbols, which "
                "this data does not have: leave it out"
            )
        mend = "train both on the same data with the same tokenizer"
        check_vocabularies(task.codec, teacher.codec, where, mend=mend)
        self.opened = teacher.eval().requires_grad_(False)

    def __call__(self, task: Any, batch: Any) -> tuple[Tensor, Tensor]:
        reading = task.reading(batch)
        loss, count = task.nats(reading, batch)
        mask = task.mask(batch)
        own, given = task.log_probs(reading, batch), self.taught(task, batch)
        if not own.requires_grad:
            raise ValueError(
                "objective=distillation needs probabilities with a gradient, which this output "
                "layer does not give: it can teach, but not be taught"
            )
        nats = divergence(given, own, self.temperature).masked_fill(~mask, 0.0).sum()
        # weighed classes count otherwise than by one each
        nats = nats * (count / mask.sum().clamp(min=1))
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * nats, count

    @torch.no_grad()
    def taught(self, task: Any, batch: Any) -> Tensor:
        """The teacher's log-probabilities (..., V) on a batch."""
        teacher = self.opened
        if teacher is None:
            raise ValueError(f"objective: the teacher {self.teacher} was not opened")
        if teacher.device != task.device:
            teacher.to(task.device)
        found: Tensor = teacher.log_probs(teacher.reading(batch), batch)
        return found


def divergence(given: Tensor, found: Tensor, temperature: float) -> Tensor:
    """KL(given ‖ found) in nats of log-probabilities (..., V), softened → (...)."""
    given, found = (F.log_softmax(logs / temperature, dim=-1) for logs in (given, found))
    return F.kl_div(found, given, reduction="none", log_target=True).sum(-1)
