"""Averages of the weights along training, which are validated, saved and tested in their place."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


class AverageOfWeights(WeightAveraging):
    """Lightning's, but all that a validation does, its samples too, is done with the average."""

    def __init__(self, **settings: Any) -> None:
        # the functional parts of buffers are copied, not averaged: some are counters
        super().__init__(use_buffers=False, **settings)
        self._in_place = False  # whether the model's weights are the average just now

    @property
    def averaging(self) -> bool:
        """Whether there is an average that is other than the weights."""
        return self._average_model is not None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.averaging:
            self._swap_models(pl_module)
            self._in_place = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Not yet: the task counts and writes its samples after the callbacks' turn."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put_back(pl_module)  # before checkpoints, which Lightning puts last

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._put_back(pl_module)

    def _put_back(self, pl_module: LightningModule) -> None:
        if self._in_place:
            self._swap_models(pl_module)
            self._in_place = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.averaging:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.averaging:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Lightning's would put the weights that are not averaged back before a test, too
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class NonMonotonicAverage(AverageOfWeights):
    """The mean of all weights since validation stopped improving (NT-ASGD).

    It begins after a validation that is worse than the best of those more than `patience`
    validations ago, and from then on it is what is validated, saved and tested, while the steps
    themselves go on as before. Merity et al. 2018, arXiv 1708.02182, with plain SGD at a constant
    rate; any optimizer will do.
    """

    def __init__(self, *, monitor: str, mode: str, patience: int = 5) -> None:
        super().__init__()
        if patience < 0:
            raise ValueError(f"patience is a number of validations, 0 or more; got {patience}")
        self.monitor, self.mode, self.patience = monitor, mode, patience
        self.values: list[float] = []  # of all validations before averaging began

    @property
    def averaging(self) -> bool:
        return self._average_model is not None and int(self._average_model.n_averaged) > 0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and self.averaging

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self.averaging or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"{self.monitor} is not measured: choose one of "
                f"{', '.join(sorted(trainer.callback_metrics))}"
            )
        self.values.append(float(trainer.callback_metrics[self.monitor]))
        if self.stopped_improving():
            assert self._average_model is not None
            self._average_model.update_parameters(pl_module)  # these weights are the first
            self._latest_update_step = trainer.global_step
            pl_module.print(f"weights are averaged from step {trainer.global_step} on")

    def stopped_improving(self) -> bool:
        """Whether the last value is worse than the best of those before the last `patience`."""
        *before, last = self.values
        earlier = before[: len(before) - self.patience]
        if not earlier:
            return False
        return last > min(earlier) if self.mode == "min" else last < max(earlier)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "values": list(self.values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.values = list(state_dict["values"])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "averaging_state" in checkpoint:  # else it was saved before averaging began
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
