"""Stream a text from an exported language model: onnxruntime and numpy, no torch and no Unroll.

    python export.py ckpt=RUN to=onnx
    python examples/stream_onnx.py RUN/onnx "def main(" --temperature 0.7 --seed 3

This file alone, beside an exported directory, is all that it takes: copy it.
"""

import argparse
import codecs
import json
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class LanguageModel:
    """An exported language model and the state that it has read so far."""

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = json.loads((folder / "model.json").read_text("utf-8"))
        if self.about["task"] != "language_model" or not self.about["writing"]:
            raise ValueError(f"{folder} does {self.about['task']}; only a text is streamed here")
        step = self.about["files"]["step.onnx"]
        self.carried: dict[str, str] = step["carried"]
        self.outputs = [output["name"] for output in step["outputs"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a step is too small to be shared out
        self.session = onnxruntime.InferenceSession(folder / "step.onnx", options)
        self.state = {
            name: np.broadcast_to(
                np.float32(first.get("values", first.get("fill"))), (1, *first["shape"])
            )
            for name, first in self.about["initial_state"].items()
        }

    def read(self, symbol: int) -> np.ndarray:
        """One symbol → the log-probabilities (symbols,) of the next; the state goes on."""
        feed = {"tokens": np.array([symbol], np.int64), **self.state}
        found = dict(zip(self.outputs, self.session.run(self.outputs, feed), strict=True))
        self.state = {into: found[of] for of, into in self.carried.items()}
        return found["log_probs"][0]


class Text:
    """Texts to ids and back, for models of characters and of bytes."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.settings = about["codec"]["inputs"]["settings"]
        self.symbols: list[str] = about["input_symbols"]
        self.table = {symbol: place for place, symbol in enumerate(self.symbols)}
        self.end = self.table["<eos>"]
        self.kind = self.settings["kind"]
        if self.kind not in ("characters", "bytes") or self.settings.get("reverse"):
            raise ValueError(
                f"this model reads {self.kind}; for symbols other than characters and bytes cut "
                'texts with the package tokenizers: codec["inputs"]["tokenizer"] of model.json'
            )

    def ids(self, text: str) -> list[int]:
        if self.settings["normalizer"] != "none":
            text = unicodedata.normalize(self.settings["normalizer"].upper(), text)
        text = text.lower() if self.settings["lowercase"] else text
        if self.kind == "bytes":
            first = len(self.symbols) - 256
            return [first + byte for byte in text.encode()]
        return [self.table.get(letter, self.table["<unk>"]) for letter in text]

    def speller(self) -> Callable[[int], str]:
        """Ids in turn → what each adds to the text: bytes make a character when it is whole."""
        first = len(self.symbols) - 256
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

        def spell(symbol: int) -> str:
            if symbol == self.end:
                return "\n"
            if self.kind == "bytes":
                return decoder.decode(bytes([symbol - first]))
            return self.symbols[symbol]

        return spell


def choose(log_probs: np.ndarray, temperature: float, random: np.random.Generator) -> int:
    """A symbol drawn at this temperature; 0: the likeliest."""
    if temperature == 0:
        return int(log_probs.argmax())
    chances = np.exp((log_probs - log_probs.max()).astype(np.float64) / temperature)
    return int(random.choice(len(chances), p=chances / chances.sum()))


def stream(
    folder: Path, prompt: str = "", *, length: int = 400, temperature: float = 0.8, seed: int = 0
) -> Iterator[str]:
    """What follows a prompt, symbol by symbol."""
    model = LanguageModel(folder)
    text, writing = Text(model.about), model.about["writing"]
    random, spell = np.random.default_rng(seed), text.speller()
    log_probs = model.read(writing["first"])
    for symbol in text.ids(prompt):
        log_probs = model.read(symbol)
    for _ in range(length):
        log_probs[writing["never"]] = -np.inf
        symbol = choose(log_probs, temperature, random)
        yield spell(symbol)
        log_probs = model.read(symbol)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what export.py wrote")
    parser.add_argument("prompt", nargs="?", default="")
    parser.add_argument("--length", type=int, default=400, help="symbols to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(given.prompt, end="", flush=True)
    for piece in stream(
        given.folder, given.prompt,
        length=given.length, temperature=given.temperature, seed=given.seed,
    ):  # fmt: skip
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
