"""Memory and time of a language model's output layers at a large vocabulary, forwards and back.

    python benchmarks/output_layer.py [--vocabulary 100000] [--rows 700] [--rounds 3] [--bf16]

Each layer runs in a process of its own: `plain` keeps its logits, `softmax` is Unroll's, which
makes them a few rows at a time, `adaptive` and `mixture` (of 3) are those of model/head. Targets
are drawn with 1 / rank, nearly as words are. Prints a line a layer and ends with one JSON object:
by layer the peak memory in MB beyond what the process held before (the weights' gradient is part
of it), and the seconds of the fastest round.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("plain", "softmax", "adaptive", "mixture")


def held() -> float:
    """The most memory that this process has had so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def measure(
    name: str, vocabulary: int, rows: int, size: int, rounds: int, bf16: bool
) -> dict[str, float]:
    """One layer in this process, which must not have measured another."""
    sys.path.insert(0, str(ROOT))
    import torch
    from torch import Tensor

    from models.cross_entropy import plain_cross_entropy
    from models.head import SoftmaxHead
    from models.head_adaptive import AdaptiveHead
    from models.head_mixture import MixtureHead

    torch.manual_seed(0)
    ranks = 1 / torch.arange(1, vocabulary + 1)
    targets = torch.multinomial(ranks, rows, replacement=True)
    hidden = torch.randn(rows, 1, size, requires_grad=True)
    sizes = {"input_size": size, "num_outputs": vocabulary}
    heads: dict[str, Callable[[], torch.nn.Module]] = {
        "plain": lambda: SoftmaxHead(**sizes),
        "softmax": lambda: SoftmaxHead(**sizes),
        "adaptive": lambda: AdaptiveHead(**sizes, cutoffs=[vocabulary // 50, vocabulary // 10]),
        "mixture": lambda: MixtureHead(**sizes, components=3),
    }
    head = heads[name]()

    def loss() -> Tensor:
        if name == "plain":
            layer = head.linear
            return plain_cross_entropy(hidden[:, 0], layer.weight, layer.bias, targets)
        return head.loss(hidden, targets[:, None])[0]

    seconds, before = [], held()
    for _ in range(rounds):
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        seconds.append(time.perf_counter() - started)
        del value
        head.zero_grad()
    return {"megabytes": round(held() - before), "seconds": round(min(seconds), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=700, help="batch times steps")
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--layer", choices=LAYERS, help="measure this one in this process")
    given = parser.parse_args()
    if given.layer:
        settings = {k: v for k, v in vars(given).items() if k != "layer"}
        print(json.dumps(measure(given.layer, **settings)))
        return
    found = {}
    for layer in LAYERS:
        command = [sys.executable, __file__, *sys.argv[1:], "--layer", layer]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[layer] = json.loads(printed.splitlines()[-1])
        print(
            f"{layer:9} {found[layer]['megabytes']:6,} MB  {found[layer]['seconds']:6.2f} s",
            flush=True,
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
