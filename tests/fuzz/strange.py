"""Texts and values that data of the world holds, and nobody thinks of."""

import math
from typing import Any

from hypothesis import strategies as st

PIECES = (
    "", " ", "  ", "\t", "\n", "\r\n", "\x00", "\x1c", "\x85", "\xa0", "\u2028", "\u2029",
    "\ufeff", "\u200b", "\u200d", "\u202e", "\u2066", "�", "\uffff", "\U0010ffff", "\ue000",
    "\ud800", "\udfff", "\udc80\ud83d", "é", "́́", "Z̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴̴",
    "ﬁ", "İ", "ß", "Σας", "שלום", "مرحبا", "العربية ١٢٣", "हिन्दी", "ไทย", "春眠不觉晓", "，。",
    "ハン", "한국어", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "🇩🇪", "𝒜𝔅",
    "𠀀", "▁", "▁▁", "<pad>", "<unk>", "<bos>", "<eos>", "<eos> <eos>", "</s>", "[CLS]", "NA",
    "null", "nan", "0", "-1", "1e999", "007", "\"", "\"\"", "'", "\\", "\\n", "<br />", ",",
    ";", "a\tb", "${x}", "don't", "a b", "good film", "the the the", "A.B.C.", "3.5", "1,000",
    "--", "...", "%s%n", "\x7f",
)  # fmt: skip

# every plane, and halves of surrogate pairs as well
_any = st.text(st.characters(exclude_categories=()), max_size=12)
_several = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5)
_long = st.builds(
    lambda piece, times: piece * (times // max(1, len(piece))),
    st.sampled_from([piece for piece in PIECES if piece]),
    st.sampled_from([300, 300, 300, 1000, 5000, 100_000]),
)  # fmt: skip


def texts(*, long: bool = True) -> st.SearchStrategy[str]:
    """Any text: of every plane, of known trouble, mixed; some very long."""
    usual = [st.sampled_from(PIECES), _any, _several.map("".join), _several.map(" ".join)]
    return st.one_of(*(4 * usual), *([_long] if long else []))


NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 21, 88, 108, 127, 2**31, 2**63 - 1, -(2**63), 2**64, 10**30, 0.0, -0.0, 0.5, 2.0,
    1e-320, 1e308, -1e308, math.inf, -math.inf, math.nan, True, False,
)  # fmt: skip

_leaf = st.one_of(st.none(), st.sampled_from(NUMBERS), st.sampled_from(PIECES))

# what stands in JSON where something else is expected
values: st.SearchStrategy[Any] = st.recursive(
    _leaf,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "text"]), inner)
    ),
    max_leaves=5,
)
