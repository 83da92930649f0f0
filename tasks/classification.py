"""Many to one: what a whole sequence says, as a class or a real number."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from data.batches import IGNORE, SequenceBatch
from data.codec import Codec
from data.spec import DataSpec
from models.classifier import Classifier, ClassifierOutput
from tasks.labelling import Labelling, Objective
from tasks.predict_options import PredictOptions


class Classification(Labelling):
    """Reads a sequence and answers once, at its end."""

    name = "classification"
    members_share = (
        "labels",
    )  # each of an ensemble reads with its own vocabulary, and its own way
    model: Classifier

    def __init__(
        self,
        *,
        spec: DataSpec,
        codec: Codec,
        model: Callable[..., Classifier],
        monitor: str,
        mode: str,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., dict[str, Any]] | None,
        seed: int = 1,
        samples: int = 8,
        layer_decay: float = 1.0,
        vectors: str | None = None,
        class_weights: str | Sequence[float] | None = None,
        objective: Objective | None = None,
    ) -> None:
        super().__init__(
            spec=spec, codec=codec, model=model, monitor=monitor, mode=mode, optimizer=optimizer,
            scheduler=scheduler, seed=seed, samples=samples, layer_decay=layer_decay,
            vectors=vectors, class_weights=class_weights, objective=objective,
        )  # fmt: skip
        self.members: list[Classification] = []  # of an ensemble, beside this one

    def read(self, vectors: Tensor, batch: SequenceBatch) -> ClassifierOutput:
        return self.model.read(vectors, batch.lengths)

    def nats(self, reading: ClassifierOutput, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        loss, count = self.model.head.loss(reading.hidden, batch.targets, self.mask(batch))
        return loss + self.model.pooling.penalty(reading.attention), count

    def log_probs(self, reading: ClassifierOutput, batch: SequenceBatch) -> Tensor:
        return self.model.head.log_probs(reading.hidden)

    def mask(self, batch: SequenceBatch) -> Tensor:
        if self.real:
            return torch.ones_like(batch.lengths, dtype=torch.bool)
        return batch.targets != IGNORE

    def evaluate(self, batch: SequenceBatch, split: str) -> None:
        hidden = self.model(batch.inputs, batch.lengths).hidden
        mask = self.mask(batch)
        self.sums.add("loss", *self.model.head.loss(hidden, batch.targets, mask))
        given, right = self.count_answers(self.model.head.answers(hidden), batch.targets, mask)
        self.keep_answers(batch, given, split)
        for row, index in enumerate(batch.index.tolist()):
            if index in self.chosen:
                self.answers.append((index, given[row].tolist(), right[row].tolist()))

    def readable(self, answer: Any) -> str:
        if self.spec.labels is not None:
            return self.spec.labels[answer]
        return ", ".join(f"{value:.4g}" for value in answer)

    def predict(self, raw: Sequence[Any], options: PredictOptions) -> list[dict[str, Any]]:
        """{"label", "scores": {label: probability}}, or {"value"} for a real-valued answer.

        Of an ensemble the mean of its probabilities or values.
        """
        answers: list[dict[str, Any]] = []
        for start in range(0, len(raw), options.batch_size):
            some = raw[start : start + options.batch_size]
            found = torch.stack([one.answered(some) for one in (self, *self.members)]).mean(0)
            if self.real:
                answers += [{"value": v[0] if len(v) == 1 else v} for v in found.tolist()]
            else:
                answers += [self._scored(row) for row in found]
        return answers

    def answered(self, raw: Sequence[Any]) -> Tensor:
        """Probabilities of the classes (B, C), or real values (B, K), of raw inputs."""
        batch: Any = self.codec.batch(raw)
        inputs, lengths = batch.inputs.to(self.device), batch.lengths.to(self.device)
        outputs = self.model.head(self.model(inputs, lengths).hidden).float()
        return self.codec.restore(outputs) if self.real else outputs.softmax(-1)

    def _scored(self, probabilities: Tensor) -> dict[str, Any]:
        assert self.spec.labels is not None
        values, order = probabilities.sort(descending=True)
        names = [self.spec.labels[i] for i in order.tolist()]
        scores = dict(zip(names, (round(v, 6) for v in values.tolist()), strict=True))
        return {"label": names[0], "scores": scores}
