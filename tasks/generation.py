"""What captioning and translation share: a memory is encoded, and text is decoded from it."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.codec import Codec
from data.spec import DataSpec
from models.decoder import DecoderOutput
from models.decoding import DecodingOptions, Hypotheses, Step, ensemble, search
from models.decoding.constraints import Constraint, Required
from models.decoding.penalties import coverage_penalty, covering, uncovered
from models.encoder_decoder import EncoderDecoder
from models.encoders.memory import Memory
from models.state import State
from tasks import exposure, pictures
from tasks.answers import answers, likelihoods
from tasks.base import SPLIT_OF, Table, Task
from tasks.decoding import configured, greedier
from tasks.forcing import Forcing
from tasks.metrics import gather
from tasks.objectives import Objective
from tasks.penalties import penalties
from tasks.predict_options import PredictOptions
from tasks.rates import with_rate
from tasks.rows import Row


class Generation(Task):
    """Trained on the right text so far, evaluated on the text that it decodes by itself.

    Validation decodes greedily (`val_beam_size`), the test with `beam_size`, both with the options
    of `decoding` (`models.decoding.DecodingOptions`). `teacher_forcing` is
    the share of steps that are trained on the right symbol rather than on the model's own: it
    falls from 1 to this value over training, as `teacher_forcing_decay` says (`tasks.forcing`).
    `objective` (`tasks.objectives`, `tasks.distillation`) is what is trained; None: cross-entropy.
    Beside cross-entropy stand `doubly_stochastic` and `coverage_loss`, the weights of two penalties
    (`tasks.penalties`). The encoder learns at `encoder_rate` times the learning rate.
    """

    members_share = ("inputs", "outputs")  # vocabularies of all in an ensemble
    model: EncoderDecoder

    def __init__(
        self,
        *,
        spec: DataSpec,
        codec: Codec,
        model: Callable[..., EncoderDecoder],
        beam_size: int,
        val_beam_size: int,
        length_penalty: float,
        max_new_tokens: int,
        teacher_forcing: float,
        decoding: Mapping[str, Any] | None = None,
        objective: Objective | None = None,
        doubly_stochastic: float = 0.0,
        encoder_rate: float = 1.0,
        teacher_forcing_decay: str = "linear",
        coverage_loss: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(spec=spec, codec=codec, **settings)
        self.check(spec)
        for name, value in [("beam_size", beam_size), ("val_beam_size", val_beam_size),
                            ("max_new_tokens", max_new_tokens)]:  # fmt: skip
            if value < 1:
                raise ValueError(f"task.{name} must be at least 1, got {value}")
        vocabulary = spec.output_vocabulary
        assert vocabulary is not None and vocabulary.bos_id is not None
        assert vocabulary.eos_id is not None
        self.pad_id, self.bos_id, self.eos_id = (
            vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id,
        )  # fmt: skip
        options = configured(decoding, beam_size=beam_size, length_penalty=length_penalty)
        self.searches = {"val": greedier(options, val_beam_size), "test": options}
        self.members: list[Generation] = []  # of an ensemble, beside this one
        self.max_new_tokens = max_new_tokens
        self.forcing = Forcing(final=teacher_forcing, decay=teacher_forcing_decay)
        self.check_objective(objective)
        self.objective: Objective = Generation.cross_entropy if objective is None else objective
        self.notes: dict[str, Tensor] = {}  # what the objective measured on the latest batch
        self.model = model(
            source_vocabulary_size=spec.input_vocabulary.size if spec.input_vocabulary else None,
            picture_shape=spec.picture_shape,
            target_vocabulary_size=vocabulary.size,
            pad_id=vocabulary.pad_id,
            bos_id=vocabulary.bos_id,
            eos_id=vocabulary.eos_id,
            unk_id=vocabulary.unk_id,
            shared_vocabulary=spec.shared_vocabulary,
            copies=_copies(codec),
        )
        if not encoder_rate > 0.0:
            raise ValueError(
                f"task.encoder_rate is a share above 0, got {encoder_rate}; to leave a backbone as "
                "it is set model.encoder.frozen=true"
            )
        if encoder_rate != 1.0:
            self.optimizer = with_rate(self.optimizer, self.model.encoder, encoder_rate)
        attends = self.model.decoder.attention is not None
        self.penalties = penalties(
            attends=attends, doubly_stochastic=doubly_stochastic, coverage_loss=coverage_loss
        )
        self.decoded: list[tuple[int, str]] = []  # of this rank: index, text
        self.pairs: list[tuple[int, str]] = []  # of all ranks, of the latest evaluation
        self.shown_pairs: list[tuple[int, str]] = []
        self.exposure = exposure.Exposure()
        self.exposed: list[Row] = []

    @abstractmethod
    def encode(self, batch: Any) -> Memory:
        """What the decoder may look at."""

    @abstractmethod
    def read(self, batch: Any) -> Memory:
        """`encode` of a batch that is predicted: nothing of it was kept before."""

    @abstractmethod
    def scores(self, hypotheses: list[str], references: list[list[str]]) -> dict[str, float]:
        """Corpus metrics of decoded texts."""

    def test_scores(self, hypotheses: list[str], references: list[list[str]]) -> dict[str, float]:
        """Those that are too slow for every validation."""
        return {}

    @abstractmethod
    def words(self, references: list[list[str]]) -> Callable[[str], list[str]]:
        """How these metrics take a text apart, where the references are such."""

    # Training

    def forced_share(self) -> float:
        """The share of right symbols at this point of training."""
        if self.forcing.final == 1.0:
            return 1.0  # whether there is a trainer or not
        trainer = self.trainer
        return self.forcing.share(trainer.global_step, trainer.estimated_stepping_batches)

    def loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.objective(self, batch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log_dict({f"train/{name}": value for name, value in self.notes.items()})
        return loss

    def cross_entropy(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Nats of the right symbols, with penalties, and how many symbols they are."""
        return self.nats(self.reading(batch), batch)

    def reading(self, batch: Any) -> tuple[DecoderOutput, Memory]:
        """What the decoder makes of a batch, given the right symbols so far."""
        forced = self.forced_share() if self.training else 1.0
        memory = self.encode(batch)
        return self.model(memory, batch.target[:, :-1], teacher_forcing=forced), memory

    def log_probs(self, reading: tuple[DecoderOutput, Memory], batch: Any) -> Tensor:
        """The log-probabilities (B, T, V) of what comes next after such a reading."""
        return self.model.log_probs(*reading)

    def nats(self, reading: tuple[DecoderOutput, Memory], batch: Any) -> tuple[Tensor, Tensor]:
        """`cross_entropy` after such a reading."""
        output, memory = reading
        mask = self.mask(batch)
        loss, count = self.model.loss(output, memory, batch.target[:, 1:], mask)
        for penalty in self.penalties:
            loss = loss + penalty(output, memory, mask)
        return loss, count

    def mask(self, batch: Any) -> Tensor:
        """(B, T) True where a symbol is to be predicted."""
        steps = torch.arange(1, batch.target.size(1), device=batch.target.device)
        return steps < batch.target_lengths[:, None]

    def count_tokens(self, batch: Any) -> Tensor:
        return batch.target_lengths.sum() - len(batch.target_lengths)

    # Evaluation: never with the right symbols, but for the loss

    def begin_evaluation(self, split: str) -> None:
        self.decoded = []
        self.exposure.reset()

    def evaluate(self, batch: Any, split: str) -> None:
        memory = self.encode(batch)
        output = self.model(memory, batch.target[:, :-1])
        mask, right = self.mask(batch), batch.target[:, 1:]
        self.sums.add("loss", *self.model.loss(output, memory, right, mask))
        said = self.model.log_probs(output, memory).argmax(-1)
        self.sums.add("token_accuracy", ((said == right) & mask).sum(), mask.sum())
        hypotheses = self.decode([memory], self.searches[split])
        written = hypotheses.tokens[:, 0]
        self.exposure.add(said, right, mask, written, ends=(self.eos_id, self.pad_id))
        texts = [self.text(row) for row in written]
        self.decoded += zip(batch.index.tolist(), texts, strict=True)

    def decode(
        self,
        memories: Sequence[Memory],
        options: DecodingOptions,
        *,
        max_length: int | None = None,
        seeds: Sequence[int] | None = None,
        constraints: Sequence[Constraint] = (),
        required: Required | None = None,
    ) -> Hypotheses:
        """Texts of each row, as `options` say; a memory of this model and of each member."""
        step, state, context = self.start(memories)
        penalty = None
        if options.coverage_penalty and options.method == "beam":
            if self.members or self.model.decoder.attention is None:
                raise ValueError(
                    f"coverage_penalty={options.coverage_penalty} needs one model with attention"
                )
            step = covering(self.model.step)
            state = (state, uncovered(memories[0].mask))
            penalty = coverage_penalty(options.coverage_penalty)
        own = self.longest(memories[0])
        rows = len(memories[0].summary)
        if seeds is None and options.method != "beam":
            seeds = range(rows)
        return search(
            step, state, context, options=options, bos_id=self.bos_id, eos_id=self.eos_id,
            max_length=own if max_length is None else max_length, seeds=seeds,
            constraints=constraints, required=required, penalty=penalty,
            forbidden=(self.pad_id, self.bos_id), pad_id=self.pad_id,
        )  # fmt: skip

    def start(self, memories: Sequence[Memory]) -> tuple[Step, State, Any]:
        """The step, state and context of this model, or of an ensemble with its members."""

        def of(model: EncoderDecoder) -> Step:
            def step(tokens: Tensor, state: State, context: Any) -> tuple[Tensor, State]:
                log_probs, _, following = model.step(tokens, state, context)
                return log_probs, following

            return step

        models = [task.model for task in (self, *self.members)]
        states = [model.initial_state(m) for model, m in zip(models, memories, strict=True)]
        if not self.members:
            return of(models[0]), states[0], memories[0]
        return ensemble([of(model) for model in models]), tuple(states), tuple(memories)

    def longest(self, memory: Memory) -> int | Tensor:
        """How many symbols a decoded text may have: one number, or one a row (B,)."""
        return self.max_new_tokens

    def text(self, tokens: Tensor) -> str:
        """Symbols (L,) → text."""
        assert self.codec.outputs is not None
        return self.codec.outputs.decode(tokens.tolist())

    def metrics(self, split: str) -> dict[str, float]:
        values = self.sums.results(self.trainer)
        self.exposed = self.exposure.rows(self.trainer)
        values |= exposure.summary(self.exposed)
        self.leave_rows("exposure", split, self.exposed)
        self.pairs = pairs = gather([(index, (index, text)) for index, text in self.decoded])
        examples = [self.data.example(SPLIT_OF[split], index) for index, _ in pairs]
        references = [self.comparable(example.references) for example in examples]
        self.shown_pairs = [(index, text) for index, text in pairs if index in self.chosen]
        texts = [text for _, text in pairs]
        values |= self.scores(texts, references)
        if split != "test":
            return values
        self.leave_predictions(
            {"index": index, "prediction": text, "references": several}
            for (index, text), several in zip(pairs, references, strict=True)
        )
        return values | self.test_scores(texts, references)

    def comparable(self, references: list[str]) -> list[str]:
        """References in the form in which the model could have written them."""
        assert self.codec.outputs is not None
        return [self.codec.outputs.comparable(reference) for reference in references]

    def draw(self, split: str, folder: Path) -> Iterator[Path]:
        if self.exposed:
            path = folder / "exposure.png"
            pictures.by_bucket(
                self.exposed,
                {"forced_accuracy": "teacher forcing: right symbol",
                 "free_aligned": "free running: aligned with the reference",
                 "free_accuracy": "free running: right symbol in its place"},
                path, xlabel="position in the reference", ylabel="share", counted="symbols",
            )  # fmt: skip
            yield path

    def table(self, split: str) -> Table:
        rows = []
        for index, text in self.shown_pairs:
            example = self.data.example(SPLIT_OF[split], index)
            source = example.input if isinstance(example.input, str) else f"picture {index}"
            rows.append([source, text, " | ".join(example.references)])
        return Table(["input", "prediction", "target"], rows)

    def attention(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Where the decoder looked when it wrote tokens (L,) from one memory → weights (L, S)."""
        start = torch.tensor([[self.bos_id]], device=tokens.device)
        output = self.model(memory, torch.cat([start, tokens[None, :-1]], dim=1))
        return output.attention[0].float().cpu()

    # Prediction

    def predict(self, raw: Sequence[Any], options: PredictOptions) -> list[dict[str, Any]]:
        """{"text", "score"} a row, and "n_best": a list of these where more are asked for.

        The score is the log-probability over length ** length_penalty; with `mbr`, the mean
        sentence score against the other samples. A row draws from the seed `options.seed` + its
        number.
        """
        found: list[dict[str, Any]] = []
        for start in range(0, len(raw), options.batch_size):
            some = raw[start : start + options.batch_size]
            seeds = range(options.seed + start, options.seed + start + len(some))
            found += answers(self, some, self.memories(some), options, seeds)
        return found

    def memories(self, raw: Sequence[Any]) -> list[Memory]:
        """What this model, and each member of its ensemble, makes of raw inputs."""
        batch: Any = self.codec.batch(raw)
        there = (p.to(self.device) if isinstance(p, Tensor) else p for p in batch)
        batch = type(batch)(*there)
        return [task.read(batch) for task in (self, *self.members)]

    def likelihoods(
        self, raw: Sequence[Any], targets: Sequence[str], batch_size: int
    ) -> list[dict[str, Any]]:
        """{"log_probability", "per_symbol", "symbols"} of a given text a row, its end counted."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(raw), batch_size):
            some = slice(start, start + batch_size)
            found += likelihoods(self, self.memories(raw[some]), targets[some])
        return found


def _copies(codec: Codec) -> list[int] | None:
    """For each symbol of the input the same one of the output, where both are texts."""
    if codec.inputs is None or codec.outputs is None:
        return None
    table, unknown = codec.outputs.table, codec.outputs.vocabulary.unk_id
    return [table.get(symbol, unknown or 0) for symbol in codec.inputs.symbols]
