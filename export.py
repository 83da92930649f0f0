"""Carry a trained model away: weights as safetensors, config and vocabularies as JSON, a card.

    python export.py ckpt=runs/classification/.../TIME to=my_model
    python predict.py my_model "a charming film"
    python train.py fit=false ckpt=my_model
    python export.py ckpt=RUN to=onnx                   # into RUN/onnx, for onnxruntime
    python export.py ckpt=RUN to=my_model format=onnx

`ckpt` is a run's directory (its best checkpoint) or a .ckpt file; `to` a new or empty directory.
Of a run of several tasks (task=multi) `part=NAME` says which. docs/export.md says what is in it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def export(run: str | Path, to: str | Path, part: str | None = None) -> Path:
    """Write a run's best checkpoint, or a .ckpt file, into a new directory.

    Of a run of several tasks it is the `part` of that name. The model is built and filled first:
    what cannot be used is not exported. ValueError says what is wrong with the checkpoint, or what
    the directory holds already.
    """
    from tasks import exported, model_card
    from tasks.part_checkpoint import measured_of

    folder = Path(to).expanduser()
    exported.check_free(folder)
    task, whole, checkpoint = _opened(run, part)
    measured = whole.get("measured") or model_card.measured_by(Path(whole["path"]))
    measured = measured if part is None else measured_of(measured, part)
    card = model_card.card(task, checkpoint, measured, folder.resolve().name)
    exported.write(checkpoint, folder, card=card, measured=measured)
    return folder


def export_onnx(
    run: str | Path, to: str | Path | None = None, part: str | None = None
) -> tuple[Path, dict[str, float]]:
    """Write a run's best checkpoint, or a .ckpt file, as ONNX into a new directory; None: `onnx` in
    the run's. Returns the directory, and each file's largest difference from PyTorch.

    ValueError says what cannot be exported, what is not installed or what stands in the way.
    """
    from tasks import checkpoint as checkpoints
    from tasks import exported, onnx_files

    if to is None:
        path = checkpoints.find(run)
        to = (path.parent.parent if path.parent.name == "checkpoints" else path.parent) / "onnx"
    folder = Path(to).expanduser()
    exported.check_free(folder)
    task, _, checkpoint = _opened(run, part)
    return folder, onnx_files.write(task, checkpoint, folder)


def _opened(run: str | Path, part: str | None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A run's task, or one part of it, with its weights; the checkpoint, whole and of that part."""
    import build
    from tasks import checkpoint as checkpoints
    from tasks.part_checkpoint import take_part

    whole = checkpoints.read(run)
    checkpoint = take_part(whole, part)
    task = build.task_of_checkpoint(checkpoint["unroll"])
    checkpoints.restore(task, checkpoint)
    return task, whole, checkpoint


FORMATS = ("safetensors", "onnx")


def arguments(given: Sequence[str]) -> dict[str, str]:
    """`ckpt=RUN to=DIR part=NAME format=onnx` → its values.

    ValueError names what is missing or unknown.
    """
    found: dict[str, str] = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        if key not in ("ckpt", "to", "part", "format") or not equals or not value or key in found:
            raise ValueError(
                f"{argument!r}: give ckpt=RUN_OR_FILE to=DIRECTORY, each once, part=NAME of a run "
                "of several tasks and format=onnx for onnxruntime"
            )
        found[key] = value
    if not {"ckpt", "to"} <= found.keys():
        raise ValueError("give ckpt=RUN_OR_FILE to=DIRECTORY; --help says more")
    if found.get("format", "onnx") not in FORMATS:
        raise ValueError(f"format={found['format']}: choose {' or '.join(FORMATS)}")
    if found["to"].endswith(".onnx"):
        raise ValueError(
            f"to={found['to']}: an export in ONNX is a directory of several files; give to=onnx, "
            f"or to={found['to'].removesuffix('.onnx')} format=onnx"
        )
    return found


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    chosen = arguments(sys.argv[1:])
    run, to, part = chosen["ckpt"], chosen["to"], chosen.get("part")
    apart: dict[str, float] = {}
    if chosen.get("format", to) == "onnx":
        folder, apart = export_onnx(run, to if "format" in chosen else None, part)
    else:
        folder = export(run, to, part)
    for path in sorted(folder.iterdir()):
        equals = f", equals PyTorch within {apart[path.name]:.1e}" if path.name in apart else ""
        print(f"{path}  {path.stat().st_size:,} bytes{equals}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
