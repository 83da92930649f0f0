"""Cross-validation: all rows dealt into folds, one of which is the test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from data.arrays import SPLITS
from data.sources import Loaded


def check_folds(folds: int | None, fold: int | None) -> None:
    """ValueError unless both are null, or `fold` is one of at least two `folds`."""
    if folds is None and fold is None:
        return
    if folds is None:
        raise ValueError(f"data.fold={fold} needs the number of folds too: data.folds=10")
    if folds < 2:
        raise ValueError(f"data.folds must be at least 2, got {folds}")
    if fold is None:
        raise ValueError(
            f"data.folds={folds} needs data.fold, 0 to {folds - 1}, which is the test; all in "
            f"turn: --multirun 'data.fold=range(0,{folds})'"
        )
    if not 0 <= fold < folds:
        raise ValueError(f"data.fold must be 0 to {folds - 1} with data.folds={folds}, got {fold}")


def take_fold(
    rows: dict[str, Dataset],
    *,
    text: str,
    label: str,
    real: bool | None,
    folds: int,
    fold: int,
    seed: int,
    share: float = 0.1,
) -> Loaded:
    """Every split pooled → fold `fold` as test, a `share` of the others as validation, the rest.

    Each fold and the validation have the classes in the same proportions; the seed alone decides,
    so that the tests of all folds are every row once. Rows with equal texts stay on one side.
    Real labels (`real`; None: by type) are dealt without regard to their values.
    ValueError where a class has fewer different texts than there are folds.
    """
    try:
        pooled = concatenate_datasets([rows[split] for split in SPLITS])
    except ValueError as error:
        raise ValueError(f"data.folds pools splits whose columns do not agree: {error}") from error
    number: dict[Any, int] = {}
    group = np.array([number.setdefault(one, len(number)) for one in pooled[text][:]])
    _, first = np.unique(group, return_index=True)
    # of equal texts with different labels the first speaks for all
    strata = _strata(pooled[label][:], real)[first]
    random = np.random.default_rng(seed)
    test, validation = np.zeros((2, len(strata)), bool)
    dealt = 0
    for stratum in np.unique(strata):
        order = random.permutation(np.flatnonzero(strata == stratum))
        if len(order) < folds:
            name = pooled[label][int(first[order[0]])]
            raise ValueError(
                f"label {name!r} has {len(order)} different texts, fewer than data.folds={folds}: "
                "choose fewer folds, or leave this label out"
            )
        # each class goes on where the last one stopped, so that all folds are equally large
        own = (dealt + np.arange(len(order))) % folds == fold
        dealt += len(order)
        test[order[own]] = True
        others = order[~own]
        validation[others[: round(share * len(others))]] = True
    if not validation.any():
        raise ValueError(f"{len(pooled)} rows are too few for data.folds={folds} and a validation")
    masks = {"train": ~(test | validation), "validation": validation, "test": test}
    splits = {k: pooled.select(np.flatnonzero(mask[group])) for k, mask in masks.items()}
    counted = " + ".join(f"{len(rows[split])} {split}" for split in SPLITS)
    notes = {
        "test_from": f"fold {fold} of {folds} by seed {seed}, all rows pooled ({counted})",
        "validation_from": f"the other folds, {share:.0%}",
    }
    return Loaded(splits, notes)


def _strata(labels: Sequence[Any], real: bool | None) -> np.ndarray:
    """(N,) the number of each row's class; real labels are all alike."""
    if real is None:
        real = all(isinstance(value, float) for value in labels)
    if real:
        return np.zeros(len(labels), np.int64)
    number: dict[Any, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in labels])
