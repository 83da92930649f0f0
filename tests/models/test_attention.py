"""Attention: equations, masks and batching."""

import pytest
import torch

from models import scores as module
from models.attention import Attention
from models.scores import SCORES

B, T, S, Q, D, A = 3, 4, 5, 6, 6, 7
LENGTHS = torch.tensor([5, 2, 0])
every_kind = pytest.mark.parametrize("kind", SCORES)


def build(kind: str) -> Attention:
    torch.manual_seed(0)
    return Attention(kind=kind, query_size=Q, value_size=D, attention_size=A).double()


def tensors():
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(B, T, Q, generator=generator, dtype=torch.float64)
    values = torch.randn(B, S, D, generator=generator, dtype=torch.float64)
    return queries, values, torch.arange(S) < LENGTHS[:, None]


@every_kind
def test_weights_are_the_softmax_of_the_papers_scores(kind) -> None:
    attention, (queries, values, mask) = build(kind), tensors()
    context, weights = attention(queries, attention.prepare(values), values, mask)
    for row, length in enumerate(LENGTHS.tolist()):
        for step in range(T):
            scores = []
            for place in range(length):
                q, v = queries[row, step], values[row, place]
                if kind == "dot":
                    scores.append(q @ v)
                elif kind == "general":
                    scores.append(v @ attention.score.project.weight @ q)
                else:
                    score = attention.score
                    hidden = torch.tanh(score.query.weight @ q + score.key(v))
                    scores.append(score.weigh.weight[0] @ hidden)
            expected = torch.zeros(S, dtype=torch.float64)
            if scores:
                expected[:length] = torch.stack(scores).softmax(0)
            torch.testing.assert_close(weights[row, step], expected)
            torch.testing.assert_close(context[row, step], expected @ values[row])


@every_kind
def test_what_is_shut_out_weighs_exactly_nothing_and_has_no_gradient(kind) -> None:
    attention, (queries, values, mask) = build(kind), tensors()
    values = values.masked_fill(~mask[:, :, None], 1e3).requires_grad_()
    context, weights = attention(queries, attention.prepare(values), values, mask)
    assert (weights.masked_fill(mask[:, None], 0.0) == 0.0).all()
    assert (context[2] == 0.0).all() and (weights[2] == 0.0).all()
    torch.testing.assert_close(weights[:2].sum(-1), torch.ones(2, T).double())
    context.sum().backward()
    assert (values.grad[~mask] == 0.0).all() and values.grad.isfinite().all()


@every_kind
def test_all_queries_at_once_equal_one_at_a_time(kind, monkeypatch) -> None:
    attention, (queries, values, mask) = build(kind), tensors()
    results = []
    for chunk in (1, module.CHUNK, None):
        monkeypatch.setattr(module, "CHUNK", chunk or 1)
        given = queries.clone().requires_grad_(), values.clone().requires_grad_()
        keys = attention.prepare(given[1])
        if chunk is None:
            steps = [attention(q, keys, given[1], mask) for q in given[0].unbind(1)]
            context, weights = (torch.stack(part, 1) for part in zip(*steps, strict=True))
        else:
            context, weights = attention(given[0], keys, given[1], mask)
        attention.zero_grad()
        (context.square().sum() + weights.square().sum()).backward()
        learnt = [parameter.grad for parameter in attention.parameters()]
        results.append([context, weights, *(g.grad for g in given), *learnt])
    for others in results[1:]:
        torch.testing.assert_close(others, results[0])


@every_kind
def test_weights_are_precise_under_autocast(kind) -> None:
    attention, (queries, values, mask) = build(kind).float(), tensors()
    with torch.autocast("cpu", torch.bfloat16):
        keys = attention.prepare(values.float())
        context, weights = attention(queries.bfloat16(), keys, values.float(), mask)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights[:2].sum(-1), torch.ones(2, T))
    assert context.isfinite().all()


def test_mistakes_name_the_value_and_the_mend() -> None:
    with pytest.raises(ValueError, match="one of additive, general, dot or none, got 'cosine'"):
        Attention(kind="cosine", query_size=Q, value_size=D)
    with pytest.raises(ValueError, match="size 6 and a memory of size 8.*attention=general"):
        Attention(kind="dot", query_size=Q, value_size=8)
