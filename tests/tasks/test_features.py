"""What a frozen backbone sees is kept for later runs, and belongs to its pictures and weights."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.encoders.backbone import Backbone
from tasks import features

SHAPE = (3, 64, 64)
SMALL = [
    "task=captioning", "data.train_size=12", "data.validation_size=6", "data.test_size=6",
    "model=backbone_captioner", "model.encoder.grid=2", "model.decoder.hidden_size=16",
    "model.decoder.embedding_size=8", "task.max_new_tokens=4", "trainer.max_epochs=1",
]  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[int], str]:
    """A file of weights for the backbone, drawn from a seed."""

    def written(seed: int) -> str:
        torch.manual_seed(seed)
        file = tmp_path / f"{seed}.safetensors"
        save_file(Backbone(picture_shape=SHAPE, grid=2).network.state_dict(), file)
        return f"task.weights={file}"

    return written


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of a backbone looked at."""
    counts: list[int] = []
    own = Backbone.features

    def features(self: Backbone, pictures: Tensor) -> Tensor:
        counts.append(len(pictures))
        return own(self, pictures)

    monkeypatch.setattr(Backbone, "features", features)
    return counts


def folders(cache: Path) -> int:
    return len(list(cache.glob("features-*/features.npy")))


def test_a_later_run_reads_what_an_earlier_one_computed(
    tmp_path: Path, start: Any, weights: Callable[[int], str], seen: list[int]
) -> None:
    cache = [f"paths.cache_dir={tmp_path}/cache"]
    first = start("none", *SMALL, *cache, weights(1)).fit()
    first.test()
    assert sum(seen) == 24 + 4  # each picture once; the rest are those that are drawn
    seen.clear()
    second = start("none", *SMALL, *cache, weights(1), "cell=gru").fit()
    second.test()
    assert sum(seen) == 4 and folders(tmp_path / "cache") == 3
    for split, found in second.task.features.items():
        assert torch.equal(found, first.task.features[split])
        pictures = torch.cat([some for _, some in second.data.pictures(split)])
        torch.testing.assert_close(found, second.task.model.encoder.features(pictures))


def test_the_same_run_is_the_same_with_and_without_what_was_kept(
    tmp_path: Path, start: Any, weights: Callable[[int], str]
) -> None:
    cache = [f"paths.cache_dir={tmp_path}/cache"]
    tests = [start("none", *SMALL, *cache, weights(1)).fit().test() for _ in range(2)]
    assert tests[0] == tests[1]
    anew = start("none", *SMALL, *cache, weights(1), "task.feature_memory=0").fit().test()
    assert anew["test/loss"] == pytest.approx(tests[0]["test/loss"], rel=1e-4)


def test_other_weights_see_anew_and_random_ones_leave_nothing(
    tmp_path: Path, start: Any, weights: Callable[[int], str]
) -> None:
    cache = [f"paths.cache_dir={tmp_path}/cache"]
    one, other = (start("none", *SMALL, *cache, weights(seed)).fit() for seed in (1, 2))
    assert folders(tmp_path / "cache") == 4
    assert not torch.equal(one.task.features["train"], other.task.features["train"])
    start("none", *SMALL, *cache).fit()
    assert folders(tmp_path / "cache") == 4


def test_features_belong_to_pictures_weights_settings_and_precision() -> None:
    torch.manual_seed(0)
    pictures = np.zeros((2, *SHAPE), np.uint8)
    encoder = Backbone(picture_shape=SHAPE, grid=2)
    key = features.identity(encoder, pictures, "32-true on cpu")
    assert key == features.identity(encoder, pictures.copy(), "32-true on cpu")
    found = [
        features.identity(encoder, pictures, "bf16-mixed on cuda"),
        features.identity(encoder, pictures + 1, "32-true on cpu"),
        features.identity(encoder, pictures[:1], "32-true on cpu"),
    ]
    encoder.grid = 3
    found.append(features.identity(encoder, pictures, "32-true on cpu"))
    encoder.grid = 2
    nn.init.ones_(encoder.norm.bias)  # learns, after the features
    assert key == features.identity(encoder, pictures, "32-true on cpu")
    with torch.no_grad():
        next(encoder.network.parameters()).flatten()[0] += 1
    found.append(features.identity(encoder.bfloat16(), pictures, "32-true on cpu"))
    assert len({key, *found}) == 6


def test_what_does_not_fit_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("4800 requested and 0 written")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        message = f"paths.cache_dir={tmp_path} has no room for 0.00 GB of features (4800 req"
        with pytest.raises(ValueError, match=re.escape(message)):
            features.kept(str(tmp_path), "some", lambda: [torch.ones(2, 3, 4)])
    assert not list(tmp_path.glob("features-some*/*"))
    kept = features.kept(str(tmp_path), "some", lambda: [torch.ones(2, 3, 4), torch.zeros(1, 3, 4)])
    assert kept.shape == (3, 3, 4) and kept.sum() == 24
    again = features.kept(str(tmp_path), "some", lambda: pytest.fail("computed again"))
    assert torch.equal(kept, again)
