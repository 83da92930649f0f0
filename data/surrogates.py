"""Halves of surrogate pairs, which JSON and Python may hold and UTF-8 (Arrow, files) may not."""

from typing import Any


def whole_text(text: str) -> str:
    """The same text, two halves joined that belong together, � for one that is alone."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def whole(value: Any) -> Any:
    """The same for all texts of a value of JSON."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    return value
