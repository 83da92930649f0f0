"""Pretrained weights of a backbone: from a file or from torchvision, or a word on why not."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from safetensors.torch import save_file

from tasks.weights import read_backbone


class Encoder:
    """Takes weights of one name."""

    name = "squeezenet1_0"
    taken: dict[str, Any] | None = None

    def load_weights(self, state: dict[str, Any]) -> None:
        if set(state) != {"weight"}:
            raise ValueError("the file lacks weight")
        self.taken = state


def test_a_file_goes_into_the_encoder(tmp_path: Path) -> None:
    encoder = Encoder()
    save_file({"weight": torch.arange(3.0)}, tmp_path / "a.safetensors")
    read_backbone(str(tmp_path / "a.safetensors"), encoder)
    assert encoder.taken is not None and encoder.taken["weight"].tolist() == [0.0, 1.0, 2.0]


def test_what_does_not_fit_is_refused_by_the_name_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.weights=x: this encoder is trained from scratch"):
        read_backbone("x", object())
    with pytest.raises(ValueError, match=r"none\.safetensors does not exist"):
        read_backbone(str(tmp_path / "none.safetensors"), Encoder())
    (tmp_path / "torn.safetensors").write_bytes(b"no such file")
    with pytest.raises(ValueError, match=r"torn\.safetensors is not a safetensors file"):
        read_backbone(str(tmp_path / "torn.safetensors"), Encoder())
    save_file({"bias": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"b\.safetensors: the file lacks weight"):
        read_backbone(str(tmp_path / "b.safetensors"), Encoder())


def test_torchvision_is_asked_for_the_weights_of_its_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Weights:
        class DEFAULT:
            @staticmethod
            def get_state_dict(*, check_hash: bool) -> dict[str, Any]:
                assert check_hash
                return {"weight": torch.ones(1)}

    asked: list[str] = []
    monkeypatch.setattr(
        torchvision.models, "get_model_weights", lambda name: asked.append(name) or Weights
    )
    encoder = Encoder()
    read_backbone("torchvision", encoder)
    assert asked == ["squeezenet1_0"] and encoder.taken is not None

    def fails(*, check_hash: bool) -> dict[str, Any]:
        raise OSError("no route to host")

    monkeypatch.setattr(Weights.DEFAULT, "get_state_dict", fails)
    with pytest.raises(ValueError, match=r"squeezenet1_0 could not be fetched \(no route.*local"):
        read_backbone("torchvision", Encoder())
