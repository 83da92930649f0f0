"""Plain values against the types that constructors declare: what is wrong is told by its key."""

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Union

_LONG = 2**63  # from which on no tensor holds a whole number
_ALIKE = {float: (float, int), int: (int,), bool: (bool,), str: (str,)}
_SAID = {
    float: "a finite number", int: "a whole number", bool: "true or false", str: "a text",
    type(None): "null",
}  # fmt: skip


def check_values(values: Mapping[str, Any], kind: type, prefix: str = "") -> None:
    """`check_value` of each that the fields of a dataclass declare, its key after `prefix`."""
    hints = declared(kind)
    for name, value in values.items():
        if name in hints:
            check_value(value, hints[name], f"{prefix}{name}")


def check_value(value: Any, hint: Any, key: str) -> None:
    """ValueError where the value of a key is not of the type that is declared for it."""
    if not fits(value, hint):
        raise ValueError(f"{key}={_shown(value)} is of no type that it takes: give {said(hint)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config may stand where a type is declared; what is no type of a config
    (a model, a callable) is described by a mapping."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if hint is None or hint is type(None):
        return value is None
    if kind in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if kind is Literal:
        return value in inner and type(value) in map(type, inner)
    if hint in _ALIKE:
        return type(value) in _ALIKE[hint] and _is_small(value)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    plain = hint if kind is None else kind
    if isinstance(hint, type) and isinstance(value, hint):
        return True
    if plain is tuple and inner and inner[-1] is not Ellipsis:
        return _is_list(value) and len(value) == len(inner) and all(map(fits, value, inner))
    if isinstance(plain, type) and issubclass(plain, Mapping):
        return isinstance(value, Mapping) and all(
            fits(v, (*inner, Any, Any)[1]) for v in value.values()
        )
    if plain in _LISTS:
        return _is_list(value) and all(fits(item, (*inner, Any)[0]) for item in value)
    return False


def said(hint: Any) -> str:
    """A declared type as an error tells it: "a whole number or null"."""
    return " or ".join(dict.fromkeys(_said(hint)))


_LISTS = (list, tuple, set, Sequence, typing.Iterable, typing.Collection)


def _said(hint: Any) -> Iterator[str]:
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    plain = hint if kind is None else kind
    if kind in (Union, types.UnionType):
        for one in sorted(inner, key=lambda one: one is type(None)):  # null is told last
            yield from _said(one)
    elif kind is Literal:
        yield from map(str, inner)
    elif plain in _LISTS:
        yield f"a list ({said((*inner, Any)[0])}, ...)"
    elif isinstance(plain, type) and issubclass(plain, Mapping):
        yield "a mapping"
    else:
        yield _SAID.get(hint, "a mapping with a _target_")


@cache
def declared(target: Any) -> dict[str, Any]:
    """The types of what a class or function is called with; none where they cannot be told."""
    plain_class = isinstance(target, type) and not hasattr(target, "__dataclass_fields__")
    try:
        return typing.get_type_hints(target.__init__ if plain_class else target)
    except (NameError, TypeError, AttributeError):  # names that only a type checker sees
        return {}


def _is_small(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) < _LONG


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _shown(value: Any) -> str:
    """A value as it is written in a config."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
