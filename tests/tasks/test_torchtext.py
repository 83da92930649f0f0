"""People who come from torchtext get the same tokens, vocabularies, n-grams and BLEU."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from data.codec import TokenizerSettings
from tasks.token_bleu import ngrams, token_bleu

PAGE = Path(__file__).parent.parent.parent / "docs" / "from-torchtext.md"
EXACT = {"pre_tokenizer": "basic_english", "normalizer": "none"}
REPLACED = [
    ("'", " '  "), ('"', ""), (r"\.", " . "), ("<br />", " "), (",", " , "), (r"\(", " ( "),
    (r"\)", " ) "), ("!", " ! "), (r"\?", " ? "), (";", " "), (":", " "), (r"\s+", " "),
]  # fmt: skip


@pytest.fixture(scope="module")
def golden() -> Any:
    folder = os.environ.get("UNROLL_DATA")
    path = Path(folder or ".") / "golden" / "torchtext_0.18.json"
    if folder is None or not path.exists():
        pytest.skip("torchtext's recorded answers: set UNROLL_DATA to the folder of real data")
    return json.loads(path.read_text(encoding="utf-8"))


def cut(text: str) -> list[str]:
    codec = TokenizerSettings(**EXACT).train([text])
    return codec.tokens(codec.encode(text))


def test_tokens_are_torchtexts(golden: Any) -> None:
    for text, tokens in golden["basic_english"]:
        assert cut(text) == tokens, text


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.text(max_size=30), st.text("aA'\".,()!?;:<br/> \t\n\x1c\x85\xa0İΣßé", max_size=30))
)
def test_tokens_are_those_of_its_rules_on_any_text(text: str) -> None:
    told = text.lower()
    for pattern, new in REPLACED:
        told = re.sub(pattern, new, told)
    # a sigma between marks that are no letters: Python looks past some of them
    if "Σ" not in text:
        assert cut(text) == told.split()


@pytest.mark.parametrize("case", ["vocab", "vocab_max_tokens"])
def test_vocabularies_are_torchtexts(golden: Any, case: str) -> None:
    told = golden[case]
    folder = str(Path(os.environ["UNROLL_DATA"], "multi30k"))
    texts = list(load_dataset(folder, split="train[:3000]")["en"])
    words = told["itos"][len(told["specials"]) :]
    size = None if "max_tokens" not in told else told["max_tokens"] - len(told["specials"]) + 4
    codec = TokenizerSettings(min_frequency=told["min_freq"], vocab_size=size, **EXACT).train(texts)
    assert codec.symbols[4:] == words
    assert told["itos"][: len(told["specials"])] == told["specials"]
    # the same number for the same word, but for the special symbols in front
    shift = 4 - len(told["specials"])
    sample = words[:: max(1, len(words) // 50)]
    assert codec.encode_tokens(sample) == [told["itos"].index(word) + shift for word in sample]


def test_the_order_of_a_vocabulary_by_hand() -> None:
    texts = ["b a C c", "c B é z", "<unk> c"]  # c 4 (C too), b 2, then alphabetical by code point
    codec = TokenizerSettings(min_frequency=1, **EXACT).train(texts)
    assert codec.symbols == ["<pad>", "<unk>", "<bos>", "<eos>", "c", "b", "a", "z", "é"]
    assert TokenizerSettings(min_frequency=2, **EXACT).train(texts).symbols[4:] == ["c", "b"]
    assert TokenizerSettings(vocab_size=7, **EXACT).train(texts).symbols[4:] == ["c", "b", "a"]


def test_ngrams_are_torchtexts(golden: Any) -> None:
    for tokens, most, found in golden["ngrams_iterator"]:
        assert ngrams(tokens, most) == found
    assert ngrams(["a"], 3) == ["a"] and ngrams([], 2) == []


@pytest.mark.parametrize("order", [4, 2])
def test_bleu_is_torchtexts(golden: Any, order: int) -> None:
    for case in golden["bleu_score"]:
        found = token_bleu(case["candidates"], case["references"], max_n=order)
        assert found == pytest.approx(case[f"bleu{order}"], abs=1e-6)


def test_bleu_by_hand() -> None:
    candidate = "the cat sat on the mat".split()
    near = "the cat is on the mat".split()
    # 5 of 6 words, 3 of 5 pairs
    assert token_bleu([candidate], [[near]], max_n=2) == pytest.approx(math.sqrt(5 / 6 * 3 / 5))
    assert token_bleu([candidate], [[near]], max_n=4) == 0  # no run of four is right
    assert token_bleu([candidate], [[near]], max_n=2, weights=[1, 0]) == pytest.approx(5 / 6)
    # "the" counts only as often as a reference has it
    assert token_bleu([["the"] * 4], [[["the", "cat", "the", "dog"]]], max_n=1) == 0.5
    # three words against four: the brevity penalty
    short = token_bleu([["a", "b", "c"]], [[["a", "b", "c", "d"]]], max_n=1)
    assert short == pytest.approx(math.exp(1 - 4 / 3))
    # two references equally near: the first one's length counts
    pair = [["a"] * 4, ["a"] * 2]
    assert token_bleu([["a"] * 3], [pair], max_n=1) == pytest.approx(math.exp(1 - 4 / 3))
    assert token_bleu([["a"] * 3], [pair[::-1]], max_n=1) == 1
    assert token_bleu([[]], [[["a"]]], max_n=1) == 0
    with pytest.raises(ValueError, match="1 candidates, but 2 lists"):
        token_bleu([["a"]], [[["a"]], [["a"]]])
    with pytest.raises(ValueError, match="max_n=2 needs as many weights, got 1"):
        token_bleu([["a"]], [[["a"]]], max_n=2, weights=[1])


SENTENCE = st.lists(st.sampled_from("abcd"), min_size=4, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=6))
def test_bleu_is_sacrebleus_where_there_is_one_reference(pairs: list) -> None:
    metric = sacrebleu.BLEU(tokenize="none", smooth_method="none", force=True)
    candidates, references = zip(*pairs, strict=True)
    theirs = metric.corpus_score(
        [" ".join(c) for c in candidates], [[" ".join(r) for r in references]]
    )
    ours = token_bleu(candidates, [[r] for r in references])
    assert ours == pytest.approx(theirs.score / 100, abs=1e-9)


def test_the_page_for_its_users_runs_as_it_stands() -> None:
    text = PAGE.read_text("utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S))
    assert len(blocks) >= 6
    names: dict[str, Any] = {}
    for block in blocks:
        above = "\n" * text.count("\n", 0, block.start(1))  # an error then names the page's line
        exec(compile(above + block[1], str(PAGE), "exec"), names)


def test_the_page_names_data_and_tokenizers_that_exist() -> None:
    text = re.sub(r"^```python.*?^```$", "", PAGE.read_text("utf-8"), flags=re.M | re.S)
    for group in ("data", "tokenizer", "task"):
        named = set(re.findall(rf"\b{group}=(\w+)", text))
        there = {file.stem for file in (PAGE.parent.parent / "configs" / group).glob("*.yaml")}
        assert named and named <= there
