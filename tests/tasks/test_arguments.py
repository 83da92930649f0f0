"""A value of a wrong type is told by its key, its value and what is wanted, before all else."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest

from data.declared import fits, said
from tasks.arguments import check_arguments


class Part:
    def __init__(
        self, *, size: int, rate: float = 0.1, name: str | None = None, on: bool = False,
        sizes: Sequence[int] = (), pair: tuple[int, int] = (1, 2), more: Mapping[str, float] = {},
        division: float | Literal["tied"] = 1.0, inner: Callable[..., Any] | None = None,
    ) -> None: ...  # fmt: skip


def check(**arguments: Any) -> None:
    node = {"_target_": "Part", "_partial_": True, **arguments}
    check_arguments(node, "task.model", find={"Part": Part}.__getitem__)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"size": "x"}, "model.size='x' is of no type that it takes: give a whole number$"),
        ({"size": True}, "model.size=true"),
        ({"size": 1.5}, "model.size=1.5"),
        ({"size": None}, "model.size=null"),
        ({"size": 2**63}, "model.size=9223372036854775808"),
        ({"rate": math.nan}, "model.rate=nan .* give a finite number"),
        ({"rate": math.inf}, "model.rate=inf"),
        ({"rate": []}, r"model.rate=\[\]"),
        ({"name": 3}, "model.name=3 .* give a text or null"),
        ({"on": 0}, "model.on=0 .* give true or false"),
        ({"sizes": 3}, r"model.sizes=3 .* give a list \(a whole number, ...\)"),
        ({"sizes": ["a"]}, r"model.sizes=\['a'\]"),
        ({"pair": [1, 2, 3]}, "model.pair="),
        ({"more": {"a": "b"}}, "model.more=.* give a mapping"),
        ({"division": "tide"}, "model.division='tide' .* give a finite number or tied"),
        ({"inner": 3}, "model.inner=3 .* give a mapping with a _target_ or null"),
        ({"inner": {"_target_": "Part", "size": "x"}}, "model.inner.size='x'"),
        ({"cell": {"_target_": "Part", "cell": {"_target_": "Part", "size": "x"}}}, "cell.size"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check(**given)


def test_what_is_declared_passes() -> None:
    check(
        size=3, rate=1, name="a", on=True, sizes=[1, 2], pair=[3, 4], more={"a": 1},
        division="tied", inner={"_target_": "Part", "size": 1}, unknown=object(),
    )  # fmt: skip
    assert fits([1, 2], list[int] | None) and fits(None, list[int] | None)
    assert said(int | None | str) == "a whole number or a text or null"
