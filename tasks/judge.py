"""Can generated text be told from real text? A classifier that is trained to tell says how well.

A figure near 0.5 means little by itself: a poor judge tells nothing from anything. So the same
judge is held against text of a unigram and of a trigram model, which it must tell from real text.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from numpy.typing import ArrayLike, NDArray

from data.sequences import Sequences
from models.cells.qrnn import QRNN
from models.classifier import Classifier
from tasks.classification import Classification
from tasks.ngram_model import NgramModel

ORDERS = range(1, 7)  # of the count models, as far as their codes fit
COUNTED = 5_000_000  # symbols of training text at most: more takes memory, and tells little more
TELLS = 0.9  # of what must be told, so that the figure means something
LEAST = 20  # pieces of each kind, for training and for the test
RIVALS = {"unigram": 1, "trigram": 3}

Ids = NDArray[np.int64]  # (N, L) pieces
Classes = dict[str, NDArray[np.float32]]  # features (N, L, F) of the pieces of each class


class Samples(NamedTuple):
    """Pieces of one kind: what the judge learns from, and what it is tested on."""

    train: ArrayLike  # (N, L)
    test: ArrayLike  # (M, L)


class Reader:
    """How each symbol of a piece looks to count models of a text.

    Its features are −log p by models of order 1 to 6, as far as these fit, and the log of the steps
    since the symbol stood in the piece before. Gehrmann et al. 2019 (arXiv 1906.04043) show that
    people and classifiers tell generated text by such likelihoods. A network that reads the symbols
    themselves needs many times as many pieces: held-out text does not have them.
    """

    def __init__(self, text: ArrayLike, *, vocabulary_size: int) -> None:
        """`text` (N,): what the generator learnt from; of a long one, its last `COUNTED` symbols.

        It must hold none of the pieces that are read: to the models they would be no surprise.
        """
        counted = np.asarray(text, np.int64)[-COUNTED:]
        orders = [order for order in ORDERS if vocabulary_size**order < 2**63]
        self.models = [
            NgramModel(order=order, vocabulary_size=vocabulary_size).fit(counted)
            for order in orders
        ]

    def __call__(self, pieces: Ids) -> NDArray[np.float32]:
        """Pieces (N, L) → (N, L, F)."""
        features = [model.nats(pieces) for model in self.models]
        return np.stack([*features, np.log(since(pieces))], axis=-1).astype(np.float32)


def since(pieces: Ids) -> Ids:
    """Steps (N, L) since each symbol stood in its piece (N, L) before; L where it did not."""
    length = pieces.shape[1]
    found = np.full(pieces.shape, length)
    for lag in range(length - 1, 0, -1):
        found[:, lag:][pieces[:, lag:] == pieces[:, :-lag]] = lag
    return found


def judge(
    real: Samples,
    fake: Samples,
    *,
    reader: Reader,
    seed: int = 1,
    hidden_size: int = 32,
    max_epochs: int = 20,
    patience: int = 4,
) -> float:
    """Train a classifier to tell two kinds of pieces apart → its share of right answers in the
    test, where both are equally many: 0.5 says that it cannot.

    All pieces have one length, and the smaller side says how many are read. The last sixth of the
    training pieces says when to stop: in the order of the text, these lie apart from the others.
    """
    train, test = _equally_many(real.train, fake.train), _equally_many(real.test, fake.test)
    if len({side.shape[1] for side in (*train, *test)}) > 1:
        shapes = ", ".join(str(side.shape) for side in (*train, *test))
        raise ValueError(f"pieces must have one length, else that would tell: got {shapes}")
    read = [reader(side) for side in (*train, *test)]
    mean, spread = (f(np.concatenate(read[:2]), axis=(0, 1)) for f in (np.mean, np.std))
    read = [(side - mean) / np.maximum(spread, 1e-6) for side in read]
    kept = len(train[0]) - len(train[0]) // 6
    learnt, told = (
        {"real": read[0][part], "generated": read[1][part]}
        for part in (slice(kept), slice(kept, None))
    )
    asked = {"real": read[2], "generated": read[3]}
    return _accuracy(
        learnt, told, asked, seed=seed, hidden_size=hidden_size, max_epochs=max_epochs,
        patience=patience,
    )  # fmt: skip


def _accuracy(
    learnt: Classes,
    told: Classes,
    asked: Classes,
    *,
    seed: int,
    hidden_size: int,
    max_epochs: int,
    patience: int,
) -> float:
    """Train on some features of both classes, stop when the loss on others says so, and answer."""
    with ExitStack() as stack:
        # this may run within the test of another task, whose randomness stays as it was
        stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        folder = stack.enter_context(TemporaryDirectory())
        torch.manual_seed(seed)
        data, exam = (
            Sequences({"train": learnt, "validation": part}, batch_size=32, seed=seed)
            for part in (told, asked)
        )
        task = Classification(
            spec=data.spec,
            codec=data.codec,
            model=partial(
                Classifier,
                cell=partial(QRNN, window=3),
                embedding_size=1,  # unused: the data gives real vectors
                hidden_size=hidden_size,
                bidirectional=True,
                pooling="mean",  # small hints at every step add up
                dropout=0.2,
            ),
            monitor="val/loss",
            mode="min",
            optimizer=partial(torch.optim.AdamW, lr=1e-2, fused=True),
            scheduler=None,
            seed=seed,
            samples=0,
        )
        best = ModelCheckpoint(dirpath=f"{folder}/checkpoints", monitor="val/loss", mode="min")
        stop = EarlyStopping(
            monitor="val/loss", mode="min", patience=patience, stopping_threshold=0.02
        )
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",  # it is small, and gives the same figure everywhere
            devices=1,
            max_epochs=max_epochs,
            gradient_clip_val=1.0,
            callbacks=[best, stop],
            logger=False,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, datamodule=data)
        # not a test, which leaves files and pictures, and speaks with the other ranks
        trainer.validate(task, datamodule=exam, ckpt_path="best", weights_only=True, verbose=False)
    return task.measured["val/accuracy"]


def verdict(
    written: Samples, real: Samples, training: ArrayLike, *, vocabulary_size: int, seed: int = 1
) -> dict[str, Any]:
    """How well a judge tells real pieces from what a model wrote (`model`), and from samples of a
    `unigram` and a `trigram` model of the training text (N,), in the same number.

    `means_something`: whether it told both count models at `TELLS` or better. `pieces` are those of
    the test, of both kinds; the standard error of an accuracy p is √(p (1 − p) / pieces).
    """
    reader = Reader(training, vocabulary_size=vocabulary_size)
    sizes = [_equally_many(*sides)[0].shape for sides in zip(real, written, strict=True)]
    found: dict[str, Any] = {"model": judge(real, written, reader=reader, seed=seed)}
    for name, order in RIVALS.items():
        random = np.random.default_rng((seed, order))
        fake = Samples(*(reader.models[order - 1].sample(*size, random) for size in sizes))
        found[name] = judge(real, fake, reader=reader, seed=seed)
    tells = all(found[name] >= TELLS for name in RIVALS)
    return {**found, "means_something": tells, "pieces": 2 * sizes[1][0], "length": sizes[1][1]}


def _equally_many(*sides: ArrayLike) -> Sequence[Ids]:
    """Each side (N, L) cut to as many pieces as the smallest has."""
    arrays = [np.asarray(side, np.int64) for side in sides]
    count = min(map(len, arrays))
    if count < LEAST:
        raise ValueError(
            f"a judge needs {LEAST} pieces of each kind to learn from and as many to be tested "
            f"on, got {count}: give more text, or shorter pieces"
        )
    return [side[:count] for side in arrays]
