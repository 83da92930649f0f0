"""What a language model of text writes after a prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.decoding import DecodingOptions, Hypotheses, search
from models.decoding.constraints import Banned
from models.state import State
from tasks.decoding import spellings
from tasks.predict_options import PredictOptions

if TYPE_CHECKING:
    from tasks.language_model import LanguageModel


def write(
    task: "LanguageModel", prompts: Sequence[str], options: PredictOptions
) -> list[dict[str, Any]]:
    """Prompts → {"text"} with the prompt in front. ValueError for options of other tasks.

    Prompts of one length are read together: nothing is padded, so nothing depends on it.
    """
    codec: Any = task.codec
    for name in ("required", "prefix", "replace_unknown", "mbr", "coverage_penalty"):
        if getattr(options, name):
            raise ValueError(f"{name} is for translations and captions, not for running text")
    chosen = options.over(DecodingOptions(method="sample"))
    rows = [[codec.lead, *codec.inputs.encode(prompt)] for prompt in prompts]
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(len(row), []).append(place)
    answers: dict[int, dict[str, Any]] = {}
    for places in groups.values():
        for start in range(0, len(places), options.batch_size):
            some = places[start : start + options.batch_size]
            ids = torch.tensor([rows[i] for i in some], device=task.device)
            found = _go_on(task, ids, chosen, options, [options.seed + i for i in some])
            for i, several, lengths, scores in zip(some, *found, strict=True):
                best = [
                    {
                        "text": codec.text([*rows[i][1:], *tokens[:length].tolist()]),
                        "score": round(value, 6),
                    }
                    for tokens, length, value in zip(
                        several, lengths.tolist(), scores.tolist(), strict=True
                    )
                    if value > float("-inf")
                ]
                best = best or [{"text": prompts[i], "score": 0.0}]
                more = {"n_best": best} if options.n_best > 1 else {}
                answers[i] = {"text": best[0]["text"], "prompt": prompts[i], **more}
    return [answers[i] for i in range(len(prompts))]


def _go_on(
    task: "LanguageModel",
    prompt: Tensor,
    chosen: DecodingOptions,
    options: PredictOptions,
    seeds: list[int],
) -> Hypotheses:
    """What follows prompts (B, P), whose first symbol is what comes before any text."""
    vocabulary = task.spec.input_vocabulary
    assert vocabulary is not None and task.codec.inputs is not None

    def step(tokens: Tensor, state: State, context: Any) -> tuple[Tensor, State]:
        hidden, following = task.model.step(tokens, state)
        return task.model.head.log_probs(hidden), following

    state = task.model.initial_state(len(prompt))
    for symbols in prompt[:, :-1].unbind(1):
        _, state = step(symbols, state, ())
    history = prompt[:, 1:]
    banned = [s for w in options.banned for s in spellings(task.codec.inputs, w, vocabulary.unk_id)]
    return search(
        step, state, (), bos_id=prompt[:, -1], eos_id=None, seeds=seeds,
        options=chosen, max_length=options.max_length or task.sample_length, history=history,
        constraints=[Banned(banned, history)] if banned else [],
        forbidden=task.never, pad_id=vocabulary.pad_id,
    )  # fmt: skip
