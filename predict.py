"""Predict with a trained run: labels, tags, captions, translations, texts and music.

    python predict.py runs/classification/.../TIME "a charming film"
    python predict.py runs/translation/.../TIME --file sentences.txt --n-best 3
    python predict.py runs/captioning/.../TIME holiday.jpg
    python predict.py runs/language_model/.../TIME "def main(" --temperature 0.7 --seed 3
    python predict.py runs/language_model/.../TIME --output songs     (music: MIDI files)
    python predict.py runs/translation/.../TIME --file texts.txt --format pairs > pairs.jsonl

and from Python: `from predict import load; model = load(RUN); model(["a charming film"])`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        from tasks.predict_options import PredictOptions

        if isinstance(inputs, (str, bytes)):
            raise TypeError('give a list of inputs: model(["a text"]), not model("a text")')
        asked = PredictOptions(**options)
        with self._ready():
            return self.task.predict(self._raw(inputs), asked)  # type: ignore[no-any-return]

    def score(self, pairs: Sequence[tuple[Any, str]], batch_size: int = 64) -> list[dict[str, Any]]:
        """(input, text) → the text's log-probability, and that a symbol."""
        if not hasattr(self.task, "likelihoods"):
            raise ValueError(f"score is for translation and captioning, not for {self.task.name}")
        raw, targets = self._raw([one for one, _ in pairs]), [target for _, target in pairs]
        with self._ready():
            return self.task.likelihoods(raw, targets, batch_size)  # type: ignore[no-any-return]

    def _raw(self, inputs: Sequence[Any]) -> list[Any]:
        return [self.task.codec.parse(one) if isinstance(one, str) else one for one in inputs]

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Without gradients, in the precision of training."""
        import torch

        from tasks.base import cast
        from tasks.finite import is_out_of_memory

        # autocast keeps its casts of weights that may have gradients, outside of inference_mode
        # alone; else it would cast them all anew at every step
        try:
            with torch.no_grad(), cast(self.task, self.precision):
                yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise ValueError(
                    "there is not enough memory for this: lower batch_size, beam_size, n_best or "
                    "max_length"
                ) from error
            raise

    @property
    def plays(self) -> bool:
        """Whether answers are music."""
        return self.task.spec.keys is not None


def load(
    run: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    ensemble: Sequence[str | Path] = (),
    average: Sequence[str | Path] = (),
    part: str | None = None,
) -> Predictor:
    """Open a run's best checkpoint (or a .ckpt file) for prediction; data files are not read.

    `average`: a number (so many of the run's last checkpoints) or files that are averaged with it.
    `ensemble`: runs whose probabilities are averaged with its. `part`: which task of a run of
    several (task=multi). ValueError where there is no such checkpoint, part or device, or where
    models do not go together.
    """
    import build
    from building import machine
    from tasks import checkpoint as checkpoints
    from tasks.part_checkpoint import take_part

    place = machine.device(device)
    if len(average) == 1 and str(average[0]).lstrip("-").isdigit():
        checkpoint = checkpoints.average(checkpoints.last(run, int(str(average[0]))))
    else:
        checkpoint = checkpoints.average([run, *average])
    checkpoint = take_part(checkpoint, part)
    task = build.task_of_checkpoint(checkpoint["unroll"])
    checkpoints.restore(task, checkpoint)
    accelerator = {"cuda": "gpu"}.get(place.type, place.type)
    task.eval().to(place)
    for other in ensemble:
        member = load(other, device=device, precision=precision, part=part).task
        _check_member(task, member, other)
        task.members.append(member)
    return Predictor(task, build.precision(precision, {"accelerator": accelerator}))


def _check_member(task: Any, member: Any, place: str | Path) -> None:
    """ValueError names what an ensemble's member does not share."""
    if not hasattr(task, "members"):
        raise ValueError(
            f"ensembles are of translation, captioning and classification, not of {task.name}"
        )
    if task.name != member.name:
        raise ValueError(f"{place} does {member.name}, not {task.name}")
    if task.spec.picture_shape != member.spec.picture_shape:
        raise ValueError(f"{place} reads other pictures: {member.spec.picture_shape}")
    own, theirs = task.codec.vocabularies(), member.codec.vocabularies()
    for name in task.members_share:
        if own.get(name) != theirs.get(name):
            raise ValueError(
                f"{place} has another vocabulary ({name}): {theirs.get(name)}, not {own.get(name)}"
            )


def parser() -> argparse.ArgumentParser:
    """The command line, in ordinary arguments."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("run", metavar="RUN_OR_FILE", help="a run's directory, or a .ckpt file")
    made.add_argument("inputs", metavar="INPUT", nargs="*", help="texts, pictures or MIDI files")
    made.add_argument("--part", metavar="NAME", help="which task of a run of several (task=multi)")
    made.add_argument("--file", metavar="F", help="a text file with an input a line; - is stdin")
    made.add_argument(
        "--format", choices=["text", "json", "pairs"], default="text",
        help="pairs: JSON lines of input and text in the columns of the run's data",
    )  # fmt: skip
    made.add_argument("--output", metavar="DIR", default=".", help="where MIDI files go")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    made.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    made.add_argument("--batch-size", type=int)
    how = made.add_argument_group("how texts are found (docs/decoding.md)")
    how.add_argument("--method", help="beam, sample or distinct (samples without replacement)")
    how.add_argument("--beam-size", type=int)
    how.add_argument("--n-best", type=int, help="so many answers with their scores")
    how.add_argument("--length-penalty", type=float, help="0 favours short ones, 1 compares means")
    how.add_argument("--length-norm", help="power or gnmt")
    how.add_argument("--coverage-penalty", type=float, help="what unread input costs")
    how.add_argument("--groups", type=int, help="of the beam, which avoid each other")
    how.add_argument("--diversity", type=float, help="how much the groups do, in nats")
    how.add_argument("--min-length", type=int)
    how.add_argument("--max-length", type=int, help="symbols or frames to write at most")
    how.add_argument("--block-ngrams", type=int, help="no so many symbols in a row come twice")
    how.add_argument("--repetition-penalty", type=float, help="1: none")
    how.add_argument("--temperature", type=float, help="below 1 bolder, 0 the likeliest")
    how.add_argument("--top-k", type=int)
    how.add_argument("--top-p", type=float)
    how.add_argument("--min-p", type=float)
    how.add_argument("--typical", type=float)
    how.add_argument("--seed", type=int)
    words = made.add_argument_group("words")
    words.add_argument("--ban", dest="banned", metavar="WORD", action="append")
    words.add_argument("--require", dest="required", metavar="WORD", action="append")
    words.add_argument("--prefix", metavar="TEXT", help="how every answer begins")
    words.add_argument("--replace-unknown", action="store_true", default=None)
    words.add_argument("--mbr", type=int, metavar="N", help="the most central of N samples")
    words.add_argument("--mbr-metric", help="chrf or bleu")
    words.add_argument("--score", action="store_true", help="input lines: source TAB target")
    models = made.add_argument_group("several models")
    models.add_argument("--ensemble", nargs="+", metavar="RUN", default=[])
    models.add_argument("--average", nargs="+", metavar="N_OR_FILE", default=[])
    return made


OPTIONS = (
    "batch_size", "method", "beam_size", "n_best", "length_penalty", "length_norm",
    "coverage_penalty", "groups", "diversity", "min_length", "max_length", "block_ngrams",
    "repetition_penalty", "temperature", "top_k", "top_p", "min_p", "typical", "seed", "banned",
    "required", "prefix", "replace_unknown", "mbr", "mbr_metric",
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
    if "log_probability" in answer:
        return f"{answer['log_probability']:9.4f}  {answer['per_symbol']:9.4f}"
    if "label" in answer:
        return f"{answer['label']}\t{answer['scores'][answer['label']]:.4f}"
    if "tags" in answer:
        return " ".join(f"{t}/{g}" for t, g in zip(answer["tokens"], answer["tags"], strict=True))
    for key in ("midi", "text"):
        if key in answer:
            return str(answer[key])
    return json.dumps(answer.get("value", answer.get("values")))


def pair_columns(task: Any) -> tuple[str, str]:
    """The columns that a translator's data has its texts in. ValueError for any other task."""
    data = task.record["config"]["data"]
    if task.name != "translation":
        raise ValueError(f"--format pairs is for translation, not for {task.name}")
    return data["source_column"], data["target_column"]


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
    arguments = parser().parse_intermixed_args()  # options may stand among the inputs
    options = {name: getattr(arguments, name) for name in OPTIONS}
    inputs = read_inputs(arguments)
    model = load(
        arguments.run, device=arguments.device, precision=arguments.precision,
        ensemble=arguments.ensemble, average=arguments.average, part=arguments.part,
    )  # fmt: skip
    if not inputs:
        if not model.task.starts_from_nothing:
            raise ValueError("nothing to predict: give inputs, --file F, or lines on stdin")
        inputs = [""]
    columns = pair_columns(model.task) if arguments.format == "pairs" else ()
    if arguments.score and arguments.format == "pairs":
        raise ValueError("--score gives numbers, and --format pairs texts: choose one")
    if arguments.score:
        pairs = [line.partition("\t")[::2] for line in inputs]
        for line in inputs:
            if "\t" not in line:
                raise ValueError(f"--score reads lines of source TAB target, got {line!r}")
        answers = model.score(pairs, arguments.batch_size or 64)
    else:
        answers = model(inputs, **{name: v for name, v in options.items() if v is not None})
    if model.plays:
        write_music(answers, Path(arguments.output))
    for given, answer in zip(inputs, answers, strict=True):
        if arguments.format == "pairs":
            for one in answer.get("n_best", [answer]):
                row = dict(zip(columns, (given, one["text"]), strict=True))
                print(json.dumps(row, ensure_ascii=False))
        elif arguments.format == "json":
            print(json.dumps({"input": given, **answer}, ensure_ascii=False))
        else:
            print(readable(answer))


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except ValueError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
