"""Coverage: what attention has seen is in its scores, in the decoder's state and in a loss."""

from functools import partial

import pytest
import torch

from models.attention import Attention
from models.cells.gru import GRU
from models.cells.lstm import LSTM
from models.coverage import CoverageAttention, coverage_loss
from models.decoder import AttentionDecoder
from models.decoding import beam_search, greedy
from models.decoding.hypotheses import select
from models.encoder_decoder import EncoderDecoder
from models.encoders.memory import Memory
from models.encoders.text import TextEncoder
from models.state import leaves

B, T, S, D, V = 3, 4, 5, 6, 11
LENGTHS = torch.tensor([5, 2, 1])
BOS, EOS = 2, 3
every_way = pytest.mark.parametrize("input_feeding", [False, True])
every_kind = pytest.mark.parametrize(
    ("kind", "heads"), [("additive", 1), ("general", 1), ("dot", 1), ("additive", 2), ("dot", 3)]
)


def tensors():
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(B, T, D, generator=generator, dtype=torch.float64)
    values = torch.randn(B, S, D, generator=generator, dtype=torch.float64)
    return queries, values.requires_grad_(), torch.arange(S) < LENGTHS[:, None]


def decoder(kind: str = "additive", **options) -> AttentionDecoder:
    torch.manual_seed(0)
    made = AttentionDecoder(
        vocabulary_size=V, memory_size=D, cell=LSTM, embedding_size=5, hidden_size=D,
        attention=kind, coverage=True, **options,
    ).double()  # fmt: skip
    assert made.attention is not None
    torch.nn.init.normal_(made.attention.weight, std=2.0)  # as it is learnt
    return made


def memory() -> Memory:
    _, values, mask = tensors()
    return Memory(values, mask, values.mean(1))


def tokens():
    return torch.randint(4, V, (B, T), generator=torch.Generator().manual_seed(2))


def test_the_score_is_the_papers_with_the_weights_so_far() -> None:
    torch.manual_seed(0)
    attention = CoverageAttention(Attention(kind="additive", query_size=D, value_size=D)).double()
    torch.nn.init.normal_(attention.weight)
    queries, values, mask = tensors()
    context, weights = attention(
        queries, attention.prepare(values), values, mask, attention.start(mask)
    )
    score, covered = attention.attention.score, torch.zeros(B, S).double()
    for step in range(T):
        hidden = torch.tanh(
            score.query(queries[:, step])[:, None]
            + score.key(values)
            + covered[:, :, None] * attention.weight
        )
        scores = (hidden @ score.weigh.weight[0]).masked_fill(~mask, -torch.inf)
        torch.testing.assert_close(weights[:, step], scores.softmax(1))
        torch.testing.assert_close(
            context[:, step], (scores.softmax(1)[:, None] @ values).squeeze(1)
        )
        covered = covered + weights[:, step]
    assert not torch.allclose(covered, torch.full_like(covered, T / S))


@every_kind
def test_before_anything_is_learnt_it_attends_as_without(kind, heads) -> None:
    torch.manual_seed(0)
    options = {
        "vocabulary_size": V, "memory_size": D, "cell": LSTM, "embedding_size": 5,
        "hidden_size": D, "attention": kind, "heads": heads,
    }  # fmt: skip
    plain = AttentionDecoder(**options).double()
    covered = AttentionDecoder(**options, coverage=True).double()
    weights = {k.replace("attention.", "attention.attention."): v for k, v in
               plain.state_dict().items()}  # fmt: skip
    left = covered.load_state_dict(weights, strict=False)
    assert left == (["attention.weight"], [])
    torch.testing.assert_close(covered(tokens(), memory())[0], plain(tokens(), memory())[0])


@every_kind
@every_way
def test_forward_equals_a_loop_of_steps_in_values_and_gradients(kind, heads, input_feeding) -> None:
    one, read = decoder(kind, heads=heads, input_feeding=input_feeding), memory()
    output, after = one(tokens(), read)
    state, steps = one.initial_state(read), []
    for token in tokens().unbind(1):
        step, state = one.step(token, state, read)
        steps.append(step)
    stepped = type(output)(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))
    torch.testing.assert_close([*output, *leaves(after)], [*stepped, *leaves(state)])
    torch.testing.assert_close(state[-1], output.attention.sum(1))  # what it has covered
    wanted = [*one.parameters(), read.values]
    grads = [
        torch.autograd.grad(
            found.hidden.sin().sum() + found.attention.square().sum(), wanted, retain_graph=True
        )
        for found in (output, stepped)
    ]
    torch.testing.assert_close(*grads)
    assert grads[0][[n for n, _ in one.named_parameters()].index("attention.weight")].any()


