"""Pretrained weights of a picture backbone: a local safetensors file, or torchvision's own."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file


def read_backbone(weights: str, encoder: Any) -> None:
    """Put pretrained weights into an encoder. ValueError says what does not fit."""
    if not hasattr(encoder, "load_weights"):
        raise ValueError(
            f"task.weights={weights}: this encoder is trained from scratch; use "
            "model=backbone_captioner"
        )
    if weights == "torchvision":
        encoder.load_weights(_torchvision(encoder.name))
        return
    file = Path(weights).expanduser()
    if not file.is_file():
        raise ValueError(f"task.weights={weights} does not exist: give a .safetensors file")
    try:
        state = load_file(str(file))
    except SafetensorError as error:
        raise ValueError(f"task.weights={weights} is not a safetensors file: {error}") from error
    try:
        encoder.load_weights(state)
    except ValueError as error:
        raise ValueError(f"task.weights={weights}: {error}") from error


def _torchvision(name: str) -> dict[str, Any]:
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(name).DEFAULT.get_state_dict(check_hash=True)  # type: ignore[attr-defined,no-any-return]
    except OSError as error:
        raise ValueError(
            f"task.weights=torchvision: the weights of {name} could not be fetched ({error}); "
            "without a network give a local .safetensors file"
        ) from error
