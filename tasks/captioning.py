"""One to many: a picture becomes a sentence."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches import CaptionBatch
from data.codec import Codec
from data.spec import DataSpec
from models.encoder_decoder import EncoderDecoder
from models.encoders.memory import Encoder, Memory
from tasks import captioning_metrics, features, pictures
from tasks.base import SPLIT_OF
from tasks.cider import cider, cider_plain
from tasks.generation import Generation
from tasks.meteor import meteor
from tasks.metrics import exact_match
from tasks.objectives import Objective
from tasks.weights import read_backbone


class Captioning(Generation):
    """`bleu1` to `bleu4`, `rouge_l` and `cider` as the coco-caption tool gives them, and
    `exact_match`; after a test `meteor` (exact and stem stages) and `cider_plain` too.

    What a frozen encoder sees in a picture never changes, so it is computed once and kept, up to
    `feature_memory` gigabytes (0: never): on disk for the runs that follow, or, without `weights`,
    in memory. `weights` is a safetensors file of the backbone; `torchvision` fetches torchvision's
    own (network); null leaves it untrained.
    """

    name = "captioning"

    def __init__(
        self,
        *,
        spec: DataSpec,
        codec: Codec,
        model: Callable[..., EncoderDecoder],
        monitor: str,
        mode: str,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., dict[str, Any]] | None,
        seed: int = 1,
        samples: int = 8,
        layer_decay: float = 1.0,
        beam_size: int = 3,
        val_beam_size: int = 1,
        length_penalty: float = 1.0,
        max_new_tokens: int = 40,
        teacher_forcing: float = 1.0,
        decoding: Mapping[str, Any] | None = None,
        objective: Objective | None = None,
        doubly_stochastic: float = 0.0,
        encoder_rate: float = 1.0,
        teacher_forcing_decay: str = "linear",
        coverage_loss: float = 0.0,
        weights: str | None = None,
        feature_memory: float = 4.0,
    ) -> None:
        super().__init__(
            spec=spec, codec=codec, model=model, monitor=monitor, mode=mode, optimizer=optimizer,
            scheduler=scheduler, seed=seed, samples=samples, layer_decay=layer_decay,
            beam_size=beam_size,
            val_beam_size=val_beam_size, length_penalty=length_penalty,
            max_new_tokens=max_new_tokens, teacher_forcing=teacher_forcing,
            decoding=decoding, objective=objective, doubly_stochastic=doubly_stochastic,
            encoder_rate=encoder_rate, teacher_forcing_decay=teacher_forcing_decay,
            coverage_loss=coverage_loss,
        )  # fmt: skip
        self.weights = weights
        self.feature_memory = feature_memory
        self.features: dict[str, Tensor] = {}  # of each split, (pictures, S, D)

    @classmethod
    def check(cls, spec: DataSpec) -> None:
        if spec.picture_shape is None or spec.output_vocabulary is None:
            raise ValueError(
                f"task={cls.name} needs pictures with sentences, which this data does not have"
            )

    @classmethod
    def monitor_for(cls, spec: DataSpec) -> tuple[str, str]:
        return "val/bleu4", "max"

    def initialise(self) -> None:
        if self.weights is not None:
            read_backbone(self.weights, self.model.encoder)

    # What a frozen encoder sees is computed once

    def on_fit_start(self) -> None:
        self._remember("train", "validation")

    def on_validation_start(self) -> None:
        if self.trainer.state.fn != "fit":
            self._remember("validation")

    def on_test_start(self) -> None:
        self._remember("test")

    def setup(self, stage: str) -> None:
        # loaders are made after this: with features at hand they need no pictures
        self.data.without_pictures = self._is_cacheable()

    def _is_cacheable(self) -> bool:
        encoder: Any = self.model.encoder
        if not encoder.cacheable or getattr(self.objective, "reads_pictures", False):
            return False
        count = sum(map(self._pictures, ("train", "validation", "test")))
        return bool(count * encoder.feature_numbers * 4 / 1e9 <= self.feature_memory)

    def _pictures(self, split: str) -> int:
        return len(self.data.splits[split].flat("pictures"))

    @torch.no_grad()
    def _remember(self, *splits: str) -> None:
        if not self.data.without_pictures:
            return
        encoder: Any = self.model.encoder
        for split in splits:
            if split in self.features:
                continue
            compute = partial(self._see, encoder, split)
            if self.weights is None:  # random ones: of no use to another run
                self.features[split] = torch.cat(list(compute()))
                continue
            arithmetic = f"{self.trainer.precision} on {self.device.type}"
            pixels = self.data.splits[split].flat("pictures")
            key = features.identity(encoder, pixels, arithmetic)
            self.features[split] = features.kept(self.data.cache_dir, key, compute)

    def _see(self, encoder: Encoder, split: str) -> Iterator[Tensor]:
        """The features of a split's pictures, batch by batch."""
        self.print(f"computing the features of {self._pictures(split):,} pictures ({split})")
        for _, some in self.data.pictures(split):
            with self.trainer.precision_plugin.forward_context():
                yield encoder.features(some.to(self.device)).float().cpu()

    def encode(self, batch: CaptionBatch) -> Memory:
        if not self.features:
            return self.model.encode(batch.pictures)
        stage = self.trainer.state.stage
        split = {"train": "train", "validate": "validation"}.get(str(stage and stage.value), "test")
        seen = self.features[split][batch.index.cpu()].to(self.device)
        return self.model.encode_features(seen)

    def read(self, batch: Any) -> Memory:
        return self.model.encode(batch.pictures)

    def scores(self, hypotheses: list[str], references: list[list[str]]) -> dict[str, float]:
        bleu = captioning_metrics.bleu(hypotheses, references)
        return {
            **{f"bleu{n}": score for n, score in enumerate(bleu, start=1)},
            "rouge_l": captioning_metrics.rouge_l(hypotheses, references),
            "cider": cider(hypotheses, references),
            "exact_match": exact_match(hypotheses, references),
        }

    def test_scores(self, hypotheses: list[str], references: list[list[str]]) -> dict[str, float]:
        return {
            "meteor": meteor(hypotheses, references),
            "cider_plain": cider_plain(hypotheses, references),
        }

    def words(self, references: list[list[str]]) -> Callable[[str], list[str]]:
        return captioning_metrics.tokenize

    @torch.no_grad()
    def draw(self, split: str, folder: Path) -> Iterator[Path]:
        yield from super().draw(split, folder)
        for place, (index, _) in enumerate(self.shown_pairs[:4]):
            picture = self.data.example(SPLIT_OF[split], index).input
            weights, written = self.look(picture)
            if weights.size(1) == 0:
                return  # a decoder without attention
            path = folder / f"attention_{place + 1}.png"
            pixels = np.asarray(picture.convert("RGB"))
            pictures.attention_over_picture(pixels, weights, written, path)
            yield path

    def look(self, picture: Any) -> tuple[Tensor, list[str]]:
        """A raw picture → attention (T, S) of its description, and the description's tokens."""
        assert self.codec.outputs is not None
        batch: Any = self.codec.batch([picture])
        memory = self.model.encode(batch.pictures.to(self.device))
        found = self.decode([memory], self.searches["test"])
        tokens = found.tokens[0, 0, : int(found.lengths[0, 0])]
        return self.attention(memory, tokens), self.codec.outputs.tokens(tokens.tolist())
