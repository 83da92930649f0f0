"""Carry a trained model away: weights as safetensors, config and vocabularies as JSON, a card.

    python export.py ckpt=runs/classification/.../TIME to=my_model
    python predict.py my_model "a charming film"
    python train.py fit=false ckpt=my_model

`ckpt` is a run's directory (its best checkpoint) or a .ckpt file; `to` a new or empty directory.
docs/export.md says what is in it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path


def export(run: str | Path, to: str | Path) -> Path:
    """Write a run's best checkpoint, or a .ckpt file, into a new directory.

    The model is built and filled first: what cannot be used is not exported. ValueError says what
    is wrong with the checkpoint, or what the directory holds already.
    """
    import build
    from tasks import checkpoint as checkpoints
    from tasks import exported, model_card

    folder = Path(to).expanduser()
    exported.check_free(folder)
    checkpoint = checkpoints.read(run)
    task = build.task_of_checkpoint(checkpoint["unroll"])
    checkpoints.restore(task, checkpoint)
    measured = checkpoint.get("measured") or model_card.measured_by(Path(checkpoint["path"]))
    card = model_card.card(task, checkpoint, measured, folder.resolve().name)
    exported.write(checkpoint, folder, card=card, measured=measured)
    return folder


def arguments(given: Sequence[str]) -> dict[str, str]:
    """`ckpt=RUN to=DIR` → its values. ValueError names what is missing or unknown."""
    found: dict[str, str] = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        if key not in ("ckpt", "to") or not equals or not value or key in found:
            raise ValueError(f"{argument!r}: give ckpt=RUN_OR_FILE to=DIRECTORY, each once")
        found[key] = value
    if len(found) < 2:
        raise ValueError("give ckpt=RUN_OR_FILE to=DIRECTORY; --help says more")
    return found


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    chosen = arguments(sys.argv[1:])
    folder = export(chosen["ckpt"], chosen["to"])
    for path in sorted(folder.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
