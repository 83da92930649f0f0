"""How examples in a given order are cut into the steps of an epoch, for one or several ranks.

An order of examples is read in rows of one example a rank (the last row may have fewer), and a step
is some rows that follow each other. So every rank has a batch of every step, of about the same
lengths, and no example is left out or comes twice.
"""

import numpy as np


def by_number(count: int, *, size: int, world_size: int, drop_last: bool = False) -> list[int]:
    """Where the steps of `size` rows begin and end, in examples: (steps + 1) numbers from 0.

    A last step that is smaller is kept, or left out with `drop_last` where it is not the only one.
    """
    rows = -(-count // world_size)
    if drop_last and count >= size * world_size:
        count = count // (size * world_size) * size * world_size
        rows = count // world_size
    bounds = [*range(0, rows, size), rows]
    return _examples(_without_idle_rank(bounds, count, world_size), count, world_size)


def by_tokens(
    lengths: np.ndarray, *, tokens: int, world_size: int, steps: int | None = None
) -> list[int]:
    """The same for steps whose batches hold at most `tokens` a rank, padding counted.

    lengths: (N, K), of the K sequences that an example pads, in the order that is cut. A row whose
    examples are longer than `tokens` is a step of its own. `steps`: steps are split until they are
    so many (at most one a full row).
    """
    count = len(lengths)
    rows = -(-count // world_size)
    missing = np.zeros((rows * world_size - count, lengths.shape[1]), lengths.dtype)
    padded = np.concatenate([lengths, missing])
    longest = padded.reshape(rows, world_size, -1).max(axis=1)
    bounds = [0]
    while bounds[-1] < rows:
        start = bounds[-1]
        window = longest[start : start + max(1, tokens // max(1, int(longest[start].sum())))]
        widths = np.maximum.accumulate(window).sum(axis=1)
        cells = widths * np.arange(1, len(window) + 1)
        bounds.append(start + max(1, int(np.searchsorted(cells, tokens, side="right"))))
    bounds = _without_idle_rank(bounds, count, world_size)
    while steps is not None and len(bounds) - 1 < steps:
        sizes = np.diff(bounds)
        sizes[-1] -= count % world_size > 0  # its last row cannot stand alone
        widest = int(sizes.argmax())
        bounds.insert(widest + 1, bounds[widest] + int(sizes[widest]) // 2)
    return _examples(bounds, count, world_size)


def _without_idle_rank(bounds: list[int], count: int, world_size: int) -> list[int]:
    """A last step of nothing but an incomplete row gets one more row of the step before."""
    if count % world_size and len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
        bounds[-2] -= 1
        if bounds[-2] == bounds[-3]:  # steps of one row: the last one has two
            del bounds[-2]
    return bounds


def _examples(bounds: list[int], count: int, world_size: int) -> list[int]:
    return [min(bound * world_size, count) for bound in bounds]
