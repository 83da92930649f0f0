"""How text is cut into tokens: parts of Hugging Face `tokenizers`, from plain settings."""

from tokenizers import Regex
from tokenizers.normalizers import NFC, NFD, NFKC, NFKD, Lowercase, Normalizer, Prepend, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import (
    ByteLevel,
    Metaspace,
    PreTokenizer,
    Punctuation,
    Split,
    WhitespaceSplit,
)
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

from data.detokenise import UNSPACED

NORMALIZERS: dict[str, list[Normalizer]] = {
    "none": [], "nfc": [NFC()], "nfkc": [NFKC()], "nfd": [NFD()], "nfkd": [NFKD()],
}  # fmt: skip
_LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}_]&&[^{UNSPACED}]]"
_WORD = (
    r"\p{N}+(?:[.,:]\p{N}+)+"  # 3.5, 1,000, 20:30
    rf"|{_LETTER}(?:\.{_LETTER}(?!{_LETTER}))+\.?"  # p.m., U.S.
    rf"|{_LETTER}+(?:['’\-]{_LETTER}+)*(?:-(?=\s))?"  # don't, t-shirt, Hin- und Rückweg
    rf"|[{UNSPACED}]\p{{M}}*"  # one character of Chinese, Japanese, Thai
    r"|\.\.\.|\S"
)
# as the tokenizer of the Moses toolkit cuts English (Koehn et al. 2007): clitics apart, hyphens
# within words, a full stop apart but for initials, abbreviations and numbers
_TITLE = "Mr|Mrs|Ms|Dr|Prof|St|Gen|Col|Capt|Lt|Sgt|Rev|Sen|Rep|Gov|Jr|Sr|vs|etc|No|Nos|pp|Inc|Corp"
_MOSES = (
    rf"(?<!{_LETTER})(?:{_TITLE})\.(?=\s+\S)"
    rf"|(?<!{_LETTER})\p{{L}}\.(?=\s+\S)"  # J. Smith
    rf"|\p{{L}}(?:\.\p{{L}}(?!{_LETTER}))+\.?"  # U.S.
    rf"|{_LETTER}+(?:-{_LETTER}+|[.,](?=\p{{N}})(?<=\p{{N}}[.,])\p{{N}}+)*"  # 3.5-litre, 1,000
    rf"|(?<={_LETTER})['’]{_LETTER}+"  # doesn 't
    rf"|[{UNSPACED}]\p{{M}}*|\.{{2,}}|\S"
)
_PATTERNS = {"words": _WORD, "moses": _MOSES}
PRE_TOKENIZERS = ("words", "whitespace", "basic_english", "moses", "jieba")
# what torchtext's basic_english does to a line before it is split at white space
_BASIC_ENGLISH = [
    ("'", " ' "), ('"', ""), (".", " . "), ("<br />", " "), (",", " , "), ("(", " ( "),
    (")", " ) "), ("!", " ! "), ("?", " ? "), (";", " "), (":", " "),
]  # fmt: skip


def normalizer(
    name: str, *, lowercase: bool, basic_english: bool = False, subwords: bool = False
) -> Normalizers:
    """`basic_english`: the rewriting of torchtext's tokenizer of that name.

    `subwords`: a space in front, so that a word has the same pieces wherever it stands.
    """
    steps = list(NORMALIZERS[name])
    if lowercase or basic_english:
        # Python writes a sigma at a word's end ς, `tokenizers` does not look beyond one character
        steps += [Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"), Lowercase()]
    if basic_english:
        steps += [Replace(old, new) for old, new in _BASIC_ENGLISH]
        # separators that Python counts as white space and `tokenizers` does not
        steps.append(Replace(Regex(r"[\x1c-\x1f]"), " "))
    if subwords:
        steps.append(Prepend("▁"))  # Metaspace's own would leave it out where a text has one
    return Normalizers(steps)


def pre_tokenizer(kind: str, name: str) -> PreTokenizer:
    """The pieces within which (subwords) or between which (words, characters) text is cut."""
    if kind == "characters":
        return Split(Regex(r"[\s\S]"), "isolated")
    if kind == "bytes":
        plain = ByteLevel(add_prefix_space=False, use_regex=False)
        return PreTokenizers([plain, Split(Regex(r"[\s\S]"), "isolated")])
    if kind in ("bpe", "unigram"):
        # ▁ stands for the space before a word, so that decoding gives the text back exactly
        return PreTokenizers([Metaspace(prepend_scheme="never"), Punctuation("isolated")])
    if name in _PATTERNS:
        return Split(Regex(_PATTERNS[name]), "removed", invert=True)
    return WhitespaceSplit()
