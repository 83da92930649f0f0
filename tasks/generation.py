"""What captioning and translation share: a memory is encoded, and text is decoded from it."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from data.codec import Codec
from data.spec import DataSpec
from models.decoding import Hypotheses, beam_search
from models.encoder_decoder import EncoderDecoder
from models.encoders.memory import Memory
from models.state import State
from tasks.base import SPLIT_OF, PredictOptions, Table, Task
from tasks.metrics import gather


class Generation(Task):
    """Trained on the right text so far, evaluated on the text that it decodes by itself.

    Validation decodes greedily (`val_beam_size`), the test with `beam_size`. `teacher_forcing` is
    the share of steps that are trained on the right symbol rather than on the model's own: it
    falls linearly from 1 to this value over training (Bengio et al. 2015, arXiv 1506.03099).
    """

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
        **settings: Any,
    ) -> None:
        super().__init__(spec=spec, codec=codec, **settings)
        self.check(spec)
        for name, value in [("beam_size", beam_size), ("val_beam_size", val_beam_size),
                            ("max_new_tokens", max_new_tokens)]:  # fmt: skip
            if value < 1:
                raise ValueError(f"task.{name} must be at least 1, got {value}")
        if not 0.0 <= teacher_forcing <= 1.0:
            raise ValueError(f"task.teacher_forcing is a share of 0 to 1, got {teacher_forcing}")
        vocabulary = spec.output_vocabulary
        assert vocabulary is not None and vocabulary.bos_id is not None
        assert vocabulary.eos_id is not None
        self.pad_id, self.bos_id, self.eos_id = (
            vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id,
        )  # fmt: skip
        self.beam_sizes = {"val": val_beam_size, "test": beam_size}
        self.length_penalty = length_penalty
        self.max_new_tokens = max_new_tokens
        self.teacher_forcing = teacher_forcing
        self.model = model(
            source_vocabulary_size=spec.input_vocabulary.size if spec.input_vocabulary else None,
            picture_shape=spec.picture_shape,
            target_vocabulary_size=vocabulary.size,
            pad_id=vocabulary.pad_id,
            bos_id=vocabulary.bos_id,
            shared_vocabulary=spec.shared_vocabulary,
        )
        self.decoded: list[tuple[int, str]] = []  # of this rank: index, text
        self.shown_pairs: list[tuple[int, str]] = []

    @abstractmethod
    def encode(self, batch: Any) -> Memory:
        """What the decoder may look at."""

    @abstractmethod
    def scores(self, hypotheses: list[str], references: list[list[str]]) -> dict[str, float]:
        """Corpus metrics of decoded texts."""

    def test_scores(self, hypotheses: list[str], references: list[list[str]]) -> dict[str, float]:
        """Those that are too slow for every validation."""
        return {}

    # Training

    def forced_share(self) -> float:
        """The share of right symbols at this point of training."""
        if self.teacher_forcing == 1.0:
            return 1.0
        done = self.trainer.global_step / max(1.0, float(self.trainer.estimated_stepping_batches))
        return 1.0 - (1.0 - self.teacher_forcing) * min(1.0, done)

    def loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        forced = self.forced_share() if self.training else 1.0
        memory = self.encode(batch)
        output = self.model(memory, batch.target[:, :-1], teacher_forcing=forced)
        return self.model.head.loss(output.hidden, batch.target[:, 1:], self._mask(batch))

    def _mask(self, batch: Any) -> Tensor:
        """(B, T) True where a symbol is to be predicted."""
        steps = torch.arange(1, batch.target.size(1), device=batch.target.device)
        return steps < batch.target_lengths[:, None]

    def count_tokens(self, batch: Any) -> Tensor:
        return batch.target_lengths.sum() - len(batch.target_lengths)

    # Evaluation: never with the right symbols, but for the loss

    def begin_evaluation(self, split: str) -> None:
        self.decoded = []

    def evaluate(self, batch: Any, split: str) -> None:
        memory = self.encode(batch)
        output = self.model(memory, batch.target[:, :-1])
        mask, right = self._mask(batch), batch.target[:, 1:]
        self.sums.add("loss", *self.model.head.loss(output.hidden, right, mask))
        said = self.model.head.log_probs(output.hidden).argmax(-1)
        self.sums.add("token_accuracy", ((said == right) & mask).sum(), mask.sum())
        hypotheses = self.decode(memory, beam_size=self.beam_sizes[split])
        texts = [self.text(row) for row in hypotheses.tokens[:, 0]]
        self.decoded += zip(batch.index.tolist(), texts, strict=True)

    def decode(
        self,
        memory: Memory,
        *,
        beam_size: int,
        length_penalty: float | None = None,
        max_length: int | None = None,
        n_best: int = 1,
    ) -> Hypotheses:
        """The best texts of each memory, found by beam search (greedy where beam_size is 1)."""

        def step(tokens: Tensor, state: State, context: Any) -> tuple[Tensor, State]:
            log_probs, _, following = self.model.step(tokens, state, context)
            return log_probs, following

        return beam_search(
            step,
            self.model.initial_state(memory),
            memory,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            beam_size=beam_size,
            max_length=max_length or self.longest(memory),
            length_penalty=self.length_penalty if length_penalty is None else length_penalty,
            n_best=n_best,
            forbidden=(self.pad_id, self.bos_id),
        )

    def longest(self, memory: Memory) -> int:
        """How many symbols a decoded text may have."""
        return self.max_new_tokens

    def text(self, tokens: Tensor) -> str:
        """Symbols (L,) → text."""
        assert self.codec.outputs is not None
        return self.codec.outputs.decode(tokens.tolist())

    def metrics(self, split: str) -> dict[str, float]:
        values = self.sums.results(self.trainer)
        pairs = gather([(index, (index, text)) for index, text in self.decoded])
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

    def answers(self, memory: Memory, options: PredictOptions) -> list[dict[str, Any]]:
        """{"text", "score"} a memory, and "n_best": a list of these where more are asked for."""
        beam = options.beam_size or max(self.beam_sizes["test"], options.n_best)
        if options.n_best > beam:
            raise ValueError(f"n_best={options.n_best} needs a beam of as many, got {beam}")
        found = self.decode(
            memory,
            beam_size=beam,
            length_penalty=options.length_penalty,
            max_length=options.max_length,
            n_best=options.n_best,
        )
        answers: list[dict[str, Any]] = []
        for rows, scores in zip(found.tokens, found.scores.tolist(), strict=True):
            best = [
                {"text": self.text(row), "score": round(score, 6)}
                for row, score in zip(rows, scores, strict=True)
                if score > float("-inf")
            ]
            answers.append(dict(best[0]) | ({"n_best": best} if options.n_best > 1 else {}))
        return answers
