"""The stems of English words: `playing` and `plays` are both `play`. Porter's second stemmer."""

from functools import cache

import snowballstemmer

_stemmer = snowballstemmer.stemmer("english")


@cache
def stem(word: str) -> str:
    """A lower-case word → its stem."""
    return str(_stemmer.stemWord(word))
