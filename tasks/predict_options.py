"""How a trained model answers, where that is not as it was configured."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from data.declared import check_values
from models.decoding import DecodingOptions
from tasks.decoding import NAMES, ONLY, TextOptions


@dataclass(kw_only=True)
class PredictOptions:
    """How to predict; a task reads what concerns it."""

    batch_size: int = 64
    beam_size: int | None = None  # None: as the task was configured
    n_best: int = 1
    max_length: int | None = None  # symbols or frames to give at most
    seed: int = 0
    # of `models.decoding.DecodingOptions`; None: as the task was configured
    method: str | None = None
    length_penalty: float | None = None
    length_norm: str | None = None
    coverage_penalty: float | None = None
    groups: int | None = None
    diversity: float | None = None
    min_length: int | None = None
    block_ngrams: int | None = None
    repetition_penalty: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical: float | None = None
    # of `tasks.decoding.TextOptions`
    banned: Sequence[str] = ()
    required: Sequence[str] = ()
    prefix: str | None = None
    replace_unknown: bool = False
    mbr: int = 0
    mbr_metric: str = "chrf"

    def __post_init__(self) -> None:
        check_values(vars(self), PredictOptions)
        for name in ("batch_size", "beam_size", "n_best", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.words()

    def words(self) -> TextOptions:
        """What is asked of a text's words."""
        return TextOptions(**{f.name: getattr(self, f.name) for f in fields(TextOptions)})

    def over(self, configured: DecodingOptions) -> DecodingOptions:
        """The configured options, and over them those that are given here."""
        given = {n: getattr(self, n) for n in NAMES if getattr(self, n, None) is not None}
        if given.get("method", configured.method) == "beam" and self.beam_size is None:
            given["beam_size"] = max(configured.beam_size, self.n_best)
            groups = self.groups or configured.groups
            given["beam_size"] += -given["beam_size"] % max(1, groups)
        method = "sample" if self.mbr else given.get("method", configured.method)
        for name, methods in ONLY.items():
            if getattr(self, name, None) and method not in methods:
                raise ValueError(
                    f"{name} has no effect with method={method}: it is for {' and '.join(methods)}"
                )
        if self.mbr:
            if self.n_best > self.mbr or self.method not in (None, "sample"):
                raise ValueError(
                    f"mbr={self.mbr} chooses up to {self.mbr} of its own samples, got "
                    f"n_best={self.n_best}, method={self.method}"
                )
            given |= {"n_best": self.mbr}
        return configured.by(**(given | {"method": method}))
