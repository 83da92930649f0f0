"""A conditional random field against the list of all ways through a short chain."""

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor

from models.cells.gru import GRU
from models.crf import CRFHead, best_way, log_marginals, log_partition, score
from models.head import SoftmaxHead
from models.pooling import valid_steps
from models.tagger import Tagger

B, T, D, K = 4, 5, 3, 3
LENGTHS = torch.tensor([5, 3, 1, 0])
MASK = valid_steps(LENGTHS, T)


def draw(scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Emissions and transitions in float64."""
    generator = torch.Generator().manual_seed(3)
    emissions = scale * torch.randn(B, T, K, generator=generator, dtype=torch.float64)
    transitions = scale * torch.randn(K, K, generator=generator, dtype=torch.float64)
    return emissions.requires_grad_(), transitions.requires_grad_()


def every_way(emissions: Tensor, transitions: Tensor, length: int) -> tuple[list, Tensor]:
    """All ways through a row's first steps, (T, K), and the score of each."""
    ways = list(itertools.product(range(K), repeat=length))
    scores = [
        sum((emissions[t, way[t]] for t in range(length)), emissions.new_zeros(()))
        + sum((transitions[way[t - 1], way[t]] for t in range(1, length)), emissions.new_zeros(()))
        for way in ways
    ]
    return ways, torch.stack(scores)


def listed_partition(emissions: Tensor, transitions: Tensor) -> Tensor:
    rows = zip(emissions, LENGTHS.tolist(), strict=True)
    return sum(every_way(row, transitions, n)[1].logsumexp(0) for row, n in rows)  # type: ignore[return-value]


def test_the_partition_and_its_gradients_are_those_of_all_ways() -> None:
    inputs = draw()
    found, listed = log_partition(*inputs, LENGTHS), listed_partition(*inputs)
    torch.testing.assert_close(found, listed)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs), torch.autograd.grad(listed, inputs)
    )
    assert torch.autograd.gradcheck(partial(log_partition, lengths=LENGTHS), inputs)


