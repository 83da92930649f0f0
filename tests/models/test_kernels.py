"""Kernels of other packages: called as they ask to be, and equal to our own functions on a GPU."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import models.kernels
from models.cells.deltanet import delta_rule
from models.kernels import delta_rule_kernel

B, HEADS, T, K = 2, 3, 70, 16


def tensors(device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    query, key = (F.normalize(draw(B, HEADS, T, K), dim=-1) for _ in range(2))
    rate = draw(B, HEADS, T).sigmoid()
    return [query, key, draw(B, HEADS, T, K), rate, 0.1 * draw(B, HEADS, K, K)]


def documented(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    scale: float,
    initial_state: Tensor,
    output_final_state: bool,
) -> tuple[Tensor, Tensor]:
    """What the package says of its kernel, a step at a time: (B, T, heads, K)."""
    assert output_final_state and q.dtype == v.dtype == beta.dtype == torch.bfloat16
    matrix, outputs = initial_state, []
    for query, key, value, rate in zip(
        *(part.float().unbind(1) for part in (q, k, v, beta)), strict=True
    ):
        missing = value - (key[..., None] * matrix).sum(-2)
        matrix = matrix + key[..., None] * (rate[..., None] * missing)[..., None, :]
        outputs.append(scale * (query[..., None] * matrix).sum(-2))
    return torch.stack(outputs, 1).to(q.dtype), matrix


def test_the_delta_rule_is_called_as_the_package_asks(monkeypatch) -> None:
    module = ModuleType("fla.ops.delta_rule")
    module.chunk_delta_rule = documented
    monkeypatch.setitem(sys.modules, "fla.ops.delta_rule", module)
    monkeypatch.setattr(models.kernels, "_find", models.kernels._find.__wrapped__)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    given = tensors()
    kernel = delta_rule_kernel(
        SimpleNamespace(is_cuda=True, size=lambda dim: K, dtype=torch.float32)
    )
    for one, other in zip(kernel(*given, 64), delta_rule(*given, 64), strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.03)


def test_on_a_processor_and_in_full_precision_our_own_products_run() -> None:
    assert delta_rule_kernel(tensors()[0]) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_the_kernel_of_the_delta_rule_equals_our_own() -> None:
    pytest.importorskip("fla", reason="pip install -e '.[kernels]'")
    given = [tensor.requires_grad_() for tensor in tensors("cuda")]
    with torch.autocast("cuda", torch.bfloat16):
        kernel = delta_rule_kernel(given[0])
    assert kernel is not None
    found = []
    for run in (kernel, delta_rule):
        outputs, matrix = run(*given, 64)
        total = outputs.float().square().sum() + matrix.float().sum()
        found.append([outputs.float(), matrix.float(), *torch.autograd.grad(total, given)])
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 2e-2 * other.norm()
