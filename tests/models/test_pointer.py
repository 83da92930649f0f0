"""Copying: the mixture's equation, its loss, searches over it, and what it is good for."""

from functools import partial

import pytest
import torch

from models.cells.gru import GRU
from models.decoder import AttentionDecoder
from models.decoding import beam_search, ensemble
from models.encoder_decoder import EncoderDecoder
from models.encoders.text import TextEncoder

V, B, S, T = 11, 3, 5, 4
PAD, UNK, BOS, EOS = range(4)
LENGTHS = torch.tensor([5, 3, 2])
every_kind = pytest.mark.parametrize("attention", ["additive", "general", "dot"])
every_way = pytest.mark.parametrize(
    "options", [{}, {"input_feeding": True}, {"coverage": True, "input_feeding": True},
                {"heads": 2}, {"heads": 2, "coverage": True}],
    ids=["plain", "fed", "covered-fed", "heads", "heads-covered"],
)  # fmt: skip


def build(*, vocabulary: int = V, size: int = 8, **options) -> EncoderDecoder:
    torch.manual_seed(0)
    of_decoder = {"attention": "additive", "input_feeding": False, "coverage": False, "heads": 1}
    given = {name: options.pop(name, value) for name, value in of_decoder.items()}
    same = {"cell": GRU, "embedding_size": size}
    options = {"copy": True, "shared_vocabulary": True} | options
    return EncoderDecoder(
        encoder=partial(TextEncoder, hidden_size=size // 2, **same),
        decoder=partial(AttentionDecoder, hidden_size=size, **same, **given),
        source_vocabulary_size=vocabulary, target_vocabulary_size=vocabulary, bos_id=BOS,
        eos_id=EOS, unk_id=UNK, **options,
    )  # fmt: skip


def source():
    return torch.tensor([[5, 6, 5, 7, EOS], [8, 9, EOS, PAD, PAD], [UNK, EOS, PAD, PAD, PAD]])


def target():
    return torch.randint(4, V, (B, T), generator=torch.Generator().manual_seed(2))


@every_kind
@every_way
def test_a_symbol_is_generated_or_copied_from_where_it_stands(attention, options) -> None:
    model = build(attention=attention, **options).double()
    memory = model.encode(source(), LENGTHS)
    output = model(memory, target())
    found = model.log_probs(output, memory).exp()
    torch.testing.assert_close(found.sum(-1), torch.ones(B, T).double())
    head = model.head.log_probs(output.hidden).exp()
    gate = model.output.generate(output.hidden).sigmoid()
    for row in range(B):
        for step in range(T):
            wanted = gate[row, step] * head[row, step]
            for place in range(LENGTHS[row]):
                wanted[source()[row, place]] += (1 - gate[row, step, 0]) * output.attention[
                    row, step, place
                ]
            torch.testing.assert_close(found[row, step], wanted)


def test_the_loss_is_of_the_mixture_and_so_is_label_smoothing() -> None:
    mask = torch.arange(T) < torch.tensor([[4], [2], [0]])
    for smoothing in (0.0, 0.1):
        model = build(label_smoothing=smoothing).double()
        memory = model.encode(source(), LENGTHS)
        output, right = model(memory, target()), target()
        log_probs = model.log_probs(output, memory)
        wanted = torch.full_like(log_probs, smoothing / V)
        wanted.scatter_add_(2, right[..., None], torch.full_like(wanted[..., :1], 1 - smoothing))
        loss, count = model.loss(output, memory, right, mask)
        plain = -(wanted * log_probs).sum(-1)[mask].sum()
        torch.testing.assert_close(loss, plain)
        assert count == 6
        learnt = list(model.parameters())
        torch.testing.assert_close(
            torch.autograd.grad(loss, learnt, retain_graph=True, allow_unused=True),
            torch.autograd.grad(plain, learnt, retain_graph=True, allow_unused=True),
        )
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert model.output.generate.weight.grad.any()
        model.eval()
        right = right.masked_fill(~mask, 0)
        loss, _ = model.loss(model(memory, target()), memory, right, mask)
        each = log_probs.gather(2, right[..., None]).squeeze(2)
        torch.testing.assert_close(loss, -each[mask].sum())


def test_of_two_vocabularies_what_both_have_is_copied() -> None:
    copies = [PAD, UNK, BOS, EOS, UNK, 9, UNK, 4, UNK, UNK, 5]
    model = build(shared_vocabulary=False, copies=copies).double()
    memory = model.encode(source(), LENGTHS)
    assert memory.symbols[0].tolist() == [9, UNK, 9, 4, EOS]
    assert memory.symbols[2, 0] == UNK
    found = model.log_probs(model(memory, target()), memory).exp()
    torch.testing.assert_close(found.sum(-1), torch.ones(B, T).double())
    assert "output.copies" not in model.state_dict()  # the vocabularies tell


@every_way
def test_beam_search_finds_what_the_mixture_says(options) -> None:
    model = build(**options).double().eval()
    torch.nn.init.normal_(model.head.linear.weight)

    def step(token, state, context):
        log_probs, _, state = model.step(token, state, context)
        return log_probs, state

    with torch.no_grad():
        read = model.encode(source(), LENGTHS)
        start = model.initial_state(read)
        settings = {"bos_id": BOS, "eos_id": EOS, "beam_size": 4, "n_best": 3, "max_length": 6}
        found = beam_search(step, start, read, **settings, length_penalty=0.0)
        for place in range(3):
            written = found.tokens[:, place]
            before = torch.cat([torch.full((B, 1), BOS), written[:, :-1]], 1)
            each = model.log_probs(model(read, before), read)
            each = each.gather(2, written[:, :, None]).squeeze(2)
            real = torch.arange(written.size(1)) < found.lengths[:, place, None]
            total = each.masked_fill(~real, 0.0).sum(1).float()
            torch.testing.assert_close(total, found.scores[:, place], atol=1e-4, rtol=1e-4)
        twice = beam_search(ensemble([step, step]), (start, start), (read, read), **settings,
                            length_penalty=0.0)  # fmt: skip
        assert torch.equal(twice.tokens, found.tokens)


def test_scheduled_sampling_reads_what_was_copied() -> None:
    model = build()
    with torch.no_grad():
        model.output.generate.weight.zero_()
        model.output.generate.bias.fill_(-50.0)  # nothing but copies
    read, step = [], model.decoder.step
    model.decoder.step = lambda token, *rest: read.append(token) or step(token, *rest)
    model(model.encode(source(), LENGTHS), target(), teacher_forcing=0.0)
    for row in range(B):
        assert {int(token[row]) for token in read[1:]} <= set(source()[row].tolist())


def test_words_never_seen_in_training_are_copied() -> None:
    """Three words become the same three. Of 400 words, training has one half and the test the
    other; a network without a pointer has no chance with those.
    """
    words, steps = 400, 120
    right = {}
    for copy in (True, False):
        model = build(vocabulary=words, size=32, copy=copy, tie_weights="all")
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(1)

        def batch(low: int, high: int, rows: int, generator=generator):
            drawn = torch.randint(low, high, (rows, 3), generator=generator)
            ends = torch.full((rows, 1), EOS)
            text = torch.cat([drawn, ends], 1)
            return text, torch.cat([torch.full((rows, 1), BOS), text], 1)

        for _ in range(steps):
            text, answer = batch(4, words // 2, 32)
            memory = model.encode(text, torch.full((32,), 4))
            output = model(memory, answer[:, :-1])
            mask = torch.ones_like(text, dtype=torch.bool)
            loss, count = model.loss(output, memory, answer[:, 1:], mask)
            optimizer.zero_grad()
            (loss / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.eval()
        with torch.no_grad():
            text, answer = batch(words // 2, words, 200)
            memory = model.encode(text, torch.full((200,), 4))
            said = model.log_probs(model(memory, answer[:, :-1]), memory).argmax(-1)
        right[copy] = (said == text)[:, :3].float().mean().item()
    assert right[True] > 0.9 and right[False] < 0.05, right


@pytest.mark.parametrize(("options", "message"), [
    ({"shared_vocabulary": False}, r"one vocabulary .*data.joint=true.* or `copies`"),
    ({"attention": "none"}, "copy=false or decoder.attention=additive"),
])  # fmt: skip
def test_mistakes_name_the_value_and_the_mend(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
