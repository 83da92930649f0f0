"""How far back each cell sees: the gradient of its last output by the distance of the input.

    python benchmarks/memory.py [CELL ...] [--train-steps 300] [--out runs/benchmarks]

For every cell of configs/cell, with its initial weights and after training on the adding problem
(200 steps): the norm of the derivative of the last output, in a random direction, by the
input k steps before; the mean over rows and directions. Writes memory.csv and memory.png and ends
with one JSON object: the share of the gradient that is left after 10 and 100 steps, before and
after training, and the squared error that training reached (always answering 1: 0.167).
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
CELLS = sorted(path.stem for path in (ROOT / "configs" / "cell").glob("*.yaml"))
STEPS, SIZE, BATCH, DIRECTIONS = 200, 64, 32, 4
sys.path.insert(0, str(ROOT))


def adding(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows (B, T, 2) of numbers and two markers, and the sums (B,) of the marked numbers."""
    values = torch.rand(batch, STEPS, generator=generator)
    first = torch.randint(STEPS // 2, (batch, 1), generator=generator)
    second = torch.randint(STEPS // 2, STEPS, (batch, 1), generator=generator)
    places = torch.cat([first, second], dim=1)
    markers = torch.zeros(batch, STEPS).scatter_(1, places, 1.0)
    return torch.stack([values, markers], -1), values.gather(1, places).sum(1)


def gradient_by_lag(layer: nn.Module) -> Tensor:
    """(T,), the nearest input first."""
    generator = torch.Generator().manual_seed(7)
    inputs = adding(BATCH, generator)[0].requires_grad_()
    last = layer(inputs)[0][:, -1]
    total = torch.zeros(STEPS)
    for _ in range(DIRECTIONS):
        direction = torch.randn(last.shape, generator=generator)
        direction = direction / direction.norm(dim=1, keepdim=True)
        (slopes,) = torch.autograd.grad(last, inputs, direction, retain_graph=True)
        total += slopes.norm(dim=-1).mean(0)
    return (total / DIRECTIONS).flip(0)


def train(layer: nn.Module, head: nn.Module, steps: int) -> float:
    """Adam on fresh rows; the mean squared error of the last tenth."""
    generator = torch.Generator().manual_seed(1)
    parameters = [*layer.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    losses = []
    for _ in range(steps):
        inputs, sums = adding(BATCH, generator)
        loss = (head(layer(inputs)[0][:, -1]).squeeze(-1) - sums).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def main() -> None:
    import hydra.utils
    import yaml

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cells", nargs="*", metavar="CELL", help="default: all")
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()
    unknown = [name for name in options.cells if name not in CELLS]
    if unknown:
        parser.error(f"no such cell: {', '.join(unknown)}; there are {', '.join(CELLS)}")
    curves: dict[str, dict[str, list[float]]] = {}
    results: dict[str, dict[str, float]] = {}
    for name in options.cells or [cell for cell in CELLS if cell != "memoryless"]:
        torch.manual_seed(1)
        config = yaml.safe_load((ROOT / "configs" / "cell" / f"{name}.yaml").read_text())
        cell: Callable[..., Any] = hydra.utils.instantiate(config)
        layer, head = cell(input_size=2, hidden_size=SIZE), nn.Linear(SIZE, 1)
        before = gradient_by_lag(layer)
        error = train(layer, head, options.train_steps)
        after = gradient_by_lag(layer)
        curves[name] = {"initial": before.tolist(), "trained": after.tolist()}
        results[name] = {
            f"{label}_lag_{lag}": float(f"{(curve[lag] / curve[0]).item():.3g}")
            for label, curve in (("initial", before), ("trained", after))
            for lag in (10, 100)
        }
        results[name]["adding_mse"] = round(error, 5)
        print(f"{name}: {results[name]}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write(curves, options.out)
    print(json.dumps(results))


def write(curves: dict[str, dict[str, list[float]]], folder: Path) -> None:
    """memory.csv and memory.png: one small picture a cell."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (folder / "memory.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", "weights", *range(STEPS)])
        for name, both in curves.items():
            writer.writerows([name, label, *(f"{v:.4g}" for v in both[label])] for label in both)
    columns = min(6, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(2.1 * columns, 1.7 * rows + 0.4), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for axis, (name, both) in zip(axes.flat, curves.items(), strict=False):
        for label, colour in (("initial", "#bbbbbb"), ("trained", "#4477aa")):
            axis.plot(both[label], color=colour, label=label)
        axis.set_yscale("log")
        axis.set_ylim(1e-9, 1e2)
        axis.set_title(name, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.supxlabel("steps back", fontsize=9)
    figure.supylabel("gradient of the last output", fontsize=9)
    figure.tight_layout()
    figure.savefig(folder / "memory.png", dpi=120)


if __name__ == "__main__":
    main()
