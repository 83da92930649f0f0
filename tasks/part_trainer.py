"""The trainer as one part of several sees it: its own data, its own folder, its own names."""

from functools import partial
from pathlib import Path
from typing import Any

from lightning import Trainer


class PartTrainer:
    """A trainer whose data module and directory are those of one part; all else is the run's.

    So a task does as a part what it does alone: what it writes lies in `<run>/parts/<name>/`.
    """

    def __init__(self, trainer: Trainer, *, name: str, place: int) -> None:
        """`place`: the part's number among the loaders of an evaluation."""
        self._trainer, self._name, self._place = trainer, name, place

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._trainer, attribute)

    @property
    def datamodule(self) -> Any:
        return self._trainer.datamodule.modules[self._name]  # type: ignore[attr-defined]

    @property
    def default_root_dir(self) -> str:
        return str(Path(self._trainer.default_root_dir) / "parts" / self._name)

    @property
    def num_test_batches(self) -> list[int | float]:
        return [self._trainer.num_test_batches[self._place]]

    @property
    def loggers(self) -> list[Any]:
        return [Named(logger, self._name) for logger in self._trainer.loggers]


class Named:
    """A logger that names a part's tables and pictures after it."""

    def __init__(self, logger: Any, name: str) -> None:
        self._logger, self._name = logger, name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._logger, attribute)
        if attribute in ("log_table", "log_image"):
            return partial(self._under_name, found)
        return found

    def _under_name(self, method: Any, name: str, *rest: Any, **options: Any) -> None:
        method(f"{self._name}/{name}", *rest, **options)
