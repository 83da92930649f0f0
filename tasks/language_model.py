"""Many to many, shifted by one: papers, programs and music, a symbol or a frame at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches import StreamBatch
from data.codec import Codec
from data.midi import write_midi
from data.piano_roll import transposed
from data.spec import DataSpec
from models.activation import penalties
from models.language_model import LanguageModel as Model
from models.state import State, detach
from tasks import adaptive, audit_report, drift, passes, pictures, streams
from tasks.base import SPLIT_OF, Table, Task
from tasks.decoding import check_drawing
from tasks.loggers import log_table
from tasks.metrics import bits_per, bits_per_character, perplexity
from tasks.playing import chord, play
from tasks.predict_options import PredictOptions
from tasks.rows import Row
from tasks.writing import write

Objective = Callable[["LanguageModel", StreamBatch], tuple[Tensor, Tensor]]


class LanguageModel(Task):
    """`perplexity` and `bits_per_character` of text, `nll_per_frame` (nats) of music.

    The state is carried from batch to batch along each stream, and gradients stop between them
    (truncated back-propagation). It belongs to the task, apart for training and evaluation.
    """

    name = "language_model"
    starts_from_nothing = True
    model: Model

    def __init__(
        self,
        *,
        spec: DataSpec,
        codec: Codec,
        model: Callable[..., Model],
        monitor: str,
        mode: str,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., dict[str, Any]] | None,
        seed: int = 1,
        samples: int = 2,
        layer_decay: float = 1.0,
        sample_length: int = 400,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        transpose: int = 0,
        state_reset: float = 0.0,
        activation_regularisation: float = 0.0,
        temporal_activation_regularisation: float = 0.0,
        evaluation: Mapping[str, Any] | None = None,
        objective: Objective | None = None,
    ) -> None:
        """`samples` texts of `sample_length` symbols (or frames) are written after validation.

        `transpose`: in training a piece of music is moved up or down by as many semitones at most.
        `state_reset`: the probability that a stream goes on from the initial state in a step of
        training. The two regularisations weigh penalties on a token's loss (`models.activation`).
        `evaluation`: what the test of a text measures beside its plain numbers (`Evaluation`).
        `objective`: what is trained (`tasks.distillation`); None: the likelihood.
        """
        super().__init__(
            spec=spec, codec=codec, monitor=monitor, mode=mode, optimizer=optimizer,
            scheduler=scheduler, seed=seed, samples=samples, layer_decay=layer_decay,
        )  # fmt: skip
        self.check(spec)
        vocabulary = spec.input_vocabulary
        if transpose < 0 or (transpose and spec.keys is None):
            raise ValueError(
                f"task.transpose is a number of semitones for music, 0 for text; got {transpose}"
            )
        most = 0.0 if spec.keys is not None else 1.0
        if not 0.0 <= state_reset <= most:
            raise ValueError(
                "task.state_reset is a probability for text, 0 for music, whose pieces all start "
                f"from the initial state; got {state_reset}"
            )
        if sample_length < 1:
            raise ValueError(f"task.sample_length must be at least 1, got {sample_length}")
        check_drawing(temperature=temperature, top_k=top_k, top_p=top_p)
        self.transpose, self.state_reset = transpose, state_reset
        self.check_objective(objective)
        self.objective: Objective = LanguageModel.likelihood if objective is None else objective
        self.penalties = penalties(
            activation=activation_regularisation, temporal=temporal_activation_regularisation
        )
        self.evaluation = adaptive.Evaluation.of(evaluation)
        if self.plays and self.evaluation.beside:
            raise ValueError(
                f"task.evaluation.{self.evaluation.beside[0]}=true is for text; this data is music"
            )
        self.positions: Tensor | None = None  # the loss by place in a window, of the latest test
        self.audited: dict[str, Any] | None = None  # what was measured of its writing
        self.sample_length = sample_length
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.model = model(
            vocabulary_size=vocabulary.size if vocabulary else None,
            keys=spec.keys,
            pad_id=vocabulary.pad_id if vocabulary else 0,
            unk_id=vocabulary.unk_id if vocabulary else None,
        )
        self.carried: dict[str, State] = {}
        self.saved: list[Tensor] | None = None  # of a checkpoint, until training goes on
        self.drifted: list[Row] = []

    @property
    def plays(self) -> bool:
        """Whether it writes music rather than text."""
        return self.spec.keys is not None

    @property
    def never(self) -> tuple[int, ...]:
        """Symbols that are not written: they stand for no text."""
        own = self.spec.input_vocabulary
        ids = () if own is None else (own.pad_id, own.bos_id, own.unk_id)
        return tuple(i for i in ids if i is not None)

    @classmethod
    def check(cls, spec: DataSpec) -> None:
        text = spec.input_vocabulary is not None and spec.output_vocabulary is not None
        if spec.keys is None and not (text and spec.shared_vocabulary):
            raise ValueError(
                f"task={cls.name} needs running text or music, which this data does not have"
            )

    @classmethod
    def monitor_for(cls, spec: DataSpec) -> tuple[str, str]:
        # bits a character compare models of words, of characters and of BPE
        return ("val/bits_per_character" if spec.keys is None else "val/nll_per_frame"), "min"

    # Carried state

    def run(self, batch: StreamBatch, split: str) -> tuple[Tensor, Tensor]:
        """A batch that goes on where the split's last one stopped → what the last layer gives
        (B, T, D), and what the head reads of it."""
        before = adaptive.carry_on(self.model, batch, self.carried.get(split))
        outputs, after = self.model.read(batch.inputs, before)
        self.carried[split] = detach(after)
        return outputs, self.model.drop(outputs)

    def loss(self, batch: StreamBatch) -> tuple[Tensor, Tensor]:
        if self.training and self.transpose:
            batch = transposed(batch, self.transpose)
        if self.training and self.state_reset:
            batch = streams.reset(batch, self.state_reset)
        return self.objective(self, batch)

    def likelihood(self, batch: StreamBatch) -> tuple[Tensor, Tensor]:
        """The nats of what comes next, with penalties, and how many symbols or frames they are."""
        return self.nats(self.reading(batch), batch)

    def reading(self, batch: StreamBatch) -> tuple[Tensor, Tensor]:
        """`run` in training."""
        return self.run(batch, "train")

    def log_probs(self, reading: tuple[Tensor, Tensor], batch: StreamBatch) -> Tensor:
        """The log-probabilities (B, T, V) of what comes next after such a reading."""
        return self.model.head.log_probs(reading[1])

    def mask(self, batch: StreamBatch) -> Tensor:
        """(B, T) True where what comes next counts."""
        return batch.mask

    def nats(self, reading: tuple[Tensor, Tensor], batch: StreamBatch) -> tuple[Tensor, Tensor]:
        """`likelihood` after such a reading."""
        outputs, hidden = reading
        loss, count = self.model.head.loss(hidden, batch.targets, batch.mask)
        for penalty in self.penalties:
            loss = loss + count * penalty(outputs, hidden, batch.mask)
        return loss, count

    def readers(self) -> "list[LanguageModel]":
        """Those that carry a state along the streams of training: this one, and a teacher."""
        teacher = getattr(self.objective, "opened", None)
        return [self] if teacher is None else [self, teacher]

    def on_train_epoch_start(self) -> None:
        self.carried.pop("train", None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._trainer is not None and "train" in self.carried:
            state = tuple(one.carried["train"] for one in self.readers())
            checkpoint["carried"] = streams.gathered(state, self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.saved = checkpoint.get("carried")

    def on_train_start(self) -> None:
        super().on_train_start()
        saved, self.saved = self.saved, None
        if saved is not None:
            readers = self.readers()

            def initial(rows: int) -> State:
                return tuple(one.model.initial_state(rows) for one in readers)

            shares = streams.share(saved, initial, self.trainer, self.device)
            if shares is not None:
                for one, own in zip(readers, shares, strict=True):
                    one.carried["train"] = own

    def begin_evaluation(self, split: str) -> None:
        self.carried.pop(split, None)

    # Evaluation

    def evaluate(self, batch: StreamBatch, split: str) -> None:
        _, hidden = self.run(batch, split)
        loss, count = self.model.head.loss(hidden, batch.targets, batch.mask)
        self.sums.add("loss", loss, count)
        self.sums.add("characters", (batch.characters * batch.mask).sum(), 1)

    def metrics(self, split: str) -> dict[str, float]:
        totals = self.sums.totals(self.trainer)
        loss, count = totals["loss"]
        if split == "test" and self.evaluation.audit:
            self._leave_audit()
        self.drifted = drift.drift(
            self.model, self.real_text(split).to(self.device), keys=self.plays, seed=self.seed
        )
        self.leave_rows("drift", split, self.drifted)
        drifted = drift.summary(self.drifted)
        if self.plays:
            return {"loss": loss / count, "nll_per_frame": loss / count, **drifted}
        characters = totals["characters"][0]
        found = {**drifted, "loss": loss / count, **self.per_unit(split, loss, count, characters)}
        if split == "test":
            found |= passes.beside(self, count, characters)
        return found

    def per_unit(
        self, split: str, nats: float, tokens: float, characters: float
    ) -> dict[str, float]:
        """The nats of a text over its tokens, characters, and words and bytes where all is read."""
        name = SPLIT_OF[split]
        report = self.data.report()
        whole = tokens == len(self.data.splits[name])  # an evaluation may be cut short
        counts = {unit: report.get(f"{unit}s_{name}", 0) for unit in ("word", "byte")}
        return {
            "perplexity": perplexity(nats, tokens),
            "bits_per_character": bits_per_character(nats, characters),
            **bits_per(nats, counts if whole else {}),
        }

    def batches(self, split: str) -> Iterator[StreamBatch]:
        """A split read in order once more, as far as the test reads."""
        loader: Iterable[StreamBatch] = self.data.loader(split)
        most = self.trainer.num_test_batches[0] if split == "test" else float("inf")
        for batch in islice(loader, None if most == float("inf") else int(most)):
            yield self.trainer.strategy.batch_to_device(batch, self.device)

    def setup(self, stage: str) -> None:
        if self.evaluation.audit:
            audit_report.check(self)
        if self.evaluation.dynamic and self.trainer.precision == "16-mixed":
            raise ValueError(
                "task.evaluation.dynamic=true with precision=fp16: its small gradients are lost in "
                "half precision; take precision=bf16 or fp32"
            )
        ranks = self.trainer.world_size
        if self.evaluation.dynamic and ranks > 1:
            raise ValueError(
                f"task.evaluation.dynamic=true on {ranks} ranks: each would follow another part of "
                "the text with weights of its own; test on one, trainer.devices=1"
            )

    def documents(self, split: str) -> list[np.ndarray]:
        """A split of the data: one text of symbols (T,), or the keys (T, K) of each piece."""
        part = self.data.splits[split]
        if not self.plays:
            return [part.flat("ids")]
        rolls = part.ragged("roll")
        return [rolls[i] for i in range(len(rolls))]

    def real_text(self, split: str) -> Tensor:
        """Held-out symbols (R, T), or keys (R, T, K), to go on from and to compare with."""
        documents, most = self.documents(SPLIT_OF[split]), self.sample_length
        return drift.openings(documents, most) if self.plays else drift.windows(documents[0], most)

    def _leave_audit(self) -> None:
        """Measure what is written, on one rank: nothing of it is summed over the others."""
        if self.trainer.is_global_zero:
            self.audited = audit_report.audit(self)
            audit_report.leave(self.audited, Path(self.trainer.default_root_dir))
            rows = audit_report.table(self.audited)
            log_table(self.trainer.loggers, "test/audit", *rows, step=self.trainer.global_step)

    def count_tokens(self, batch: StreamBatch) -> Tensor:
        return batch.mask.sum()

    def table(self, split: str) -> Table:
        options = PredictOptions(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed,
            max_length=self.sample_length,
        )  # fmt: skip
        if self.plays:
            # the opening of a piece that it did not train on, and what the model makes of it
            name = SPLIT_OF[split]
            count = min(self.samples, len(self.data.splits[name].ragged("roll")))
            pieces = [self.data.example(name, i).input for i in range(count)]
            openings: list[Any] = [piece[:8] for piece in pieces]
            self.pieces = [answer["frames"] for answer in self.predict(openings, options)]
            rows: list[list[Any]] = [[" ".join(map(chord, frames[:24]))] for frames in self.pieces]
            return Table(["music"], rows)
        return Table(["text"], [[a["text"]] for a in self.predict([""] * self.samples, options)])

    def draw(self, split: str, folder: Path) -> Iterator[Path]:
        if self.drifted:
            path, what = folder / "drift.png", "frames" if self.plays else "symbols"
            pictures.by_bucket(
                self.drifted,
                {"forced_entropy": "entropy, real text", "forced_nll": "−log p, real text",
                 "free_entropy": "entropy, own text", "free_nll": "−log p, own text"},
                path, xlabel=f"{what} after the context", ylabel="nats", counted=what, bottom=None,
            )  # fmt: skip
            yield path
        if self.positions is not None:
            nats, anew, tokens = self.positions[:, self.positions[2] > 0]
            path = folder / "loss_by_position.png"
            pictures.loss_by_position(nats / tokens, anew / tokens, path)
            yield path
        if not self.plays:
            return
        for place, frames in enumerate(self.pieces):
            write_midi(frames, folder.parent / "samples" / f"music_{place + 1}.mid")
            path = folder / f"piano_roll_{place + 1}.png"
            pictures.piano_roll(frames, path)
            yield path

    # Prediction

    @torch.no_grad()
    def predict(self, raw: Sequence[Any], options: PredictOptions) -> list[dict[str, Any]]:
        """Prompts → {"text"} with the prompt in front; or lists of frames → {"frames"}."""
        was_training = self.training
        self.eval()
        try:
            return (play if self.plays else write)(self, raw, options)
        finally:
            self.train(was_training)
