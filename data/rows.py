"""Pictures read row by row or pixel by pixel: a sequence of real vectors with one label."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.arrays import Split
from data.base import DataModule, Example
from data.batches import IGNORE, SequenceBatch
from data.codec import Codec
from data.labels import Labels
from data.pictures import called, grey, undecoded
from data.prepared import Prepared
from data.spec import DataSpec


@dataclass(kw_only=True)
class PictureRowsCodec(Codec, kind="rows"):
    """Pictures (PIL, a path or an array) → rows, or pixels, of grey values in standard units."""

    size: tuple[int, int]  # height, width
    mean: float
    std: float
    order: tuple[int, ...] | None = None  # pixels, one a step, in this order; None: whole rows

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.std > 0:
            raise ValueError(f"codec.std must be above 0, got {self.std}")
        pixels = self.size[0] * self.size[1]
        if self.order is not None and sorted(self.order) != list(range(pixels)):
            raise ValueError(f"codec.order does not name each of {pixels} pixels once")

    def batch(self, raw: Sequence[Any]) -> SequenceBatch:
        pixels = np.stack(
            [grey(picture, self.size, called(picture, i)) for i, picture in enumerate(raw)]
        )
        if self.labels is not None:
            targets = torch.full((len(raw),), IGNORE)
        else:
            targets = torch.zeros(len(raw), len(self.target_mean))
        return SequenceBatch(*self.rows(pixels), targets, torch.arange(len(raw)))

    def rows(self, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes (B, H, W) → inputs (B, T=H, F=W), or (B, T=H·W, 1) by pixel, and lengths (B,)."""
        inputs = torch.from_numpy(pixels).float().sub_(self.mean).div_(self.std)
        if self.order is not None:
            inputs = inputs.flatten(1)[:, list(self.order), None]
        return inputs, torch.full((len(pixels),), inputs.size(1))


@dataclass(kw_only=True, eq=False)
class PictureRows(DataModule):
    """Grey pictures of one size (`size`: height and width; None: the first picture's).

    `pixels`: a step reads one pixel, not one row; `permuted`: in a random order that `split_seed`
    decides, the same for every picture. Both are of Le et al. 2015, arXiv 1504.00941.
    """

    image_column: str = "image"
    label_column: str = "label"
    size: tuple[int, int] | None = None
    pixels: bool = False
    permuted: bool = False
    real_labels: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.permuted and not self.pixels:
            raise ValueError(
                "data.permuted=true mixes single pixels, but rows are read whole: set "
                "data.pixels=true too"
            )

    def columns(self) -> list[str]:
        return [self.image_column, self.label_column]

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        rows = {k: undecoded(part, self.image_column) for k, part in rows.items()}
        given = self.given(PictureRowsCodec)
        size = given.size if given else tuple(self.size) if self.size else None
        pixels = {}
        for split, part in rows.items():
            pictures = []
            for row, picture in enumerate(part[self.image_column]):
                pictures.append(grey(picture, size, f"row {row} of {split}"))
                size = size or pictures[0].shape
            pixels[split] = np.stack(pictures)
        assert size is not None
        labels = Labels.of(
            rows,
            self.label_column,
            real=self.real_labels,
            sample=self.limit is not None,
            given=given,
        )
        codec = PictureRowsCodec(
            size=(int(size[0]), int(size[1])),
            mean=given.mean if given else float(pixels["train"].mean()),
            std=given.std if given else float(pixels["train"].std()) or 1.0,
            order=given.order if given else self._order(int(size[0]) * int(size[1])),
            labels=labels.names,
            target_mean=labels.mean,
            target_std=labels.std,
        )
        splits = {
            split: Split(
                arrays={"pixels": pixels[split], "targets": labels.targets[split]}, raw=part
            )
            for split, part in rows.items()
        }
        spec = DataSpec(
            input_features=codec.size[1] if codec.order is None else 1,
            labels=labels.names,
            label_counts=labels.counts,
            output_features=None if labels.names is not None else 1,
        )
        return Prepared(spec=spec, codec=codec, splits=splits, report=labels.report())

    def _order(self, count: int) -> tuple[int, ...] | None:
        if not self.pixels:
            return None
        random = np.random.default_rng(self.split_seed)
        return tuple((random.permutation(count) if self.permuted else np.arange(count)).tolist())

    def collate(self, split: str, indices: list[int]) -> SequenceBatch:
        part, codec = self.splits[split], self.codec
        assert isinstance(codec, PictureRowsCodec)
        targets = torch.from_numpy(part.flat("targets")[indices])
        inputs, lengths = codec.rows(part.flat("pixels")[indices])
        return SequenceBatch(inputs, lengths, targets, torch.tensor(indices))

    def example(self, split: str, index: int) -> Example:
        part, names = self.splits[split], self.spec.labels
        target = part.flat("targets")[index]
        answer = (
            names[int(target)] if names is not None else f"{part.rows[index][self.label_column]}"
        )
        return Example(Image.fromarray(np.array(part.flat("pixels")[index])), [answer])
