"""Values of a config against the types that constructors declare, before anything is built."""

from collections.abc import Callable, Mapping
from typing import Any

from data.declared import check_value, declared

# where a part stands within others → where a user sets it
_SET_AT = {
    "task.model": "model", "task.optimizer": "optimizer", "task.scheduler": "scheduler",
    "data.tokenizer": "tokenizer",
}  # fmt: skip


def check_arguments(node: Any, where: str, *, find: Callable[[str], Any]) -> None:
    """ValueError where a part (a `_target_` with its arguments), or one within it, is given a value
    of a type that its constructor does not declare; numbers must be finite.

    `where` is the part's key; `find` gives what a `_target_` names.
    """
    if isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            check_arguments(item, f"{where}[{i}]", find=find)
    if not isinstance(node, Mapping):
        return
    hints: dict[str, Any] = {}
    if "_target_" in node:
        check_value(node["_target_"], str, f"{where}._target_")
        hints = {**declared(find(node["_target_"])), "_partial_": bool}
    for key, value in node.items():
        place = _named(where, str(key))
        if key in hints:
            check_value(value, hints[key], place)
        check_arguments(value, place, find=find)


def _named(where: str, key: str) -> str:
    place = f"{where}.{key}" if where else key
    if place.endswith(".cell") and not place.endswith("recurrent.cell"):
        return "recurrent"
    return {**_SET_AT, "recurrent.cell": "cell"}.get(place, place)
