"""Carry a trained model away: weights as safetensors, config and vocabularies as JSON, a card.

    python export.py ckpt=runs/classification/.../TIME to=my_model
    python predict.py my_model "a charming film"
    python train.py fit=false ckpt=my_model

`ckpt` is a run's directory (its best checkpoint) or a .ckpt file; `to` a new or empty directory.
Of a run of several tasks (task=multi) `part=NAME` says which. docs/export.md says what is in it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path


def export(run: str | Path, to: str | Path, part: str | None = None) -> Path:
    """Write a run's best checkpoint, or a .ckpt file, into a new directory.

    Of a run of several tasks it is the `part` of that name. The model is built and filled first:
    what cannot be used is not exported. ValueError says what is wrong with the checkpoint, or what
    the directory holds already.
    """
    import build
    from tasks import checkpoint as checkpoints
    from tasks import exported, model_card
    from tasks.part_checkpoint import measured_of, take_part

    folder = Path(to).expanduser()
    exported.check_free(folder)
    whole = checkpoints.read(run)
    checkpoint = take_part(whole, part)
    task = build.task_of_checkpoint(checkpoint["unroll"])
    checkpoints.restore(task, checkpoint)
    measured = whole.get("measured") or model_card.measured_by(Path(whole["path"]))
    measured = measured if part is None else measured_of(measured, part)
    card = model_card.card(task, checkpoint, measured, folder.resolve().name)
    exported.write(checkpoint, folder, card=card, measured=measured)
    return folder


def arguments(given: Sequence[str]) -> dict[str, str]:
    """`ckpt=RUN to=DIR part=NAME` → its values. ValueError names what is missing or unknown."""
    found: dict[str, str] = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        if key not in ("ckpt", "to", "part") or not equals or not value or key in found:
            raise ValueError(f"{argument!r}: give ckpt=RUN_OR_FILE to=DIRECTORY, each once")
        found[key] = value
    if not {"ckpt", "to"} <= found.keys():
        raise ValueError("give ckpt=RUN_OR_FILE to=DIRECTORY; --help says more")
    return found


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    chosen = arguments(sys.argv[1:])
    folder = export(chosen["ckpt"], chosen["to"], chosen.get("part"))
    for path in sorted(folder.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
