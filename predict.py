"""Predict with a trained run: labels, tags, captions, translations, texts and music.

    python predict.py runs/classification/.../TIME "a charming film"
    python predict.py runs/translation/.../TIME --file sentences.txt --n-best 3
    python predict.py runs/captioning/.../TIME holiday.jpg
    python predict.py runs/language_model/.../TIME "def main(" --temperature 0.7 --seed 3
    python predict.py runs/language_model/.../TIME --output songs     (music: MIDI files)

and from Python: `from predict import load; model = load(RUN); model(["a charming film"])`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Predictor:
    """A trained run, ready to answer: `model(["a text"]) -> [{"label": ..., "scores": ...}]`."""

    def __init__(self, task: Any, precision: str) -> None:
        self.task = task
        self.precision = precision

    def __call__(self, inputs: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        """Raw inputs → an answer each, in their order; options are those of `PredictOptions`.

        Inputs are texts, paths of pictures, PIL pictures, lists of numbers or of frames, as the
        data was. A mistyped option is a TypeError, a wrong value a ValueError.
        """
        import torch

        from tasks.base import PredictOptions, cast

        if isinstance(inputs, (str, bytes)):
            raise TypeError('give a list of inputs: model(["a text"]), not model("a text")')
        raw = [self.task.codec.parse(one) if isinstance(one, str) else one for one in inputs]
        with torch.inference_mode(), cast(self.task, self.precision):
            return self.task.predict(raw, PredictOptions(**options))  # type: ignore[no-any-return]

    @property
    def plays(self) -> bool:
        """Whether answers are music."""
        return self.task.spec.keys is not None


def load(run: str | Path, *, device: str = "auto", precision: str = "auto") -> Predictor:
    """Open a run's best checkpoint (or a .ckpt file) for prediction; data files are not read.

    ValueError where there is no such checkpoint, or no such device.
    """
    import build
    from tasks import checkpoint as checkpoints

    place = build.device(device)
    checkpoint = checkpoints.read(run)
    task = build.task_of_checkpoint(checkpoint["unroll"])
    checkpoints.restore(task, checkpoint)
    accelerator = {"cuda": "gpu"}.get(place.type, place.type)
    task.eval().requires_grad_(False).to(place)
    return Predictor(task, build.precision(precision, {"accelerator": accelerator}))


def parser() -> argparse.ArgumentParser:
    """The command line, in ordinary arguments."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("run", metavar="RUN_OR_FILE", help="a run's directory, or a .ckpt file")
    made.add_argument("inputs", metavar="INPUT", nargs="*", help="texts, pictures or MIDI files")
    made.add_argument("--file", metavar="F", help="a text file with an input a line; - is stdin")
    made.add_argument("--format", choices=["text", "json"], default="text")
    made.add_argument("--output", metavar="DIR", default=".", help="where MIDI files go")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    made.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    made.add_argument("--batch-size", type=int)
    text = made.add_argument_group("translations and captions")
    text.add_argument("--beam-size", type=int)
    text.add_argument("--n-best", type=int, help="so many answers with their scores")
    text.add_argument("--length-penalty", type=float, help="0 favours short ones, 1 compares means")
    free = made.add_argument_group("texts and music")
    free.add_argument("--max-length", type=int, help="symbols or frames to write at most")
    free.add_argument("--temperature", type=float, help="below 1 bolder, 0 the likeliest")
    free.add_argument("--top-k", type=int)
    free.add_argument("--top-p", type=float)
    free.add_argument("--seed", type=int)
    return made


OPTIONS = (
    "batch_size", "beam_size", "n_best", "length_penalty", "max_length", "temperature", "top_k",
    "top_p", "seed",
)  # fmt: skip


def read_inputs(arguments: argparse.Namespace) -> list[str]:
    """Inputs of the command line, then of the file; of standard input where neither is given."""
    inputs = list(arguments.inputs)
    if arguments.file not in (None, "-"):
        file = Path(arguments.file)
        try:
            inputs += file.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise ValueError(f"--file {file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"--file {file} is not UTF-8 text: {error}") from error
    if arguments.file == "-" or (not inputs and arguments.file is None and not sys.stdin.isatty()):
        inputs += sys.stdin.read().splitlines()
    return inputs


def readable(answer: dict[str, Any]) -> str:
    """An answer as a person reads it."""
    if "n_best" in answer:
        return "\n".join(f"{one['score']:9.4f}  {one['text']}" for one in answer["n_best"])
    if "label" in answer:
        return f"{answer['label']}\t{answer['scores'][answer['label']]:.4f}"
    if "tags" in answer:
        return " ".join(f"{t}/{g}" for t, g in zip(answer["tokens"], answer["tags"], strict=True))
    for key in ("midi", "text"):
        if key in answer:
            return str(answer[key])
    return json.dumps(answer.get("value", answer.get("values")))


def write_music(answers: list[dict[str, Any]], folder: Path) -> None:
    """A MIDI file an answer, beside none that is there already."""
    from data.midi import write_midi

    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for answer in answers:
        while (path := folder / f"music_{number + 1}.mid").exists():
            number += 1
        write_midi(answer["frames"], path)
        answer["midi"] = str(path)


def main() -> None:
    arguments = parser().parse_args()
    options = {name: getattr(arguments, name) for name in OPTIONS}
    inputs = read_inputs(arguments)
    model = load(arguments.run, device=arguments.device, precision=arguments.precision)
    if not inputs:
        if not model.task.starts_from_nothing:
            raise ValueError("nothing to predict: give inputs, --file F, or lines on stdin")
        inputs = [""]
    answers = model(inputs, **{name: v for name, v in options.items() if v is not None})
    if model.plays:
        write_music(answers, Path(arguments.output))
    for given, answer in zip(inputs, answers, strict=True):
        if arguments.format == "json":
            print(json.dumps({"input": given, **answer}, ensure_ascii=False))
        else:
            print(readable(answer))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
