"""Metrics that are right over batches and ranks: sums and counts first, one division last."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import sacrebleu
import torch
import torch.distributed
from lightning import Trainer
from torch import Tensor

from data.batches import IGNORE

Item = TypeVar("Item")
Number = Tensor | float | int


def every_rank(value: Item) -> list[Item]:
    """The value that each rank gave, in rank order; all ranks must call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Item] = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def gather(items: Sequence[tuple[int, Item]]) -> list[Item]:
    """(index, item) pairs of every rank → the items of all ranks by index, each index once."""
    by_index = {index: item for part in every_rank(list(items)) for index, item in part}
    return [by_index[index] for index in sorted(by_index)]


def total(values: Tensor, trainer: Trainer | None) -> Tensor:
    """The sum of `values` over the ranks of `trainer`, on the CPU; without a trainer, as it is."""
    if trainer is None or trainer.world_size == 1:
        return values.cpu()
    summed = trainer.strategy.reduce(values.to(trainer.strategy.root_device), reduce_op="sum")
    return torch.as_tensor(summed).cpu()


class SumCount:
    """A sum and a count by name, in float64, so that batches and ranks of unequal size weigh right.

    `add` keeps its numbers on the device they come from: nothing waits for a GPU until the end.
    """

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}  # name → (2,): sum, count

    def add(self, name: str, sum: Number, count: Number) -> None:
        """Add a sum over `count` things (tokens, examples, frames) to `name`."""
        device = sum.device if isinstance(sum, Tensor) else torch.device("cpu")
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        new = torch.stack([_double(sum, device), _double(count, device)])
        old = self.values.get(name)
        self.values[name] = new if old is None else old.to(device) + new

    def totals(self, trainer: Trainer | None = None) -> dict[str, tuple[float, float]]:
        """(sum, count) by name over all ranks; all ranks must call it."""
        names = sorted(self.values)
        if trainer is not None and trainer.world_size > 1:
            # a rank that saw no batch has no names, and must still join in the same reduction
            names = sorted({name for part in every_rank(names) for name in part})
        if not names:
            return {}
        zero = torch.zeros(2, dtype=torch.float64)
        rows = torch.stack([self.values.get(name, zero).cpu() for name in names])
        return {
            name: (row[0], row[1])
            for name, row in zip(names, total(rows, trainer).tolist(), strict=True)
        }

    def results(self, trainer: Trainer | None = None) -> dict[str, float]:
        """sum / count by name over all ranks; nan where nothing was counted."""
        totals = self.totals(trainer).items()
        return {name: sum / count if count else math.nan for name, (sum, count) in totals}

    def reset(self) -> None:
        self.values = {}

    def to_plain(self) -> dict[str, list[float]]:
        """This rank's unfinished sums, for a checkpoint in the middle of an epoch."""
        return {name: value.tolist() for name, value in self.values.items()}

    def load_plain(self, plain: dict[str, list[float]]) -> None:
        self.values = {k: torch.tensor(v, dtype=torch.float64) for k, v in plain.items()}


