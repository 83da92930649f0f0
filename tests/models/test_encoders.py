"""Encoders: what they leave for the decoder, and what must not change it."""

import pytest
import torch
import torchvision

from models.cells.gru import GRU
from models.cells.lstm import LSTM
from models.cells.memoryless import Memoryless
from models.cells.rnn import RNN
from models.encoders.backbone import Backbone
from models.encoders.memory import Encoder
from models.encoders.small_cnn import SmallCNN
from models.encoders.text import TextEncoder

V, H, B, S = 11, 4, 4, 6
LENGTHS = torch.tensor([6, 2, 0, 5])
CELLS = [LSTM, GRU, RNN, Memoryless]
every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__.lower())
either_way = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])


def text(cell=LSTM, **options) -> TextEncoder:
    torch.manual_seed(0)
    given = {"vocabulary_size": V, "cell": cell, "embedding_size": 5, "hidden_size": H}
    return TextEncoder(**(given | options)).double().eval()


def tokens(*shape: int):
    return torch.randint(1, V, shape or (B, S), generator=torch.Generator().manual_seed(1))


def backbone(**options) -> Backbone:
    torch.manual_seed(0)
    return Backbone(**({"picture_shape": (3, 48, 48), "name": "resnet18", "grid": 2} | options))


def pictures(size: int = 48):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


# Text


@every_cell
@either_way
def test_right_padding_changes_nothing(cell, bidirectional) -> None:
    encoder = text(cell, bidirectional=bidirectional, num_layers=2)
    ids = tokens()
    memory = encoder(ids, LENGTHS)
    mask = torch.arange(S) < LENGTHS[:, None]
    assert torch.equal(memory.mask, mask)
    other = torch.where(mask, ids, ids % (V - 1) + 1)
    longer = encoder(torch.cat([other, tokens(B, 3)], 1), LENGTHS)
    torch.testing.assert_close(longer.values[:, :S][mask], memory.values[mask])
    torch.testing.assert_close(longer.summary, memory.summary)
    assert (memory.summary[2] == 0.0).all()
    for row, length in enumerate(LENGTHS.tolist()):
        if length:
            alone = encoder(ids[row : row + 1, :length])
            torch.testing.assert_close(alone.values[0], memory.values[row, :length])
            torch.testing.assert_close(alone.summary[0], memory.summary[row])


@every_cell
def test_the_summary_is_the_last_forward_and_the_first_backward_output(cell) -> None:
    encoder = text(cell)
    assert encoder.output_size == 2 * H
    values, _, summary = encoder(tokens(), LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        if length:
            torch.testing.assert_close(summary[row, :H], values[row, length - 1, :H])
            torch.testing.assert_close(summary[row, H:], values[row, 0, H:])
    encoder = text(cell, bidirectional=False)
    assert encoder.output_size == H
    values, _, summary = encoder(tokens())
    torch.testing.assert_close(summary, values[:, -1])


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_reaches_the_memory_in_training_only(variational) -> None:
    encoder = text(dropout=0.5, embedding_dropout=0.5, variational=variational)
    assert torch.equal(encoder(tokens()).values, encoder(tokens()).values)
    values = encoder.train()(tokens()).values
    dropped = values == 0.0
    assert dropped.any() and not dropped.all()
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped)) == variational


# Pictures


def test_a_small_network_gives_one_vector_a_field_wherever_the_picture_stands() -> None:
    torch.manual_seed(0)
    encoder = SmallCNN(picture_shape=(3, 48, 64), channels=[8, 16]).eval()
    batch = torch.rand(5, 3, 48, 64)
    memory = encoder(batch)
    assert memory.values.shape == (5, 12 * 16, encoder.output_size) == (5, 192, 16)
    assert memory.mask.all() and memory.summary.shape == (5, 16)
    torch.testing.assert_close(encoder(batch[3:4]).values[0], memory.values[3])


def test_a_small_network_tells_places_of_an_even_picture_apart() -> None:
    torch.manual_seed(0)
    values = SmallCNN(picture_shape=(3, 64, 64)).eval()(torch.zeros(1, 3, 64, 64)).values[0]
    inner = values.view(8, 8, -1)[2:6, 2:6].flatten(0, 1)  # where no border is in sight
    distance = torch.cdist(inner, inner) + torch.eye(16)
    assert distance.min() > 1e-4