def test_scores_ways_and_marginals_are_those_of_the_list() -> None:
    emissions, transitions = draw()
    best, logs = best_way(emissions, transitions, LENGTHS), log_marginals(*draw(), LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        ways, scores = every_way(emissions[row], transitions, length)
        top = ways[int(scores.argmax())]
        assert best[row, :length].tolist() == list(top)
        chances = scores.softmax(0)
        for step in range(length):
            mass = torch.zeros(K, dtype=torch.float64)
            mass.index_add_(0, torch.tensor([way[step] for way in ways]), chances.detach())
            torch.testing.assert_close(logs[row, step].exp(), mass)
        tags = torch.full((1, T), -100)
        tags[0, :length] = torch.tensor(top, dtype=torch.long)
        own = score(emissions[row : row + 1], transitions, tags, LENGTHS[row : row + 1])
        torch.testing.assert_close(own[0], scores.max())


def build(**options) -> tuple[CRFHead, Tensor, Tensor]:
    torch.manual_seed(0)
    head = CRFHead(input_size=D, num_outputs=K, **options)
    for values in head.parameters():
        torch.nn.init.normal_(values)
    return head.double(), torch.randn(B, T, D).double(), torch.randint(K, (B, T))


def test_it_learns_the_probability_of_whole_sequences_with_their_ends() -> None:
    head, hidden, targets = build()
    emissions = head(hidden).detach()
    nats = torch.zeros(())
    for row, length in enumerate(LENGTHS.tolist()[:3]):
        own = emissions[row].clone()
        own[0] += head.ends[0].detach()
        own[length - 1] += head.ends[1].detach()
        ways, scores = every_way(own, head.transitions.detach(), length)
        nats = nats - scores.log_softmax(0)[ways.index(tuple(targets[row, :length].tolist()))]
    loss, count = head.loss(hidden, targets, MASK)
    torch.testing.assert_close(loss, nats)
    assert count == LENGTHS.sum()


def test_pads_change_nothing_and_a_row_is_read_as_it_would_be_alone() -> None:
    head, hidden, targets = build()
    found = []
    for fill, more in ((0.0, 0), (50.0, 2)):
        inputs = hidden.masked_fill(~MASK[..., None], fill)
        inputs = torch.nn.functional.pad(inputs, (0, 0, 0, more), value=fill).requires_grad_()
        right = targets.masked_fill(~MASK, -100 if fill else 0)
        right = torch.nn.functional.pad(right, (0, more), value=-100)
        mask = valid_steps(LENGTHS, T + more)
        loss, count = head.loss(inputs, right, mask)
        gradients = torch.autograd.grad(loss, [inputs, *head.parameters()])
        assert not gradients[0][~mask].any()
        way, logs = head.answers(inputs, mask)
        kept = [part[:, :T][MASK] for part in (way, logs)]
        found.append([loss, count, gradients[0][:, :T], *gradients[1:], *kept])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    alone = [head.loss(hidden[b : b + 1, :n], targets[b : b + 1, :n])[0]
             for b, n in enumerate([5, 3, 1])]  # fmt: skip
    torch.testing.assert_close(sum(alone), found[0][0])


def test_a_chain_goes_on_over_steps_that_do_not_exist() -> None:
    head, hidden, targets = build()
    mask = torch.tensor([[True, False, True, False, True]] * B)
    whole, part = (hidden, targets, mask), (hidden[:, ::2], targets[:, ::2])
    torch.testing.assert_close(head.loss(*whole), head.loss(*part))
    for one, other in zip(head.answers(hidden, mask), head.answers(part[0]), strict=True):
        torch.testing.assert_close(one[:, ::2], other)


def test_without_transitions_it_is_a_softmax() -> None:
    head, hidden, targets = build(ends=False)
    torch.nn.init.zeros_(head.transitions)
    plain = SoftmaxHead(input_size=D, num_outputs=K).double()
    plain.linear.load_state_dict(head.linear.state_dict())
    torch.testing.assert_close(head.loss(hidden, targets, MASK), plain.loss(hidden, targets, MASK))
    for one, other in zip(head.answers(hidden, MASK), plain.answers(hidden, MASK), strict=True):
        torch.testing.assert_close(one[MASK], other[MASK])


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_long_chains_stay_finite_and_in_float32_under_autocast(scale) -> None:
    head, _, _ = build()
    hidden = scale * torch.randn(2, 2000, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = head.float().loss(hidden, torch.zeros(2, 2000, dtype=torch.long))
        _, logs = head.answers(hidden)
    assert loss.dtype == logs.dtype == torch.float32
    gradients = torch.autograd.grad(loss, list(head.parameters()))
    assert all(part.isfinite().all() for part in (loss, logs, *gradients))
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(2, 2000))
    exact = head.double().loss(hidden.bfloat16().double(), torch.zeros(2, 2000, dtype=torch.long))[
        0
    ]
    torch.testing.assert_close(loss.double(), exact, rtol=0.02, atol=0.0)  # the emissions' bf16


def test_it_learns_what_steps_on_their_own_cannot() -> None:
    """Tags that only alternate: a step without memory sees nothing of it."""
    torch.manual_seed(0)
    head = CRFHead(input_size=1, num_outputs=2)
    hidden, starts = torch.zeros(8, 6, 1), torch.arange(8) % 2
    hidden[:, 0, 0] = 2.0 * starts - 1  # the first step alone is known
    targets = (starts[:, None] + torch.arange(6)) % 2
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss, count = head.loss(hidden, targets)
        (loss / count).backward()
        optimizer.step()
    assert torch.equal(head.answers(hidden)[0], targets)
    assert loss / count < 0.05


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"model\.label_smoothing=0"):
        CRFHead(input_size=D, num_outputs=K, label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"task\.class_weights=null"):
        CRFHead(input_size=D, num_outputs=K, class_weights=[1.0] * K)
    with pytest.raises(ValueError, match=r"sequences.*\(4, 3\)"):
        build()[0].loss(torch.zeros(4, D).double(), LENGTHS)
    with pytest.raises(ValueError, match="real numbers"):
        Tagger(
            vocabulary_size=None, input_features=1, num_outputs=1, real=True, pad_id=0, unk_id=None,
            cell=GRU, embedding_size=1, hidden_size=2, head=CRFHead,
        )  # fmt: skip
