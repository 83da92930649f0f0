"""A student learns what its teacher answers, and the teacher stays as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint

import build
from models.state import leaves
from tasks import checkpoint
from tasks.distillation import Distillation

TAGS = ["data=recipes_online", "data.train_size=32", "data.max_steps=12"]
SHAPES = pytest.mark.parametrize(
    ("shape", "keys"),
    [
        ("classification", []),
        ("tagging", TAGS),
        ("language_model", ["data.train_size=3000"]),
        ("translation", ["data.train_size=40", "data.limit=16"]),
        ("captioning", ["data.train_size=16"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
SMALLER = {
    "translation": "model.decoder.embedding_size=12",
    "captioning": "model.decoder.embedding_size=12",
}


def begun(start: Any, shape: str, *keys: str) -> Any:
    run = start(shape, *keys)
    run.task._trainer, run.trainer.datamodule = run.trainer, run.data
    return run


def taught(start: Any, shape: str, keys: list[str], **settings: float) -> tuple[Any, Any, Any]:
    """A student, a teacher of another cell and size, and a batch."""
    teacher = begun(start, shape, *keys, "cell=lstm", "seed=5").task
    run = begun(start, shape, *keys, SMALLER.get(shape, "model.hidden_size=12"))
    run.task.objective = Distillation(teacher="T", **settings)
    run.task.objective.learn_from(teacher, run.task)
    return run.task.double(), teacher.double(), next(iter(run.data.loader("train")))


def in_double(batch: Any) -> Any:
    parts = (part.double() if part.is_floating_point() else part for part in batch)
    return type(batch)(*parts)


@SHAPES
def test_the_loss_is_the_definition(shape: str, keys: list[str], start: Any) -> None:
    task, teacher, batch = taught(start, shape, keys, temperature=3.0, weight=0.3)
    batch = in_double(batch)
    task.eval()  # so that what is read twice is the same
    loss, count = task.loss(batch)

    for one in (task, teacher):  # a text is read again from its beginning
        getattr(one, "carried", {}).clear()
    reading = task.reading(batch)
    nats, positions = task.nats(reading, batch)
    mask = task.mask(batch)
    own = task.log_probs(reading, batch)[mask]
    given = teacher.log_probs(teacher.reading(batch), batch)[mask]
    p, q = ((logs / 3.0).softmax(-1) for logs in (given, own))
    divergence = (p * (p.log() - q.log())).sum()
    torch.testing.assert_close(loss, 0.7 * nats + 0.3 * 9.0 * divergence)
    assert count == positions == mask.sum() and divergence > 0


@SHAPES
def test_nothing_is_to_be_learnt_from_oneself(shape: str, keys: list[str], start: Any) -> None:
    run, twin = (begun(start, shape, *keys) for _ in range(2))
    task = run.task.double()
    twin.task.double().load_state_dict(task.state_dict())
    task.objective = Distillation(teacher="T", weight=1.0)
    task.objective.learn_from(twin.task, task)
    loss, _ = task.eval().loss(in_double(next(iter(run.data.loader("train")))))
    loss.backward()
    assert loss.detach().abs() < 1e-9
    assert all(p.grad is None or p.grad.abs().max() < 1e-9 for p in task.parameters())


@SHAPES
def test_a_run_learns_from_a_checkpoint_that_it_neither_changes_nor_needs_later(
    shape: str, keys: list[str], start: Any, tmp_path: Path
) -> None:
    short = [
        *keys,
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "trainer.limit_val_batches=1",
    ]
    first = start(shape, *short, "cell=lstm").fit()
    where = first.config.paths.run_dir
    run = start(
        shape, *short, SMALLER.get(shape, "model.hidden_size=12"), "objective=distillation",
        f"task.objective.teacher={where}",
    )  # fmt: skip
    build.bring_teacher(run.task)
    teacher = run.task.objective.opened
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    run.fit()
    assert not teacher.training and teacher not in list(run.task.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name

    Path(where).rename(tmp_path / "moved")
    read = checkpoint.read(run.config.paths.run_dir)
    again = build.task_of_checkpoint(read["unroll"])
    checkpoint.restore(again, read)
    assert read["state_dict"].keys() == run.task.state_dict().keys()
    with pytest.raises(ValueError, match="does not exist"):
        build.bring_teacher(again)


def test_of_a_text_the_teacher_reads_on_where_it_stopped(start: Any) -> None:
    task, teacher, batch = taught(start, "language_model", ["data.train_size=3000"])
    task.loss(batch)
    follows = batch._replace(start=torch.zeros_like(batch.start))
    found = task.objective.taught(task, follows)
    outputs, state = teacher.model(batch.inputs)
    outputs, _ = teacher.model(follows.inputs, state)
    torch.testing.assert_close(found, teacher.model.head.log_probs(outputs))
    sizes = [leaves(one.carried["train"])[0].size(-1) for one in (task, teacher)]
    assert sizes == [12, 32]


def test_a_text_that_is_gone_on_with_is_taught_as_if_it_had_not_stopped(
    start: Any, tmp_path: Path
) -> None:
    keys = ["data.train_size=3000", "trainer.max_steps=5", "callbacks=default"]

    def student() -> Any:
        run = start("language_model", *keys, "trainer.limit_val_batches=0", "model.hidden_size=12")
        run.task.objective = Distillation(teacher="T")
        run.task.objective.learn_from(start("language_model", *keys, "seed=5").task, run.task)
        return run

    whole, resumed = student(), student()
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    whole.trainer.callbacks.append(keep)
    whole.fit()
    (saved,) = tmp_path.glob("*3.ckpt")
    resumed.trainer.fit(resumed.task, datamodule=resumed.data, ckpt_path=saved, weights_only=True)
    assert resumed.trainer.global_step == 5
    for one, other in zip(whole.task.parameters(), resumed.task.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_weight_of_nothing_is_plain_training(start: Any) -> None:
    task, _, batch = taught(start, "classification", [], weight=0.0)
    task.eval()
    assert torch.equal(task.loss(batch)[0], task.likelihood(batch)[0])


def test_classes_that_weigh_more_do_not_change_the_teachers_share(start: Any) -> None:
    task, teacher, batch = taught(
        start, "classification", ["task.class_weights=[1.0,3.0]"], weight=1.0, temperature=1.0
    )
    task.train()
    task.model.dropout = 0.0
    loss, count = task.loss(batch)
    given, own = (one.log_probs(one.reading(batch), batch) for one in (teacher, task))
    mean = F.kl_div(own, given, reduction="batchmean", log_target=True)
    torch.testing.assert_close(loss / count, mean, check_dtype=False)


def test_a_crf_teaches_its_marginals_but_is_not_taught(start: Any) -> None:
    crf, plain = (begun(start, "tagging", *TAGS, *key) for key in (["model/head=crf"], []))
    batch = next(iter(plain.data.loader("train")))
    plain.task.objective = Distillation(teacher="T")
    plain.task.objective.learn_from(crf.task, plain.task)
    short = int(batch.lengths.argmin())
    alone = type(batch)(*(part[short : short + 1] for part in batch))
    steps = int(alone.lengths)
    alone = alone._replace(inputs=alone.inputs[:, :steps], targets=alone.targets[:, :steps])
    taught = plain.task.objective.taught(plain.task, batch)[short : short + 1, :steps]
    torch.testing.assert_close(taught, plain.task.objective.taught(plain.task, alone))
    crf.task.objective = Distillation(teacher="T")
    crf.task.objective.learn_from(plain.task, crf.task)
    with pytest.raises(ValueError, match="not be taught"):
        crf.task.loss(batch)


def test_mistakes_are_named(start: Any) -> None:
    with pytest.raises(ValueError, match=r"got 0\.0 and 0\.5"):
        Distillation(teacher="T", temperature=0.0)
    with pytest.raises(ValueError, match=r"task\.objective\.teacher=RUN"):
        build.bring_teacher(start("classification", "objective=distillation").task)
    told = Distillation(teacher="T")
    text = start("language_model").task
    with pytest.raises(ValueError, match=r"is of task=language_model, this run of task=classif"):
        told.learn_from(text, start("classification").task)
    other = start("language_model", "tokenizer=words").task
    with pytest.raises(ValueError, match=r"teacher=T was trained with another vocabulary \(inputs"):
        told.learn_from(text, other)
    with pytest.raises(ValueError, match=r"from the end \(.*but the data has"):
        told.learn_from(start("language_model", "tokenizer.reverse=true").task, text)
    with pytest.raises(ValueError, match="leave it out"):
        told.learn_from(start("tagging").task, start("tagging").task)
    with pytest.raises(ValueError, match="objective=SelfCritical is not for task=language_model"):
        start("language_model", "+task.objective={_target_: tasks.objectives.SelfCritical}")
