"""Speed and memory of every cell against nn.LSTM: training, decoding, long sequences.

    python benchmarks/cells.py [CELL ...] [--rounds 5] [--short] [--out runs/benchmarks]
                               [--batch 32] [--steps 256] [--features 512]

Each cell of configs/cell runs in a process of its own, in turns with the baseline, at batch 32,
256 steps, 512 features in and out unless told otherwise, both in the precision that
`precision=auto` chooses. Prints a table, writes it as cells.csv and cells.png, and ends with one
JSON object. Ratios are of tokens/s:

- train_over_lstm: forward and backward of a padded batch, against nn.LSTM;
- train_over_module: the same against the module that a fused cell wraps;
- train_per_flop: train_over_lstm times the matrix products that the cell needs over the LSTM's;
- t4096_over_t256: 4,096 steps against 256, or `--steps` (cells with a matrix as memory: both
  at batch 8);
- decode_over_lstm: one step at a time, against nn.LSTM called so;
- decode_late_over_early: such a step after 16,000 others against one after 16.

`memory_gb` is what the training step of 4,096 steps takes at its peak. `--short` leaves those steps
out, which take the most of the time: two minutes a cell where there is no bf16.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CELLS = sorted(path.stem for path in (ROOT / "configs" / "cell").glob("*.yaml"))
LONG = 4096
MATRIX_BATCH = 8
EARLY, LATE = 16, 16_000
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cells", nargs="*", metavar="CELL", help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--short", action="store_true", help="no sequences of 4,096 steps")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [name for name in options.cells if name not in CELLS]
    if unknown:
        parser.error(f"no such cell: {', '.join(unknown)}; there are {', '.join(CELLS)}")
    if options.alone:
        print(json.dumps(measure(options.cells[0], options)))
        return
    results = {}
    for name in options.cells or CELLS:
        words = [name, *(word for word in sys.argv[1:] if word not in options.cells), "--alone"]
        command = [sys.executable, __file__, *words]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode:
            sys.exit(f"{name} failed:\n{found.stderr}")
        results[name] = json.loads(found.stdout.splitlines()[-1])
        print(f"{name}: {results[name]}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    show(results, f"batch {options.batch}, {options.steps} steps, {options.features} features")
    write(results, options.out)
    print(json.dumps(results))


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one cell."""
    import hydra.utils
    import torch
    import yaml

    import build
    from launch import keep_memory
    from models.fused import FusedLayer
    from models.parallel import ChunkLayer

    keep_memory()
    rounds, size = options.rounds, options.features
    precision = build.precision(options.precision, {"accelerator": "cpu"})
    torch.manual_seed(0)

    def cast() -> Any:
        if precision == "bf16-mixed":
            return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
        return nullcontext()

    config = yaml.safe_load((ROOT / "configs" / "cell" / f"{name}.yaml").read_text())
    layer = hydra.utils.instantiate(config)(input_size=size, hidden_size=size)
    lstm = torch.nn.LSTM(size, size, batch_first=True)

    def training(run: Callable[..., Any], batch: int, steps: int) -> Callable[[], None]:
        inputs = torch.randn(batch, steps, size, requires_grad=True)
        slopes = torch.randn(batch, steps, size)

        def once() -> None:
            with cast():
                outputs = run(inputs)[0]
            outputs.backward(slopes.to(outputs.dtype))

        return once

    def decoding(step: Callable[..., Any], state: Any, batch: int) -> Callable[[], None]:
        inputs = torch.randn(batch, size)

        def once() -> None:
            carried = state
            with torch.no_grad(), cast():
                for _ in range(options.steps // 4):
                    _, carried = step(inputs, carried)

        return once

    runs = {
        "cell": training(layer, options.batch, options.steps),
        "lstm": training(lstm, options.batch, options.steps),
    }
    if isinstance(layer, FusedLayer):
        module = type(layer.rnn)(size, size, batch_first=True, **_own(layer))
        runs["module"] = training(module, options.batch, options.steps)
    seconds = turns(runs, rounds)
    result: dict[str, Any] = {
        "parameters": sum(p.numel() for p in layer.parameters()),
        "train_tokens_per_second": round(options.batch * options.steps / seconds["cell"]),
        "train_over_lstm": round(seconds["lstm"] / seconds["cell"], 3),
        "train_per_flop": round(
            seconds["lstm"] / seconds["cell"] * products(layer) / products(lstm), 3
        ),
    }
    if "module" in seconds:
        result["train_over_module"] = round(seconds["module"] / seconds["cell"], 3)

    def lstm_step(inputs: Any, state: Any) -> Any:
        outputs, state = lstm(inputs.unsqueeze(1), state)
        return outputs.squeeze(1), state

    zeros = torch.zeros(1, options.batch, size)
    seconds = turns(
        {
            "cell": decoding(layer.step, layer.initial_state(options.batch), options.batch),
            "lstm": decoding(lstm_step, (zeros, zeros), options.batch),
        },
        rounds,
    )
    result["decode_tokens_per_second"] = round(
        options.batch * (options.steps // 4) / seconds["cell"]
    )
    result["decode_over_lstm"] = round(seconds["lstm"] / seconds["cell"], 3)

    with torch.no_grad(), cast():
        early = layer(torch.randn(1, EARLY, size))[1]
        late = layer(torch.randn(1, LATE, size))[1]
    seconds = turns(
        {
            "early": decoding(layer.step, early, 1),
            "late": decoding(layer.step, late, 1),
        },
        rounds,
    )
    result |= {
        "decode_late_over_early": round(seconds["early"] / seconds["late"], 3),
        "precision": precision,
    }
    if options.short:
        return result

    batch = MATRIX_BATCH if isinstance(layer, ChunkLayer) else options.batch
    long = training(layer, batch, LONG)
    before = reset_peak()
    # the first steps of a process ask the system for memory: a training is what comes after them
    runs = {"long": long, "short": training(layer, batch, options.steps)}
    seconds = turns(runs, max(2, rounds // 2), warm=3)
    result["t4096_over_t256"] = round(seconds["short"] * LONG / options.steps / seconds["long"], 3)
    result["memory_gb"] = round((peak() - before) / 2**20, 2)
    return result


def _own(layer: Any) -> dict[str, Any]:
    """The options of a plain nn.RNN."""
    nonlinearity = getattr(layer.rnn, "nonlinearity", None)
    return {} if nonlinearity is None else {"nonlinearity": nonlinearity}


def products(layer: Any) -> int:
    """Multiplications a token: each entry of a matrix, trained or fixed, is used once a step."""
    tensors = [*layer.parameters(), *layer.buffers()]
    return sum(tensor.numel() for tensor in tensors if tensor.dim() > 1)


def turns(runs: dict[str, Callable[[], None]], rounds: int, warm: int = 1) -> dict[str, float]:
    """Median seconds of each, taken in turns, after `warm` rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-warm, rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def reset_peak() -> int:
    """Forget the highest memory so far; what is held now, in kB (0 where Linux does not tell)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return status("VmRSS")


def peak() -> int:
    return status("VmHWM")


def status(key: str) -> int:
    table = Path("/proc/self/status")
    lines = table.read_text().splitlines() if table.exists() else [f"{key}: 0"]
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def show(results: dict[str, dict[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ["train_tokens_per_second", *RATIOS, "memory_gb"]
    table = Table(title=title)
    table.add_column("cell")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, figures in results.items():
        table.add_row(name, *(f"{figures[c]:,}" if c in figures else "" for c in columns))
    Console(width=140).print(table)


RATIOS = (
    "train_over_lstm",
    "train_over_module",
    "train_per_flop",
    "t4096_over_t256",
    "decode_over_lstm",
    "decode_late_over_early",
)


def write(results: dict[str, dict[str, Any]], folder: Path) -> None:
    """cells.csv and cells.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(key for figures in results.values() for key in figures))
    with (folder / "cells.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["cell", *names])
        writer.writeheader()
        writer.writerows({"cell": name, **figures} for name, figures in results.items())
    order = sorted(results, key=lambda name: results[name]["train_over_lstm"])
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 0.6 + 0.24 * len(order)), sharey=True)
    for axis, key in zip(axes, ("train_over_lstm", "decode_over_lstm"), strict=True):
        axis.barh(order, [results[name][key] for name in order], color="#4477aa")
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_title(key.replace("_", " "))
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(folder / "cells.png", dpi=120)


if __name__ == "__main__":
    main()
