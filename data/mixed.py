"""Several data sets at once: each keeps its kind, codec and splits; training takes them in turn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lightning import LightningDataModule

from data.base import DataModule
from data.batches import PartBatch
from data.codec import Codec, codec_from_plain
from data.mixture import MixtureSampler, PartIndices, counts, shares
from data.names import check_part_name
from data.prepared import Report
from data.samplers import ResumableLoader
from data.spec import DataSpec


@dataclass(kw_only=True)
class MixedCodec(Codec, kind="mixed"):
    """The codec of each part."""

    parts: dict[str, Codec] = field(default_factory=dict)

    def batch(self, raw: Sequence[Any]) -> NamedTuple:
        raise ValueError(f"raw inputs are of one part: choose {', '.join(self.parts)}")

    def vocabularies(self) -> dict[str, str]:
        return {
            f"{part}/{name}": symbols
            for part, codec in self.parts.items()
            for name, symbols in codec.vocabularies().items()
        }

    def to_plain(self) -> dict[str, Any]:
        parts = {name: codec.to_plain() for name, codec in self.parts.items()}
        return {"kind": self.kind, "parts": parts}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "MixedCodec":
        parts = plain["parts"].items()
        return cls(parts={name: codec_from_plain(codec) for name, codec in parts})


@dataclass(kw_only=True, eq=False)
class Mixed(LightningDataModule):
    """Batches of several parts in turn, mixed by size and `temperature`, or by `proportions`.

    A part's size is its training batches of `batch_size` examples, and its share of the steps is
    proportional to size ^ (1 / temperature). An epoch has as many steps as all parts together, or
    `epoch_steps`; a step is of one part, on all ranks the same one. At temperature 1 every part
    is read once an epoch. Validation and test read all of each part, one after the other.
    """

    name: str
    cache_dir: str
    seed: int
    batch_size: int
    parts: Mapping[str, Callable[..., DataModule]]
    data_dir: str | None = None
    num_workers: int = 0
    temperature: float = 1.0
    proportions: Mapping[str, float] | None = None  # of the steps; None: by size and temperature
    epoch_steps: int | None = None

    def __post_init__(self) -> None:
        super().__init__()
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {self.batch_size}")
        if self.epoch_steps is not None and self.epoch_steps < 1:
            raise ValueError(f"data.epoch_steps must be at least 1, got {self.epoch_steps}")
        for name in self.parts:
            check_part_name(name)  # again: a checkpoint's config names parts, too
        self.modules = {
            name: part(
                data_dir=self.data_dir, cache_dir=self.cache_dir, seed=self.seed,
                batch_size=self.batch_size, num_workers=self.num_workers,
            )
            for name, part in self.parts.items()
        }  # fmt: skip
        for name, module in self.modules.items():
            if getattr(module, "streaming", False):
                raise ValueError(
                    f"{name} is read as a stream, which has no size to mix by: set "
                    "data.streaming=false in this part"
                )
        self._check_proportions()
        self.given_codec: Codec | None = None

    def _check_proportions(self) -> None:
        given = self.proportions
        if given is None:
            return
        if given.keys() != self.modules.keys() or not all(share > 0.0 for share in given.values()):
            raise ValueError(
                f"data.proportions={dict(given)} must give a share above 0 to each of "
                f"{', '.join(self.modules)}"
            )
        if self.temperature != 1.0:
            raise ValueError(
                f"data.proportions={dict(given)} says how often each part comes, and "
                f"data.temperature={self.temperature} as well: leave out one of them"
            )

    # What Lightning, the tasks and the scripts use

    def prepare_data(self) -> None:
        if not self.modules:
            raise ValueError("data=mixed has no parts: python train.py task=multi names them")
        for name, module in self.modules.items():
            module.given_codec = self._given(name)
            module.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        for module in self.modules.values():
            module.setup(stage)

    def _given(self, name: str) -> Codec | None:
        if self.given_codec is None:
            return None
        trained = getattr(self.given_codec, "parts", {})
        if name not in trained:
            raise ValueError(
                f"the model was not trained on {name}, but on {', '.join(trained) or 'one task'}: "
                "give the parts of its run"
            )
        codec: Codec = trained[name]
        return codec

    @property
    def spec(self) -> DataSpec:
        return DataSpec(parts={name: module.spec for name, module in self.modules.items()})

    @property
    def codec(self) -> MixedCodec:
        return MixedCodec(parts={name: module.codec for name, module in self.modules.items()})

    @property
    def fingerprint(self) -> str:
        """Of each part."""
        return ", ".join(f"{name}={module.fingerprint}" for name, module in self.modules.items())

    def report(self) -> Report:
        told = {
            f"{name}/{key}": value
            for name, module in self.modules.items()
            for key, value in module.report().items()
        }
        steps = {f"{name}/steps": count for name, count in self.sampler().steps.items()}
        return {**told, **steps}

    def sampler(self) -> MixtureSampler:
        """The order of training."""
        return self._mixture({name: module.sampler("train") for name, module in self._placed()})

    def _mixture(self, samplers: Mapping[str, Any]) -> MixtureSampler:
        group = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        sizes = {name: len(sampler) for name, sampler in samplers.items()}
        steps = self.epoch_steps or max(1, sum(sizes.values()) // group)
        if self.proportions is None:
            share = shares(sizes, self.temperature)
        else:
            share = {name: self.proportions[name] for name in sizes}
            share = {name: part / sum(share.values()) for name, part in share.items()}
        return MixtureSampler(samplers, steps=counts(share, steps), group=group, seed=self.seed)

    def _placed(self) -> list[tuple[str, DataModule]]:
        """The parts, which know their rank from the trainer of all."""
        for module in self.modules.values():
            module.trainer = self.trainer
        return list(self.modules.items())

    def train_dataloader(self) -> ResumableLoader:
        loaders = {name: module.loader("train") for name, module in self._placed()}
        sampler = self._mixture({name: loader.batch_sampler for name, loader in loaders.items()})
        return ResumableLoader(
            _Batches({name: loader.dataset for name, loader in loaders.items()}),
            sampler, seed=self.seed, num_workers=self.num_workers,
        )  # fmt: skip

    def val_dataloader(self) -> list[Any]:
        return [module.val_dataloader() for _, module in self._placed()]

    def test_dataloader(self) -> list[Any]:
        return [module.test_dataloader() for _, module in self._placed()]


class _Batches:
    """What the loader reads: the indices of a part's batch → the batch and its part."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def __getitems__(self, indices: PartIndices) -> PartBatch:
        return PartBatch(indices.part, self.parts[indices.part].__getitems__(indices))
