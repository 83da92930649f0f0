"""Speed of the 2 x 650 tied LSTM of the Penn Treebank (batch 20, 35 steps): Unroll against plain.

    python benchmarks/language_model.py [--rounds 5] [--steps 12]

Three ways to train take turns in one process, on the same streams of words:

- plain: a loop as in PyTorch's word language model example, fp32, SGD and clipping by hand;
- bare: Unroll's model, optimiser and precision in a loop without Lightning;
- unroll: `train.py`'s task and trainer, with its callbacks and loggers.

Prints the median tokens/s of each and, as one JSON object, `unroll_over_plain` and
`lightning_overhead`, the share of bare's speed that Lightning, logging and callbacks cost.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

VOCABULARY, SIZE, LAYERS, BATCH, STEPS, DROPOUT, CLIP, RATE = (
    10_000,
    650,
    2,
    20,
    35,
    0.5,
    0.25,
    20.0,
)


class PlainModel(nn.Module):
    """Embedding, LSTM and output layer with one matrix for both ends; time before batch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(VOCABULARY, SIZE)
        self.rnn = nn.LSTM(SIZE, SIZE, LAYERS, dropout=DROPOUT)
        self.decoder = nn.Linear(SIZE, VOCABULARY)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs, state = self.rnn(self.drop(self.encoder(inputs)), state)
        return F.log_softmax(self.decoder(self.drop(outputs)).view(-1, VOCABULARY), dim=1), state


class Plain:
    """Trains `PlainModel` a number of steps at a time."""

    def __init__(self, batches: list[Any]) -> None:
        self.model = PlainModel()
        self.batches = [(b.inputs.t().contiguous(), b.targets.t().reshape(-1)) for b in batches]
        zeros = torch.zeros(LAYERS, BATCH, SIZE)
        self.state: Any = (zeros, zeros)

    def run(self, steps: int) -> float:
        start = time.perf_counter()
        for inputs, targets in self.batches[:steps]:
            self.model.zero_grad()
            self.state = tuple(part.detach() for part in self.state)
            log_probs, self.state = self.model(inputs, self.state)
            loss = F.nll_loss(log_probs, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            for parameter in self.model.parameters():
                assert parameter.grad is not None
                parameter.data.add_(parameter.grad, alpha=-RATE * 1e-3)
            loss.item()
        return time.perf_counter() - start


class Bare:
    """Unroll's model and optimiser without Lightning."""

    def __init__(self, task: Any, precision: str, batches: list[Any]) -> None:
        from tasks.base import cast

        self.task, self.batches, self.precision, self.cast = task, batches, precision, cast
        self.optimizer = task.optimizer(task.parameters())

    def run(self, steps: int) -> float:
        self.task.train()
        start = time.perf_counter()
        for batch in self.batches[:steps]:
            self.optimizer.zero_grad()
            with self.cast(self.task, self.precision):
                loss, count = self.task.loss(batch)
            (loss / count).backward()
            torch.nn.utils.clip_grad_norm_(self.task.parameters(), CLIP)
            self.optimizer.step()
        return time.perf_counter() - start


class Clock(Callback):
    """The time from the end of the first batch to the end of the last."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.ends[-1] - self.ends[0]


def words(folder: Path, tokens: int) -> None:
    """A text whose words are as unlike in frequency as those of a language (Zipf)."""
    draw = random.Random(1)
    names = [f"w{i}" for i in range(VOCABULARY - 4)]
    weights = [1 / (rank + 3) for rank in range(len(names))]
    text = draw.choices(names, weights, k=tokens)
    for split, part in (
        ("train", names + text),
        ("validation", text[:3000]),
        ("test", text[:3000]),
    ):
        lines = (" ".join(part[start : start + 20]) for start in range(0, len(part), 20))
        (folder / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")


def composed(folder: Path, steps: int, precision: str) -> Any:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose(
            "config",
            [
                "task=language_model", "data=text", "tokenizer=whitespace", "cell=lstm",
                "optimizer=sgd", "scheduler=constant", f"data.path={folder}/text",
                f"data.batch_size={BATCH}", f"data.steps={STEPS}", f"paths.run_dir={folder}/run",
                f"paths.cache_dir={folder}/cache", f"model.hidden_size={SIZE}",
                f"model.num_layers={LAYERS}", "model.variational=false",
                f"model.dropout={DROPOUT}", f"model.embedding_dropout={DROPOUT}",
                f"model.output_dropout={DROPOUT}", f"optimizer.lr={RATE * 1e-3}",
                f"trainer.gradient_clip_val={CLIP}", f"precision={precision}",
                "trainer.limit_val_batches=0", "callbacks.estimate=null", "task.samples=0",
            ],
        )  # fmt: skip
    OmegaConf.update(config, "trainer.max_steps", steps + 1)
    return config


def main() -> None:
    import build
    from launch import keep_memory

    keep_memory()  # for the plain loop too
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="batches a turn")
    parser.add_argument("--precision", default="auto", help="of Unroll; plain is always fp32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").mkdir()
        words(folder / "text", BATCH * STEPS * (arguments.steps + 2))
        config = composed(folder, arguments.steps, arguments.precision)
        data = build.data(config)
        build.choose_monitor(config, data.spec)
        batches = list(_take(data.train_dataloader(), arguments.steps))
        precision = build.precision(config.precision, config.trainer)

        def task() -> Any:
            return build.task(config, data.spec, data.codec)

        plain, bare = Plain(batches), Bare(task(), precision, batches)
        tokens = sum(batch.mask.sum().item() for batch in batches)
        speeds: dict[str, list[float]] = {"plain": [], "bare": [], "unroll": []}
        plain.run(2), bare.run(2)
        for turn in range(arguments.rounds):
            speeds["plain"].append(tokens / plain.run(arguments.steps))
            speeds["bare"].append(tokens / bare.run(arguments.steps))
            clock = Clock()
            trainer = build.trainer(config)
            trainer.callbacks.append(clock)
            trainer.fit(task(), data)
            speeds["unroll"].append(tokens / clock.seconds)
            print(f"turn {turn + 1}: " + ", ".join(f"{k} {v[-1]:,.0f}" for k, v in speeds.items()))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    # ratios within a turn: the machine's mood changes between turns
    pairs = zip(speeds["plain"], speeds["bare"], speeds["unroll"], strict=True)
    ratios = [(unroll / plain, 1 - unroll / bare) for plain, bare, unroll in pairs]
    result = {
        **{f"{name}_tokens_per_second": round(value) for name, value in medians.items()},
        "precision": precision,
        "threads": torch.get_num_threads(),
        "unroll_over_plain": round(statistics.median(r for r, _ in ratios), 3),
        "lightning_overhead": round(statistics.median(o for _, o in ratios), 4),
    }
    print(json.dumps(result))


def _take(batches: Any, count: int) -> Iterator[Any]:
    for _, batch in zip(range(count), batches, strict=False):
        yield batch


if __name__ == "__main__":
    main()
