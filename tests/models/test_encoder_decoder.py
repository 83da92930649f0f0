"""Encoder, decoder and head together: translation and captioning."""

from functools import partial
from pathlib import Path

import hydra
import pytest
import torch

from building.instantiate import instantiate
from models.cells.gru import GRU
from models.cells.lstm import LSTM
from models.cells.memoryless import Memoryless
from models.decoder import AttentionDecoder, DecoderOutput
from models.encoder_decoder import EncoderDecoder
from models.encoders.backbone import Backbone
from models.encoders.small_cnn import SmallCNN
from models.encoders.text import TextEncoder

VS, VT, E, B, S, T = 9, 12, 6, 4, 5, 7
LENGTHS = torch.tensor([5, 2, 4, 1])
CONFIGS = Path(__file__).parents[2] / "configs"


def text_encoder(cell=LSTM, **options):
    return partial(TextEncoder, **({"cell": cell, "embedding_size": E, "hidden_size": 4} | options))


def text_decoder(cell=LSTM, **options):
    return partial(
        AttentionDecoder, **({"cell": cell, "embedding_size": E, "hidden_size": 8} | options)
    )


def build(*, encoder=None, decoder=None, source=VS, **options) -> EncoderDecoder:
    torch.manual_seed(0)
    model = EncoderDecoder(
        encoder=encoder or text_encoder(),
        decoder=decoder or text_decoder(),
        source_vocabulary_size=source,
        target_vocabulary_size=VT,
        **options,
    )
    return model.double()


def source():
    return torch.randint(2, VS, (B, S), generator=torch.Generator().manual_seed(1))


def target():
    return torch.randint(2, VT, (B, T), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("cell", [LSTM, GRU, Memoryless])
@pytest.mark.parametrize("input_feeding", [False, True])
def test_log_probabilities_of_steps_are_those_of_the_whole(cell, input_feeding) -> None:
    model = build(
        encoder=text_encoder(cell), decoder=text_decoder(cell, input_feeding=input_feeding)
    ).eval()
    memory = model.encode(source(), LENGTHS)
    whole = model(memory, target())
    state = model.initial_state(memory)
    for place, token in enumerate(target().unbind(1)):
        log_probs, attention, state = model.step(token, state, memory)
        torch.testing.assert_close(log_probs, model.head.log_probs(whole.hidden[:, place]))
        torch.testing.assert_close(attention, whole.attention[:, place])
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(B).double())


def test_pads_of_the_source_change_nothing() -> None:
    model = build().eval()
    short = model(model.encode(source(), LENGTHS), target())
    pads = torch.full((B, 3), 1)
    longer = torch.cat([source(), pads], 1)
    longer[torch.arange(S + 3) >= LENGTHS[:, None]] = 0
    padded = model(model.encode(longer, LENGTHS), target())
    torch.testing.assert_close(padded.hidden, short.hidden)
    assert (padded.attention[:, :, S:] == 0.0).all()


@pytest.mark.parametrize("attention", ["additive", "none"])
@pytest.mark.parametrize("cell", [LSTM, Memoryless])
def test_pictures_are_described_and_gradients_reach_the_encoder(cell, attention) -> None:
    model = build(
        encoder=partial(SmallCNN, channels=[4, 8]),
        decoder=text_decoder(cell, attention=attention),
        source=None,
        picture_shape=(3, 16, 16),
    )
    pictures = torch.rand(B, 3, 16, 16, dtype=torch.float64)
    output = model(model.encode(pictures), target())
    assert output.attention.shape == (B, T, 16 if attention == "additive" else 0)
    total, count = model.head.loss(output.hidden, target(), target() > 3)
    (total / count).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.encoder.parameters())
    changed = model(model.encode(1 - pictures), target())
    assert not torch.allclose(changed.hidden, output.hidden)  # what is seen is used


def test_features_computed_before_give_the_same_as_pictures() -> None:
    model = build(
        encoder=partial(Backbone, name="resnet18", grid=2), source=None, picture_shape=(3, 48, 48)
    ).float()
    pictures = torch.rand(2, 3, 48, 48)
    seen = model.encoder.features(pictures)
    for made, expected in zip(model.encode_features(seen), model.encode(pictures), strict=True):
        torch.testing.assert_close(made, expected)


# Tied weights


def test_a_source_starts_with_larger_vectors_than_a_tied_target() -> None:
    # a target's are output weights, too; a source's of that size leave attention blind at first
    same = {"source": VT, "encoder": text_encoder(embedding_size=40)}
    same["decoder"] = text_decoder(embedding_size=40)
    for tie, largest in (("none", 1.0), ("decoder", 1.0), ("all", 0.1)):
        model = build(**same, tie_weights=tie, shared_vocabulary=tie == "all")
        source = model.encoder.inputs.embedding.weight.abs().max().item()
        assert 0.9 * largest < source < 1.01 * largest
        assert model.decoder.inputs.embedding.weight.abs().max() < 0.101


