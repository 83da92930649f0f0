"""Time and peak memory of preparing a large text and training on it.

    python benchmarks/big_data.py [--megabytes 1000] [--kinds words characters bpe] [--stream]

Writes a text of so many megabytes (sentences drawn by seed from made-up words) into a temporary
folder, and a small one of 4 MB. Each tokenizer prepares both in a process of its own and takes
`--steps` training steps; what the large text takes beyond the small one is what its size costs:
libraries and model are the same. `resident` is the peak that the system has counted (VmHWM: mapped
pages of files are in it, though the system may drop them at any time), `private` the peak of what
cannot be dropped (RssAnon, looked at every 20 ms). With `--stream` the text is not prepared
(data.streaming=true). Linux only: it reads /proc. Prints a table and ends with one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SMALL = 4  # megabytes
KINDS = ("words", "characters", "bytes", "bpe", "unigram")


def write(file: Path, megabytes: int, *, kind: str, seed: int = 0) -> None:
    """Sentences of Zipf-distributed words: 20 000 lower-case ones, some of them capitalised."""
    import numpy as np

    random = np.random.default_rng(seed)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    words = ["".join(random.choice(letters, random.integers(2, 10))) for _ in range(20_000)]
    shares = 1 / np.arange(1, len(words) + 1)
    drawn = random.choice(words, (40_000, 14), p=shares / shares.sum())
    sentences = [" ".join(row[: 6 + i % 9]).capitalize() + "." for i, row in enumerate(drawn)]
    left = megabytes * 1_000_000
    with file.open("w", encoding="utf-8") as out:
        if kind == "labels":
            left -= out.write("text,label\n")
        while left > 0:
            picked = random.integers(len(sentences), size=3000)
            if kind == "labels":
                rows = [f"{sentences[i]},{i % 3}" for i in picked]
            elif kind == "pairs":
                rows = [
                    json.dumps({"source": sentences[i], "target": sentences[i][::-1]})
                    for i in picked
                ]
            else:
                rows = [sentences[i] for i in picked]
            left -= out.write("\n".join(rows) + "\n")


def status() -> dict[str, float]:
    """Megabytes of this process, by the names of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    rows = (line.split(":", 1) for line in lines if line.startswith(("Vm", "Rss")))
    return {name: int(value.split()[0]) / 1024 for name, value in rows}


def child(overrides: list[str]) -> None:
    """Prepare and train; prints what it took as one JSON object."""
    sys.path.insert(0, str(ROOT))
    import torch
    from hydra import compose, initialize_config_dir

    import build
    from train import quiet

    quiet()
    highest, ended = 0.0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.02):
            highest = max(highest, status()["RssAnon"])

    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(1)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", overrides=overrides)
    started = time.perf_counter()
    data = build.data(config)
    prepared = time.perf_counter() - started
    after_preparing = status()["VmHWM"]
    build.choose_monitor(config, data.spec)
    task = build.task(config, data.spec, data.codec, data.fingerprint)
    trainer = build.trainer(config)
    trainer.fit(task, datamodule=data)
    ended.set()
    result = {
        "seconds": round(prepared, 1),
        "prepared_mb": round(after_preparing),
        "resident_mb": round(status()["VmHWM"]),
        "private_mb": round(highest),
        "parameters": sum(p.numel() for p in task.parameters()),
        "report": data.report(),
    }
    print(json.dumps(result))


def measure(file: Path, options: argparse.Namespace, kind: str, folder: str) -> dict[str, Any]:
    settings = {
        "text": ["task=language_model", "data=text"],
        "labels": ["task=classification", "data=text_labels"],
        "pairs": ["task=translation", "data=text_pairs", "model.hidden_size=128"],
    }[options.data]
    overrides = [
        *settings, f"data.path='{file}'", f"tokenizer={kind}", "trainer=cpu",
        f"trainer.max_steps={options.steps}", "trainer.limit_val_batches=2", "precision=fp32",
        f"paths.run_dir='{folder}/run'", f"paths.cache_dir='{folder}/cache'", "logger=csv",
    ]  # fmt: skip
    if options.stream:
        overrides += ["data.streaming=true", f"data.num_workers={options.workers}"]
    command = [sys.executable, str(Path(__file__).resolve()), "--child", *overrides]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(overrides)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["words", "characters", "bpe"])
    parser.add_argument("--data", choices=["text", "labels", "pairs"], default="text")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    name = {"text": "train.txt", "labels": "train.csv", "pairs": "train.jsonl"}[options.data]
    results: dict[str, Any] = {"megabytes": options.megabytes, "stream": options.stream}
    print("| tokenizer | preparing | resident | above 4 MB of text | private | above |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="big_data-") as folder:
        files = {}
        for size, megabytes in (("small", SMALL), ("large", options.megabytes)):
            files[size] = Path(folder) / size / name
            files[size].parent.mkdir()
            write(files[size], megabytes, kind=options.data)
        for kind in options.kinds:
            small, large = (measure(files[s], options, kind, folder) for s in ("small", "large"))
            extra = {k: large[k] - small[k] for k in ("resident_mb", "private_mb")}
            results[kind] = {"small": small, "large": large, "above": extra}
            print(
                f"| {kind} | {large['seconds']:.0f} s | {large['resident_mb']} MB "
                f"| {extra['resident_mb']} MB | {large['private_mb']} MB "
                f"| {extra['private_mb']} MB |",
                flush=True,
            )
    print(json.dumps(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
