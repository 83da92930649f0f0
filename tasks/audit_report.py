"""The audit of a language model: its pieces and real ones measured, as a file and as a table."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tasks import judge_report
from tasks.audit import audit_text
from tasks.audit_code import audit_code
from tasks.audit_music import Frames, audit_music
from tasks.base import Table
from tasks.pieces import held_out, pieces

if TYPE_CHECKING:
    from tasks.language_model import LanguageModel

PART = 1_000_000  # symbols of training text at a time
PROGRAMS = {"python": audit_code}
SIDES = ("written", "real")


def check(task: "LanguageModel") -> None:
    """ValueError where there is no training text to compare with, or too little held-out text."""
    if "train" not in task.data.splits:
        raise ValueError(
            "task.evaluation.audit=true looks for what was copied from training, and a stream "
            "(data.streaming=true) is not kept: audit the trained run with fit=false ckpt=RUN "
            "data.streaming=false"
        )
    held_out(task, count=task.evaluation.audit_pieces, length=task.evaluation.audit_length)
    if task.evaluation.judge:
        judge_report.check(task)


def audit(task: "LanguageModel") -> dict[str, Any]:
    """Plain data: `settings`, the figures of what was `written` and of `real` pieces, and more.

    More entries may stand beside them: what else is measured of the same pieces.
    """
    chosen = task.evaluation
    found = pieces(task, count=chosen.audit_pieces, length=chosen.audit_length)
    settings = {
        "pieces": len(found.real), "length": found.real.size(1), "context": found.contexts.size(1),
        "seed": task.seed, "temperature": task.temperature, "top_k": task.top_k,
        "top_p": task.top_p,
    }  # fmt: skip
    figures = (_of_music if task.plays else _of_text)(task, found._asdict())
    judged = {"judge": judge_report.judged(task)} if chosen.judge else {}
    return {"settings": settings, **figures, **judged}


def _of_text(task: "LanguageModel", found: Mapping[str, Tensor]) -> dict[str, Any]:
    codec: Any = task.codec
    sides = {name: [codec.text(row) for row in found[name].tolist()] for name in SIDES}
    training = map(codec.text, parts(codec, task.documents("train")[0]))
    more = {} if (own := PROGRAMS.get(task.data.language)) is None else {"more": own}
    return audit_text(sides, training, **more)


def _of_music(task: "LanguageModel", found: Mapping[str, Tensor]) -> dict[str, Any]:
    codec: Any = task.codec

    def frames(keys: Tensor) -> Frames:
        return [codec.notes(frame) for frame in keys]

    sides = {name: [*map(frames, found[name])] for name in SIDES}
    return audit_music(
        sides, [frames(torch.from_numpy(np.array(keys))) for keys in task.documents("train")]
    )


def parts(codec: Any, ids: np.ndarray, size: int = PART) -> Iterator[np.ndarray]:
    """A text's symbols (N,), so many at a time and no line cut, as far as it has lines so short."""
    symbols = range(len(codec.inputs.symbols))
    ends = [i for i in symbols if codec.text([i]).endswith("\n")]
    place = 0
    while place < len(ids):
        some = ids[place : place + size]
        if place + size < len(ids) and len(cuts := np.flatnonzero(np.isin(some, ends))):
            some = some[: cuts[-1] + 1]
        yield some
        place += len(some)


def table(found: Mapping[str, Any]) -> Table:
    """The figures of what was written beside those of real pieces."""
    written, real = (found[name] for name in SIDES)
    rows = [[name, written[name], real[name]] for name in written]
    told = found.get("judge", {})
    rows += [[f"told_{name}", told[name], None] for name in judge_report.TOLD if told]
    return Table(["figure", *SIDES], rows)


def leave(found: Mapping[str, Any], folder: Path) -> None:
    """Write `audit.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, ensure_ascii=False, indent=1)
    (folder / "audit.json").write_text(text + "\n", encoding="utf-8")
