"""Output layers: what is counted, what is not, and in which precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.head import BernoulliHead, RealHead, SoftmaxHead

B, T, D, V = 3, 5, 4, 7
MASK = torch.arange(T) < torch.tensor([5, 2, 0])[:, None]


def build(kind: str):
    torch.manual_seed(0)
    head, targets = {
        "softmax": (SoftmaxHead(input_size=D, num_outputs=V), torch.randint(V, (B, T))),
        "bernoulli": (BernoulliHead(input_size=D, keys=V), torch.rand(B, T, V).round()),
        "real": (RealHead(input_size=D, num_outputs=V), torch.randn(B, T, V)),
    }[kind]
    return head, torch.randn(B, T, D), targets


every_head = pytest.mark.parametrize("kind", ["softmax", "bernoulli", "real"])


@every_head
def test_what_is_masked_changes_neither_the_loss_nor_its_gradients(kind) -> None:
    head, hidden, targets = build(kind)
    found = []
    for fill in (0.0, 50.0):
        inputs = hidden.masked_fill(~MASK[..., None], fill).requires_grad_()
        shape = MASK if targets.dim() == 2 else MASK[..., None]
        loss, count = head.loss(inputs, targets.masked_fill(~shape, -100 if fill else 0), MASK)
        found.append((loss, count, *torch.autograd.grad(loss, [inputs, *head.parameters()])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert found[0][1] == MASK.sum() * (V if kind == "real" else 1)
    assert not found[0][2][~MASK].any()


@every_head
def test_no_mask_and_a_mask_of_all_agree_and_sums_of_parts_make_the_whole(kind) -> None:
    head, hidden, targets = build(kind)
    whole = head.loss(hidden, targets)
    torch.testing.assert_close(whole, head.loss(hidden, targets, torch.ones_like(MASK)))
    parts = [head.loss(hidden[:, t], targets[:, t]) for t in range(T)]
    for index in (0, 1):
        torch.testing.assert_close(sum(part[index] for part in parts), whole[index])


def test_losses_are_the_textbook_ones() -> None:
    head, hidden, targets = build("softmax")
    picked = head.log_probs(hidden).gather(-1, targets[..., None])
    torch.testing.assert_close(head.loss(hidden, targets)[0], -picked.sum())
    head, hidden, targets = build("bernoulli")
    on = head.log_probs(hidden).exp()
    nats = -torch.where(targets > 0, on, 1 - on).log().sum()
    torch.testing.assert_close(head.loss(hidden, targets)[0], nats)
    head, hidden, targets = build("real")
    torch.testing.assert_close(head.loss(hidden, targets)[0], (head(hidden) - targets).norm() ** 2)


def test_label_smoothing_works_in_training_only() -> None:
    head, hidden, targets = build("softmax")
    plain = head.loss(hidden, targets)[0]
    head.label_smoothing = 0.2
    smooth = F.cross_entropy(
        head(hidden).flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=0.2
    )
    torch.testing.assert_close(head.loss(hidden, targets)[0], smooth)
    assert not torch.isclose(smooth, plain)
    torch.testing.assert_close(head.eval().loss(hidden, targets)[0], plain)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_are_torchs_in_training_and_nothing_in_evaluation(smoothing) -> None:
    weights = torch.tensor([3.0, 0.5, 1.0, 0.0, 2.0, 1.0, 7.0])
    _, hidden, targets = build("softmax")
    torch.manual_seed(0)
    head = SoftmaxHead(
        input_size=D, num_outputs=V, class_weights=weights.tolist(), label_smoothing=smoothing
    )
    loss, count = head.loss(hidden, targets, MASK)
    expected = F.cross_entropy(
        head(hidden)[MASK], targets[MASK], weights, label_smoothing=smoothing
    )
    torch.testing.assert_close(loss / count, expected)
    assert head.state_dict().keys() == build("softmax")[0].state_dict().keys()
    plain = build("softmax")[0].eval().loss(hidden, targets, MASK)
    torch.testing.assert_close(head.eval().loss(hidden, targets, MASK), plain)


@pytest.mark.parametrize("size", [D, D + 2])
def test_tied_weights_share_memory_and_gradients(size) -> None:
    embedding = nn.Embedding(V, size)
    head = SoftmaxHead(input_size=D, num_outputs=V, tied=embedding)
    assert head.linear.weight is embedding.weight
    assert (size == D) == isinstance(head.projection, nn.Identity)
    head.loss(torch.randn(B, D), torch.arange(B))[0].backward()
    assert embedding.weight.grad is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_marks_rows_instead_of_selecting_them_with_the_same_result() -> None:
    head, hidden, targets = build("softmax")
    expected = head.loss(hidden, targets, MASK)
    found = head.cuda().loss(hidden.cuda(), targets.cuda(), MASK.cuda())
    torch.testing.assert_close([part.cpu() for part in found], list(expected))


@every_head
def test_losses_and_probabilities_stay_in_float32_under_autocast(kind) -> None:
    head, hidden, targets = build(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [part.dtype for part in head.loss(hidden, targets, MASK)] == [torch.float32] * 2
        if kind != "real":
            assert head.log_probs(hidden).dtype == torch.float32
            assert head(hidden).dtype == torch.bfloat16
        else:
            assert head(hidden).dtype == torch.float32


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        SoftmaxHead(input_size=D, num_outputs=V, label_smoothing=1.0)
    with pytest.raises(ValueError, match="has 3"):
        SoftmaxHead(input_size=D, num_outputs=V, tied=nn.Embedding(3, D))
    with pytest.raises(TypeError, match="call the head"):
        RealHead(input_size=D, num_outputs=1).log_probs(torch.zeros(1, D))
