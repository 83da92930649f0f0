"""What turns raw input into a batch, and ids into text; plain data, for checkpoints."""

import importlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from data.declared import check_values
from data.spec import DataSpec
from data.text_codec import SPECIALS, TextCodec, TokenizerSettings, symbols_hash

__all__ = ["SPECIALS", "Codec", "TextCodec", "TokenizerSettings", "codec_from_plain"]

_KINDS: dict[str, type["Codec"]] = {}


@dataclass(kw_only=True)
class Codec:
    """Base of the codecs, one a kind of data, each in the kind's own file.

    `class SeriesCodec(Codec, kind="series")` lives in data/series.py: the kind names the module,
    so that a checkpoint's codec is found without a list of kinds. Fields are text codecs, numbers,
    strings and tuples of these.
    """

    kind: ClassVar[str]
    inputs: TextCodec | None = None
    outputs: TextCodec | None = None
    labels: tuple[str, ...] | None = None
    # real outputs are learnt in standard units and given back in the data's own
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()

    def __init_subclass__(cls, *, kind: str = "") -> None:
        super().__init_subclass__()
        if kind:
            cls.kind = kind
            _KINDS[kind] = cls

    @abstractmethod
    def batch(self, raw: Sequence[Any]) -> NamedTuple:
        """Raw inputs without answers → the batch that the task predicts from."""

    def parse(self, text: str) -> Any:
        """A raw input as it is typed on a command line: a text itself, a path, numbers."""
        return text

    def restore(self, values: Tensor) -> Tensor:
        """Real outputs or targets (..., K) in standard units → the data's own units."""
        if not self.target_mean:
            return values
        mean = torch.tensor(self.target_mean, dtype=values.dtype, device=values.device)
        std = torch.tensor(self.target_std, dtype=values.dtype, device=values.device)
        return values * std + mean

    def vocabularies(self) -> dict[str, str]:
        """The input's, the output's and the labels' symbols, each as its size and hash."""
        found = {}
        for name in ("inputs", "outputs"):
            codec = getattr(self, name)
            if codec is not None:
                found[name] = f"{codec.hash} ({len(codec.symbols)} symbols)"
        if self.labels is not None:
            found["labels"] = f"{symbols_hash(self.labels)} ({len(self.labels)} labels)"
        return found

    def to_plain(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers only."""
        values = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return {"kind": self.kind, **values}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Codec":
        """ValueError names a field whose value `to_plain` never gives."""
        values = {name: _value(value) for name, value in plain.items() if name != "kind"}
        check_values(values, cls, "codec.")
        return cls(**values)

    def __post_init__(self) -> None:
        if len(self.target_mean) != len(self.target_std):
            raise ValueError(
                f"a codec has {len(self.target_mean)} means and {len(self.target_std)} deviations "
                "of its targets"
            )
        if not all(std > 0 for std in self.target_std):
            raise ValueError(f"codec.target_std must be above 0, got {self.target_std}")
        for name in ("max_length", "size"):  # of the kinds that have one
            size = getattr(self, name, None)
            if size is not None and min(size if isinstance(size, tuple) else (size,)) < 1:
                raise ValueError(f"codec.{name} must be at least 1, got {size}")

    def check(self, spec: DataSpec) -> None:
        """ValueError where it is not of the data that a model's spec describes."""
        for name, wanted in (
            ("inputs", spec.input_vocabulary),
            ("outputs", spec.output_vocabulary),
        ):
            own = getattr(self, name)
            if own is not None and own.vocabulary != wanted:
                raise ValueError(f"the codec's {name} have {own.vocabulary}, the spec {wanted}")
        if self.labels != spec.labels:
            raise ValueError("the codec's labels are not those of the spec")
        if self.target_mean and len(self.target_mean) != spec.output_features:
            raise ValueError(
                f"the codec scales {len(self.target_mean)} targets, the spec has "
                f"{spec.output_features}"
            )


def codec_from_plain(plain: dict[str, Any]) -> Codec:
    """The codec that `to_plain` described; its kind is looked up among data/*.py only."""
    kind = plain["kind"]
    if kind not in _KINDS and kind.isidentifier():
        try:
            importlib.import_module(f"data.{kind}")
        except ModuleNotFoundError as error:
            raise ValueError(f"codec of kind {kind!r}: there is no data/{kind}.py") from error
    if kind not in _KINDS:
        raise ValueError(f"codec of kind {kind!r} is unknown; there are {', '.join(_KINDS)}")
    return _KINDS[kind].from_plain(plain)


def _plain(value: Any) -> Any:
    if isinstance(value, TextCodec):
        return value.to_plain()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    assert value is None or isinstance(value, (bool, int, float, str)), type(value)
    return value


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return TextCodec.from_plain(value)
    return tuple(_value(item) for item in value) if isinstance(value, list) else value
