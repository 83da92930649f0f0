"""What this machine has: processor or GPU, and the precision that it computes in."""

from collections.abc import Mapping
from typing import Any

import torch


def device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. ValueError where the machine lacks what is asked for."""
    if name == "auto":
        gpu = "cuda" if torch.cuda.is_available() else "mps"
        return torch.device(gpu if gpu == "cuda" or torch.backends.mps.is_available() else "cpu")
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {name!r}: choose auto, cpu, cuda or mps")
    if kind != "cpu":
        check_device({"accelerator": kind})
    return torch.device(name)


def check_device(settings: Mapping[str, Any]) -> None:
    """ValueError when the trainer asks for an accelerator that is not there."""
    wanted = settings.get("accelerator", "auto")
    if wanted in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(f"trainer.accelerator={wanted}: this machine has no GPU; use trainer=cpu")
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise ValueError("trainer.accelerator=mps: there is no Apple GPU here; use trainer=cpu")


PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def precision(name: str, settings: Mapping[str, Any]) -> str:
    """`auto` is bf16 autocast where processor or GPU has the instructions, else fp32."""
    if name == "auto":
        name = "bf16" if _has_bf16(settings.get("accelerator", "auto")) else "fp32"
    if name not in PRECISIONS:
        raise ValueError(f"precision={name}: choose auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def _has_bf16(accelerator: str) -> bool:
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # the emulated kernels on processors without the instructions are slower than fp32
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
