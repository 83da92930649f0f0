"""Speed of decoding: batched searches against plain ones, and against one sentence at a time.

    python benchmarks/decoding.py [--rounds 5] [--precision auto]

The translator of configs/model/translator.yaml (bidirectional LSTM of 2 x 256 in two layers, LSTM
of 512 with attention, 8,000 words a side) decodes 64 sentences of 8 to 25 words. Its weights are
random, but its words as unlike each other in probability as a trained one's, and the end becomes
likely where a text is about as long as its sentence. Texts have some 15 words.

- beam5, greedy, sampling (of the 50 likeliest): Unroll's searches, all 64 sentences at a time;
- beam5_batch1, greedy_batch1, sampling_batch1: the same, one sentence at a time;
- unbatched: a textbook's beam search, over neither sentences nor beams: one sentence at a time, its
  live hypotheses in Python lists, each stepped alone, as many tutorials do;
- beams_batched: the same textbook, but all 5 hypotheses are one batch of the model's step.

All use the same model and the same `step`: a sentence is encoded once and its keys are computed
once. First the textbook's 5 best hypotheses of every sentence must be those of Unroll, and their
scores equal within 1e-4, in fp32. Prints the median sentences/s of each, and ends with one JSON
object of these and of the medians of the ratios within each turn.
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

SENTENCES, SHORTEST, LONGEST_SOURCE = 64, 8, 25
WORDS, BEAM, LONGEST = 8000, 5, 40
PAD, UNK, BOS, EOS = range(4)
SPREAD = 2.0  # nats, the deviation of logits
Text = tuple[float, list[int]]  # a score, or a sum of log-probabilities, and symbols


def main() -> None:
    from launch import keep_memory

    keep_memory()  # for the textbook too
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
    work = model, *sentences()
    check(*work)
    ways: dict[str, Callable[[], Any]] = {
        "unbatched": lambda: plain(*work, one_by_one),
        "beams_batched": lambda: plain(*work, together),
    }
    for name, way in [("beam5", "beam"), ("greedy", "greedy"), ("sampling", "sample")]:
        ways[name] = partial(batched, *work, SENTENCES, way)
        ways[f"{name}_batch1"] = partial(batched, *work, 1, way)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, arguments.rounds):  # the first warms up
        for name, way in ways.items():
            start = time.perf_counter()
            # In inference mode autocast would cast all weights anew at every step.
            with torch.no_grad(), cast(model, precision):
                way()
            if turn >= 0:
                speeds[name].append(SENTENCES / (time.perf_counter() - start))
    found = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
    for name, speed in found.items():
        print(f"{name:16} {speed:8.1f} sentences/s")

    def ratio(name: str, baseline: str) -> float:
        # within a turn: the machine's mood changes between turns
        pairs = zip(speeds[name], speeds[baseline], strict=True)
        return round(statistics.median(one / other for one, other in pairs), 2)

    result: dict[str, Any] = {
        "beam5_over_unbatched": ratio("beam5", "unbatched"),
        "beam5_over_beams_batched": ratio("beam5", "beams_batched"),
        "beam5_over_batch1": ratio("beam5", "beam5_batch1"),
        "greedy_over_batch1": ratio("greedy", "greedy_batch1"),
        "sampling_over_batch1": ratio("sampling", "sampling_batch1"),
    }
    result |= {f"{name}_sentences_per_second": speed for name, speed in found.items()}
    result |= {"precision": precision, "threads": torch.get_num_threads()}
    print(json.dumps(result))


def translator() -> Any:
    """The model of configs/model/translator.yaml, at the sizes written there."""
    from hydra import compose, initialize_config_dir

    import build

    torch.manual_seed(1)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        # Multi30k leaves the sizes as they are: smaller data, such as dates, choose smaller ones.
        chosen = ["data=multi30k", "tokenizer=words", "model=translator", "cell=lstm"]
        config = compose("config", ["task=translation", *chosen, "paths.run_dir=runs"])
    model = build.instantiate(config.model)(
        source_vocabulary_size=WORDS, target_vocabulary_size=WORDS, pad_id=PAD, bos_id=BOS
    ).eval()
    sizes = model.encoder.output_size, model.decoder.output_size
    assert sizes == (512, 512), f"expected 2 x 256 and 512, got {sizes}"
    sharpen(model)
    return model


@torch.no_grad()
def sharpen(model: Any) -> None:
    """Scale the logits to a deviation of `SPREAD`: else all words are alike, and ties decide."""
    source, lengths = sentences()
    memory = model.encode(source, lengths)
    hidden = model(memory, source).hidden
    model.head.projection.weight.mul_(SPREAD / model.head(hidden).std())


def sentences() -> tuple[Tensor, Tensor]:
    """(64, 25) words and their numbers (64,)."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(SHORTEST, LONGEST_SOURCE + 1, (SENTENCES,), generator=draw)
    source = torch.randint(UNK + 3, WORDS, (SENTENCES, LONGEST_SOURCE), generator=draw)
    return source.masked_fill(torch.arange(LONGEST_SOURCE) >= lengths[:, None], PAD), lengths