def test_a_frozen_backbone_stays_in_evaluation_mode_without_gradients() -> None:
    encoder = backbone().train()
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    memory = encoder(pictures())
    assert not any(module.training for module in encoder.network.modules())
    assert encoder.norm.training and encoder.cacheable
    assert not encoder.features(pictures()).requires_grad
    memory.values.sum().backward()
    assert all(parameter.grad is None for parameter in encoder.network.parameters())
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_backbone_that_learns_has_gradients_and_is_not_cached() -> None:
    encoder = backbone(frozen=False).train()
    assert not encoder.cacheable and encoder.network.training
    encoder(pictures()).summary.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.network.parameters())


def test_memory_from_features_equals_forward() -> None:
    encoder = backbone()
    seen = encoder.features(pictures())
    assert seen.shape == (2, 4, 512) and encoder.feature_numbers == 4 * 512
    for made, expected in zip(encoder.from_features(seen), encoder(pictures()), strict=True):
        torch.testing.assert_close(made, expected)
    assert encoder.from_features(seen.half()).values.dtype == torch.float32


def test_a_backbone_sees_what_torchvisions_classifier_sees() -> None:
    torch.manual_seed(3)
    whole = torchvision.models.resnet18(weights=None).eval()
    encoder = backbone()
    encoder.load_weights(whole.state_dict())
    seen = []
    whole.layer4.register_forward_hook(lambda module, given, result: seen.append(result))
    with torch.no_grad():
        whole(pictures())
    torch.testing.assert_close(
        encoder.features(pictures()), seen[0].flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4
    )  # 48 / 32 rounds up to 2 x 2 places, as many as the grid


@pytest.mark.parametrize(
    ("name", "node", "size"),
    [
        ("squeezenet1_0", "features.12.cat", 512),
        ("alexnet", "avgpool", 256),
        ("mobilenet_v3_small", "features.12", 576),
    ],
)
def test_the_default_node_is_the_last_map_before_the_classifier(name, node, size) -> None:
    encoder = backbone(name=name, picture_shape=(3, 80, 80), grid=3)
    assert (encoder.node, encoder.output_size) == (node, size)
    assert encoder(pictures(80)).values.shape == (2, 9, size)


def test_a_node_can_be_chosen() -> None:
    encoder = backbone(node="layer2")
    assert encoder.output_size == 128 and encoder(pictures()).values.shape == (2, 4, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet81"}, "no classifier 'resnet81'; near it: resnet18"),
        ({"node": "layr2"}, "no node 'layr2'; near it: .*layer2"),
        ({"node": "flatten"}, "'flatten' of resnet18 is not a feature map"),
        ({"grid": 0}, "1 or more, got 0"),
        ({"picture_shape": (1, 48, 48)}, "3 colours, got 1"),
        ({"picture_shape": (3, 8, 8), "name": "squeezenet1_0"}, "use larger ones, data.size"),
    ],
)
def test_mistakes_about_backbones_name_the_mend(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        backbone(**options)


def test_weights_that_do_not_fit_name_what_does_not() -> None:
    encoder = backbone()
    weights = torchvision.models.resnet18(weights=None).state_dict()
    with pytest.raises(ValueError, match=r"resnet18: it lacks conv1.weight \(1 in all\)"):
        encoder.load_weights({k: v for k, v in weights.items() if k != "conv1.weight"})
    with pytest.raises(ValueError, match="has the unknown stem"):
        encoder.load_weights(weights | {"stem": torch.zeros(1)})
    with pytest.raises(ValueError, match="has of another shape bn1.bias"):
        encoder.load_weights(weights | {"bn1.bias": torch.zeros(3)})


def test_a_picture_too_small_for_its_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 channels halves the picture, which is \[4, 64\]"):
        SmallCNN(picture_shape=(3, 4, 64))


def test_every_encoder_says_its_size_and_whether_it_may_be_cached() -> None:
    encoders: list[Encoder] = [text(), SmallCNN(picture_shape=(3, 16, 16)), backbone()]
    assert [encoder.cacheable for encoder in encoders] == [False, False, True]
    assert [encoder.output_size for encoder in encoders] == [2 * H, 64, 512]
