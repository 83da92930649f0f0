"""What the embedded data sets share: rows come from a function, not from files."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from data.arrays import SPLITS
from data.base import DataModule, Loaded

Rows = list[dict[str, Any]]


@dataclass(kw_only=True, eq=False)
class Generated(DataModule):
    """Mix in before a kind of data; the rows depend on `split_seed` and the sizes alone.

    The run's own `seed` does not change them: runs of different seeds are tested on the same rows.
    """

    @abstractmethod
    def generate(self) -> dict[str, Rows]:
        """Rows of train, validation and test, which share no example."""

    def source_key(self) -> Any:
        return "generated"  # every field and the code are part of the cache's key anyway

    def load(self) -> Loaded:
        rows = self.generate()
        return Loaded({split: Dataset.from_list(rows[split]) for split in SPLITS})
