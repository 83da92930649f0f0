"""How text is cut into tokens: parts of Hugging Face `tokenizers`, from plain settings."""

from tokenizers import Regex
from tokenizers.normalizers import NFC, NFKC, Lowercase, Normalizer, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Metaspace, PreTokenizer, Punctuation, Split, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

from data.detokenise import UNSPACED

NORMALIZERS: dict[str, list[Normalizer]] = {"none": [], "nfc": [NFC()], "nfkc": [NFKC()]}
_LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}_]&&[^{UNSPACED}]]"
_WORD = (
    r"\p{N}+(?:[.,:]\p{N}+)+"  # 3.5, 1,000, 20:30
    rf"|{_LETTER}(?:\.{_LETTER}(?!{_LETTER}))+\.?"  # p.m., U.S.
    rf"|{_LETTER}+(?:['’\-]{_LETTER}+)*(?:-(?=\s))?"  # don't, t-shirt, Hin- und Rückweg
    rf"|[{UNSPACED}]\p{{M}}*"  # one character of Chinese, Japanese, Thai
    r"|\.\.\.|\S"
)
# what torchtext's basic_english does to a line before it is split at white space
_BASIC_ENGLISH = [
    ("'", " ' "), ('"', ""), (".", " . "), ("<br />", " "), (",", " , "), ("(", " ( "),
    (")", " ) "), ("!", " ! "), ("?", " ? "), (";", " "), (":", " "),
]  # fmt: skip


def normalizer(name: str, *, lowercase: bool, basic_english: bool) -> Normalizers:
    """`basic_english`: the rewriting of torchtext's tokenizer of that name."""
    steps = list(NORMALIZERS[name])
    if lowercase or basic_english:
        steps.append(Lowercase())
    if basic_english:
        steps += [Replace(old, new) for old, new in _BASIC_ENGLISH]
        # separators that Python counts as white space and `tokenizers` does not
        steps.append(Replace(Regex(r"[\x1c-\x1f]"), " "))
    return Normalizers(steps)


def pre_tokenizer(kind: str, name: str) -> PreTokenizer:
    """The pieces within which (`bpe`) or between which (`words`, `characters`) text is cut."""
    if kind == "characters":
        return Split(Regex(r"[\s\S]"), "isolated")
    if kind == "bpe":
        # ▁ stands for the space before a word, so that decoding gives the text back exactly
        return PreTokenizers([Metaspace(prepend_scheme="always"), Punctuation("isolated")])
    if name == "words":
        return Split(Regex(_WORD), "removed", invert=True)
    return WhitespaceSplit()