def begin(model: Any, memory: Any) -> Any:
    """The model's state, and how many words a text has more than its sentence (B,)."""
    return model.initial_state(memory), -memory.mask.sum(1).float()


def step(model: Any, tokens: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any]:
    """A step of the model, in which the end is likelier by 2 nats with each word."""
    inner, excess = state
    log_probs, _, inner = model.step(tokens, inner, memory)
    log_probs[:, EOS] = (2.0 * excess + 4.0).clamp(max=-0.1)
    return log_probs, (inner, excess + 1)


def batched(model: Any, source: Tensor, lengths: Tensor, size: int, way: str) -> list[list[Text]]:
    """Unroll's search, `size` sentences at a time: the hypotheses of each."""
    from models.decoding import beam_search, greedy, sample

    barred: dict[str, Any] = {"forbidden": (PAD, BOS), "eos_id": EOS}
    texts = []
    for part, own in zip(source.split(size), lengths.split(size), strict=True):
        memory = model.encode(part[:, : int(own.max())], own)
        start = partial(step, model), begin(model, memory), memory
        if way == "beam":
            found = beam_search(
                *start, bos_id=BOS, beam_size=BEAM, n_best=BEAM, max_length=LONGEST, **barred
            )
        elif way == "greedy":
            found = greedy(*start, bos_id=BOS, max_length=LONGEST, **barred)
        else:
            found = sample(
                *start, prompt=torch.full((len(part), 1), BOS), max_new_tokens=LONGEST, top_k=50,
                seeds=range(len(part)), **barred,
            )  # fmt: skip
        rows = zip(*(values.tolist() for values in found), strict=True)
        texts += [
            [(score, tokens[:count]) for tokens, count, score in zip(*row, strict=True)]
            for row in rows
        ]
    return texts


def plain(
    model: Any, source: Tensor, lengths: Tensor, advance: Callable[..., tuple[Tensor, Any]]
) -> list[list[Text]]:
    """A textbook's beam search, one sentence after the other: its best hypotheses. `advance` steps
    those that are live.
    """
    from models.state import select_rows

    texts = []
    for words, length in zip(source, lengths, strict=True):
        memory = model.encode(words[None, : int(length)], length[None])
        state = begin(model, memory)
        live: list[Text] = [(0.0, [])]
        ended: list[Text] = []
        for _ in range(LONGEST):
            last = torch.tensor([tokens[-1] if tokens else BOS for _, tokens in live])
            log_probs, state = advance(model, last, state, memory)
            log_probs[:, [PAD, BOS]] = -torch.inf
            totals = torch.tensor([total for total, _ in live])[:, None] + log_probs
            best, places = totals.flatten().topk(2 * BEAM)
            following, parents = [], []
            for rank, (total, place) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
                parent, symbol = divmod(place, WORDS)
                tokens = [*live[parent][1], symbol]
                if symbol != EOS:
                    following.append((total, tokens))
                    parents.append(parent)
                elif rank < BEAM:
                    ended.append((total / len(tokens), tokens))
                if len(following) == BEAM:
                    break
            if len(ended) >= BEAM:
                break
            live, state = following, select_rows(state, torch.tensor(parents))
        ended.sort(key=lambda text: -text[0])
        texts.append(ended[:BEAM])
    return texts


def together(model: Any, last: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any]:
    wide = type(memory)(*(part.expand(len(last), *part.shape[1:]) for part in memory))
    return step(model, last, state, wide)


def one_by_one(model: Any, last: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any]:
    from models.state import map_state, select_rows

    steps = []
    for row, symbol in enumerate(last.split(1)):
        own = select_rows(state, torch.tensor([row]))
        steps.append(step(model, symbol, own, memory))
    log_probs, states = zip(*steps, strict=True)
    return torch.cat(log_probs), map_state(lambda *rows: torch.cat(rows), *states)


@torch.inference_mode()
def check(model: Any, source: Tensor, lengths: Tensor) -> None:
    """All searches with a beam find the same 5 hypotheses of every sentence, in fp32."""
    work = model, source, lengths
    ours = batched(*work, SENTENCES, "beam")
    others = {
        "beam5_batch1": batched(*work, 1, "beam"),
        "unbatched": plain(*work, one_by_one),
        "beams_batched": plain(*work, together),
    }
    furthest = 0.0
    for name, theirs in others.items():
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert [text for _, text in mine] == [text for _, text in other], (
                f"{name} found other texts for sentence {number}: {mine} and {other}"
            )
            pairs = zip(mine, other, strict=True)
            furthest = max([furthest, *(abs(one - two) for (one, _), (two, _) in pairs)])
    assert furthest < 1e-4, f"scores differ by {furthest}"
    sizes = [len(text) for hypotheses in ours for _, text in hypotheses[:1]]
    print(
        f"all {sum(map(len, ours))} hypotheses are the same in fp32, scores within {furthest:.0e}; "
        f"the best have {min(sizes)} to {max(sizes)} symbols, {statistics.fmean(sizes):.1f} on "
        "average"
    )


if __name__ == "__main__":
    main()
