"""What one step of a language model costs in onnxruntime, against PyTorch, on one thread.

    python benchmarks/onnx_step.py [--rounds 15] [--cells gru slstm mamba] [--batch 1]

A model of 100 characters (embedding 64, one layer of 400, as configs/data/python_source.yaml has
it) with random weights is exported as `export.py` does it, which compares the two first. Then both
go on from symbol to symbol, each with its own state, STEPS steps a turn in turns; a turn's ratio is
PyTorch's time over onnxruntime's. Prints the medians over all turns, and ends with one JSON object.
"""

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SYMBOLS, EMBEDDING, HIDDEN, STEPS = 100, 64, 400, 200


def factory(name: str) -> Callable[..., Any]:
    """The cell of configs/cell/<name>.yaml."""
    settings = yaml.safe_load((ROOT / "configs" / "cell" / f"{name}.yaml").read_text("utf-8"))
    module, _, kind = settings.pop("_target_").rpartition(".")
    settings.pop("_partial_")
    return partial(getattr(importlib.import_module(module), kind), **settings)


def runners(name: str, batch: int, folder: Path) -> dict[str, Callable[[], None]]:
    """STEPS steps in PyTorch, and in onnxruntime."""
    import onnxruntime

    from models.language_model import LanguageModel
    from models.state import leaves
    from tasks import onnx_graphs, onnx_networks, onnx_saving

    torch.manual_seed(0)
    model = LanguageModel(
        vocabulary_size=SYMBOLS, keys=None, pad_id=0, unk_id=1, cell=factory(name),
        embedding_size=EMBEDDING, hidden_size=HIDDEN, tie_weights=False,
    ).eval().requires_grad_(False)  # fmt: skip

    def drawn(rows: int, _: int) -> Any:
        return torch.randint(SYMBOLS, (rows,)), model.initial_state(rows)

    graph = onnx_graphs.stepping(model, onnx_networks.log_probs, "tokens", "log_probs", draw=drawn)
    path = folder / f"{name}.onnx"
    onnx_saving.save(graph, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    tokens = torch.randint(SYMBOLS, (STEPS, batch))
    start = model.initial_state(batch)
    names = [name for name in graph.inputs if name != "tokens"]

    def in_torch() -> None:
        state = start
        for now in tokens:
            hidden, state = model.step(now, state)
            model.head.log_probs(hidden)

    def in_onnxruntime() -> None:
        state = [leaf.numpy() for leaf in leaves(start)]
        for now in tokens.numpy():
            feed = {"tokens": np.ascontiguousarray(now), **dict(zip(names, state, strict=True))}
            _, *state = session.run([*graph.outputs], feed)

    return {"torch": in_torch, "onnxruntime": in_onnxruntime}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--cells", nargs="+", default=["gru", "slstm", "mamba"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"batch": arguments.batch}
    for name in arguments.cells:
        with tempfile.TemporaryDirectory() as place, torch.no_grad():
            both = runners(name, arguments.batch, Path(place))
            times: dict[str, list[float]] = {which: [] for which in both}
            for turn in range(arguments.rounds + 1):
                for which, run in both.items():
                    began = time.perf_counter()
                    run()
                    if turn:  # the first warms up
                        times[which].append((time.perf_counter() - began) / STEPS * 1e6)
        ratios = [a / b for a, b in zip(times["torch"], times["onnxruntime"], strict=True)]
        found = {which: round(statistics.median(own), 1) for which, own in times.items()}
        result[name] = found | {"ratio": round(statistics.median(ratios), 2)}
        print(name, *(f"{which} {value} µs" for which, value in found.items()),
              f"ratio {result[name]['ratio']}", flush=True)  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
