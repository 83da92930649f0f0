"""Models that share a stack share one module, and those that cannot are told why."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from models.cells.gru import GRU
from models.cells.lstm import LSTM
from models.classifier import Classifier
from models.encoders.small_cnn import SmallCNN
from models.language_model import LanguageModel
from models.sharing import share_stack
from models.tagger import Tagger

SIZES: dict[str, Any] = {
    "vocabulary_size": 11, "pad_id": 0, "unk_id": 1, "cell": GRU, "embedding_size": 6,
    "hidden_size": 8,
}  # fmt: skip
ANSWERS: dict[str, Any] = {"input_features": None, "num_outputs": 3, "real": False}


def classifier(**settings: Any) -> Classifier:
    return Classifier(**{**SIZES, **ANSWERS, **settings})


def tagger(**settings: Any) -> Tagger:
    return Tagger(**{**SIZES, **ANSWERS, **settings})


def language_model(**settings: Any) -> LanguageModel:
    return LanguageModel(**{**SIZES, "keys": None, "tie_weights": False, **settings})


def test_the_stack_is_one_module_and_all_else_each_models_own() -> None:
    models = {"a": classifier(), "b": tagger(vocabulary_size=5), "c": language_model()}
    each = [sum(p.numel() for p in model.parameters()) for model in models.values()]
    shared = share_stack(models)
    assert all(model.stack is shared for model in models.values())
    together = sum(p.numel() for p in nn.ModuleList(models.values()).parameters())
    assert together == sum(each) - 2 * sum(p.numel() for p in shared.parameters())
    assert len({id(model.inputs) for model in models.values()}) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden_size": 7}, "hidden_size is 8 and 7; set model.hidden_size for all"),
        ({"embedding_size": 5}, "embedding_size is 6 and 5"),
        ({"bidirectional": True}, "bidirectional is False and True"),
        ({"num_layers": 2}, "num_layers is 1 and 2"),
        ({"layer_norm": True}, "layer_norm is False and True"),
        ({"residual": True}, "residual is False and True"),
        ({"cell": LSTM}, r"\(24, 6\) and \(32, 6\); give all parts the same cell"),
    ],
)
def test_stacks_that_disagree_are_told_with_both_values(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=f"one and other cannot share one stack: .*{said}"):
        share_stack({"one": classifier(), "other": tagger(**settings)})


def test_dropout_between_layers_must_agree_where_there_are_layers_to_stand_between() -> None:
    share_stack({"one": classifier(dropout=0.5), "other": tagger(variational=True)})
    two = partial(classifier, num_layers=2)
    with pytest.raises(ValueError, match=r"dropout is 0\.5 and 0\.0"):
        share_stack({"one": two(dropout=0.5), "other": two()})


def test_a_model_without_a_stack_is_named() -> None:
    pictures = nn.Module()
    pictures.encoder = SmallCNN(picture_shape=(3, 32, 32), channels=[4, 4])
    with pytest.raises(ValueError, match="captions reads its input with SmallCNN"):
        share_stack({"words": classifier(), "captions": pictures})


def test_settings_are_those_that_a_stack_was_built_with() -> None:
    both = classifier(bidirectional=True, num_layers=2, dropout=0.1, layer_norm=True).stack
    assert both.settings == {
        "embedding_size": 6, "hidden_size": 8, "num_layers": 2, "bidirectional": True,
        "residual": False, "layer_norm": True, "dropout": 0.1, "variational": False,
    }  # fmt: skip
    narrow = language_model(num_layers=2, last_hidden_size=4).stack
    assert narrow.settings["hidden_size"] == [8, 4]
    assert narrow(torch.zeros(1, 3, 6))[0].shape == (1, 3, 4)
