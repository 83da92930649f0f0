"""A config as one level: its values by their full keys, `task.model.hidden_size`."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(node: Any, where: str = "", *, empty: bool = True) -> Iterator[tuple[str, Any]]:
    """Keys and values, in the config's order; a mapping without keys is a value itself, or with
    `empty=False` nothing.
    """
    if isinstance(node, Mapping) and (node or not empty):
        for key, value in node.items():
            yield from leaves(value, f"{where}.{key}" if where else str(key), empty=empty)
    else:
        yield where, node
