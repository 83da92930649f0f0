"""Several heads: the paper's equations, one memory's weights, and every way to run them."""

import pytest
import torch

from models.attention import Attention
from models.cells.lstm import LSTM
from models.decoder import AttentionDecoder
from models.decoding.hypotheses import select
from models.encoders.memory import KeyedMemory, Memory
from models.multi_head import MultiHeadAttention
from models.scores import SCORES
from models.state import leaves

B, T, S, Q, D, HEADS = 3, 4, 5, 8, 6, 3
LENGTHS = torch.tensor([5, 2, 1])
every_kind = pytest.mark.parametrize("kind", SCORES)
every_way = pytest.mark.parametrize("input_feeding", [False, True])


def build(kind: str, heads: int = HEADS) -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(kind=kind, query_size=Q, value_size=D, heads=heads).double()


def tensors():
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(B, T, Q, generator=generator, dtype=torch.float64)
    values = torch.randn(B, S, D, generator=generator, dtype=torch.float64)
    return queries, values.requires_grad_(), torch.arange(S) < LENGTHS[:, None]


def decoder(kind: str, heads: int, input_feeding: bool) -> AttentionDecoder:
    torch.manual_seed(0)
    return AttentionDecoder(
        vocabulary_size=11, memory_size=D, cell=LSTM, embedding_size=5, hidden_size=Q if
        kind != "dot" or heads > 1 else D, attention=kind, heads=heads,
        input_feeding=input_feeding, num_layers=2,
    ).double()  # fmt: skip


@every_kind
def test_each_head_is_an_attention_over_its_own_projections(kind) -> None:
    attention, (queries, values, mask) = build(kind), tensors()
    context, weights = attention(queries, attention.prepare(values), values, mask)
    size = -(-Q // HEADS)
    parts, of_heads = [], []
    scale = 1.0 if kind == "additive" else size**-0.5
    own = attention.key_and_value(values)
    for head in range(HEADS):
        block = slice(head * size, (head + 1) * size)
        query = attention.query(queries)[..., block] * scale
        keys, read = own[..., : HEADS * size][..., block], own[..., HEADS * size :][..., block]
        keys = attention.each.prepare(keys)
        found, weighed = attention.each(query, keys, read, mask)
        parts.append(found)
        of_heads.append(weighed)
    torch.testing.assert_close(context, attention.join(torch.cat(parts, -1)))
    torch.testing.assert_close(weights, torch.stack(of_heads).mean(0))
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, T).double())
    assert (weights.masked_fill(mask[:, None], 0.0) == 0.0).all()
    assert not torch.allclose(of_heads[0], of_heads[1])


@every_kind
def test_steps_equal_all_queries_at_once_in_values_and_gradients(kind) -> None:
    attention, (queries, values, mask) = build(kind), tensors()
    results = []
    for way in ("whole", "one by one", "stepper"):
        attention.zero_grad()
        values.grad = None
        keys = attention.prepare(values)
        if way == "whole":
            context, weights = attention(queries, keys, values, mask)
        else:
            step = attention.stepper(keys, values, mask)
            if way == "one by one":
                step = lambda query, keys=keys: attention(query, keys, values, mask)  # noqa: E731
            steps = [step(query) for query in queries.unbind(1)]
            context, weights = (torch.stack(part, 1) for part in zip(*steps, strict=True))
        (context.sin().sum() + weights.square().sum()).backward()
        learnt = [parameter.grad for parameter in attention.parameters()]
        results.append([context, weights, values.grad, *learnt])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@every_kind
@every_way
def test_a_decoder_with_heads_reads_a_text_as_its_steps_do(kind, input_feeding) -> None:
    one = decoder(kind, HEADS, input_feeding)
    _, values, mask = tensors()
    read = one.prepare(Memory(values, mask, values.mean(1)))
    tokens = torch.randint(0, 11, (B, T), generator=torch.Generator().manual_seed(2))
    output, after = one(tokens, read)
    state, steps = one.initial_state(read), []
    for token in tokens.unbind(1):
        step, state = one.step(token, state, read)
        steps.append(step)
    for whole, each in zip(output, zip(*steps, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.stack(each, 1))
    torch.testing.assert_close(leaves(after), leaves(state))
    rows = torch.tensor([2, 0, 0])  # as beam search moves them
    assert isinstance(read, KeyedMemory)
    picked, _ = one(tokens[rows], select(read, rows))
    torch.testing.assert_close(picked.hidden, output.hidden[rows])


@every_kind
@every_way
def test_one_head_is_the_plain_attention(kind, input_feeding) -> None:
    assert type(decoder(kind, 1, input_feeding).attention) is Attention


def test_heads_stay_close_in_bfloat16_and_their_weights_sum_to_one() -> None:
    attention, (queries, values, mask) = build("additive").float(), tensors()
    values = values.float()
    exact, _ = attention(queries.float(), attention.prepare(values), values, mask)
    with torch.autocast("cpu", torch.bfloat16):
        keys = attention.prepare(values)
        step = attention.stepper(keys, values, mask)
        context, weights = step(queries[:, 0].float())
    torch.testing.assert_close(context.float(), exact[:, 0], atol=0.03, rtol=0.0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B))


def test_mistakes_name_the_value_and_the_mend() -> None:
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
        build("dot", heads=0)
    with pytest.raises(ValueError, match="heads=2 is .* but attention=none: set heads=1"):
        decoder("none", 2, False)
