"""Chinese text: simplified or traditional characters, and cut into words."""

import logging
import tempfile
import warnings
from functools import cache
from typing import Any

# OpenCC's names of its conversions
CONVERSIONS = {"keep": None, "simplified": "t2s", "traditional": "s2t"}


def converted(text: str, form: str) -> str:
    """Chinese characters in one `form`: keep (as they are), simplified or traditional.

    ValueError where OpenCC is not installed.
    """
    conversion = CONVERSIONS[form]
    # without a character of the Chinese blocks there is nothing to convert
    if conversion is None or text.isascii():
        return text
    return _converter(conversion).convert(text)  # type: ignore[no-any-return]


def words(text: str) -> list[str]:
    """Chinese text → words, and the white space between them, as jieba cuts it: they add up to it.

    ValueError where jieba is not installed.
    """
    return _jieba().lcut(text)  # type: ignore[no-any-return]


@cache
def _converter(conversion: str) -> Any:
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise ValueError(
            "tokenizer.chinese needs the package opencc, which is not installed: install the "
            "extra `zh` (pip install '.[zh]'), or set tokenizer.chinese=keep"
        ) from error
    return OpenCC(conversion)


@cache
def _jieba() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its source is older than Python's newest rules
            import jieba
    except ImportError as error:
        raise ValueError(
            "tokenizer.pre_tokenizer=jieba needs the package jieba, which is not installed: "
            "install the extra `zh` (pip install '.[zh]'), or use tokenizer=characters or bpe"
        ) from error
    jieba.setLogLevel(logging.WARNING)
    # a cutter of its own: words that somebody else adds to jieba's do not change this one
    cutter = jieba.Tokenizer()
    cutter.tmp_dir = tempfile.gettempdir()
    cutter.initialize()
    return cutter
