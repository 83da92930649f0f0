"""What decoding promises, with every cell of configs/cell in a model of each shape.

Scores are held to one pass over the whole text (`along`), which knows no steps and no states.
"""

import itertools
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from models.decoder import AttentionDecoder
from models.decoding import DecodingOptions, Hypotheses, ensemble, search
from models.decoding.constraints import Prefix, Required
from models.encoder_decoder import EncoderDecoder
from models.encoders.small_cnn import SmallCNN
from models.encoders.text import TextEncoder
from models.language_model import LanguageModel
from tests.models.test_cells import CELLS, factory

PAD, BOS, EOS, V, LONGEST = 0, 1, 2, 7, 6
ROWS = [0, 1, 2]
SEEDS = [11, 4, 9]
LENGTHS = torch.tensor([5, 2, 4])
SOURCE = torch.randint(2, V, (3, 5), generator=torch.Generator().manual_seed(1))
PICTURES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
PROMPTS = torch.randint(2, V, (3, 4), generator=torch.Generator().manual_seed(3))
FORCED = torch.tensor([[3, -1], [4, 5], [-1, -1]])
WORDS = [[[3, 4]], [[5]], []]


class Writer:
    """An encoder and a decoder, and three inputs of them."""

    eos_id: int | None = EOS

    def __init__(self, cell: Any, *, input_feeding: bool, **sizes: Any) -> None:
        decoder = partial(
            AttentionDecoder, cell=cell, embedding_size=6, hidden_size=8, num_layers=2,
            input_feeding=input_feeding,
        )  # fmt: skip
        self.model = EncoderDecoder(
            decoder=decoder, target_vocabulary_size=V, tie_weights="none", **sizes
        )

    def encode(self, rows: Sequence[int], pads: int) -> Any:
        """The memory of some inputs, with so many pads more than they need."""
        raise NotImplementedError

    def begin(self, rows: Sequence[int], pads: int = 0) -> tuple[Any, Any, Any]:
        """Step, state and context, as a search takes them."""
        memory = self.encode(rows, pads)

        def step(tokens: Tensor, state: Any, context: Any) -> tuple[Tensor, Any]:
            log_probs, _, after = self.model.step(tokens, state, context)
            return log_probs, after

        return step, self.model.initial_state(memory), memory

    def first(self, rows: Sequence[int]) -> Tensor:
        """The symbol before the first one (B,)."""
        return torch.full((len(rows),), BOS)

    def along(self, row: int, texts: Tensor) -> Tensor:
        """Texts (N, L) of one input → what is said to come at each place (N, L, V)."""
        memory = self.encode([row] * len(texts), 0)
        before = torch.cat([self.first([row] * len(texts))[:, None], texts[:, :-1]], dim=1)
        return self.model.head.log_probs(self.model(memory, before).hidden)


class Translator(Writer):
    def __init__(self, cell: Any) -> None:
        encoder = partial(TextEncoder, cell=cell, embedding_size=6, hidden_size=4)
        super().__init__(cell, input_feeding=True, encoder=encoder, source_vocabulary_size=V)

    def encode(self, rows: Sequence[int], pads: int) -> Any:
        lengths = LENGTHS[list(rows)]
        places = torch.arange(int(lengths.max()) + pads)
        source = torch.cat([SOURCE, SOURCE], dim=1)[list(rows)][:, : len(places)]
        return self.model.encode(source.masked_fill(places >= lengths[:, None], PAD), lengths)


class Captioner(Writer):
    def __init__(self, cell: Any) -> None:
        encoder = partial(SmallCNN, channels=[4, 8])
        super().__init__(cell, input_feeding=False, encoder=encoder, picture_shape=(3, 8, 8))

    def encode(self, rows: Sequence[int], pads: int) -> Any:
        return self.model.encode(PICTURES[list(rows)])


