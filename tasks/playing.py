"""What a language model of music plays after an opening, and the names of its notes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from tasks.predict_options import PredictOptions

if TYPE_CHECKING:
    from tasks.language_model import LanguageModel

NOTES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")


def play(
    task: "LanguageModel", openings: Sequence[Any], options: PredictOptions
) -> list[dict[str, Any]]:
    """Openings, lists of frames of keys → {"frames"} with the opening in front."""
    return [_play(task, one, options, options.seed + i) for i, one in enumerate(openings)]


def _play(
    task: "LanguageModel", opening: Sequence[Sequence[int]], options: PredictOptions, seed: int
) -> dict[str, Any]:
    codec: Any = task.codec
    assert task.spec.keys is not None
    generator = torch.Generator(task.device).manual_seed(seed)
    state = task.model.initial_state(1)
    frame = torch.zeros(1, task.spec.keys, device=task.device)
    frames = [list(keys) for keys in opening]
    temperature = 1.0 if options.temperature is None else options.temperature
    given = codec.keys(opening).to(task.device) if len(opening) else frame[:0]
    for place in range(len(opening) + (options.max_length or task.sample_length)):
        hidden, state = task.model.step(frame, state)
        if place < len(opening):
            frame = given[place : place + 1]
            continue
        logits = task.model.head(hidden).float()
        if temperature == 0:
            frame = (logits > 0).float()
        else:
            on = (logits / temperature).sigmoid()
            frame = torch.bernoulli(on, generator=generator)
        frames.append(codec.notes(frame[0]))
    return {"frames": frames}


def chord(frame: Sequence[int]) -> str:
    """The notes of a frame by their names, C4+E4; a dot for silence."""
    return "+".join(_note(key) for key in frame) or "·"


def _note(key: int) -> str:
    return f"{NOTES[key % 12]}{key // 12 - 1}"
