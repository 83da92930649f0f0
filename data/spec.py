"""What a model must know of its data: plain numbers and names, which travel in the checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data.declared import check_values


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Sizes and special ids of a set of symbols; an id that does not exist is None."""

    size: int
    pad_id: int = 0
    unk_id: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("pad_id", "unk_id", "bos_id", "eos_id"):
            number = getattr(self, name)
            if number is not None and not 0 <= number < self.size:
                raise ValueError(f"{name}={number} is none of a vocabulary's {self.size} symbols")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Exactly one kind of input and one kind of output is set.

    Inputs: symbols (`input_vocabulary`), real vectors a step (`input_features`) or pictures
    (`picture_shape`). Outputs: text (`output_vocabulary`), one of several classes (`labels`), real
    numbers (`output_features`) or independent on/off keys (`keys`, 88 for a piano). Of a mixture
    nothing but the spec of each of its `parts` is set.
    """

    input_vocabulary: Vocabulary | None = None
    input_features: int | None = None
    picture_shape: tuple[int, int, int] | None = None  # (C, H, W)
    output_vocabulary: Vocabulary | None = None
    labels: tuple[str, ...] | None = None
    output_features: int | None = None
    per_step: bool = False  # an answer a step rather than one a sequence
    keys: int | None = None
    shared_vocabulary: bool = False  # input and output symbols are the same table
    label_counts: tuple[int, ...] | None = None  # of each class in training
    parts: "Mapping[str, DataSpec] | None" = None

    @property
    def num_outputs(self) -> int:
        """How many numbers the last layer gives: classes, real values, keys or symbols."""
        if self.output_vocabulary is not None:
            return self.output_vocabulary.size
        if self.labels is not None:
            return len(self.labels)
        size = self.output_features or self.keys
        assert size is not None, "a data module gave a spec without an output"
        return size

    def to_plain(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers only (what `weights_only` loading admits)."""
        plain = asdict(self)
        for key in ("picture_shape", "labels", "label_counts"):
            plain[key] = None if plain[key] is None else list(plain[key])
        del plain["parts"]
        if self.parts is not None:
            plain["parts"] = {name: part.to_plain() for name, part in self.parts.items()}
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "DataSpec":
        values = dict(plain)
        for key in ("input_vocabulary", "output_vocabulary"):
            if values[key] is not None:
                check_values(values[key], Vocabulary, f"spec.{key}.")
                values[key] = Vocabulary(**values[key])
        for key in ("picture_shape", "labels", "label_counts"):
            values[key] = None if values.get(key) is None else tuple(values[key])
        if values.get("parts") is not None:
            parts = values["parts"].items()
            values["parts"] = {name: cls.from_plain(part) for name, part in parts}
        check_values(values, cls, "spec.")
        return cls(**values)

    def __post_init__(self) -> None:
        sizes = [self.input_features, self.output_features, self.keys, *(self.picture_shape or ())]
        if any(size is not None and size < 1 for size in sizes):
            raise ValueError(f"a spec's sizes are 1 or more, got {sizes}")
        if self.label_counts is not None and len(self.label_counts) != len(self.labels or ()):
            raise ValueError(
                f"a spec counts {len(self.label_counts)} labels and names {len(self.labels or ())}"
            )
