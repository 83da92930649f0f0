"""One output a step: a class (tags) or real numbers (signals, forecasts)."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.batches import IGNORE, SequenceBatch
from data.codec import Codec
from data.spec import DataSpec
from models.pooling import valid_steps
from models.tagger import Tagger
from tasks import pictures
from tasks.base import SPLIT_OF
from tasks.labelling import Labelling, Objective
from tasks.predict_options import PredictOptions


class Tagging(Labelling):
    """Answers at every step, from that step and those before it (or both ways, where asked)."""

    name = "tagging"
    model: Tagger

    def __init__(
        self,
        *,
        spec: DataSpec,
        codec: Codec,
        model: Callable[..., Tagger],
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

    def read(self, vectors: Tensor, batch: SequenceBatch) -> Tensor:
        return self.model.read(vectors, batch.lengths)[0]

    def nats(self, reading: Tensor, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        return self.model.head.loss(reading, batch.targets, self.mask(batch))

    def log_probs(self, reading: Tensor, batch: SequenceBatch) -> Tensor:
        there = valid_steps(batch.lengths, reading.size(1))
        return self.model.head.answers(reading, there)[1]

    def mask(self, batch: SequenceBatch) -> Tensor:
        if not self.real:
            return batch.targets != IGNORE
        return valid_steps(batch.lengths, batch.inputs.size(1))

    def evaluate(self, batch: SequenceBatch, split: str) -> None:
        hidden, _ = self.model(batch.inputs, batch.lengths)
        mask = self.mask(batch)
        self.sums.add("loss", *self.model.head.loss(hidden, batch.targets, mask))
        answers = self.model.head.answers(hidden, valid_steps(batch.lengths, hidden.size(1)))
        given, right = self.count_answers(answers, batch.targets, mask)
        self.keep_answers(batch, given, split)
        for row, index in enumerate(batch.index.tolist()):
            if index in self.chosen:
                n = int(batch.lengths[row])
                self.answers.append((index, given[row, :n].tolist(), right[row, :n].tolist()))

    def readable(self, answer: Any) -> str:
        if self.spec.labels is not None:
            return " ".join(self.spec.labels[value] for value in answer if value != IGNORE)
        steps = [" ".join(f"{value:.2f}" for value in step) for step in answer[:12]]
        return ", ".join(steps) + (", …" if len(answer) > 12 else "")

    def draw(self, split: str, folder: Path) -> Iterator[Path]:
        yield from super().draw(split, folder)
        for place, (index, given, right) in enumerate(self.answers[:4]):
            path = folder / f"predictions_{place + 1}.png"
            if self.spec.labels is None:
                pictures.series(given, right, path)
            else:
                words = self.words(self.data.example(SPLIT_OF[split], index).input)
                names = [*self.spec.labels, ""]
                wanted = [names[-1 if tag == IGNORE else tag] for tag in right]
                pictures.tags(words[: len(given)], [names[tag] for tag in given], wanted, path)
            yield path

    def words(self, text: Any) -> list[str]:
        """The units of a raw text that get an answer each."""
        codec: Any = self.codec
        return list(codec.words(text))

    def predict(self, raw: Sequence[Any], options: PredictOptions) -> list[dict[str, Any]]:
        """{"tokens", "tags"} of a text, or {"values": a list a step} of a signal."""
        answers: list[dict[str, Any]] = []
        for start in range(0, len(raw), options.batch_size):
            some = raw[start : start + options.batch_size]
            batch: Any = self.codec.batch(some)
            lengths = batch.lengths.to(self.device)
            hidden, _ = self.model(batch.inputs.to(self.device), lengths)
            given, _ = self.model.head.answers(hidden, valid_steps(lengths, hidden.size(1)))
            sizes = lengths.tolist()
            if self.spec.labels is None:
                rows = self.codec.restore(given).tolist()
                answers += [{"values": row[:n]} for row, n in zip(rows, sizes, strict=True)]
                continue
            for text, row, n in zip(some, given.tolist(), sizes, strict=True):
                tags = [self.spec.labels[tag] for tag in row[:n]]
                answers.append({"tokens": self.words(text)[:n], "tags": tags})
        return answers
