"""A model that copies: trained, tested, opened again, and asked, as any other is."""

from typing import Any

import torch

from models.encoders.memory import CopyMemory
from predict import Predictor, load
from tests.tasks.conftest import Start

SOURCES = ["3 May 1999", "12.10.2004", "Monday, 3 January 2011 ÿ"]


def test_it_trains_and_answers_in_every_way(start: Start) -> None:
    run = start(
        "translation", "data.joint=true", "model.copy=true", "trainer.max_epochs=1",
        "model.decoder.coverage=true", "model.decoder.attention=additive",
    ).fit()  # fmt: skip
    assert run.test()["test/loss"] > 0
    model = load(run.config.paths.run_dir, device="cpu", precision="fp32")
    answers = model(SOURCES, max_length=8)
    for options in ({"beam_size": 3, "n_best": 2, "groups": 3}, {"method": "sample"}, {"mbr": 3},
                    {"coverage_penalty": 0.3}, {"replace_unknown": True}):  # fmt: skip
        found = model(SOURCES, max_length=8, **options)
        assert all(isinstance(one["text"], str) and one["score"] is not None for one in found)
    assert model(SOURCES[:1], max_length=8)[0]["text"] == answers[0]["text"]  # alone or together
    model.task.members.append(load(run.config.paths.run_dir, device="cpu", precision="fp32").task)
    together = model(SOURCES, max_length=8)
    assert [one["text"] for one in together] == [one["text"] for one in answers]
    assert model.score([(SOURCES[0], answers[0]["text"])])[0]["log_probability"] < 0


def copier(start: Start, *more: str) -> Any:
    """A task that does nothing but copy."""
    task = start("translation", "model.copy=true", *more).task.eval()
    with torch.no_grad():
        task.model.output.generate.weight.zero_()
        task.model.output.generate.bias.fill_(-50.0)
    return task


def test_of_two_vocabularies_the_same_characters_are_copied(start: Start) -> None:
    task = copier(start)
    inputs, outputs = task.codec.inputs, task.codec.outputs
    assert inputs.symbols != outputs.symbols
    memory = task.model.encode(torch.tensor([inputs.encode("May 1999")]))
    assert isinstance(memory, CopyMemory)
    read = outputs.tokens(memory.symbols[0].tolist())
    assert read == ["<unk>"] * 4 + list("1999")
    for text in (one["text"] for one in Predictor(task, "32-true")(["1999"] * 3, max_length=4)):
        assert set(text) <= set("19") or not text


def test_a_word_that_no_vocabulary_has_is_copied_as_unknown(start: Start) -> None:
    task = copier(start, "data.joint=true")
    batch = task.codec.batch(["ÿÿ"])
    memory = task.model.encode(batch.source, batch.source_lengths)
    log_probs, attention, _ = task.model.step(
        torch.tensor([task.bos_id]), task.model.initial_state(memory), memory
    )
    chances = log_probs.exp()[0]
    torch.testing.assert_close(chances[1], attention[0, :2].sum())
    torch.testing.assert_close(chances[task.eos_id], attention[0, 2])
