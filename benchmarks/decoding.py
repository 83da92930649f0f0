"""Speed of decoding: batched searches against a plain unbatched beam search.

    python benchmarks/decoding.py [--rounds 5] [--precision auto]

A translator (bidirectional LSTM of 2 x 256 in two layers, LSTM of 512 with attention, 8,000 words
a side) with random weights decodes 64 sentences of 8 to 25 words, greedily, with a beam of 5 and by
sampling; the end becomes likely where a text is as long as its sentence. The plain search is what a
textbook writes: a sentence at a time, its live hypotheses as one batch, Python lists of tokens and
scores. It must find the same texts.

Prints sentences/s of each, medians of turns, and ends with one JSON object of these and of ratios.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SENTENCES, WORDS, BEAM, LONGEST = 64, 8000, 5, 40
PAD, UNK, BOS, EOS = range(4)


def main() -> None:
    from launch import keep_memory

    keep_memory()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    arguments = parser.parse_args()
    import build
    from tasks.base import cast

    model = translator()
    precision = build.precision(arguments.precision, {"accelerator": "cpu"})
    source, lengths = sentences()
    check(model, source, lengths)
    ways: dict[str, Callable[[], Any]] = {
        "unbatched_beam5": lambda: plain(model, source, lengths),
        "beam5": lambda: batched(model, source, lengths, SENTENCES, "beam"),
        "beam5_batch1": lambda: batched(model, source, lengths, 1, "beam"),
        "greedy": lambda: batched(model, source, lengths, SENTENCES, "greedy"),
        "greedy_batch1": lambda: batched(model, source, lengths, 1, "greedy"),
        "sampling": lambda: batched(model, source, lengths, SENTENCES, "sample"),
        "sampling_batch1": lambda: batched(model, source, lengths, 1, "sample"),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode(), cast(model, precision):
        for turn in range(-1, arguments.rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                if turn >= 0:
                    speeds[name].append(SENTENCES / (time.perf_counter() - start))
    found = {name: statistics.median(values) for name, values in speeds.items()}
    for name, speed in found.items():
        print(f"{name:16} {speed:8.1f} sentences/s")

    def ratio(name: str, baseline: str) -> float:
        # within a turn: the machine's mood changes between turns
        pairs = zip(speeds[name], speeds[baseline], strict=True)
        return round(statistics.median(one / other for one, other in pairs), 2)

    result: dict[str, Any] = {name: round(speed, 1) for name, speed in found.items()}
    result |= {
        "beam5_over_unbatched": ratio("beam5", "unbatched_beam5"),
        "beam5_over_batch1": ratio("beam5", "beam5_batch1"),
        "greedy_over_batch1": ratio("greedy", "greedy_batch1"),
        "sampling_over_batch1": ratio("sampling", "sampling_batch1"),
        "precision": precision,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


def translator() -> Any:
    """The model of configs/model/translator.yaml."""
    from hydra import compose, initialize_config_dir

    import build

    torch.manual_seed(1)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", ["task=translation", "cell=lstm", "paths.run_dir=runs"])
    model = build.instantiate(config.model)(
        source_vocabulary_size=WORDS, target_vocabulary_size=WORDS, pad_id=PAD, bos_id=BOS
    )
    return model.eval().requires_grad_(False)


def sentences() -> tuple[Tensor, Tensor]:
    """(64, 25) words and their numbers (64,)."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(8, 26, (SENTENCES,), generator=draw)
    source = torch.randint(4, WORDS, (SENTENCES, 25), generator=draw)
    return source.masked_fill(torch.arange(25) >= lengths[:, None], PAD), lengths


def step(model: Any, tokens: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any]:
    """One step of the model, whose state also counts: texts end near the length of their source."""
    inner, count = state
    log_probs, _, following = model.step(tokens, inner, memory)
    log_probs[:, EOS] = (3.0 * (count - memory.mask.sum(1)) - 9.0).clamp(max=-0.1)
    return log_probs, (following, count + 1)


def begin(model: Any, memory: Any) -> Any:
    return model.initial_state(memory), torch.zeros(len(memory.summary))


def batched(model: Any, source: Tensor, lengths: Tensor, size: int, way: str) -> list[list[int]]:
    """Unroll's search, `size` sentences at a time."""
    from models.decoding import beam_search, greedy, sample

    texts = []
    barred = {"forbidden": (PAD, BOS), "eos_id": EOS}
    for part, own in zip(source.split(size), lengths.split(size), strict=True):
        memory = model.encode(part[:, : int(own.max())], own)
        start = partial(step, model), begin(model, memory), memory
        if way == "beam":
            found = beam_search(*start, bos_id=BOS, beam_size=BEAM, max_length=LONGEST, **barred)
        elif way == "greedy":
            found = greedy(*start, bos_id=BOS, max_length=LONGEST, **barred)
        else:
            found = sample(
                *start, prompt=torch.full((len(part), 1), BOS), max_new_tokens=LONGEST, top_k=50,
                generator=torch.Generator().manual_seed(1), **barred,
            )  # fmt: skip
        rows = zip(found.tokens[:, 0], found.lengths[:, 0], strict=True)
        texts += [row[: int(length)].tolist() for row, length in rows]
    return texts


def plain(model: Any, source: Tensor, lengths: Tensor) -> list[list[int]]:
    """One sentence after the other; its live hypotheses are a batch."""
    from models.state import select_rows

    texts = []
    for words, length in zip(source, lengths, strict=True):
        memory = model.encode(words[None, : int(length)], length[None])
        state = begin(model, memory)
        live: list[tuple[float, list[int]]] = [(0.0, [BOS])]
        ended: list[tuple[float, list[int]]] = []
        for _ in range(LONGEST):
            last = torch.tensor([tokens[-1] for _, tokens in live])
            wide = type(memory)(*(part.expand(len(live), *part.shape[1:]) for part in memory))
            log_probs, state = step(model, last, state, wide)
            candidates = []
            for place, ((score, tokens), row) in enumerate(zip(live, log_probs, strict=True)):
                row = row.float()
                row[[PAD, BOS]] = -torch.inf
                values, symbols = row.topk(2 * BEAM)
                for value, symbol in zip(values.tolist(), symbols.tolist(), strict=True):
                    candidates.append((score + value, place, [*tokens, symbol]))
            candidates.sort(key=lambda candidate: -candidate[0])
            following = []
            for rank, (score, place, tokens) in enumerate(candidates):
                if tokens[-1] != EOS:
                    following.append((score, place, tokens))
                elif rank < BEAM:
                    ended.append((score / (len(tokens) - 1), tokens[1:]))
                if len(following) == BEAM:
                    break
            live = [(score, tokens) for score, _, tokens in following]
            state = select_rows(state, torch.tensor([place for _, place, _ in following]))
            if len(ended) >= BEAM:
                break
        cut = [(score / (len(tokens) - 1), tokens[1:]) for score, tokens in live]
        texts.append(max(ended or cut)[1])
    return texts


@torch.inference_mode()
def check(model: Any, source: Tensor, lengths: Tensor) -> None:
    """Both searches find the same texts, and these are of a likely length."""
    ours, theirs = batched(model, source, lengths, SENTENCES, "beam"), plain(model, source, lengths)
    same = sum(one == other for one, other in zip(ours, theirs, strict=True))
    mean = statistics.fmean(map(len, ours))
    print(f"{same} of {len(ours)} texts are the same in fp32; they have {mean:.1f} symbols")
    assert same >= 0.95 * len(ours), "the plain search found other texts"


if __name__ == "__main__":
    main()
