"""Answers that need no recurrent network, and what they score: a network must be better.

Each is a function of opened data → its test metrics, under the names that a run's JSON has.
"""

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from data.arrays import Ragged
from data.base import DataModule
from data.batches import IGNORE
from tasks.captioning_metrics import bleu
from tasks.cider import cider
from tasks.metrics import bits_per_character, perplexity
from tasks.ngram_model import NgramModel

Measured = dict[str, float]
Baseline = Callable[[DataModule], Measured]
Integers = NDArray[np.int64]

PENALTIES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)  # of squared weights; validation chooses
SENTENCES = 300  # training sentences that are tried as the answer to every picture


def majority(data: DataModule) -> Measured:
    """The commonest class (or tag) of training, always."""
    targets = [_targets(data, split) for split in ("train", "test")]
    train, test = (found[found != IGNORE] for found in targets)
    return {"test/accuracy": float((test == np.bincount(train).argmax()).mean())}


def most_frequent_tag(data: DataModule) -> Measured:
    """Each word's commonest tag of training; a new word gets the tag that rare words have most."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for words, tags in _tagged(data, "train"):
        for word, tag in zip(words, tags, strict=True):
            seen[word][tag] += 1
    once: Counter[str] = Counter()
    for counts in seen.values():
        once.update(counts if counts.total() == 1 else ())
    best = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
    new = (once or sum(seen.values(), Counter())).most_common(1)[0][0]
    pairs = [
        (best.get(word, new), tag)
        for words, tags in _tagged(data, "test")
        for word, tag in zip(words, tags, strict=True)
    ]
    return {"test/accuracy": sum(given == tag for given, tag in pairs) / len(pairs)}


def bag_of_words(data: DataModule) -> Measured:
    """Logistic regression on which symbols a text has."""
    return _linear(data, pairs=False)


def bag_of_bigrams(data: DataModule) -> Measured:
    """Logistic regression on which symbols a text has, and which pairs of neighbours."""
    return _linear(data, pairs=True)


def one_sentence(data: DataModule) -> Measured:
    """A sentence of training, for every picture: the one of a few hundred that validation likes."""
    every = [s for i in range(len(data.splits["train"].rows)) for s in _sentences(data, "train", i)]
    drawn = np.random.default_rng(0).permutation(len(every))[:SENTENCES]
    asked, tested = (
        [_sentences(data, split, i) for i in range(len(data.splits[split].rows))]
        for split in ("validation", "test")
    )
    best = max((every[i] for i in drawn), key=lambda one: cider([one] * len(asked), asked))
    answers = [best] * len(tested)
    return {"test/cider": cider(answers, tested), "test/bleu4": bleu(answers, tested)[3]}


def count_model(data: DataModule) -> Measured:
    """Interpolated Kneser-Ney over the longest context that fits, of 8 symbols at most."""
    vocabulary = data.spec.input_vocabulary
    assert vocabulary is not None
    order = min(8, int(63 / math.log2(vocabulary.size)))
    text = {split: data.splits[split].flat("ids") for split in ("train", "test")}
    nats = NgramModel(order=order, vocabulary_size=vocabulary.size).fit(text["train"])
    characters = data.splits["test"].flat("characters").sum()
    found = float(nats.nats(text["test"]).sum())
    return {
        "test/perplexity": perplexity(found, len(text["test"])),
        "test/bits_per_character": bits_per_character(found, float(characters)),
    }


BASELINES: dict[str, Baseline] = {
    one.__name__: one
    for one in (
        majority,
        most_frequent_tag,
        bag_of_words,
        bag_of_bigrams,
        one_sentence,
        count_model,
    )
}


def _targets(data: DataModule, split: str) -> Integers:
    targets = data.splits[split].arrays["targets"]
    return np.asarray(targets.values if isinstance(targets, Ragged) else targets, np.int64)


def _tagged(data: DataModule, split: str) -> list[tuple[list[str], list[str]]]:
    """Words and tags of each sentence, as they were before any vocabulary."""
    examples = [data.example(split, i) for i in range(len(data.splits[split]))]
    return [(one.input.split(), one.references[0].split()) for one in examples]


def _sentences(data: DataModule, split: str, index: int) -> list[str]:
    return list(data.splits[split].rows[index]["captions"])


def _linear(data: DataModule, *, pairs: bool) -> Measured:
    codes = {split: _codes(data.splits[split].ragged("ids"), pairs) for split in data.splits}
    known, counts = np.unique(codes["train"].values, return_counts=True)
    known = known[counts > 1]
    bags = {split: _bag(one, known) for split, one in codes.items()}
    targets = {split: torch.from_numpy(_targets(data, split).copy()) for split in data.splits}
    assert data.spec.labels is not None
    weights = torch.zeros(len(known) + 1, len(data.spec.labels))
    scored = []
    for penalty in PENALTIES:
        weights = _fit(bags["train"], targets["train"], weights, penalty)
        right = {
            split: float(((bags[split] @ weights).argmax(1) == targets[split]).float().mean())
            for split in ("validation", "test")
        }
        scored.append((right["validation"], right["test"]))
    return {"test/accuracy": max(scored)[1]}


def _codes(ids: Ragged, pairs: bool) -> Ragged:
    """The different symbols of each row, as numbers; pairs of neighbours follow, as larger ones."""
    rows = []
    for i in range(len(ids)):
        row = np.asarray(ids[i], np.int64)
        both = (row[:-1] + 1) << 32 | row[1:]
        rows.append(np.unique(np.concatenate([row, both]) if pairs else row))
    return Ragged.of(rows, np.int64)


def _bag(codes: Ragged, known: Integers) -> Tensor:
    """Rows of codes → a sparse matrix (N, len(known) + 1) of ones; the last column is all ones."""
    places = np.searchsorted(known, codes.values)
    places = np.minimum(places, len(known) - 1)
    rows = np.repeat(np.arange(len(codes)), codes.lengths)
    kept = known[places] == codes.values
    rows = np.concatenate([rows[kept], np.arange(len(codes))])
    places = np.concatenate([places[kept], np.full(len(codes), len(known))])
    at = torch.from_numpy(np.stack([rows, places]))
    size = (len(codes), len(known) + 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")  # "in beta state"
        return torch.sparse_coo_tensor(at, torch.ones(len(rows)), size).to_sparse_csr()


def _fit(bags: Tensor, targets: Tensor, beginning: Tensor, penalty: float) -> Tensor:
    """Multinomial logistic regression, all rows at once → weights (F, C) of bags (N, F)."""
    across = bags.to_sparse_coo().t().to_sparse_csr()
    weights = beginning.clone()
    free = torch.ones(len(weights), 1)
    free[-1] = 0  # the last row is the bias
    answers = F.one_hot(targets, weights.shape[1]).float()
    steps = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe", history_size=5)

    def loss() -> Tensor:  # with its gradient: autograd has none of a sparse matrix that is as fast
        scores = bags @ weights
        held = weights * free
        slope = (scores.softmax(1) - answers) / len(targets)
        weights.grad = across @ slope + 2 * penalty * held
        return F.cross_entropy(scores, targets) + penalty * held.square().sum()

    steps.step(loss)
    return weights
