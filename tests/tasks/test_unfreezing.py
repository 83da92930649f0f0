"""What is frozen stays as it was, and joins when it is its turn."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from tasks.unfreezing import Unfreeze

pytestmark = pytest.mark.filterwarnings("ignore")
TWO_LAYERS = [
    "cell=lstm", "model.num_layers=2", "scheduler=constant", "data.limit=32",
    "trainer.limit_val_batches=0",
]  # fmt: skip


class Watch(Callback):
    """The names of what moved, and of what had a gradient, in each step."""

    def __init__(self) -> None:
        self.moved: list[set[str]] = []
        self.gradients: list[set[str]] = []
        self.before: dict[str, torch.Tensor] = {}

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.before = {n: p.detach().clone() for n, p in pl_module.named_parameters()}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.gradients.append({layer(n) for n, p in named if p.grad is not None})

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        named = pl_module.named_parameters()
        self.moved.append({layer(n) for n, p in named if not torch.equal(p, self.before[n])})


def layer(name: str) -> str:
    names = name.split(".")
    return ".".join(names[1:4] if names[1] == "stack" else names[1:2])


def watched(run: Any) -> Watch:
    watch = Watch()
    run.trainer.callbacks.append(watch)
    run.fit()
    assert watch.moved == watch.gradients
    return watch


@pytest.mark.parametrize(
    "when", [["callbacks=unfreeze"], ["callbacks.unfreeze.every_steps=2"]], ids=["epochs", "steps"]
)
def test_one_more_layer_trains_in_turn_and_the_rest_does_not_move(
    when: list[str], start: Any
) -> None:
    """Two steps an epoch, from the head down; weight decay moves nothing either."""
    run = start("classification", *TWO_LAYERS, *when, "trainer.max_epochs=5", "data.batch_size=16",
                "optimizer.weight_decay=0.1")  # fmt: skip
    names = ["head", "stack.layers.1", "stack.layers.0", "inputs", "inputs"]
    wanted = [set(names[: epoch + 1]) for epoch in range(5) for _ in range(2)]
    assert watched(run).moved == wanted
    assert all(parameter.requires_grad for parameter in run.task.parameters())  # as it was before


def test_named_parts_join_in_their_order(start: Any) -> None:
    run = start("classification", *TWO_LAYERS, "trainer.max_steps=3", "data.batch_size=8",
                "callbacks.unfreeze.every_steps=1",
                "callbacks.unfreeze.parts=[stack.layers.0,[stack,inputs]]")  # fmt: skip
    some = {"head"}
    more = some | {"stack.layers.0"}
    assert watched(run).moved == [some, more, more | {"stack.layers.1", "inputs"}]


def test_what_the_model_itself_froze_stays_frozen(start: Any) -> None:
    run = start("classification", *TWO_LAYERS, "model.freeze_embedding=true", "data.batch_size=8",
                "trainer.max_steps=4", "callbacks.unfreeze.every_steps=1")  # fmt: skip
    names = ["head", "stack.layers.1", "stack.layers.0"]
    assert watched(run).moved == [set(names[: n + 1]) for n in (0, 1, 2, 2)]


def test_a_frozen_normalisation_keeps_its_statistics(start: Any) -> None:
    parts = "callbacks.unfreeze.parts=[encoder]"
    few = ["trainer.max_epochs=2", "data.limit=16", "trainer.limit_val_batches=0"]
    run = start("captioning", *few, "callbacks=unfreeze", parts)
    seen = []

    class Statistics(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(pl_module.model.encoder.network[2].running_mean.clone())

    before = run.task.model.encoder.network[2].running_mean.clone()
    run.trainer.callbacks.append(Statistics())
    run.fit()
    assert torch.equal(seen[0], before) and not torch.equal(seen[1], before)


def test_a_resumed_run_goes_on_as_it_was(start: Any, tmp_path: Path) -> None:
    options = [*TWO_LAYERS, "callbacks.unfreeze.every_steps=3", "trainer.max_steps=8",
               "data.batch_size=8"]  # fmt: skip
    whole = start("classification", *options)
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=4, save_top_k=-1)
    whole.trainer.callbacks.append(keep)
    whole.fit()
    resumed = start("classification", *options)
    (saved,) = (tmp_path / "kept").glob("*4.ckpt")
    resumed.trainer.fit(resumed.task, datamodule=resumed.data, ckpt_path=saved, weights_only=True)
    for one, other in zip(whole.task.parameters(), resumed.task.parameters(), strict=True):
        assert torch.equal(one, other)


def test_mistakes_name_the_value_and_the_mend(start: Any) -> None:
    with pytest.raises(ValueError, match=r"every_steps must be at least 1, got 0"):
        Unfreeze(every_steps=0)
    with pytest.raises(ValueError, match=r"every_epochs=1 and every_steps=5: set one"):
        Unfreeze(every_epochs=1, every_steps=5)
    for parts, said in (
        ("[encoder.network]", r"called encoder.network; there are inputs.embedding, stack"),
        ("[head,[inputs,stack]]", "nothing would train first"),
    ):
        options = [f"callbacks.unfreeze.parts={parts}", "callbacks=unfreeze"]
        with pytest.raises(ValueError, match=said):
            start("classification", *options).fit()
