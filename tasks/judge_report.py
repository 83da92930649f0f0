"""The judge of a language model: what it writes, against real text that it did not learn from."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tasks.judge import LEAST, RIVALS, Samples, verdict
from tasks.pieces import CONTEXT, go_on

if TYPE_CHECKING:
    from tasks.language_model import LanguageModel

SPLITS = ("validation", "test")  # what the judge learns from, and what it is tested on
TOLD = ("model", *RIVALS)


def check(task: "LanguageModel") -> None:
    """ValueError for music, and for too little held-out text."""
    if task.plays:
        raise ValueError("task.evaluation.judge=true is for text; this data is music")
    for split in SPLITS:
        found, length = len(_real(task, split)[1]), task.evaluation.judge_length
        if found < LEAST:
            raise ValueError(
                f"task.evaluation.judge=true needs {LEAST} real pieces of {split}, which has "
                f"{found} of {length} symbols: give more text, or set "
                f"task.evaluation.judge_length below {length}"
            )


def judged(task: "LanguageModel") -> dict[str, Any]:
    """`tasks.judge.verdict` of what a task writes, as it is configured.

    Unlike the pieces of the audit these have unknown symbols, which the model writes as it would
    any other: text of words without them is too rare, and not as text is.
    """
    real, written = zip(*(_both(task, split) for split in SPLITS), strict=True)
    assert task.spec.input_vocabulary is not None
    return verdict(
        Samples(*written),
        Samples(*real),
        task.documents("train")[0],
        vocabulary_size=task.spec.input_vocabulary.size,
        seed=task.seed,
    )


def _both(task: "LanguageModel", split: str) -> tuple[Tensor, Tensor]:
    """Real pieces (N, L) of a split, and as many written ones that go on where these do."""
    contexts, real = _real(task, split)
    vocabulary = task.spec.input_vocabulary
    assert vocabulary is not None
    never = [i for i in (vocabulary.pad_id, vocabulary.bos_id) if i is not None]
    seed = task.seed * 1_000_003 + (SPLITS.index(split) + 1) * 300_000
    return real, go_on(task, contexts, length=real.size(1), seed=seed, never=never)


def _real(task: "LanguageModel", split: str) -> tuple[Tensor, Tensor]:
    """Contexts (N, C) and the pieces (N, L) after them, one after the other through a split; of
    more than are asked for, some that are spread over it.
    """
    text, length = task.documents(split)[0], task.evaluation.judge_length
    starts = np.arange(CONTEXT, len(text) - length + 1, length)
    most = min(len(starts), task.evaluation.judge_pieces)
    starts = starts[np.linspace(0, len(starts) - 1, most).round().astype(int)] if most else starts
    places = starts[:, None] + np.arange(-CONTEXT, length)
    rows = torch.from_numpy(np.asarray(text[places])).long()
    return rows[:, :CONTEXT], rows[:, CONTEXT:]
