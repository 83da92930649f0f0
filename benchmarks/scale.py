"""Cost of an epoch and memory as data grow (1×, 10×, 100×) and as models grow (1M to 100M).

    python benchmarks/scale.py [--steps 8] [--megabytes 0.3] [--plot docs/scale.png]

A character model on texts of made-up words (`benchmarks/big_data.py` writes them), on one thread,
each size in a process of its own. Data: a GRU of 128, 32 x 100 characters a step; the text is
prepared whole, a few steps are trained, and an epoch's cost is the median step times the steps of
an epoch. Models: an LSTM of `model.budget` parameters, 8 x 32 characters a step. Seconds are those
of the processor, not of the clock, so that other work on the machine counts little; memory is the
highest that was resident (VmHWM) beyond what the libraries take. Linux only: it reads /proc. Prints
two tables and ends with one JSON object.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from big_data import status, write

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DATA = (1, 10, 100)
MODELS = ("1M", "3M", "10M", "30M", "100M")
WARM = 2  # steps before those that count
COMMON = [
    "task=language_model", "data=text", "tokenizer=characters", "trainer=cpu", "precision=fp32",
    "trainer.limit_val_batches=0", "task.samples=0", "+trainer.enable_progress_bar=false",
    "+trainer.enable_checkpointing=false",
]  # fmt: skip


def measure(overrides: list[str], steps: int, sender: Any) -> None:
    """Prepare, train some steps; what it took goes to `sender`. In a process of its own."""
    import torch
    from hydra import compose, initialize_config_dir
    from lightning.pytorch.callbacks import Callback
    from omegaconf import OmegaConf

    import build

    torch.set_num_threads(1)
    libraries = status()["VmRSS"]
    ends: list[float] = []

    class Clock(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            ends.append(time.process_time())

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        words = [*COMMON, *overrides, f"trainer.max_steps={steps + WARM}"]
        config = compose("config", overrides=words)
    for part in ("callbacks", "logger"):
        OmegaConf.update(config, part, {}, merge=False)
    began = time.process_time()
    data = build.data(config)
    prepared = time.process_time() - began
    build.choose_monitor(config, data.spec)
    task = build.task(config, data.spec, data.codec, data.fingerprint)
    trainer = build.trainer(config)
    trainer.callbacks.append(Clock())  # type: ignore[attr-defined]
    trainer.fit(task, datamodule=data)
    step = statistics.median(b - a for a, b in zip(ends[WARM - 1 :], ends[WARM:], strict=False))
    sender.send(
        {
            "parameters": sum(p.numel() for p in task.parameters()),
            "prepare_s": round(prepared, 2),
            "step_s": step,
            "steps_an_epoch": int(trainer.num_training_batches),
            "epoch_s": round(step * int(trainer.num_training_batches), 1),
            "memory_mb": round(status()["VmHWM"] - libraries),
        }
    )


def run(overrides: list[str], steps: int) -> dict[str, Any]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")  # of a process that has imported everything
    process = context.Process(target=measure, args=(overrides, steps, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()  # type: ignore[no-any-return]
    except EOFError:
        raise SystemExit(f"{' '.join(overrides)} ended without a result") from None
    finally:
        process.join()


def plot(path: Path, found: dict[str, dict[str, Any]]) -> None:
    """Cost and memory over the size of data, and over that of models, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    kinds = [("data", "epoch_s", "s an epoch", lambda k, _: float(k) * found["megabytes"]),
             ("models", "step_s", "s a step", lambda _, one: one["parameters"] / 1e6)]  # fmt: skip
    labels = ("megabytes of text", "million parameters")
    for axis, (kind, cost, unit, size), label in zip(panels, kinds, labels, strict=True):
        places = [size(key, one) for key, one in found[kind].items()]
        costs = [one[cost] for one in found[kind].values()]
        memory = [one["memory_mb"] for one in found[kind].values()]
        axis.loglog(places, costs, "o-", color="#31688e")
        axis.set_xlabel(label)
        axis.set_ylabel(f"{unit}, one thread", color="#31688e")
        other = axis.twinx()
        other.plot(places, memory, "s--", color="#b5651d")
        other.set_ylim(0, 1.1 * max(memory))
        other.set_ylabel("MB beyond the libraries", color="#b5651d")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=0.3, help="of the smallest text")
    parser.add_argument("--plot", type=Path, help="a PNG to write")
    options = parser.parse_args()
    import build  # noqa: F401  # imported once, for all processes
    from train import quiet

    quiet()
    found: dict[str, Any] = {"megabytes": options.megabytes, "data": {}, "models": {}}
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        place = [f"paths.run_dir={folder}/run", f"paths.cache_dir={folder}/cache"]
        print("| data | MB | preparing | a step | steps an epoch | an epoch | memory |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for times in DATA:
            file = Path(folder) / str(times) / "train.txt"
            file.parent.mkdir()
            write(file, max(1, round(times * options.megabytes)), kind="text")
            text = file.read_text()[: round(times * options.megabytes * 1_000_000)]
            file.write_text(text)
            one = run([*place, f"data.path={file}", "cell=gru", "model.hidden_size=128",
                       "data.batch_size=32", "data.steps=100"], options.steps)  # fmt: skip
            found["data"][times] = one
            print(
                f"| {times}× | {times * options.megabytes:g} | {one['prepare_s']:.1f} s "
                f"| {one['step_s'] * 1000:.0f} ms | {one['steps_an_epoch']:,} "
                f"| {one['epoch_s']:.0f} s | {one['memory_mb']} MB |",
                flush=True,
            )
        file = Path(folder) / "1" / "train.txt"
        print("\n| parameters | a step | characters a second | memory |\n|---|---|---|---|")
        batch = ["data.batch_size=8", "data.steps=32"]
        for budget in MODELS:
            words = [f"data.path={file}", "cell=lstm", f"model.budget={budget}"]
            one = run([*place, *words, *batch], max(3, options.steps // 2))
            found["models"][budget] = one
            print(
                f"| {one['parameters']:,} | {one['step_s'] * 1000:,.0f} ms "
                f"| {8 * 32 / one['step_s']:,.0f} | {one['memory_mb']:,} MB |",
                flush=True,
            )
    if options.plot:
        plot(options.plot, found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
