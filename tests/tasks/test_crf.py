"""Tagging with a conditional random field, as it is trained, tested and asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import predict
from models.crf import best_way
from models.pooling import valid_steps
from models.tagger import Tagger

SMALL = [
    "data=recipes_online", "data.batch_size=16", "data.train_size=32", "data.validation_size=16",
    "data.test_size=16", "data.max_steps=12", "model.bidirectional=true",
]  # fmt: skip


def test_a_tagger_with_a_crf_is_tested_and_answers_with_the_best_way(
    start: Callable[..., Any],
) -> None:
    run = start("tagging", *SMALL, "model/head=crf", "trainer.max_epochs=2").fit()
    measured = run.test()
    assert all(0 <= measured[f"test/{name}"] <= 1 for name in ("accuracy", "f1", "ece"))
    counts, confidence, _ = run.task.reliability
    assert counts.sum() == run.task.matrix.sum()
    assert 0 < confidence.sum() <= counts.sum()

    task = run.task.eval()
    texts = [run.data.example("test", i).input for i in range(3)]
    batch = task.codec.batch(texts)
    with torch.no_grad():
        torch.nn.init.normal_(task.model.head.transitions, std=2.0)  # the best way is now no argmax
        hidden, _ = task.model(batch.inputs, batch.lengths)
        emissions, *_ = task.model.head._chain(hidden, valid_steps(batch.lengths, hidden.size(1)))
        way = best_way(emissions, task.model.head.transitions, batch.lengths)
    run.trainer.save_checkpoint(Path(run.trainer.default_root_dir) / "again.ckpt")
    loaded = predict.load(Path(run.trainer.default_root_dir) / "again.ckpt", device="cpu")
    for row, answer in enumerate(loaded(texts)):
        length = int(batch.lengths[row])
        assert answer["tags"] == [run.data.spec.labels[tag] for tag in way[row, :length]]
    assert not torch.equal(way, emissions.argmax(-1))


def test_a_model_saved_before_there_was_a_choice_has_the_softmax(start: Callable[..., Any]) -> None:
    run = start("tagging", *SMALL)
    model = dict(run.task.record["config"]["model"])
    del model["head"]
    keys = run.task.model.state_dict().keys()
    assert keys == tagger_of(model, run.data.spec).state_dict().keys()


def tagger_of(settings: dict[str, Any], spec: Any) -> Tagger:
    import build

    return build.instantiate(settings)(
        vocabulary_size=spec.input_vocabulary.size, input_features=None,
        num_outputs=spec.num_outputs, real=False, pad_id=0, unk_id=None,
    )  # fmt: skip


def test_real_answers_take_no_crf(start: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="real numbers"):
        start("tagging", "model/head=crf")
