"""Many to many through attention: a text in one language, or form, becomes a text in another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.batches import PairBatch
from data.codec import Codec
from data.spec import DataSpec
from models.encoder_decoder import EncoderDecoder
from models.encoders.memory import Memory
from tasks import pictures
from tasks.base import SPLIT_OF
from tasks.by_length import bleu_by_length
from tasks.generation import Generation
from tasks.metrics import Score, bleu, bleu_words, chrf, exact_match, length_ratio, ter
from tasks.objectives import Objective


class Translation(Generation):
    """`bleu`, `chrf` and `chrf++` of detokenised output against raw references, `exact_match` and
    `length_ratio` (characters); in the test `ter` too.

    `bleu_tokenize`: sacreBLEU's tokenizer; auto is `zh` where most references are Chinese, else
    `13a`. Where the codec lost case, references are lower-cased.
    """

    name = "translation"

    def __init__(
        self,
        *,
        spec: DataSpec,
        codec: Codec,
        model: Callable[..., EncoderDecoder],
        monitor: str,
        mode: str,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., dict[str, Any]] | None,
        seed: int = 1,
        samples: int = 8,
        layer_decay: float = 1.0,
        beam_size: int = 5,
        val_beam_size: int = 1,
        length_penalty: float = 1.0,
        max_new_tokens: int = 200,
        teacher_forcing: float = 1.0,
        decoding: Mapping[str, Any] | None = None,
        objective: Objective | None = None,
        doubly_stochastic: float = 0.0,
        encoder_rate: float = 1.0,
        teacher_forcing_decay: str = "linear",
        coverage_loss: float = 0.0,
        bleu_tokenize: str = "auto",
    ) -> None:
        super().__init__(
            spec=spec, codec=codec, model=model, monitor=monitor, mode=mode, optimizer=optimizer,
            scheduler=scheduler, seed=seed, samples=samples, layer_decay=layer_decay,
            beam_size=beam_size,
            val_beam_size=val_beam_size, length_penalty=length_penalty,
            max_new_tokens=max_new_tokens, teacher_forcing=teacher_forcing,
            decoding=decoding, objective=objective, doubly_stochastic=doubly_stochastic,
            encoder_rate=encoder_rate, teacher_forcing_decay=teacher_forcing_decay,
            coverage_loss=coverage_loss,
        )  # fmt: skip
        options = ("auto", "13a", "zh", "char", "intl")
        if bleu_tokenize not in options:
            raise ValueError(f"task.bleu_tokenize={bleu_tokenize}: choose {', '.join(options)}")
        self.bleu_tokenize = bleu_tokenize
        self.signatures: list[str] = []

    @classmethod
    def check(cls, spec: DataSpec) -> None:
        if spec.input_vocabulary is None or spec.output_vocabulary is None:
            raise ValueError(f"task={cls.name} needs pairs of texts, which this data does not have")

    @classmethod
    def monitor_for(cls, spec: DataSpec) -> tuple[str, str]:
        return "val/bleu", "max"

    def encode(self, batch: PairBatch) -> Memory:
        return self.model.encode(batch.source, batch.source_lengths)

    def read(self, batch: Any) -> Memory:
        return self.encode(batch)

    def longest(self, memory: Memory) -> Tensor:
        # beyond this a text runs in circles; short sources still get room to unfold
        return (3 * memory.mask.sum(1) + 20).clamp(max=self.max_new_tokens)

    def scores(self, hypotheses: list[str], references: list[list[str]]) -> dict[str, float]:
        lowercase = self.codec.outputs is not None and self.codec.outputs.lowercase
        found = [
            self.bleu(hypotheses, references),
            chrf(hypotheses, references, lowercase=lowercase),
            chrf(hypotheses, references, lowercase=lowercase, word_order=2),
        ]
        self.signatures = [score.signature for score in found]
        return {
            "bleu": found[0].score,
            "chrf": found[1].score,
            "chrf++": found[2].score,
            "length_ratio": length_ratio(hypotheses, references),
            "exact_match": exact_match(hypotheses, references),
        }

    def bleu(self, hypotheses: list[str], references: list[list[str]]) -> Score:
        tokenize = bleu_tokenizer(self.bleu_tokenize, references)
        lowercase = self.codec.outputs is not None and self.codec.outputs.lowercase
        return bleu(hypotheses, references, tokenize=tokenize, lowercase=lowercase)

    def words(self, references: list[list[str]]) -> Callable[[str], list[str]]:
        lowercase = self.codec.outputs is not None and self.codec.outputs.lowercase
        return bleu_words(bleu_tokenizer(self.bleu_tokenize, references), lowercase=lowercase)

    def test_scores(self, hypotheses: list[str], references: list[list[str]]) -> dict[str, float]:
        lowercase = self.codec.outputs is not None and self.codec.outputs.lowercase
        asian = chinese(several[0] for several in references)
        found = ter(hypotheses, references, lowercase=lowercase, asian=asian)
        self.signatures.append(found.signature)
        return {"ter": found.score}

    def draw(self, split: str, folder: Path) -> Iterator[Path]:
        yield from super().draw(split, folder)
        yield from self.draw_by_length(split, folder)
        inputs, outputs = self.codec.inputs, self.codec.outputs
        assert inputs is not None and outputs is not None
        for place, (index, _) in enumerate(self.shown_pairs[:4]):
            source = self.data.example(SPLIT_OF[split], index).input
            weights, read, written = self.alignment(source)
            path = folder / f"attention_{place + 1}.png"
            if weights.size(1) == 0:
                return  # a decoder without attention
            pictures.attention_over_text(weights, read, written, path)
            yield path

    def draw_by_length(self, split: str, folder: Path) -> Iterator[Path]:
        """BLEU by the length of the source, in the model's symbols."""
        assert self.codec.inputs is not None
        examples = [self.data.example(SPLIT_OF[split], index) for index, _ in self.pairs]
        rows = bleu_by_length(
            [len(self.codec.inputs.encode(example.input)) for example in examples],
            [text for _, text in self.pairs],
            [self.comparable(example.references) for example in examples],
            lambda own, theirs: self.bleu(own, theirs).score,
        )
        self.leave_rows("bleu_by_length", split, rows)
        path = folder / "bleu_by_length.png"
        pictures.by_bucket(
            rows, {"bleu": "BLEU"}, path,
            xlabel="symbols of the source", ylabel="BLEU", counted="sentences",
        )  # fmt: skip
        yield path

    @torch.no_grad()
    def alignment(self, source: str) -> tuple[Tensor, list[str], list[str]]:
        """A raw text → attention (T, S) of its translation, source tokens, target tokens."""
        inputs, outputs = self.codec.inputs, self.codec.outputs
        assert inputs is not None and outputs is not None
        batch: Any = self.codec.batch([source])
        memory = self.model.encode(
            batch.source.to(self.device), batch.source_lengths.to(self.device)
        )
        found = self.decode([memory], self.searches["test"])
        tokens = found.tokens[0, 0, : int(found.lengths[0, 0])]
        weights = self.attention(memory, tokens)
        return weights, inputs.tokens(batch.source[0].tolist()), outputs.tokens(tokens.tolist())


def bleu_tokenizer(configured: str, references: Sequence[Sequence[str]]) -> Any:
    """sacreBLEU's tokenizer: as configured, or with "auto" by what the references are."""
    if configured != "auto":
        return configured
    return "zh" if chinese(several[0] for several in references) else "13a"


def chinese(texts: Iterator[str]) -> bool:
    """Whether most letters of some texts are Chinese characters."""
    sample = "".join(text for _, text in zip(range(200), texts, strict=False))
    letters = [character for character in sample if character.isalpha()]
    return sum("\u4e00" <= letter <= "\u9fff" for letter in letters) > 0.3 * max(1, len(letters))