class Text:
    """A language model that goes on from three prompts, without an end."""

    eos_id: int | None = None

    def __init__(self, cell: Any) -> None:
        self.model = LanguageModel(
            vocabulary_size=V, keys=None, pad_id=PAD, unk_id=None, cell=cell, embedding_size=6,
            hidden_size=8, num_layers=2, tie_weights=False,
        )  # fmt: skip

    def begin(self, rows: Sequence[int], pads: int = 0) -> tuple[Any, Any, Any]:
        def step(tokens: Tensor, state: Any, context: Any) -> tuple[Tensor, Any]:
            hidden, after = self.model.step(tokens, state)
            return self.model.head.log_probs(hidden), after

        _, state = self.model(PROMPTS[list(rows), :-1])
        return step, state, ()

    def first(self, rows: Sequence[int]) -> Tensor:
        return PROMPTS[list(rows), -1]

    def along(self, row: int, texts: Tensor) -> Tensor:
        prompts = PROMPTS[row].expand(len(texts), -1)
        hidden, _ = self.model(torch.cat([prompts, texts], dim=1)[:, :-1])
        return self.model.head.log_probs(hidden[:, PROMPTS.size(1) - 1 :])


SHAPES: dict[str, Any] = {"translation": Translator, "captioning": Captioner, "text": Text}
every_cell = pytest.mark.parametrize("cell", [path.stem for path in CELLS])
# a captioner decodes as a translator does, without input feeding
MARKED = [pytest.param(name, marks=[pytest.mark.slow] * (name == "captioning")) for name in SHAPES]
every_shape = pytest.mark.parametrize("shape", MARKED)


@cache
def made(shape: str, cell: str, seed: int = 0) -> Any:
    """A model that is as sure of its symbols as a trained one."""
    torch.manual_seed(seed)
    built = SHAPES[shape](factory(cell))
    built.model.double().eval().requires_grad_(False)
    texts = torch.randint(2, V, (20, 6), generator=torch.Generator().manual_seed(4))
    layer = built.model.head.linear
    layer.weight.mul_(2.0 / built.along(0, texts).std())
    return built


def run(
    writers: Sequence[Any], options: DecodingOptions, rows: Sequence[int] = ROWS, *,
    pads: int = 0, longest: int = LONGEST, forced: Tensor | None = None, words: Any = None,
) -> Hypotheses:  # fmt: skip
    step, state, context = writers[0].begin(rows, pads)
    if len(writers) > 1:
        steps, states, contexts = zip(*(one.begin(rows, pads) for one in writers), strict=True)
        step, state, context = ensemble(steps), states, contexts
    return search(
        step, state, context, options=options, bos_id=writers[0].first(rows),
        eos_id=writers[0].eos_id, max_length=longest, seeds=[SEEDS[row] for row in rows],
        constraints=[] if forced is None else [Prefix(forced)],
        required=None if words is None else Required(words, EOS), forbidden=(PAD, BOS),
    )  # fmt: skip


def listed(found: Hypotheses, row: int) -> list[tuple[tuple[int, ...], float]]:
    """What was found for a row: symbols and score."""
    several = zip(*(part[row].tolist() for part in found), strict=True)
    return [(tuple(tokens[:length]), score) for tokens, length, score in several if length]


def assert_same(one: Sequence[Any], other: Sequence[Any]) -> None:
    assert [symbols for symbols, _ in one] == [symbols for symbols, _ in other]
    assert [score for _, score in one] == pytest.approx([score for _, score in other], abs=1e-5)


def means(writers: Sequence[Any], row: int, texts: Sequence[tuple[int, ...]]) -> list[float]:
    """The mean log-probability of each text's symbols, all steps at once."""
    padded = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, texts)), batch_first=True)
    said = torch.stack([one.along(row, padded).exp() for one in writers]).mean(0).log()
    gained = said.gather(2, padded[:, :, None]).squeeze(2)
    return [own[: len(text)].mean().item() for own, text in zip(gained, texts, strict=True)]


@every_shape
@every_cell
def test_one_beam_is_greedy_search_and_greedy_takes_the_likeliest(cell: str, shape: str) -> None:
    writer = made(shape, cell)
    greedy = run([writer], DecodingOptions(beam_size=1))
    beam = run([writer], DecodingOptions(beam_size=1), words=[[], [], []])  # a beam reads these
    for row in ROWS:
        assert_same(listed(greedy, row), listed(beam, row))
        ((symbols, _),) = listed(greedy, row)
        said = writer.along(row, torch.tensor([symbols]))[0]
        said[:, [PAD, BOS]] = -torch.inf
        assert tuple(said.argmax(-1).tolist()) == symbols


