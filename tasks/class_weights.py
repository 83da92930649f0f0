"""How much each class counts in training, where some are rare."""

from collections.abc import Sequence

from data.spec import DataSpec


def class_weights(asked: str | Sequence[float] | None, spec: DataSpec) -> list[float] | None:
    """`task.class_weights` → a weight a class, in the order of `spec.labels`; None: all alike.

    `balanced` weighs a class by N / (K · n): N training examples (or steps) of K classes, n of its
    own, so that every class has the same share of the loss and the mean weight is 1 (King and Zeng
    2001, doi 10.1093/oxfordjournals.pan.a004868). ValueError where the weights do not fit.
    """
    if asked is None:
        return None
    if spec.labels is None:
        raise ValueError(f"task.class_weights={asked} is for classes, and this data has numbers")
    if asked == "balanced":
        if spec.label_counts is None:
            raise ValueError(
                "task.class_weights=balanced needs the classes counted, which this data does not "
                "do: give a list of weights"
            )
        present = sum(count > 0 for count in spec.label_counts)
        share = sum(spec.label_counts) / present
        return [share / count if count else 0.0 for count in spec.label_counts]
    if isinstance(asked, str):
        raise ValueError(f"task.class_weights is balanced or a list of numbers, got {asked!r}")
    weights = [float(weight) for weight in asked]
    if len(weights) != len(spec.labels):
        raise ValueError(
            f"task.class_weights has {len(weights)} numbers, and there are {len(spec.labels)} "
            f"classes: {', '.join(spec.labels)}"
        )
    if min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise ValueError(f"task.class_weights are 0 or more and not all 0, got {weights}")
    return weights