@every_way
def test_a_text_in_two_parts_equals_the_whole_and_rows_may_move(input_feeding) -> None:
    one, read = decoder(input_feeding=input_feeding).eval(), memory()
    whole, _ = one(tokens(), read)
    first, state = one(tokens()[:, :2], read)
    rows = torch.tensor([2, 0, 0])
    second, _ = one(tokens()[rows, 2:], select(read, rows), select(state, rows))
    torch.testing.assert_close(second.hidden, whole.hidden[rows, 2:])
    torch.testing.assert_close(first.attention, whole.attention[:, :2])


def test_the_layers_still_run_in_one_call_where_nothing_is_fed_back() -> None:
    one, calls = decoder(), []
    one.stack.register_forward_hook(lambda *_: calls.append(1))
    one(tokens(), memory())
    assert calls == [1]


@every_way
def test_beam_search_scores_are_those_of_its_texts(input_feeding) -> None:
    """The state of each prefix carries the coverage of that prefix."""
    torch.manual_seed(0)
    model = EncoderDecoder(
        encoder=partial(TextEncoder, cell=GRU, embedding_size=5, hidden_size=D // 2),
        decoder=partial(AttentionDecoder, cell=GRU, embedding_size=5, hidden_size=8,
                        coverage=True, input_feeding=input_feeding),
        source_vocabulary_size=V, target_vocabulary_size=V, bos_id=BOS,
    ).double().eval()  # fmt: skip
    torch.nn.init.normal_(model.decoder.attention.weight, std=2.0)
    torch.nn.init.normal_(model.head.linear.weight)
    lengths = torch.tensor([6, 3, 4])
    source = torch.randint(4, V, (B, 6), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        read = model.encode(source, lengths)

        def step(token, state, context):
            log_probs, _, state = model.step(token, state, context)
            return log_probs, state

        found = beam_search(step, model.initial_state(read), read, bos_id=BOS, eos_id=EOS,
                            beam_size=4, n_best=4, max_length=7, length_penalty=0.0)  # fmt: skip
        for place in range(4):
            written = found.tokens[:, place]
            before = torch.cat([torch.full((B, 1), BOS), written[:, :-1]], 1)
            each = model.head.log_probs(model(read, before).hidden)
            each = each.gather(2, written[:, :, None]).squeeze(2)
            real = torch.arange(written.size(1)) < found.lengths[:, place, None]
            total = each.masked_fill(~real, 0.0).sum(1).float()
            torch.testing.assert_close(total, found.scores[:, place], atol=1e-4, rtol=1e-4)
        one = greedy(step, model.initial_state(read), read, bos_id=BOS, eos_id=EOS, max_length=7)
        alone = select(read, torch.tensor([1]))
        again = greedy(step, model.initial_state(alone), alone, bos_id=BOS, eos_id=EOS,
                       max_length=7)  # fmt: skip
        assert again.tokens[0, 0].tolist() == one.tokens[1, 0, : again.tokens.size(2)].tolist()


def test_the_loss_is_the_overlap_with_what_was_attended_before() -> None:
    weights = torch.tensor([[[0.5, 0.5, 0.0], [0.2, 0.0, 0.8], [0.9, 0.0, 0.1], [1.0, 0.0, 0.0]]])
    each = [0.0, 0.2, 0.7 + 0.1, 1.0]
    for steps in range(5):
        mask = (torch.arange(4) < steps)[None]
        assert coverage_loss(weights, mask).item() == pytest.approx(sum(each[:steps]))
    weights.requires_grad_()
    coverage_loss(weights, torch.ones(1, 4, dtype=torch.bool)).backward()
    # in step 1 it is its own share, and in step 2, of more weight, what was there before
    assert weights.grad[0, 1, 0].item() == 2.0


def test_coverage_keeps_its_precision_under_autocast() -> None:
    one = decoder(input_feeding=True).float()
    read = Memory(*(p.float() if p.is_floating_point() else p for p in memory()))
    with torch.autocast("cpu", torch.bfloat16):
        _, state = one(tokens(), read)
    assert {leaf.dtype for leaf in leaves(state)} == {torch.float32}
    torch.testing.assert_close(state[-1].sum(1), torch.full((B,), float(T)))


def test_coverage_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="coverage=False or attention=additive"):
        decoder("none")
