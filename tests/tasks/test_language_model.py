"""What is the language model's own: perplexity of text, and music that is moved."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from data.batches import StreamBatch
from data.piano_roll import transposed
from tasks.predict_options import PredictOptions


def test_moved_music_keeps_its_intervals() -> None:
    keys = torch.zeros(6, 4, 88)
    keys[:, :, [30, 34, 37]] = 1
    rest = torch.zeros(6, 4)
    batch = StreamBatch(keys, keys.clone(), rest.bool(), torch.ones(6).bool(), rest)
    torch.manual_seed(0)
    moved = transposed(batch, 3)
    lowest = moved.inputs.argmax(-1)
    assert torch.equal(lowest, lowest[:, :1].expand_as(lowest))  # a piece moves as a whole
    assert len(set(lowest[:, 0].tolist())) > 1 and (lowest - 30).abs().max() <= 3
    for row, low in enumerate(lowest[:, 0].tolist()):
        assert moved.inputs[row, 0].nonzero().flatten().tolist() == [low, low + 4, low + 7]
    assert torch.equal(moved.inputs, moved.targets)


def test_perplexity_and_bits_are_of_the_same_likelihood(start: Any) -> None:
    measured = start("language_model", "trainer.max_epochs=1").fit().test()
    assert measured["test/perplexity"] == pytest.approx(math.exp(measured["test/loss"]))
    # characters: a token is a character, but for <eos>, which stands for the end of a module
    bits = measured["test/loss"] / math.log(2)
    assert measured["test/bits_per_character"] == pytest.approx(bits, rel=0.02)


def test_text_cannot_be_transposed(start: Any) -> None:
    with pytest.raises(ValueError, match=r"task\.transpose"):
        start("language_model", "task.transpose=2")


def test_penalties_enter_the_training_loss_alone(start: Any) -> None:
    keys = ["task.activation_regularisation=2", "task.temporal_activation_regularisation=1"]
    trained, evaluated = [], []
    for more in ([], keys):
        task, batch = (run := start("language_model", *more)).task, first_batch(run)
        torch.manual_seed(0)
        loss, count = task.loss(batch)
        trained.append((loss / count).item())
        task.carried.clear()
        torch.manual_seed(0)
        outputs, hidden = task.run(batch, "train")
        task.eval().evaluate(batch, "val")
        evaluated.append(task.sums.totals()["loss"])
    extra = 2 * hidden.square().mean() + (outputs[:, 1:] - outputs[:, :-1]).square().mean()
    assert trained[1] - trained[0] == pytest.approx(extra.item(), rel=1e-4)
    assert evaluated[0] == evaluated[1]


def test_a_reset_stream_is_read_as_if_nothing_stood_before_it(start: Any) -> None:
    outputs = {}
    for share in (0.0, 0.5, 1.0):
        run = start("language_model", "data.batch_size=16", f"task.state_reset={share}")
        task, seen = run.task, []
        task.objective = lambda task, batch, seen=seen: seen.append(task.run(batch, "train")[0])
        task.model.eval()  # no dropout; it is the task that trains
        batch = first_batch(run)
        batch = batch._replace(start=torch.zeros_like(batch.start))
        torch.manual_seed(0)
        for _ in range(2):
            task.loss(batch)
        outputs[share] = torch.stack(seen)
        task.eval().loss(batch)
        assert not torch.equal(seen[2], seen[0])  # carried on, whatever the probability
    first, second = outputs[1.0]
    assert torch.equal(first, second)
    anew = (outputs[0.5][1] == outputs[0.5][0]).flatten(1).all(1)
    assert 0 < anew.sum() < 16
    assert not (outputs[0.0][1] == outputs[0.0][0]).flatten(1).all(1).any()


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_state_is_reset_with_a_probability(share: float, start: Any) -> None:
    with pytest.raises(ValueError, match=rf"task\.state_reset is a probability .* got {share}"):
        start("language_model", f"task.state_reset={share}")


EVERYTHING = [
    "cell=lstm", "recurrent.weight_drop=0.3", "task.activation_regularisation=2",
    "task.temporal_activation_regularisation=1", "callbacks=ntasgd",
    "callbacks.average.patience=0", "data.steps_deviation=3", "model.tie_weights=true",
    "model.embedding_size=16", "model.num_layers=2", "model.last_hidden_size=24",
    "model.word_dropout=0.1", "task.state_reset=0.2", "task.evaluation.cache=true",
    "task.evaluation.dynamic=true", "task.evaluation.dynamic_batches=2",
    "task.evaluation.temperature=true", "precision=bf16", "trainer.max_steps=6",
    "trainer.val_check_interval=2", "trainer.limit_test_batches=2", "trainer.limit_val_batches=1",
]  # fmt: skip
HEADS = {
    "mixture": ["model.head.components=2", "model.head.latent_dropout=0.2"],
    "adaptive": ["model.head.cutoffs=[20,50]"],
}


@pytest.mark.parametrize("head", HEADS)
def test_all_methods_at_once_train_test_and_write(head: str, start: Any) -> None:
    run = start("language_model", f"model/head={head}", *HEADS[head], *EVERYTHING).fit()
    measured = run.test()
    for name in ("perplexity", "perplexity_cache", "perplexity_dynamic", "perplexity_temperature"):
        assert 1 < measured[f"test/{name}"] < 1e4
    first, second = (run.task.predict(["def "], PredictOptions(max_length=9)) for _ in range(2))
    assert first == second and first[0]["text"].startswith("def ")


def first_batch(run: Any) -> StreamBatch:
    batch: StreamBatch = next(iter(run.data.train_dataloader()))
    return batch


@pytest.fixture
def music(start: Any, tmp_path: Path) -> Any:
    """Starts a run on one piece a split."""
    piece = json.dumps({"notes": [[39, 43], [41]] * 6})
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f"{piece}\n", encoding="utf-8")
    return lambda *words: start(
        "none", "task=language_model", "data=piano_roll", f"data.path={tmp_path}",
        "model.hidden_size=8", "task.sample_length=4", *words,
    )  # fmt: skip


def test_music_of_fewer_pieces_than_samples_shows_those_there_are(music: Any) -> None:
    run = music("task.samples=3")
    run.test()
    assert len(run.task.shown.rows) == 1


def test_music_has_no_state_to_reset(music: Any) -> None:
    with pytest.raises(ValueError, match=r"task\.state_reset .* 0 for music"):
        music("task.state_reset=0.01")
