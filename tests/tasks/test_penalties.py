"""Doubly stochastic attention: the paper's sum, over the texts and places that are there."""

from typing import Any

import pytest
import torch

from models.decoder import DecoderOutput
from models.encoders.memory import Memory
from tasks.penalties import DoublyStochastic


def test_the_penalty_is_the_papers() -> None:
    random = torch.Generator().manual_seed(1)
    lengths, places, steps, room = [3, 2], [4, 2], 3, 4
    attention = torch.rand(2, steps, room, generator=random).softmax(-1)
    mask = torch.arange(steps) < torch.tensor(lengths)[:, None]
    there = torch.arange(room) < torch.tensor(places)[:, None]
    memory = Memory(torch.zeros(2, room, 1), there, torch.zeros(2, 1))
    found = DoublyStochastic(0.7)(DecoderOutput(torch.zeros(2, steps, 1), attention), memory, mask)
    told = 0.0
    for text in range(2):
        for place in range(places[text]):
            looked = sum(float(attention[text, t, place]) for t in range(lengths[text]))
            told += 0.7 * (1 - looked) ** 2
    assert float(found) == pytest.approx(told)


@pytest.mark.parametrize("shape", ["captioning", "translation"])
def test_it_joins_the_loss_text_by_text_and_has_a_gradient(shape: str, start: Any) -> None:
    plain = start(shape)
    batch = next(iter(plain.data.loader("train")))
    run = start(shape, "task.doubly_stochastic=0.5", "seed=1")
    for one in (plain, run):
        one.task.eval()._trainer = one.trainer
    loss, count = run.task.loss(batch)
    nats, symbols = plain.task.loss(batch)
    memory = plain.task.encode(batch)
    output = plain.task.model(memory, batch.target[:, :-1])
    spoken = torch.arange(1, batch.target.size(1)) < batch.target_lengths[:, None]
    more = DoublyStochastic(0.5)(output, memory, spoken)
    assert count == symbols
    torch.testing.assert_close(loss, nats + more)
    (gradient,) = torch.autograd.grad(
        more, plain.task.model.decoder.combine.weight, allow_unused=True
    )
    assert gradient is None  # what is said of it costs nothing, what was looked at does
    score = plain.task.model.decoder.attention.score
    more = DoublyStochastic(0.5)(plain.task.model(memory, batch.target[:, :-1]), memory, spoken)
    weights = list(score.parameters()) or [plain.task.model.encoder.inputs.embedding.weight]
    assert torch.autograd.grad(more, weights[0])[0].abs().max() > 0


def test_training_with_it_spreads_the_attention(start: Any) -> None:
    run = start("captioning", "task.doubly_stochastic=1")
    batch = next(iter(run.data.loader("train")))
    run.task._trainer = run.trainer
    torch.nn.init.normal_(run.task.model.decoder.attention.score.weigh.weight, std=5.0)  # sharp
    optimizer = torch.optim.Adam(run.task.parameters(), lr=3e-2)
    found = []
    for _ in range(10):
        output = run.task.model(run.task.encode(batch), batch.target[:, :-1])
        found.append(output.attention.amax(-1).mean().item())
        loss, count = run.task.loss(batch)
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    assert found[-1] < 0.8 * found[0]


def test_what_it_cannot_do_is_refused(start: Any) -> None:
    with pytest.raises(ValueError, match="doubly_stochastic must be at least 0, got -1"):
        start("captioning", "task.doubly_stochastic=-1")
    with pytest.raises(ValueError, match="is about attention"):
        start("captioning", "task.doubly_stochastic=1", "model.decoder.attention=none")
