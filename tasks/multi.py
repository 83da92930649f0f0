"""Several tasks on one stack of recurrent layers, trained in turn."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data.batches import PartBatch
from data.codec import Codec
from data.spec import DataSpec
from models.sharing import share_stack
from tasks.base import Table, Task
from tasks.part_trainer import PartTrainer
from tasks.predict_options import PredictOptions

ONCE = ("unroll", "ranks")  # in a checkpoint: of the whole run, not of each part


class Multi(Task):
    """Several tasks that read with the same recurrent layers; embedding, head, loss and metrics are
    each one's own. A step trains on a batch of one of them (`data.mixed`).

    Caruana 1997, doi 10.1023/A:1007379606734; of texts Collobert and Weston 2008, doi
    10.1145/1390156.1390177. Metrics are `val/<part>/<metric>`; what all parts measure is there as
    `val/<metric>` too, the mean over the parts.
    """

    name = "multi"

    def __init__(
        self,
        *,
        spec: DataSpec,
        codec: Codec,
        parts: Mapping[str, Callable[..., Task]],
        monitor: str,
        mode: str,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., dict[str, Any]] | None,
        seed: int = 1,
        layer_decay: float = 1.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """`parts`: factories of tasks by name, each for the part of that name in `spec`.

        `weights` multiply a part's loss, 1 where a part is not named.
        """
        super().__init__(
            spec=spec, codec=codec, monitor=monitor, mode=mode, optimizer=optimizer,
            scheduler=scheduler, seed=seed, samples=0, layer_decay=layer_decay,
        )  # fmt: skip
        self.check(spec)
        assert spec.parts is not None
        codecs: Mapping[str, Codec] = getattr(codec, "parts", {})
        if not parts.keys() == spec.parts.keys() == codecs.keys():
            raise ValueError(
                f"the tasks are of {', '.join(parts)}, the data of {', '.join(spec.parts)}: give "
                "each part both"
            )
        self.weights = dict.fromkeys(parts, 1.0) | dict(weights or {})
        for name, weight in self.weights.items():
            if name not in parts or not weight > 0.0:
                raise ValueError(
                    f"task.weights.{name}={weight} is no weight above 0 of one of "
                    f"{', '.join(parts)}"
                )
        built: dict[str, Task] = {}
        for name, part in parts.items():
            built[name] = part(
                spec=spec.parts[name], codec=codecs[name], optimizer=optimizer, scheduler=None,
                seed=seed,
            )  # fmt: skip
            _check_part(name, built[name], optimizer)
        self.parts = nn.ModuleDict(built)
        share_stack({name: part.model for name, part in built.items()})
        self.objective = None  # each part has its own
        self._part = ""  # that the step is of
        self.latest: dict[str, Tensor] = {}  # each part's loss in its latest step, over all ranks

    @property
    def tasks(self) -> dict[str, Task]:
        """The parts by name."""
        return dict(self.parts.items())  # type: ignore[arg-type]

    @classmethod
    def check(cls, spec: DataSpec) -> None:
        if spec.parts is None:
            raise ValueError(f"task={cls.name} needs several data sets: data=mixed, with parts=...")

    @classmethod
    def monitor_for(cls, spec: DataSpec) -> tuple[str, str]:
        assert spec.parts is not None
        classes = all(part.labels is not None for part in spec.parts.values())
        return ("val/accuracy", "max") if classes else ("val/loss", "min")

    def initialise(self) -> None:
        for part in self.tasks.values():
            part.initialise()

    def setup(self, stage: str) -> None:
        for place, (name, part) in enumerate(self.tasks.items()):
            part.trainer = PartTrainer(self.trainer, name=name, place=place)  # type: ignore[assignment]
            part.setup(stage)
        options = getattr(self.trainer.strategy, "_ddp_kwargs", {})
        alone = self.trainer.world_size == 1 or len(self.parts) == 1
        if stage == "fit" and not alone and not options.get("find_unused_parameters"):
            raise ValueError(
                "task=multi on several devices leaves out the gradients of the parts that a step "
                "is not of: set trainer.strategy.find_unused_parameters=true"
            )

    # Training

    def loss(self, batch: PartBatch) -> tuple[Tensor, Tensor]:
        loss, count = self.tasks[batch.part].loss(batch.batch)
        return self.weights[batch.part] * loss, count

    def training_step(self, batch: PartBatch, batch_idx: int) -> Tensor:
        self._part = batch.part
        loss = super().training_step(batch, batch_idx)
        # all of them: Lightning would repeat a part's last one anyway, but not in a resumed run
        self.log_dict({f"train/{name}/loss": value for name, value in self.latest.items()})
        return loss

    def over_ranks(self, loss: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        nats, everything = super().over_ranks(loss, count)
        self.latest[self._part] = nats / everything / self.weights[self._part]
        return nats, everything

    def count_tokens(self, batch: PartBatch) -> int | Tensor:
        return self.tasks[batch.part].count_tokens(batch.batch)

    def on_train_start(self) -> None:
        super().on_train_start()
        for part in self.tasks.values():
            part.on_train_start()

    # No on_train_epoch_start of the parts: an epoch of the mixture is not one of a part, which
    # reads on where it stopped, and whose batches say where a text begins anew.

    # Evaluation: each part by itself, one after the other

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._of(dataloader_idx).evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._of(dataloader_idx).evaluate(batch, "test")

    def evaluate(self, batch: PartBatch, split: str) -> None:
        self.tasks[batch.part].evaluate(batch.batch, split)

    def _of(self, place: int) -> Task:
        return list(self.tasks.values())[place]

    def _begin(self, split: str) -> None:
        for part in self.tasks.values():
            part._begin(split)

    def metrics(self, split: str) -> dict[str, float]:
        each = {name: part.metrics(split) for name, part in self.tasks.items()}
        first, *others = each.values()
        common = [key for key in first if all(key in other for other in others)]
        means = {key: sum(found[key] for found in each.values()) / len(each) for key in common}
        return {f"{name}/{key}": v for name, found in each.items() for key, v in found.items()} | (
            means
        )

    def table(self, split: str) -> Table:
        """The samples of all parts, with the columns that any of them has."""
        shown = {}
        for name, part in self.tasks.items():
            shown[name] = part.shown = part.table(split)
        columns = list(dict.fromkeys(column for one in shown.values() for column in one.columns))
        rows = [
            [
                name,
                *(dict(zip(one.columns, row, strict=True)).get(column, "") for column in columns),
            ]
            for name, one in shown.items()
            for row in one.rows[:2]
        ]
        return Table(["part", *columns], rows)

    def _save_samples(self, split: str) -> None:
        for part in self.tasks.values():
            part._save_samples(split)

    def on_test_end(self) -> None:
        for part in self.tasks.values():
            part.on_test_end()

    @property
    def signatures(self) -> list[str]:
        """Of the metrics that have one."""
        return [
            f"{name}: {signature}"
            for name, part in self.tasks.items()
            for signature in getattr(part, "signatures", ())
        ]

    def predict(self, raw: Sequence[Any], options: PredictOptions) -> list[dict[str, Any]]:
        raise ValueError(f"this run has several tasks: choose one of {', '.join(self.parts)}")

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        kept = {}
        for name, part in self.tasks.items():
            own: dict[str, Any] = {}
            part.on_save_checkpoint(own)
            kept[name] = {key: value for key, value in own.items() if key not in ONCE}
        checkpoint["parts"] = kept
        checkpoint["latest"] = {name: value.item() for name, value in self.latest.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint.get("parts", {})
        latest = checkpoint.get("latest", {}).items()
        self.latest = {name: torch.tensor(value) for name, value in latest}
        for name, part in self.tasks.items():
            part.on_load_checkpoint(kept.get(name, {}))


def _check_part(name: str, part: Task, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    """ValueError where a part has learning rates of its own: one optimizer trains all."""
    if part.layer_decay != 1.0:
        raise ValueError(
            f"task.layer_decay={part.layer_decay} of {name}: one optimizer trains all parts; give "
            "it outside of parts"
        )
    if part.optimizer is not optimizer:
        raise ValueError(
            f"task.encoder_rate of {name}: one optimizer trains all parts; leave it out"
        )
