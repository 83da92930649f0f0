"""What classification and tagging share: a sequence in, classes or real numbers out."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from data.batches import IGNORE, SequenceBatch
from data.codec import Codec
from data.spec import DataSpec
from models.classifier import Classifier
from models.tagger import Tagger
from tasks import pictures
from tasks.base import SPLIT_OF, Table, Task
from tasks.calibration import Calibration, calibration_error, reliability
from tasks.class_table import class_table, write_classes
from tasks.class_weights import class_weights as weights_of_classes
from tasks.loggers import log_table
from tasks.metrics import Confusion, accuracy, gather, macro_f1
from tasks.vectors import read_vectors

Objective = Callable[["Labelling", SequenceBatch], tuple[Tensor, Tensor]]


class Labelling(Task):
    """`accuracy`, macro `f1` and calibration error `ece` of classes; `mse` and `mae` of numbers.

    Errors of numbers are in their own units. A test of classes leaves `classes.csv`, a row a class.
    """

    def __init__(
        self,
        *,
        spec: DataSpec,
        codec: Codec,
        model: Callable[..., Classifier] | Callable[..., Tagger],
        vectors: str | None,
        class_weights: str | Sequence[float] | None,
        objective: Objective | None,
        **settings: Any,
    ) -> None:
        """`vectors`: a text file of word vectors (GloVe or word2vec, also .gz) to begin with.

        `class_weights`: how much each class counts in training (`tasks.class_weights`).
        `objective`: what is trained (`tasks.adversarial`, `tasks.distillation`); None: the
        likelihood.
        """
        super().__init__(spec=spec, codec=codec, **settings)
        self.check(spec)
        vocabulary = spec.input_vocabulary
        self.vectors = vectors
        self.check_objective(objective)
        self.objective: Objective = Labelling.likelihood if objective is None else objective
        self.model = model(
            vocabulary_size=vocabulary.size if vocabulary else None,
            input_features=spec.input_features,
            num_outputs=spec.num_outputs,
            real=self.real,
            class_weights=weights_of_classes(class_weights, spec),
            pad_id=vocabulary.pad_id if vocabulary else 0,
            unk_id=vocabulary.unk_id if vocabulary else None,
        )
        self.confusion = Confusion(num_classes=spec.num_outputs)
        self.calibration = Calibration()
        self.matrix = torch.zeros(0, 0)  # of the latest evaluation
        self.reliability = torch.zeros(3, 0)  # the same
        self.classes = Table([], [])  # of a test
        self.every_answer: list[tuple[int, tuple[int, Any, Any]]] = []  # of a test, this rank's
        self.answers: list[tuple[int, Any, Any]] = []  # index, given, right: a few

    @property
    def real(self) -> bool:
        """Whether answers are real numbers."""
        return self.spec.labels is None

    @classmethod
    def check(cls, spec: DataSpec) -> None:
        reads = spec.input_vocabulary is not None or spec.input_features is not None
        if not reads or spec.output_vocabulary is not None or spec.keys is not None:
            raise ValueError(
                f"task={cls.name} needs sequences with labels (classes or numbers), which this "
                "data does not have"
            )
        other = "tagging" if spec.per_step else "classification"
        if cls.name != other:
            amount = "an answer a step" if spec.per_step else "one answer a sequence"
            raise ValueError(f"task={cls.name}: this data has {amount}; use task={other}")

    @classmethod
    def monitor_for(cls, spec: DataSpec) -> tuple[str, str]:
        return ("val/mse", "min") if spec.labels is None else ("val/accuracy", "max")

    # Training

    def loss(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        return self.objective(self, batch)

    def likelihood(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """The loss of the right answers, and how many they are."""
        return self.nats(self.reading(batch), batch)

    def reading(self, batch: SequenceBatch) -> Any:
        """What the model makes of a batch."""
        return self.read(self.model.inputs(batch.inputs), batch)

    @abstractmethod
    def read(self, vectors: Tensor, batch: SequenceBatch) -> Any:
        """What the model makes of a batch whose symbols have these vectors (B, T, E)."""

    @abstractmethod
    def nats(self, reading: Any, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """The loss of the right answers after such a reading, and how many they are."""

    @abstractmethod
    def log_probs(self, reading: Any, batch: SequenceBatch) -> Tensor:
        """The classes' log-probabilities (..., V) after such a reading."""

    @abstractmethod
    def mask(self, batch: SequenceBatch) -> Tensor:
        """(B,), or (B, T) of steps: True where an answer is known."""

    def initialise(self) -> None:
        if self.vectors is not None:
            found = read_vectors(self.vectors, self.codec.inputs, self.model.inputs)
            rank_zero_only(print)(f"vectors for {found:.1%} of the vocabulary from {self.vectors}")

    def keep_answers(self, batch: SequenceBatch, given: Tensor, split: str) -> None:
        """Remember the classes of each test example, for `predictions/test.jsonl`."""
        if self.real or split != "test":
            return
        rows = zip(batch.index.tolist(), given.tolist(), batch.targets.tolist(), strict=True)
        self.every_answer += [(index, (index, one, right)) for index, one, right in rows]

    def _leave_answers(self) -> None:
        labels = self.spec.labels
        assert labels is not None
        rows = []
        for index, given, right in gather(self.every_answer):
            if self.spec.per_step:
                kept = [(g, r) for g, r in zip(given, right, strict=True) if r != IGNORE]
            else:
                kept = [(given, right)] if right != IGNORE else []
            row = {
                "index": index,
                "prediction": [labels[g] for g, _ in kept],
                "target": [labels[r] for _, r in kept],
            }
            rows.append(row)
        self.leave_predictions(rows)

    def begin_evaluation(self, split: str) -> None:
        self.confusion.reset()
        self.calibration.reset()
        self.every_answer = []
        self.answers = []

    def count_answers(
        self, answers: tuple[Tensor, Tensor], targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add a head's answers, targets and their mask (...) to the metrics → given, right."""
        given, scores = answers
        if not self.real:
            self.confusion.add(given, targets)
            self.calibration.add(scores, targets)
            return given, targets
        given, right = self.codec.restore(given), self.codec.restore(targets.float())
        errors = (given - right).masked_fill(~mask[..., None], 0.0)
        count = mask.sum() * given.size(-1)
        self.sums.add("mse", errors.square().sum(), count)
        self.sums.add("mae", errors.abs().sum(), count)
        return given, right

    def metrics(self, split: str) -> dict[str, float]:
        values = self.sums.results(self.trainer)
        self.answers = gather([(answer[0], answer) for answer in self.answers])
        if self.real:
            return values
        self.matrix = self.confusion.result(self.trainer)
        self.reliability = self.calibration.result(self.trainer)
        values |= {"accuracy": accuracy(self.matrix), "f1": macro_f1(self.matrix)}
        values["ece"] = calibration_error(self.reliability)
        if split == "test":
            self._leave_answers()
            self._leave_classes()
        return values

    def _leave_classes(self) -> None:
        labels = self.spec.labels
        assert labels is not None
        self.classes = class_table(self.matrix, labels)
        if self.trainer.is_global_zero:
            write_classes(self.classes, Path(self.trainer.default_root_dir) / "classes.csv")
            step = self.trainer.global_step
            log_table(self.trainer.loggers, "test/classes", *self.classes, step=step)

    def table(self, split: str) -> Table:
        rows = []
        for index, given, right in self.answers:
            example = self.data.example(SPLIT_OF[split], index)
            text = example.input if isinstance(example.input, str) else f"example {index}"
            rows.append([text, self.readable(given), self.readable(right)])
        return Table(["input", "prediction", "target"], rows)

    def readable(self, answer: Any) -> str:
        """One example's answer, as a person reads it."""
        raise NotImplementedError

    def draw(self, split: str, folder: Path) -> Iterator[Path]:
        if self.spec.labels is not None and len(self.spec.labels) <= 50:
            path = folder / "confusion.png"
            pictures.confusion(self.matrix, list(self.spec.labels), path)
            yield path
        if self.spec.labels is not None:
            path = folder / "reliability.png"
            reliability(self.reliability, path)
            yield path

    def count_tokens(self, batch: SequenceBatch) -> Tensor:
        return batch.lengths.sum()
