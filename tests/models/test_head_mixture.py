"""A mixture of softmaxes: a distribution, its loss and gradients; of one component a softmax."""

import pytest
import torch
from torch import nn

from models.head import SoftmaxHead
from models.head_mixture import MixtureHead

B, T, D, V, K = 3, 5, 4, 7, 3
MASK = torch.arange(T) < torch.tensor([5, 2, 0])[:, None]


def build(size: int | None = None, **options) -> tuple[MixtureHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    tied = None if size is None else nn.Embedding(V, size)
    head = MixtureHead(input_size=D, num_outputs=V, tied=tied, **({"components": K} | options))
    return head.double(), torch.randn(B, T, D).double(), torch.randint(V, (B, T))


@pytest.mark.parametrize("size", [None, D, D + 2])
def test_probabilities_add_up_to_one_and_are_the_mixture_written_out(size: int | None) -> None:
    head, hidden, _ = build(size)
    found = head.log_probs(hidden).exp()
    torch.testing.assert_close(found.sum(-1), torch.ones(B, T).double())
    shares = head.prior(hidden).softmax(-1)
    vectors = torch.tanh(head.latent(hidden)).view(B, T, K, -1)
    expected = (shares[..., None] * head.linear(vectors).softmax(-1)).sum(2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(head(hidden).softmax(-1), expected)


def test_one_component_is_a_softmax() -> None:
    head, hidden, targets = build(components=1)
    plain = SoftmaxHead(input_size=D, num_outputs=V).double()
    plain.linear = head.linear
    vectors = torch.tanh(head.latent(hidden))
    torch.testing.assert_close(head.log_probs(hidden), plain.log_probs(vectors))
    torch.testing.assert_close(head.loss(hidden, targets), plain.loss(vectors, targets))


@pytest.mark.parametrize("size", [None, D + 2])
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


def test_what_is_masked_changes_nothing() -> None:
    head, hidden, targets = build()
    found = []
    for fill in (0.0, 50.0):
        inputs = hidden.masked_fill(~MASK[..., None], fill).requires_grad_()
        loss, count = head.loss(inputs, targets.masked_fill(~MASK, -100 if fill else 0), MASK)
        found.append((loss, count, *torch.autograd.grad(loss, [inputs, *head.parameters()])))
    torch.testing.assert_close(*found)


def test_dropped_features_stay_dropped_through_a_row_in_training_only() -> None:
    head, hidden, targets = build(latent_dropout=0.5)
    torch.manual_seed(1)
    row, target = hidden[:1, :1].expand(1, T, D), targets[:1, :1].expand(1, T)
    whole = head.loss(row, target)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(whole, T * head.loss(row[:, :1], target[:, :1])[0])
    assert not torch.isclose(whole, head.eval().loss(row, target)[0])


def test_a_tied_matrix_is_the_embedding_s_and_autocast_sums_in_float32() -> None:
    embedding = nn.Embedding(V, D + 2)
    head = MixtureHead(input_size=D, num_outputs=V, tied=embedding)
    assert head.linear.weight is embedding.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, count = head.loss(torch.randn(B, T, D), torch.zeros(B, T, dtype=torch.long))
        assert loss.dtype == count.dtype == head.log_probs(torch.randn(B, D)).dtype == torch.float32
    loss.backward()
    assert embedding.weight.grad is not None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"components": 0}, "got 0"), ({"label_smoothing": 0.1}, "label_smoothing=0.1"),
     ({"latent_dropout": 1.0}, "latent_dropout"), ({"tied": nn.Embedding(3, D)}, "has 3")],
)  # fmt: skip
def test_mistakes_are_named(wrong, said) -> None:
    with pytest.raises(ValueError, match=said):
        MixtureHead(input_size=D, num_outputs=V, **wrong)