def _double(value: Number, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(device).to(torch.float64).reshape(())
    return torch.tensor(value, dtype=torch.float64, device=device)


class Confusion:
    """Counts of (target, prediction) pairs of classes: accuracy and F1 of any number of batches."""

    def __init__(self, *, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, predictions: Tensor, targets: Tensor) -> None:
        """Classes (...) and classes (...), IGNORE where nothing counts."""
        kept = targets != IGNORE
        pairs = targets[kept] * self.num_classes + predictions[kept]
        new = torch.bincount(pairs, minlength=self.num_classes**2)
        self.counts = self.counts.to(new.device) + new.view_as(self.counts)

    def result(self, trainer: Trainer | None = None) -> Tensor:
        """The matrix (targets, predictions) over all ranks; all ranks must call it."""
        return total(self.counts, trainer)

    def reset(self) -> None:
        self.counts = torch.zeros_like(self.counts)


def accuracy(confusion: Tensor) -> float:
    """The share of right answers, 0 to 1; nan without any."""
    return (confusion.diagonal().sum() / confusion.sum()).item()


def macro_f1(confusion: Tensor) -> float:
    """The mean over classes of 2·hits / (targets + predictions), 0 to 1.

    Classes that neither occur nor were predicted do not count, as in scikit-learn.
    """
    mass = (confusion.sum(0) + confusion.sum(1)).double()
    scores = 2 * confusion.diagonal().double() / mass
    return scores[mass > 0].mean().item()


def perplexity(nll_sum: float, token_count: float) -> float:
    """exp of the mean negative log-likelihood (nats) a token; inf where that overflows."""
    if not token_count:
        return math.nan
    mean = nll_sum / token_count
    return math.exp(mean) if mean < 700 else math.inf


def bits_per_character(nll_sum: float, character_count: float) -> float:
    """The likelihood of the text (nats, over tokens of any kind) spread over its characters."""
    return nll_sum / math.log(2) / character_count if character_count else math.nan


def bits_per(nll_sum: float, counts: Mapping[str, int]) -> dict[str, float]:
    """The likelihood of a text (nats) spread over its words and bytes, whatever its tokens are.

    `counts` of "word" and "byte"; those missing are left out. `perplexity_per_word` is 2 to the
    bits of a word.
    """
    found = {f"bits_per_{unit}": nll_sum / math.log(2) / n for unit, n in counts.items() if n}
    if counts.get("word"):
        found["perplexity_per_word"] = perplexity(nll_sum, counts["word"])
    return found


def exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The share of hypotheses that equal one of their references, 0 to 1; outer space is free."""
    check_corpus(hypotheses, references)
    return sum(exact_matches(hypotheses, references)) / len(hypotheses)


def exact_matches(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[bool]:
    """Which hypotheses equal one of their references; outer space is free."""
    return [
        hypothesis.strip() in {reference.strip() for reference in several}
        for hypothesis, several in zip(hypotheses, references, strict=True)
    ]


class Score(NamedTuple):
    """A sacreBLEU score and the signature that makes it comparable."""

    score: float
    signature: str


Tokenizer = Literal["13a", "zh", "char", "intl"]


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenize: Tokenizer = "13a",
    lowercase: bool = False,
) -> Score:
    """Corpus BLEU, 0 to 100. Post 2018, arXiv 1804.08771."""
    metric = sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase)
    return _corpus_score(metric, hypotheses, references)


def bleu_words(tokenize: Tokenizer, *, lowercase: bool = False) -> Callable[[str], list[str]]:
    """A text → the words that `bleu` counts."""
    tokenizer = sacrebleu.BLEU(tokenize=tokenize).tokenizer
    return lambda text: tokenizer((text.lower() if lowercase else text).rstrip()).split()


def chrf(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    lowercase: bool = False,
    word_order: int = 0,
) -> Score:
    """Corpus chrF2, 0 to 100. Popović 2015, aclanthology W15-3049.

    `word_order` 2 counts words and pairs of them too: chrF++ (Popović 2017, aclanthology W17-4770).
    """
    metric = sacrebleu.CHRF(lowercase=lowercase, word_order=word_order)
    return _corpus_score(metric, hypotheses, references)


def ter(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    lowercase: bool = False,
    asian: bool = False,
) -> Score:
    """Corpus translation edit rate, 0 and up, lower is better: edits a hundred reference words.

    Snover et al. 2006, aclanthology 2006.amta-papers.25. `asian` takes each Chinese character for
    a word. In pure Python: for tests rather than validations.
    """
    # asian characters are told apart in normalised text alone
    metric = sacrebleu.TER(case_sensitive=not lowercase, normalized=asian, asian_support=asian)
    return _corpus_score(metric, hypotheses, references)


def length_ratio(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Characters of the hypotheses over those of each one's reference closest in length."""
    check_corpus(hypotheses, references)
    pairs = zip(hypotheses, references, strict=True)
    closest = sum(min(map(len, several), key=lambda n: (abs(n - len(own)), n))
                  for own, several in pairs)  # fmt: skip
    return sum(map(len, hypotheses)) / closest if closest else math.nan


def _corpus_score(
    metric: sacrebleu.BLEU | sacrebleu.CHRF | sacrebleu.TER,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
) -> Score:
    check_corpus(hypotheses, references)
    result = metric.corpus_score(list(hypotheses), reference_columns(references))
    return Score(result.score, f"{result.name}|{metric.get_signature().format()}")


def reference_columns(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """As sacreBLEU wants them: a list a reference number, None where a sentence has fewer."""
    most = max(len(several) for several in references)
    return [[r[i] if i < len(r) else None for r in references] for i in range(most)]


def check_corpus(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but {len(references)} lists of references")
    if not hypotheses:
        raise ValueError("a corpus metric needs at least one hypothesis")
    if not all(references):
        raise ValueError("every hypothesis needs at least one reference")
