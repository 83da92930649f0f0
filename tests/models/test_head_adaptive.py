"""Adaptive softmax: torch's own numbers, a distribution, and only what it needs of rare symbols."""

import pytest
import torch
from torch import nn

from models.head_adaptive import AdaptiveHead

B, T, D, V = 3, 5, 8, 20
CUTOFFS = [4, 9]
MASK = torch.arange(T) < torch.tensor([5, 2, 0])[:, None]
every_size = pytest.mark.parametrize("size", [None, D, D + 2], ids=["own", "tied", "projected"])


def build(size: int | None = None, **options) -> tuple[AdaptiveHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    tied = None if size is None else nn.Embedding(V, size)
    settings = {"input_size": D, "num_outputs": V, "cutoffs": CUTOFFS, "tied": tied}
    head = AdaptiveHead(**(settings | options))
    nn.init.normal_(head.bias)
    return head.double(), torch.randn(B, T, D).double(), torch.randint(V, (B, T))


def test_it_is_torch_s_adaptive_softmax() -> None:
    head, hidden, targets = build(division=2.0)
    theirs = nn.AdaptiveLogSoftmaxWithLoss(D, V, CUTOFFS, div_value=2.0, head_bias=True).double()
    with torch.no_grad():
        head.bias[CUTOFFS[0] :] = 0  # torch's clusters have none
        weight, bias = head._pieces()[0]
        theirs.head.weight.copy_(weight)
        theirs.head.bias.copy_(bias)
        for number, (down, out) in enumerate(theirs.tail, start=1):
            down.weight.copy_(head.projections[number].weight)
            out.weight.copy_(head.tables[number])
    rows, ids = hidden.flatten(0, 1), targets.flatten()
    torch.testing.assert_close(head.log_probs(rows), theirs.log_prob(rows))
    loss, count = head.loss(hidden, targets)
    torch.testing.assert_close(loss / count, theirs(rows, ids).loss)


@every_size
def test_probabilities_add_up_to_one(size: int | None) -> None:
    head, hidden, _ = build(size)
    found = head.log_probs(hidden)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(B, T).double())
    torch.testing.assert_close(head(hidden).softmax(-1), found.exp())


@every_size
@pytest.mark.parametrize("mask", [None, MASK])
def test_the_loss_and_its_gradients_are_those_of_the_probabilities(size, mask) -> None:
    head, hidden, targets = build(size)
    hidden.requires_grad_()
    weights = [hidden, *head.parameters()]
    loss, count = head.loss(hidden, targets, mask)
    found = [loss, *torch.autograd.grad(loss, weights)]
    picked = head.log_probs(hidden).gather(-1, targets[..., None])[..., 0]
    plain = -(picked if mask is None else picked[mask]).sum()
    torch.testing.assert_close(found, [plain, *torch.autograd.grad(plain, weights)])
    assert count == (B * T if mask is None else MASK.sum())


def test_every_weight_has_a_gradient_though_no_rare_symbol_comes() -> None:
    head, hidden, targets = build()
    head.loss(hidden, targets % CUTOFFS[0])[0].backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert not head.tables[1].grad.any() and head.tables[0].grad.any()


def test_what_is_masked_changes_nothing() -> None:
    head, hidden, targets = build()
    found = []
    for fill in (0.0, 50.0):
        inputs = hidden.masked_fill(~MASK[..., None], fill).requires_grad_()
        loss, count = head.loss(inputs, targets.masked_fill(~MASK, -100 if fill else V - 1), MASK)
        found.append((loss, count, *torch.autograd.grad(loss, [inputs, *head.parameters()])))
    torch.testing.assert_close(*found)


def test_a_tied_matrix_is_the_embedding_s_and_autocast_sums_in_float32() -> None:
    embedding = nn.Embedding(V, D + 2)
    head = AdaptiveHead(input_size=D, num_outputs=V, cutoffs=CUTOFFS, tied=embedding)
    assert head.matrix is embedding.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, count = head.loss(torch.randn(B, T, D), torch.randint(V, (B, T)))
        assert loss.dtype == count.dtype == head.log_probs(torch.randn(B, D)).dtype == torch.float32
    loss.backward()
    assert embedding.weight.grad is not None


def test_clusters_of_rarer_symbols_have_smaller_vectors() -> None:
    head, _, _ = build(division=2.0)
    assert [tuple(table.shape) for table in head.tables] == [(4, 8), (5, 4), (11, 2)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"cutoffs": [4, 20]}, "vocabulary of 20 symbols"), ({"cutoffs": []}, "vocabulary of 20"),
     ({"cutoffs": [9, 4]}, "rise between 0 and 20"), ({"label_smoothing": 0.1}, "smoothing=0.1"),
     ({"division": 0.5}, "got 0.5"), ({"tied": nn.Embedding(3, D)}, "has 3")],
)  # fmt: skip
def test_mistakes_are_named(wrong, said) -> None:
    with pytest.raises(ValueError, match=said):
        build(**wrong)
