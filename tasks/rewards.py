"""What a written text is worth: sentence scores against references, for training to raise."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import sacrebleu
import torch
from torch import Tensor

from tasks.cider import CiderD

Words = list[str]
END = "<end>"  # the word that says that a text has ended


class Scorer(Protocol):
    def scores(self, hypotheses: Sequence[Words], references: Sequence[Words]) -> list[float]:
        """Of several texts that have the same references."""


class SentenceBleu:
    """BLEU-4 of one text, 0 to 1, as sacreBLEU's `sentence_score` gives it (exponential smoothing,
    no orders that the text is too short for).
    """

    def __init__(self, references: Iterable[Sequence[Words]]) -> None:
        # the words are known: they are not to be taken apart again
        self.metric = sacrebleu.BLEU(tokenize="none", effective_order=True, force=True)

    def scores(self, hypotheses: Sequence[Words], references: Sequence[Words]) -> list[float]:
        several = [" ".join(reference) for reference in references]
        return [
            self.metric.sentence_score(" ".join(hypothesis), several).score / 100
            for hypothesis in hypotheses
        ]


# made with the references of every example, which are not read where they do not matter
SCORERS: dict[str, Callable[[Iterable[Sequence[Words]]], Scorer]] = {
    "cider": CiderD,
    "bleu": SentenceBleu,
}


class Rewards:
    """Sentence scores against the references of the example that a text was written for.

    Of `cider` n-grams are as rare as among all these references. `count_end` scores the end of a
    text as one more word: without it, texts that break off ("a plane on the") are worth too much
    (Rennie et al. 2017, arXiv 1612.00563, section 3).
    """

    def __init__(
        self,
        metric: str,
        references: Sequence[list[str]],
        words: Callable[[str], Words],
        *,
        count_end: bool = True,
    ) -> None:
        self.words, self.count_end = words, count_end
        self.references = references
        self.known: dict[int, list[Words]] = {}  # the references that were read
        self.scorer = SCORERS[metric](self._of(example) for example in range(len(references)))

    def __call__(
        self, index: Sequence[int], texts: Sequence[Sequence[str]], ended: Tensor
    ) -> Tensor:
        """K texts for each of B examples, and which of them ended (B, K) → scores (B, K)."""
        return torch.tensor([
            self.scorer.scores(list(map(self._read, several, ends)), self._of(example))
            for example, several, ends in zip(index, texts, ended.tolist(), strict=True)
        ])  # fmt: skip

    def _of(self, example: int) -> list[Words]:
        if example not in self.known:
            self.known[example] = [self._read(text) for text in self.references[example]]
        return self.known[example]

    def _read(self, text: str, ended: bool = True) -> Words:
        return self.words(text) + [END] * (ended and self.count_end)
