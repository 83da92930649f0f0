"""Words back to running text, so that BLEU against raw references is fair."""

import re

# scripts written without spaces between words; one character each is a token
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u2014\u2026\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff65"  # CJK, its punctuation
    "\U00020000-\U0003ffff]"
)
_JOINS_LEFT = re.compile(r"[.,!?;:%)\]}»”…°。，！？；：、）》”]+|\.\.\.|n't|['’]\w{1,2}")
_JOINS_RIGHT = re.compile(r"[(\[{«¿¡$£#]")
_OPENERS = {'"', "'", "“", "„"}


def detokenise(tokens: list[str]) -> str:
    """["ein", "mann", ",", "der"] → "ein mann, der"; Chinese is joined without spaces."""
    pieces: list[str] = []
    glue = True  # whether the next token follows without a space
    opened: set[str] = set()
    previous = ""
    for token in tokens:
        # a quotation mark that looks the same on both sides closes where one is open
        mark = "„" if token == "“" and "„" in opened else token
        closes = mark in opened or (token == "'" and previous.endswith("s"))  # travellers'
        opens = token in _OPENERS and not closes
        if not (glue or closes or _JOINS_LEFT.fullmatch(token) or _unspaced(previous, token)):
            pieces.append(" ")
        pieces.append(token)
        glue = opens or bool(_JOINS_RIGHT.fullmatch(token))
        opened = opened - {mark} if closes else opened | {token} if opens else opened
        previous = token
    return "".join(pieces)


def _unspaced(before: str, after: str) -> bool:
    """Whether one of two neighbours belongs to a script that has no spaces."""
    return bool(before and after) and bool(_UNSPACED.match(before[-1]) or _UNSPACED.match(after[0]))
