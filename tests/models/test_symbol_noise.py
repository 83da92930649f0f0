"""Words that are hidden or replaced in training, on the source's and on the target's side."""

from functools import partial

import pytest
import torch

from models.cells.gru import GRU
from models.decoder import AttentionDecoder
from models.embedding import Inputs
from models.encoder_decoder import EncoderDecoder
from models.encoders.text import TextEncoder

V, E, B, T = 12, 5, 40, 500
PAD, UNK, BOS, EOS = range(4)
SHARE = 0.3
TOLERANCE = 5 * (SHARE * (1 - SHARE) / (B * T / 2)) ** 0.5  # five standard deviations


def symbols():
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))


def build(**noise) -> Inputs:
    torch.manual_seed(0)
    return Inputs(
        vocabulary_size=V, input_features=None, embedding_size=E, unk_id=UNK,
        kept_ids=(BOS, EOS), **noise,
    )  # fmt: skip


def read(inputs: Inputs, ids):
    """The symbols whose vectors came out."""
    return torch.cdist(inputs(ids), inputs.embedding.weight[None]).argmin(-1)


def test_word_dropout_hides_just_this_share_and_never_ends_and_pads() -> None:
    inputs, ids = build(word_dropout=SHARE), symbols()
    seen = read(inputs, ids)
    words = ids > EOS
    assert set(seen[seen != ids].tolist()) == {UNK}
    assert torch.equal(seen[~words], ids[~words])
    assert abs((seen != ids)[words].float().mean() - SHARE) < TOLERANCE
    assert torch.equal(read(inputs.eval(), ids), ids)


def test_word_replacement_draws_every_word_alike_and_no_special_symbol() -> None:
    inputs, ids = build(word_replacement=SHARE), symbols()
    seen = read(inputs, ids)
    ends = (ids == PAD) | (ids == BOS) | (ids == EOS)
    assert torch.equal(seen[ends], ids[ends])
    drawn = seen[(seen != ids) & (ids == UNK)]  # of those every word differs
    counts = torch.bincount(drawn, minlength=V)
    assert counts[: EOS + 1].sum() == 0
    expected = (ids == UNK).sum() * SHARE / (V - 4)
    assert ((counts[EOS + 1 :] - expected).abs() < 5 * expected**0.5).all()
    assert torch.equal(read(inputs.eval(), ids), ids)


def test_replaced_words_may_be_hidden_as_well() -> None:
    inputs, ids = build(word_replacement=0.5, word_dropout=0.5), torch.full((B, T), 7)
    seen = read(inputs, ids)
    kept = (seen == 7).float().mean()
    assert abs((seen == UNK).float().mean() - 0.5) < 0.03
    assert abs(kept - 0.5 * (0.5 + 0.5 / (V - 4))) < 0.03


def model(*, source=None, target=None, **options) -> EncoderDecoder:
    torch.manual_seed(0)
    sizes = {"cell": GRU, "embedding_size": E}
    return EncoderDecoder(
        encoder=partial(TextEncoder, hidden_size=3, **sizes, **(source or {})),
        decoder=partial(AttentionDecoder, hidden_size=6, **sizes, **(target or {})),
        source_vocabulary_size=V, target_vocabulary_size=V, bos_id=BOS, eos_id=EOS, unk_id=UNK,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("noise", ["word_dropout", "word_replacement"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_each_side_has_its_own_share_and_evaluation_has_none(side, noise) -> None:
    plain, noisy = model(), model(**{side: {noise: 0.5}})
    ids = torch.randint(4, V, (3, 6), generator=torch.Generator().manual_seed(2))
    changed = []
    for one in (plain, noisy):
        memory = one.encode(ids, torch.full((3,), 6))
        torch.manual_seed(1)
        changed.append((memory.values, one(memory, ids).hidden))
    assert torch.equal(changed[0][0], changed[1][0]) == (side == "target")
    assert not torch.equal(changed[0][1], changed[1][1])
    for one in (plain.eval(), noisy.eval()):
        memory = one.encode(ids, torch.full((3,), 6))
        changed.append((memory.values, one(memory, ids).hidden))
    torch.testing.assert_close(changed[2], changed[3], rtol=0, atol=0)
    assert plain.state_dict().keys() == noisy.state_dict().keys()


def test_label_smoothing_spreads_its_share_over_the_whole_vocabulary() -> None:
    one = model(label_smoothing=0.1)
    ids = torch.randint(4, V, (3, 6), generator=torch.Generator().manual_seed(2))
    hidden, right = one(one.encode(ids, torch.full((3,), 6)), ids[:, :-1]).hidden, ids[:, 1:]
    log_probs = one.head.log_probs(hidden)
    wanted = torch.full_like(log_probs, 0.1 / V)
    wanted.scatter_add_(2, right[:, :, None], torch.full((*right.shape, 1), 0.9))
    loss, count = one.head.loss(hidden, right)
    assert count == right.numel()
    torch.testing.assert_close(loss, -(wanted * log_probs).sum())
    loss, _ = one.eval().head.loss(hidden, right)  # what is measured is a likelihood
    torch.testing.assert_close(loss, -log_probs.gather(2, right[:, :, None]).sum())


def test_mistakes_name_the_value_and_the_mend() -> None:
    with pytest.raises(ValueError, match="word_replacement is a probability"):
        build(word_replacement=1.0)
    with pytest.raises(ValueError, match=r"word_replacement 0.2: .*set word_replacement=0"):
        Inputs(vocabulary_size=1, input_features=None, embedding_size=2, word_replacement=0.2)