METHODS = [
    DecodingOptions(beam_size=3, n_best=3),
    DecodingOptions(beam_size=4, n_best=4, groups=2),
    DecodingOptions(method="sample", n_best=2),
    DecodingOptions(method="distinct", n_best=3),
]


@every_shape
@every_cell
def test_a_row_is_decoded_alike_alone_in_any_order_and_under_pads(cell: str, shape: str) -> None:
    """Drawn ones too: a row's numbers come from its own seed."""
    writer = made(shape, cell)
    for options in METHODS:
        together = run([writer], options)
        backwards = run([writer], options, ROWS[::-1], pads=3)
        for row in ROWS:
            assert_same(listed(together, row), listed(run([writer], options, [row]), 0))
            assert_same(listed(together, row), listed(backwards, 2 - row))
        drawn = options.method != "beam"
        assert not drawn or listed(together, 0) != listed(run([writer], options, [1]), 0)


@every_shape
@every_cell
def test_a_beam_as_wide_as_the_space_is_exhaustive_search(cell: str, shape: str) -> None:
    writer, longest = made(shape, cell), 3
    texts = [
        text
        for length in range(1, longest + 1)
        for text in itertools.product(range(2, V), repeat=length)
        if writer.eos_id not in text[:-1] and (text[-1] == writer.eos_id or length == longest)
    ]
    options = DecodingOptions(beam_size=len(texts), n_best=len(texts))
    found = listed(run([writer], options, [1], longest=longest), 0)
    every = dict(zip(texts, means([writer], 1, texts), strict=True))
    assert dict(found) == pytest.approx(every, abs=1e-5)
    # those that ended come first; a memoryless cell scores some of them alike
    ranks = [(text[-1] != writer.eos_id, -score) for text, score in found]
    assert ranks == sorted(ranks)
    first = run([writer], DecodingOptions(beam_size=len(texts)), [1], longest=longest)
    assert_same(listed(first, 0), found[:1])


WAYS = ["n_best", "ensemble", *(pytest.param(way, marks=pytest.mark.slow)
                                for way in ("groups", "sample", "prefix"))]  # fmt: skip


@every_shape
@every_cell
@pytest.mark.parametrize("way", WAYS)
def test_what_is_found_is_whole_and_scored_as_one_pass_scores_it(
    way: str, cell: str, shape: str
) -> None:
    writers, options = [made(shape, cell)], DecodingOptions(beam_size=4, n_best=4)
    if way == "groups":
        options = DecodingOptions(beam_size=4, n_best=4, groups=2, diversity=1.0)
    elif way == "sample":
        options = DecodingOptions(method="sample", n_best=4)
    elif way == "ensemble":
        writers.append(made(shape, cell, seed=1))
    found = run(writers, options, forced=FORCED if way == "prefix" else None)
    for row in ROWS:
        texts = whole(found, writers, row)
        assert way == "sample" or len(set(texts)) == len(texts)
        if way == "prefix":
            for text in texts:
                assert all(f in (-1, s) for f, s in zip(FORCED[row].tolist(), text, strict=False))


@pytest.mark.parametrize("shape", MARKED[:2])  # a text without an end may always go on
@every_cell
def test_the_best_has_the_required_words_and_so_has_all_that_ends(cell: str, shape: str) -> None:
    writer = made(shape, cell)
    found = run([writer], DecodingOptions(beam_size=6, n_best=2), words=WORDS, longest=8)
    for row in ROWS:
        for rank, text in enumerate(whole(found, [writer], row)):
            for word in WORDS[row]:
                windows = [list(text[i : i + len(word)]) for i in range(len(text))]
                assert word in windows or (rank > 0 and text[-1] != EOS)


def whole(found: Hypotheses, writers: Sequence[Any], row: int) -> list[tuple[int, ...]]:
    """A row's texts: of allowed symbols, ended or cut, and scored as the whole pass scores them."""
    several = listed(found, row)
    texts, scores = [text for text, _ in several], [score for _, score in several]
    assert texts and scores == pytest.approx(means(writers, row, texts), abs=1e-5)
    for text in texts:
        assert not {PAD, BOS} & set(text) and writers[0].eos_id not in text[:-1]
        assert text[-1] == writers[0].eos_id or len(text) == found.tokens.size(2)
    return texts
