"""How a layer's features divide among heads."""


def heads_of(size: int, at_most: int, name: str = "heads") -> int:
    """The largest number of heads, `at_most` that many, that share `size` features equally.

    A head has two features at least: one alone would be lost in its normalisation.
    """
    if at_most < 1:
        raise ValueError(f"{name} is 1 or more, got {at_most}")
    counts = range(1, min(at_most, size) + 1)
    return max(count for count in counts if size % (2 * count) == 0 or count == 1)
