"""GPU kernels of other packages, where they are installed and fit: `pip install -e '.[kernels]'`.

Each stands in for a function of ours, which is its plain twin: tests hold it to that on a GPU.
"""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

LARGEST_HEAD = 256  # features that flash-linear-attention's delta rule takes


def delta_rule_kernel(query: Tensor) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The delta rule of flash-linear-attention (arXiv 2406.06484), as `deltanet.delta_rule` is
    called, for queries (B, heads, T, K); None where it cannot run.

    It computes in bf16 or fp16 alone, so it runs under autocast, on a GPU.
    """
    if not (query.is_cuda and torch.is_autocast_enabled("cuda")):
        return None
    if query.size(-1) > LARGEST_HEAD or query.dtype == torch.float64:
        return None
    kernel = _find("fla.ops.delta_rule", "chunk_delta_rule")
    if kernel is None:
        return None
    dtype = torch.get_autocast_dtype("cuda")

    def run(
        query: Tensor, key: Tensor, value: Tensor, rate: Tensor, matrix: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        by_time = (
            part.transpose(1, 2).to(dtype).contiguous() for part in (query, key, value, rate)
        )
        read, after = kernel(*by_time, scale=1.0, initial_state=matrix, output_final_state=True)
        return read.transpose(1, 2), after

    return run


@cache
def _find(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        return None