def test_tied_weights_are_one_parameter() -> None:
    same = {"encoder": text_encoder(), "decoder": text_decoder(), "source": VT}
    counts = {}
    for tie, shared in (("none", False), ("decoder", False), ("all", True)):
        model = build(**same, tie_weights=tie, shared_vocabulary=shared)
        counts[tie] = sum(parameter.numel() for parameter in model.parameters())
        matrices = [
            model.encoder.inputs.embedding.weight,
            model.decoder.inputs.embedding.weight,
            model.head.linear.weight,
        ]
        assert (matrices[1] is matrices[2]) == (tie != "none")
        assert (matrices[0] is matrices[1]) == (tie == "all")
        model(model.encode(source()), target()).hidden.sum().backward()
        again = build(**same, tie_weights=tie, shared_vocabulary=shared)
        again.load_state_dict(model.state_dict())
    assert counts["decoder"] - counts["all"] == VT * E
    assert counts["none"] > counts["decoder"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tie_weights": "both"}, "one of none, decoder, all, got 'both'"),
        ({"tie_weights": "all"}, "needs one vocabulary .* data.joint=true"),
        (
            {
                "tie_weights": "all",
                "shared_vocabulary": True,
                "source": VT,
                "encoder": text_encoder(embedding_size=4),
            },
            "equal embedding sizes, got encoder 4 and decoder 6",
        ),
        ({"source": None}, "either source_vocabulary_size or picture_shape"),
        ({"source": None, "picture_shape": (3, 16, 16)}, "gives pictures.*model=captioner"),
        ({"encoder": partial(SmallCNN)}, "gives text.*model=translator"),
        (
            {"decoder": text_decoder(attention="dot", hidden_size=5)},
            "size 5 and a memory of size 8",
        ),
    ],
)
def test_mistakes_name_the_value_and_the_mend(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


# Scheduled sampling


@pytest.mark.parametrize("input_feeding", [False, True])
def test_scheduled_sampling_of_nothing_but_right_symbols_equals_plain(input_feeding) -> None:
    """The loop with a share just below 1 gives the values and gradients of the plain call."""
    results = []
    for share in (1.0, 1.0 - 1e-12):
        model = build(decoder=text_decoder(input_feeding=input_feeding))
        output = model(model.encode(source(), LENGTHS), target(), teacher_forcing=share)
        output.hidden.sin().sum().backward()
        results.append([*output, *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_scheduled_sampling_reads_the_models_own_symbols_and_never_pads() -> None:
    model, read = build(bos_id=1), []
    memory = model.encode(source(), LENGTHS)
    step = model.decoder.step
    model.decoder.step = lambda token, *rest: read.append(token) or step(token, *rest)

    def run(share: float, seed: int = 3):
        read.clear()
        model(memory, target(), share, torch.Generator().manual_seed(seed))
        return torch.stack(read, 1)

    own = run(0.0)
    assert torch.equal(own[:, 0], target()[:, 0])  # the first is always given
    assert not torch.equal(own, target()) and (own[:, 1:] > 1).all()
    assert torch.equal(run(0.0), own) and not torch.equal(run(0.0, seed=4), own)
    half = run(0.5)[:, 1:] == target()[:, 1:]
    assert half.any() and not half.all()
    output = model(memory, target(), 0.5)
    output.hidden.sum().backward()
    assert model.decoder.bridge.weight.grad.isfinite().all()


def test_scheduled_sampling_draws_from_the_models_distribution() -> None:
    model = build()
    with torch.no_grad():
        model.head.linear.weight.zero_()
        model.head.linear.bias.copy_(torch.linspace(-2, 2, VT))
    given = DecoderOutput(torch.zeros(20000, 8).double(), torch.zeros(20000, 0))
    drawn = model._say(given, model.encode(source()), torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=VT) / 20000
    expected = model.head.linear.bias.detach().clone()
    expected[:2] = -torch.inf
    torch.testing.assert_close(shares.double(), expected.softmax(0), atol=0.015, rtol=0)


def test_a_share_that_is_no_probability_is_refused() -> None:
    model = build()
    with pytest.raises(ValueError, match="probability, 0 to 1, got 1.5"):
        model(model.encode(source()), target(), teacher_forcing=1.5)


# Configs


def shipped(name: str) -> dict:
    """A model's YAML over those it is made from, and a cell; as Hydra composes them."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("config", overrides=[f"model={name}", "cell=gru"])
    return instantiate(config.model)


@pytest.mark.parametrize("name", ["captioner", "backbone_captioner", "show_and_tell"])
def test_shipped_captioners_describe_pictures(name) -> None:
    model = shipped(name)(picture_shape=(3, 64, 64), target_vocabulary_size=VT)
    output = model(model.encode(torch.rand(2, 3, 64, 64)), target()[:2])
    assert model.head.log_probs(output.hidden).shape == (2, T, VT)


@pytest.mark.parametrize("name", ["translator", "bahdanau"])
def test_shipped_translators_translate(name) -> None:
    model = shipped(name)(source_vocabulary_size=VS, target_vocabulary_size=VT)
    output = model(model.encode(source(), LENGTHS), target())
    assert model.head.log_probs(output.hidden).shape == (B, T, VT)
