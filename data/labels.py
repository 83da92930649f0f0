"""A column of labels → class numbers and names, or real numbers in standard units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel

from data.codec import Codec
from data.prepared import Report
from data.units import mean_and_deviation, standard


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Targets of every split: (N,) int64 with `names`, or (N, 1) float32 with `mean` and `std`."""

    targets: dict[str, np.ndarray]
    names: tuple[str, ...] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        rows: dict[str, Any],
        column: str,
        *,
        real: bool | None,
        sample: bool = False,
        given: Codec | None = None,
    ) -> "Labels":
        """A column of each split. Training decides which classes there are, and the scale.

        `sample`: the rows are few of many, so other splits may show classes that training lacks.
        `given`: a trained model's codec, which then decides instead.
        """
        values: dict[str, Sequence[Any]] = {k: part[column][:] for k, part in rows.items()}
        feature = rows["train"].features[column]
        for split, part in values.items():
            for row, value in enumerate(part):
                if value is None or value == "" or value != value:
                    raise ValueError(f"row {row} of {split} has no label in column {column!r}")
        if given is not None:
            real = given.labels is None
        if real is None:
            real = all(isinstance(v, float) for part in values.values() for v in part)
        if real:
            return cls._real(values, column, given)
        if isinstance(feature, ClassLabel):
            names = tuple(feature.names)
            values = {k: [class_name(v, names) for v in part] for k, part in values.items()}
        else:
            values = {k: [name_of(v) for v in part] for k, part in values.items()}
            names = class_names(values, sample=sample)
        names = given.labels if given is not None and given.labels is not None else names
        check_classes(names, values, column, sample=sample, given=given is not None)
        number = {name: i for i, name in enumerate(names)}
        targets = {k: np.array([number[v] for v in part], np.int64) for k, part in values.items()}
        return cls(targets=targets, names=names)

    @classmethod
    def _real(cls, values: dict[str, Sequence[Any]], column: str, given: Codec | None) -> "Labels":
        try:
            columns = {k: np.asarray(part, np.float64)[:, None] for k, part in values.items()}
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"column {column!r} does not hold numbers ({error}): data.real_labels must be false"
            ) from error
        if given is not None:
            mean, std = np.array(given.target_mean), np.array(given.target_std)
        else:
            mean, std = mean_and_deviation(columns["train"], [column])
        targets = {k: standard(part, mean, std, [column]) for k, part in columns.items()}
        return cls(targets=targets, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    @property
    def counts(self) -> tuple[int, ...] | None:
        """How often each class is there in training."""
        return None if self.names is None else class_counts(self.targets["train"], self.names)

    def report(self) -> Report:
        if self.names is None:
            return {"label_mean": round(self.mean[0], 4), "label_std": round(self.std[0], 4)}
        # what always answering the most frequent class would score
        test = self.targets.get("test")
        if test is None:
            return {"classes": len(self.names)}
        share = np.bincount(test).max() / len(test)
        return {"classes": len(self.names), "majority_test": round(float(share), 4)}


def class_names(values: Mapping[str, Sequence[str]], *, sample: bool) -> tuple[str, ...]:
    found = set().union(*values.values()) if sample else set(values["train"])
    return tuple(sorted(found, key=in_order))


def class_counts(targets: np.ndarray, names: Sequence[str]) -> tuple[int, ...]:
    """How often each class is among these numbers, negative ones left out."""
    return tuple(np.bincount(targets[targets >= 0], minlength=len(names)).tolist())


def check_classes(
    names: Sequence[str],
    values: Mapping[str, Sequence[str]],
    column: str,
    *,
    sample: bool,
    given: bool = False,
) -> None:
    """ValueError for a class that `names` lacks, or a column that cannot be classes.

    `given`: the names are a trained model's, so these rows need not show two of them.
    """
    known = set(names)
    for split, part in values.items():
        strange = sorted(set(part) - known, key=in_order)
        if strange:
            raise ValueError(
                f"column {column!r} of {split} has the label {strange[0]!r}, which is not among "
                f"the classes of {'the trained model' if given else 'training'}: "
                f"{', '.join(names[:20])}"
            )
    if given:
        return
    if not len(values["train"]):
        raise ValueError(f"no training row has a label in column {column!r}")
    if len(set(values["train"])) < 2:
        raise ValueError(
            f"every training row has the label {values['train'][0]!r} in column {column!r}: "
            f"there must be at least two classes{' (data.limit takes few rows)' if sample else ''}"
        )
    rows = len(values["train"])
    if not sample and rows >= 20 and len(names) > rows / 2:
        raise ValueError(
            f"column {column!r} has {len(names)} different labels in {rows} rows: is it the column "
            "of the label? (for real numbers: data.real_labels=true)"
        )


def name_of(value: Any) -> str:
    # 2.0 of a column where some cells are missing elsewhere is class 2
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def class_name(value: int, names: Sequence[str]) -> str:
    return names[value] if 0 <= value < len(names) else str(value)


def in_order(name: str) -> tuple[float, str]:
    """Whole numbers in their order, before words in theirs."""
    return (float(name), name) if name.lstrip("-").isdecimal() else (float("inf"), name)
