"""What a captioner or a translator answers: texts as they are asked for, and how likely one is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.decoding import score
from models.decoding.constraints import Banned, Constraint, Prefix, Required
from models.encoders.memory import Memory
from tasks.decoding import consensus, known, source_words, spellings
from tasks.predict_options import PredictOptions

if TYPE_CHECKING:
    from tasks.generation import Generation


def answers(
    task: "Generation",
    raw: Sequence[Any],
    memories: Sequence[Memory],
    options: PredictOptions,
    seeds: Sequence[int],
) -> list[dict[str, Any]]:
    """What `Generation.predict` gives for one batch."""
    codec, words, rows = task.codec.outputs, options.words(), len(memories[0].summary)
    assert codec is not None and task.spec.output_vocabulary is not None
    unk = task.spec.output_vocabulary.unk_id
    if words.replace_unknown and (unk is None or task.codec.inputs is None):
        raise ValueError("replace_unknown needs a text as input and a vocabulary with <unk>")
    if words.replace_unknown and task.model.decoder.attention is None:
        raise ValueError("replace_unknown needs a decoder with attention")
    constraints: list[Constraint] = []
    if words.prefix is not None:
        ids = known(codec, words.prefix, "prefix", unk)
        constraints.append(Prefix(torch.tensor([ids] * rows, device=task.device)))
    if words.banned:
        constraints.append(Banned([s for w in words.banned for s in spellings(codec, w, unk)]))
    required = None
    if words.required:
        lists = [[known(codec, word, "required", unk) for word in words.required]] * rows
        required = Required(lists, task.eos_id)
    found = task.decode(
        memories, options.over(task.searches["test"]), max_length=options.max_length,
        seeds=seeds, constraints=constraints, required=required,
    )  # fmt: skip
    given: list[dict[str, Any]] = []
    for row, (several, scores) in enumerate(zip(found.tokens, found.scores, strict=True)):
        best = []
        for tokens, value in zip(several, scores.tolist(), strict=True):
            if value == float("-inf"):
                continue
            text = task.text(tokens)
            if words.replace_unknown and unk in tokens.tolist():
                one = Memory(*(part[row : row + 1] for part in memories[0][:3]))
                text = _replaced(task, text, tokens, one, raw[row], unk)
            best.append({"text": text, "score": round(value, 6)})
        if not best:
            raise ValueError("no text meets what is asked for: ask for less, or allow more")
        if words.mbr:
            means = consensus([one["text"] for one in best], words.mbr_metric)
            best = [one | {"score": round(m, 6)} for one, m in zip(best, means, strict=True)]
            best = sorted(best, key=lambda one: -one["score"])[: options.n_best]
        given.append(dict(best[0]) | ({"n_best": best} if options.n_best > 1 else {}))
    return given


def _replaced(
    task: "Generation", text: str, tokens: Tensor, memory: Memory, source: str, unk: int | None
) -> str:
    """Put the word of the input that was attended most (but its end) where <unk> stands.

    The word is taken as it was written: what the target's vocabulary lacks, the source's often
    lacks too.
    """
    assert task.codec.inputs is not None and task.codec.outputs is not None and unk is not None
    symbol = task.codec.outputs.decode([unk])
    names = source_words(task.codec.inputs, source)[: int(memory.mask.sum()) - 1]
    if not names or not symbol:
        return text
    weights = task.attention(memory, tokens)[:, : len(names)]
    chosen = [names[int(weights[place].argmax())] for place in (tokens == unk).nonzero()]
    first, *others = text.split(symbol)
    return first + "".join(a + b for a, b in zip(chosen, others, strict=False))


def likelihoods(
    task: "Generation", memories: Sequence[Memory], targets: Sequence[str]
) -> list[dict[str, Any]]:
    """{"log_probability", "per_symbol", "symbols"} of a given text a row, its end counted."""
    assert task.codec.outputs is not None
    ids = [torch.tensor([*task.codec.outputs.encode(t), task.eos_id]) for t in targets]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(task.device)
    lengths = torch.tensor([len(one) for one in ids], device=task.device)
    found = score(*task.start(memories), bos_id=task.bos_id, targets=padded, lengths=lengths)
    return [
        {"log_probability": total, "per_symbol": total / n, "symbols": n}
        for total, n in zip(found.total.tolist(), lengths.tolist(), strict=True)
    ]
