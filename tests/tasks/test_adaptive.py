"""Evaluation beside the plain numbers: proper distributions, and nothing left behind."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import build
from building.trained import of_checkpoint
from data.batches import StreamBatch
from launch import name_task
from models.cells.lstm import LSTM
from models.head import SoftmaxHead
from models.language_model import LanguageModel
from tasks import adaptive
from tasks.adaptive import Evaluation, NeuralCache

WORDS = 7


@pytest.fixture
def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(
        vocabulary_size=WORDS, keys=None, pad_id=0, unk_id=1, cell=LSTM, embedding_size=6,
        hidden_size=6,
    ).eval()  # fmt: skip


@pytest.fixture
def text() -> list[StreamBatch]:
    """Two streams of unequal length, read in three windows."""
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(2, WORDS, (2, 16), generator=random)
    mask = torch.arange(15) < torch.tensor([[15], [11]])
    start = torch.ones(2, dtype=torch.bool)
    found = []
    for first in range(0, 15, 5):
        here = slice(first, first + 5)
        own = mask[:, here]
        found.append(
            StreamBatch(
                ids[:, :-1][:, here] * own, ids[:, 1:][:, here] * own, own, start & (first == 0),
                own.long(),
            )
        )  # fmt: skip
    return found


def plain(model: LanguageModel, text: list[StreamBatch]) -> float:
    """The nats of the whole text, read in one window a stream."""
    inputs, targets, mask = (
        torch.cat([getattr(batch, name) for batch in text], 1)
        for name in ("inputs", "targets", "mask")
    )
    hidden, _ = model(inputs)
    return float(model.head.loss(hidden, targets, mask)[0])


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-5)


@torch.no_grad()
def test_a_model_with_a_cache_is_a_distribution_over_words(
    model: LanguageModel, text: list[StreamBatch]
) -> None:
    cache = NeuralCache(size=4, theta=0.7)
    for batch, hidden in adaptive.read(model, text):
        weights, words = cache.attend(batch, hidden)
        sums = torch.zeros(2, 5)
        for word in range(WORDS):
            asked = torch.full((2, 5), word)
            log_probs = -adaptive.token_nats(model.head, hidden, asked)
            sums += adaptive.mixed(log_probs, weights, words, asked, 0.4).exp()
        torch.testing.assert_close(sums, torch.ones(2, 5))


@torch.no_grad()
def test_the_cache_is_what_its_paper_says_word_by_word(
    model: LanguageModel, text: list[StreamBatch]
) -> None:
    settings = Evaluation(cache=True, cache_size=4, cache_theta=0.7, cache_lambda=0.4)
    nats = 0.0
    inputs, targets = (
        torch.cat([getattr(batch, name) for batch in text], 1) for name in ("inputs", "targets")
    )
    hidden, _ = model(inputs)
    for row, length in enumerate((15, 11)):
        for t in range(length):
            own = float(model.head.log_probs(hidden[row, t])[targets[row, t]].exp())
            before = range(max(0, t - 4), t)
            likeness = [math.exp(0.7 * float(hidden[row, t] @ hidden[row, i])) for i in before]
            same = [targets[row, i] == targets[row, t] for i in before]
            if before:
                hits = sum(a for a, right in zip(likeness, same, strict=True) if right)
                own = 0.6 * own + 0.4 * hits / sum(likeness)
            nats -= math.log(own)
    found, count = adaptive.with_cache(model, text, settings).tolist()
    assert found == close(nats) and count == 26


@torch.no_grad()
def test_without_theta_the_cache_counts_the_last_words(text: list[StreamBatch]) -> None:
    cache = NeuralCache(size=3, theta=0.0)
    hidden = torch.randn(2, 5, 4)
    cache.attend(text[0], hidden)
    weights, words = cache.attend(text[1], hidden)
    share = (weights * (words[:, None] == words[0, 4])).sum(-1)
    last = text[0].targets[0, 2:5]  # the three words before the window
    assert float(share[0, 0]) == close(float((last == words[0, 4]).float().mean()))
    assert weights.count_nonzero(-1)[0].tolist() == [3] * 5


@torch.no_grad()
def test_a_stream_that_starts_anew_has_an_empty_cache(text: list[StreamBatch]) -> None:
    cache = NeuralCache(size=9, theta=1.0)
    cache.attend(text[0], torch.randn(2, 5, 4))
    again = text[0]._replace(start=torch.tensor([True, False]))
    weights, _ = cache.attend(again, torch.randn(2, 5, 4))
    assert weights[:, 0].sum(-1).tolist() == [0.0, pytest.approx(1.0)]


@torch.no_grad()
def test_options_that_do_nothing_give_the_plain_number(
    model: LanguageModel, text: list[StreamBatch]
) -> None:
    nats = plain(model, text)
    none = Evaluation(cache_lambda=0.0)
    assert float(adaptive.with_cache(model, text, none)[0]) == close(nats)
    assert float(adaptive.at_temperatures(model, text, [1.0])) == close(nats)
    still = Evaluation(dynamic_rate=0.0)
    assert float(adaptive.dynamic(model, text, text, still)[0]) == close(nats)


@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_dynamic_evaluation_leaves_the_weights_bit_for_bit(
    rate: float, model: LanguageModel, text: list[StreamBatch]
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():  # as in a test
        adaptive.dynamic(model, text, text, Evaluation(dynamic_rate=rate))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and not p.is_inference() for p in model.parameters())


def test_dynamic_evaluation_that_is_interrupted_leaves_the_weights_too(
    model: LanguageModel, text: list[StreamBatch]
) -> None:
    before = [p.clone() for p in model.parameters()]

    def cut() -> Any:
        yield from text[:2]
        assert not all(map(torch.equal, before, model.parameters()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adaptive.dynamic(model, cut(), text, Evaluation(dynamic_rate=0.05))
    assert all(map(torch.equal, before, model.parameters()))


def test_dynamic_evaluation_takes_the_steps_of_its_paper(
    model: LanguageModel, text: list[StreamBatch]
) -> None:
    rate, decay = 0.03, 0.1
    roots = adaptive.usual_gradients(model, text)
    found = adaptive.dynamic(model, text, text, Evaluation(dynamic_rate=rate, dynamic_decay=decay))
    weights = list(model.parameters())
    trained = [p.detach().clone() for p in weights]
    mean = torch.cat([root.flatten() for root in roots]).mean()
    nats, state = 0.0, model.initial_state(2)
    for batch in text:
        hidden, after = model(batch.inputs, state)
        loss, count = model.head.loss(hidden, batch.targets, batch.mask)
        nats, state = nats + float(loss.detach()), adaptive.detach(after)
        model.zero_grad()
        (loss / count).backward()
        with torch.no_grad():
            for p, start, root in zip(weights, trained, roots, strict=True):
                assert p.grad is not None
                p -= rate * p.grad / (root + mean) + torch.clamp(decay * root / mean, max=1) * (
                    p - start
                )
    assert float(found[0]) == pytest.approx(nats, rel=1e-4)
    with torch.no_grad():
        for p, start in zip(weights, trained, strict=True):
            p.copy_(start)
    assert abs(nats - plain(model, text)) > 0.01  # the steps were felt


@torch.no_grad()
def test_the_temperature_that_is_chosen_undoes_logits_that_are_too_sharp(
    model: LanguageModel,
) -> None:
    """Words drawn from the model itself: half as much again needs a temperature of 1.5."""
    random = torch.Generator().manual_seed(0)
    assert isinstance(model.head, SoftmaxHead)
    model.head.linear.weight.mul_(30)
    inputs = torch.randint(2, WORDS, (60, 50), generator=random)
    hidden, _ = model(inputs)
    drawn = torch.multinomial(model.head.log_probs(hidden).exp().flatten(0, 1), 1, generator=random)
    everywhere = torch.ones(60, 50, dtype=torch.bool)
    batch = StreamBatch(inputs, drawn.view(60, 50), everywhere, everywhere[:, 0], everywhere.long())

    def found() -> float:
        sums = adaptive.at_temperatures(model, [batch], adaptive.INVERSES)
        return adaptive.best_temperature(sums)

    assert found() == pytest.approx(1.0, abs=0.05)
    layer = model.head.linear
    layer.weight = torch.nn.Parameter(layer.weight * 1.5)  # apart from the embedding now
    layer.bias.mul_(1.5)
    assert found() == pytest.approx(1.5, abs=0.1)


@torch.no_grad()
def test_losses_by_place_add_up_to_the_plain_one(
    model: LanguageModel, text: list[StreamBatch]
) -> None:
    nats, anew, tokens = adaptive.by_position(model, text, steps=5)
    assert float(nats.sum()) == close(plain(model, text))
    alone = [batch._replace(start=torch.ones(2, dtype=torch.bool)) for batch in text]
    assert float(anew.sum()) == close(sum(plain(model, [batch]) for batch in alone))
    assert tokens.tolist() == [6, 5, 5, 5, 5]


OPTIONS = ["temperature", "cache", "dynamic"]


@pytest.mark.usefixtures("drawn")
def test_options_are_reported_beside_plain_numbers_that_stay(start: Any, tmp_path: Any) -> None:
    asked = [f"task.evaluation.{name}=true" for name in OPTIONS]
    before = start("language_model").test()
    run = start("language_model", *asked, "task.evaluation.dynamic_rate=3e-3")
    after = run.test()
    assert {name: after[name] for name in before} == before
    for name in OPTIONS:
        assert after[f"test/perplexity_{name}"] != before["test/perplexity"]
        assert after[f"test/bits_per_word_{name}"] > 0
    # an untrained model learns from what it reads
    assert after["test/perplexity_dynamic"] < 0.9 * before["test/perplexity"]
    assert (tmp_path / "run2" / "pictures" / "loss_by_position.png").stat().st_size > 5000


def test_bits_of_words_and_bytes_are_of_the_whole_text_or_not_told(start: Any) -> None:
    whole = start("language_model")
    measured, report = whole.test(), whole.data.report()
    nats = measured["test/loss"] * len(whole.data.splits["test"])
    for unit in ("word", "byte"):
        bits = nats / math.log(2) / report[f"{unit}s_test"]
        assert measured[f"test/bits_per_{unit}"] == pytest.approx(bits)
    assert measured["test/perplexity_per_word"] == pytest.approx(
        2 ** measured["test/bits_per_word"]
    )
    part = start("language_model", "trainer.limit_test_batches=2").test()
    assert not {"test/bits_per_word", "test/bits_per_byte", "test/perplexity_per_word"} & set(part)
    assert part["test/loss_reset"] > 0


def test_what_cannot_be_evaluated_so_is_refused(start: Any) -> None:
    with pytest.raises(ValueError, match=r"task\.evaluation\.cache_lambda is 0 to 1, got 2"):
        start("language_model", "task.evaluation.cache_lambda=2")
    with pytest.raises(ValueError, match=r"task\.evaluation\.cashe: choose .*cache"):
        start("language_model", "+task.evaluation.cashe=true")
    run = start("language_model", "task.evaluation.dynamic=true")
    run.task._trainer = type("Ranks", (), {"world_size": 2, "precision": "32-true"})()
    with pytest.raises(ValueError, match=r"on 2 ranks: .* trainer\.devices=1"):
        run.task.setup("test")


def test_a_checkpoint_from_before_these_options_takes_them_too(start: Any) -> None:
    config = start("language_model", "task.evaluation.dynamic=true").config
    config.fit = False
    stored = build.plain(config)
    del stored["task"]["evaluation"]
    merged = of_checkpoint(config, stored, ["task.evaluation.dynamic=true"])
    assert build.plain(merged)["task"]["evaluation"] == {"dynamic": True}
    assert Evaluation.of({"dynamic": True}) == Evaluation(dynamic=True)


@pytest.mark.parametrize("name", ["bits_per_word", "bits_per_byte", "perplexity_per_word"])
def test_the_lower_of_these_is_the_better(name: str, start: Any) -> None:
    assert start("language_model", f"task.monitor=val/{name}").config.task.mode == "min"


def test_a_command_line_need_not_name_the_task_of_its_checkpoint(tmp_path: Path) -> None:
    config = "seed: 1\ntask:\n  monitor: a\n  _target_: tasks.language_model.LanguageModel\n"
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    asked = ["fit=false", f"ckpt={tmp_path}/checkpoints/best.ckpt", "task.evaluation.cache=true"]
    assert name_task(asked) == ["task=language_model", *asked]
    for plain in (asked[:2], asked[::2], [*asked, "task=tagging"], [*asked, "experiment=ptb"]):
        assert name_task(plain) == plain
