"""Pooling over time: pads change nothing, and each pooling is the plain thing it is called."""

import pytest
import torch

from models.pooling import POOLINGS, build_pooling, valid_steps

B, T, D = 4, 6, 4
LENGTHS = torch.tensor([6, 3, 1, 0])
MASK = valid_steps(LENGTHS, T)

every_pooling = pytest.mark.parametrize("name", POOLINGS)
both_directions = pytest.mark.parametrize("bidirectional", [False, True])


def build(name: str, bidirectional: bool = False):
    torch.manual_seed(0)
    return build_pooling(name, input_size=D, bidirectional=bidirectional), torch.randn(B, T, D)


@every_pooling
@both_directions
def test_pads_change_nothing_in_values_or_gradients(name, bidirectional) -> None:
    pooling, outputs = build(name, bidirectional)
    found = []
    for fill, more in ((0.0, 0), (50.0, 3)):
        inputs = outputs.masked_fill(~MASK[:, :, None], fill)
        inputs = torch.cat([inputs, torch.full((B, more, D), 50.0)], 1).requires_grad_()
        pooled, weights = pooling(inputs, valid_steps(LENGTHS, T + more))
        gradients = torch.autograd.grad(pooled.pow(2).sum(), [inputs, *pooling.parameters()])
        assert not gradients[0][~valid_steps(LENGTHS, T + more)].any()
        parts = [pooled, gradients[0][:, :T], *gradients[1:]]
        found.append(parts if weights is None else [*parts, weights[..., :T]])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@every_pooling
@both_directions
def test_a_row_is_pooled_as_it_would_be_alone_and_an_empty_one_is_zero(name, bidirectional) -> None:
    pooling, outputs = build(name, bidirectional)
    pooled, _ = pooling(outputs, MASK)
    assert pooled.shape == (B, pooling.output_size)
    for row, length in enumerate(LENGTHS[:3].tolist()):
        rows = outputs[row : row + 1, :length]
        alone, _ = pooling(rows, torch.ones(1, length, dtype=torch.bool))
        torch.testing.assert_close(pooled[row], alone[0])
    assert not pooled[3].any()


def test_poolings_are_what_they_are_called() -> None:
    outputs, length = build("last")[1], 3
    row = outputs[1, :length]
    expected = {
        "last": row[-1],
        "mean": row.mean(0),
        "max": row.amax(0),
        "mean_max": torch.cat([row.mean(0), row.amax(0)]),
        "concat": torch.cat([row[-1], row.mean(0), row.amax(0)]),
    }
    for name, value in expected.items():
        torch.testing.assert_close(build(name)[0](outputs, MASK)[0][1], value)
    both, _ = build("last", bidirectional=True)[0](outputs, MASK)
    ends = torch.cat([row[-1, : D // 2], row[0, D // 2 :]])
    torch.testing.assert_close(both[1], ends)
    joined, _ = build("concat", bidirectional=True)[0](outputs, MASK)
    torch.testing.assert_close(joined[1, :D], ends)


@pytest.mark.parametrize("hops", [1, 3])
def test_attention_weights_are_a_distribution_over_the_valid_steps(hops) -> None:
    torch.manual_seed(0)
    pooling, outputs = build_pooling("attention", input_size=D, hops=hops), torch.randn(B, T, D)
    pooled, weights = pooling(outputs, MASK)
    assert weights.shape == (B, hops, T) and pooling.output_size == hops * D
    torch.testing.assert_close(
        weights.sum(2), torch.tensor([1.0, 1, 1, 0])[:, None].expand(-1, hops)
    )
    assert not weights.transpose(1, 2)[~MASK].any()
    for hop, mean in enumerate(pooled.unflatten(1, (hops, D)).unbind(1)):
        torch.testing.assert_close(mean, (weights[:, hop, :, None] * outputs).sum(1))


def test_the_penalty_is_how_far_hops_are_from_looking_at_one_step_each() -> None:
    pooling = build_pooling("attention", input_size=D, hops=2, penalty=0.5)
    even, apart, alike = torch.full((2, 4), 0.25), torch.eye(4)[:2], torch.eye(4)[[1, 1]]
    empty = torch.zeros(2, 4)
    by_hand = {  # AAᵀ: all 1/4; I; all 1; nothing to read
        2 * 0.75**2 + 2 * 0.25**2: even, 0.0: apart, 2.0: alike,
    }  # fmt: skip
    for value, weights in by_hand.items():
        rows = torch.stack([weights, empty])
        torch.testing.assert_close(pooling.penalty(rows), torch.tensor(0.5 * value))
    whole = pooling.penalty(torch.stack([even, apart, alike, empty]))
    torch.testing.assert_close(whole, torch.tensor(0.5 * sum(by_hand)))


def test_the_penalty_moves_hops_apart_and_none_is_nothing() -> None:
    torch.manual_seed(0)
    pooling, outputs = (
        build_pooling("attention", input_size=D, hops=2, penalty=1.0),
        torch.randn(B, T, D),
    )
    optimizer = torch.optim.Adam(pooling.parameters(), lr=0.05)
    found = []
    for _ in range(60):
        optimizer.zero_grad()
        found.append(pooling.penalty(pooling(outputs, MASK)[1]))
        found[-1].backward()
        optimizer.step()
    assert found[-1] < 0.6 * found[0]  # the row of one step cannot be looked at in two ways
    for name in POOLINGS:
        pooling, _ = build(name)
        assert pooling.penalty(pooling(outputs, MASK)[1]) == 0.0


@pytest.mark.parametrize("name", [name for name in POOLINGS if name not in ("last", "concat")])
def test_all_but_the_last_state_are_blind_to_order(name) -> None:
    pooling, outputs = build(name)
    shuffled = outputs.clone()
    shuffled[1, :3] = outputs[1, [2, 0, 1]]
    torch.testing.assert_close(pooling(outputs, MASK)[0], pooling(shuffled, MASK)[0])


def test_a_wrong_name_is_answered_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"mean_max.*'median'"):
        build_pooling("median", input_size=D)
    with pytest.raises(ValueError, match="pooling=attention, got pooling=mean"):
        build_pooling("mean", input_size=D, hops=2)
    with pytest.raises(ValueError, match="pooling_hops"):
        build_pooling("attention", input_size=D, hops=0)
    with pytest.raises(ValueError, match="pooling_penalty"):
        build_pooling("attention", input_size=D, penalty=-1.0)
