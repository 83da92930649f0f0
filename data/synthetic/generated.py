"""What the embedded data sets share: rows come from a function, not from files."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset

from data.arrays import SPLITS
from data.base import DataModule
from data.sources import Loaded

Rows = list[dict[str, Any]]


@dataclass(kw_only=True, eq=False)
class Generated(DataModule):
    """Mix in before a kind of data; the rows depend on `split_seed` and the sizes alone.

    The run's own `seed` does not change them: runs of different seeds are tested on the same rows.
    """

    train_size: int
    validation_size: int = 1000
    test_size: int = 1000

    not_prepared: ClassVar[frozenset[str]] = DataModule.not_prepared | {"seed"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for split, size in self.sizes.items():
            if size < 1:
                raise ValueError(f"data.{split}_size must be at least 1, got {size}")
        for name in ("path", "hub_id"):
            value = getattr(self, name)
            if value is not None:
                raise ValueError(
                    f"data={self.name} is generated, so data.{name}={value} would not be read: "
                    "choose a kind of data for files of your own, such as data=text_labels"
                )

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows each split gets."""
        values = (self.train_size, self.validation_size, self.test_size)
        return dict(zip(SPLITS, values, strict=True))

    @abstractmethod
    def generate(self) -> dict[str, Rows]:
        """Rows of train, validation and test, which share no example."""

    def source_key(self) -> Any:
        return "generated"  # every field and the code are part of the cache's key anyway

    def load(self) -> Loaded:
        rows = self.generate()
        return Loaded({split: Dataset.from_list(rows[split]) for split in SPLITS})
