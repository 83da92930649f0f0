"""Speed of training a translator on Multi30k (batch 64): Unroll against a textbook's loop.

    python benchmarks/translation.py [--data DIR] [--rounds 5] [--batches 6]

One network, an LSTM encoder of 512 a direction and an LSTM decoder of 512 with additive attention
over some 8,000 target words, is trained in forms that take turns on the same batches:

- textbook: input feeding as tutorials write it in plain PyTorch, fp32: packed sequences, a loop
  over target places with nn.LSTMCell, an attention module that projects query and memory whenever
  it is called (as in PyTorch's own tutorial on translation), and an output layer at each place;
- careful: the textbook, but with the memory projected once a sentence;
- fed: Unroll with input feeding;
- fused: Unroll without it, where all target places are one call.

A step is forward, loss, backward, clipping and Adam. Prints the median target tokens/s of each, in
`--precision` and in fp32, and, as one JSON object, the medians of the ratios within each turn, to
the textbook and to the careful one.
`--data` (or UNROLL_DATA) holds multi30k/; without it the batches are random, of the same lengths.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

BATCH, EMBEDDING, HIDDEN, DROPOUT, RATE, CLIP = 64, 256, 512, 0.3, 1e-3, 1.0
PAD, BOS = 0, 1


class Work(NamedTuple):
    """What is trained on, and the number of symbols on either side."""

    batches: Sequence[Any]  # data.batches.PairBatch
    source_words: int
    target_words: int


class TextbookEncoder(nn.Module):
    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, EMBEDDING)
        self.rnn = nn.LSTM(EMBEDDING, HIDDEN, bidirectional=True, batch_first=True)
        self.bridge_hidden = nn.Linear(2 * HIDDEN, HIDDEN)
        self.bridge_cell = nn.Linear(2 * HIDDEN, HIDDEN)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedded = self.dropout(self.embedding(source))
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        packed, (hidden, _) = self.rnn(packed)
        values, _ = pad_packed_sequence(packed, batch_first=True, total_length=source.size(1))
        summary = torch.cat([hidden[0], hidden[1]], dim=1)
        hidden = torch.tanh(self.bridge_hidden(summary))
        cell = torch.tanh(self.bridge_cell(summary))
        return self.dropout(values), hidden, cell


class TextbookAttention(nn.Module):
    def __init__(self, keys_once: bool) -> None:
        super().__init__()
        self.keys_once = keys_once
        self.key = nn.Linear(2 * HIDDEN, HIDDEN)
        self.query = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.score = nn.Linear(HIDDEN, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        keys = keys if self.keys_once else self.key(values)
        energy = torch.tanh(self.query(query).unsqueeze(1) + keys)
        scores = self.score(energy).squeeze(2).masked_fill(~mask, -1e9)
        weights = F.softmax(scores, dim=1)
        return torch.bmm(weights.unsqueeze(1), values).squeeze(1)


class TextbookDecoder(nn.Module):
    def __init__(self, words: int, keys_once: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, EMBEDDING)
        self.cell = nn.LSTMCell(EMBEDDING + HIDDEN, HIDDEN)
        self.attention = TextbookAttention(keys_once)
        self.combine = nn.Linear(3 * HIDDEN, HIDDEN, bias=False)
        self.output = nn.Linear(HIDDEN, words)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self, target: Tensor, values: Tensor, mask: Tensor, hidden: Tensor, cell: Tensor
    ) -> Tensor:
        keys = self.attention.key(values) if self.attention.keys_once else values
        fed = values.new_zeros(target.size(0), HIDDEN)
        logits = []
        for place in range(target.size(1)):
            embedded = self.dropout(self.embedding(target[:, place]))
            hidden, cell = self.cell(torch.cat([embedded, fed], dim=1), (hidden, cell))
            context = self.attention(hidden, keys, values, mask)
            fed = self.dropout(torch.tanh(self.combine(torch.cat([hidden, context], dim=1))))
            logits.append(self.output(fed))
        return torch.stack(logits, dim=1)


class Textbook:
    """Trains the textbook's model."""

    def __init__(self, work: Work, *, keys_once: bool) -> None:
        self.encoder = TextbookEncoder(work.source_words)
        self.decoder = TextbookDecoder(work.target_words, keys_once)
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=RATE)

    def step(self, batch: Any) -> float:
        self.optimizer.zero_grad()
        values, hidden, cell = self.encoder(batch.source, batch.source_lengths)
        mask = torch.arange(batch.source.size(1)) < batch.source_lengths[:, None]
        logits = self.decoder(batch.target[:, :-1], values, mask, hidden, cell)
        targets = batch.target[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        return loss.item()


class Unroll:
    """Trains the same network as `train.py` composes and builds it, without Lightning."""

    def __init__(self, work: Work, *, input_feeding: bool, precision: str) -> None:
        import build

        config = composed(
            f"model.encoder.hidden_size={HIDDEN}",
            f"model.decoder.hidden_size={HIDDEN}",
            f"model.decoder.attention_size={HIDDEN}",
            f"model.decoder.input_feeding={str(input_feeding).lower()}",
            *(f"model.{part}.embedding_size={EMBEDDING}" for part in ("encoder", "decoder")),
            *(f"model.{part}.dropout={DROPOUT}" for part in ("encoder", "decoder")),
            *(f"model.{part}.embedding_dropout={DROPOUT}" for part in ("encoder", "decoder")),
        )
        self.model = build.instantiate(config.model)(
            source_vocabulary_size=work.source_words,
            target_vocabulary_size=work.target_words,
            pad_id=PAD,
            bos_id=BOS,
        )
        self.parameters = list(self.model.parameters())
        self.optimizer = build.instantiate(config.optimizer)(self.parameters)
        self.precision = build.precision(precision, config.trainer)

    def step(self, batch: Any) -> float:
        from tasks.base import cast

        self.optimizer.zero_grad()
        with cast(self.model, self.precision):
            memory = self.model.encode(batch.source, batch.source_lengths)
            hidden = self.model(memory, batch.target[:, :-1]).hidden
            places = torch.arange(1, batch.target.size(1))
            mask = places < batch.target_lengths[:, None]
            nats, count = self.model.head.loss(hidden, batch.target[:, 1:], mask)
        loss = nats / count
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        return float(loss.item())


def composed(*overrides: str) -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose(
            "config",
            [
                "task=translation", "data=multi30k", "tokenizer=words", "model=bahdanau",
                "cell=lstm", "optimizer=adam", "trainer.accelerator=cpu", "paths.run_dir=runs",
                f"data.batch_size={BATCH}", f"optimizer.lr={RATE}", "model.tie_weights=none",
                "model.label_smoothing=0", *overrides,
            ],
        )  # fmt: skip


def real(folder: Path, count: int) -> Work:
    """The first batches of a training epoch, as `train.py` sees them."""
    import build

    data = build.data(composed(f"paths.data_dir={folder}"))
    loader = iter(data.train_dataloader())
    sides = data.spec.input_vocabulary, data.spec.output_vocabulary
    assert sides[0] is not None and sides[1] is not None
    return Work([next(loader) for _ in range(count)], sides[0].size, sides[1].size)


def random(count: int) -> Work:
    """Random words in sentences as long as those of Multi30k, similar lengths side by side."""
    from data.batches import PairBatch

    draw = torch.Generator().manual_seed(1)
    words = 6_000, 8_000
    batches = []
    for _ in range(count):
        middle = 13.0 + 4.0 * torch.randn((), generator=draw).clamp(-2.0, 2.0)
        ids, lengths = [], []
        for size, extra in zip(words, (1, 2), strict=True):  # eos; bos and eos
            spread = torch.randn(BATCH, generator=draw)
            length = (middle + spread).round().long().clamp(4, 40) + extra
            symbols = torch.randint(4, size, (BATCH, int(length.max())), generator=draw)
            ids.append(symbols.masked_fill(torch.arange(symbols.size(1)) >= length[:, None], PAD))
            lengths.append(length)
        batches.append(PairBatch(ids[0], lengths[0], ids[1], lengths[1], torch.arange(BATCH)))
    return Work(batches, *words)


def main() -> None:
    from launch import keep_memory

    keep_memory()  # for the textbook too
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("UNROLL_DATA"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=6, help="batches a turn")
    parser.add_argument("--precision", default="auto", help="of Unroll; the textbook is in fp32")
    arguments = parser.parse_args()
    torch.manual_seed(1)
    if arguments.data is not None and (Path(arguments.data) / "multi30k").is_dir():
        work = real(Path(arguments.data), arguments.batches)
    else:
        print("no multi30k below --data or UNROLL_DATA: random batches of its lengths")
        work = random(arguments.batches)
    tokens = sum(int((batch.target_lengths - 1).sum()) for batch in work.batches)
    print(
        f"{work.source_words:,} source and {work.target_words:,} target words, "
        f"{tokens / arguments.batches:,.0f} target tokens a batch"
    )
    forms: dict[str, Any] = {"textbook": Textbook(work, keys_once=False)}
    forms["careful"] = Textbook(work, keys_once=True)
    forms["fed"] = Unroll(work, input_feeding=True, precision=arguments.precision)
    forms["fused"] = Unroll(work, input_feeding=False, precision=arguments.precision)
    forms["fed_fp32"] = Unroll(work, input_feeding=True, precision="fp32")
    forms["fused_fp32"] = Unroll(work, input_feeding=False, precision="fp32")
    for form in forms.values():
        form.step(work.batches[0])
    speeds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(arguments.rounds):
        for name, form in forms.items():
            start = time.perf_counter()
            losses = [form.step(batch) for batch in work.batches]
            speeds[name].append(tokens / (time.perf_counter() - start))
            assert all(loss < 20.0 for loss in losses), f"{name} diverged: {losses}"
        print(f"turn {turn + 1}: " + ", ".join(f"{k} {v[-1]:,.0f}" for k, v in speeds.items()))

    def ratio(name: str, baseline: str) -> float:
        # ratios within a turn: the machine's mood changes between turns
        pairs = zip(speeds[name], speeds[baseline], strict=True)
        return round(statistics.median(ours / plain for ours, plain in pairs), 3)

    result: dict[str, Any] = {
        f"{name}_tokens_per_second": round(statistics.median(values))
        for name, values in speeds.items()
    }
    result |= {
        "precision": forms["fed"].precision,
        "threads": torch.get_num_threads(),
    }
    for name, form in [("input_feeding", "fed"), ("fused", "fused")]:
        for baseline in ("textbook", "careful"):
            result[f"{name}_over_{baseline}"] = ratio(form, baseline)
            result[f"{name}_over_{baseline}_fp32"] = ratio(f"{form}_fp32", baseline)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
