"""A tokenizer.json that somebody else trained, with this project's special symbols in front."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data.specials import SPECIALS

MOST_BYTES = 256 * 1024**2  # ten times what the largest vocabularies in use need

MOST_NUMBERS = 10_000_000  # ten times the largest vocabularies in use

# what others call our special symbols, the likeliest name first
_NAMES = {
    "<pad>": ("<pad>", "[PAD]", "<PAD>", "<|pad|>", "<|padding|>", "<blank>"),
    "<unk>": ("<unk>", "[UNK]", "<UNK>", "<|unk|>"),
    "<bos>": ("<bos>", "<s>", "[BOS]", "<BOS>", "[CLS]", "<sos>", "<start>", "<|begin_of_text|>",
              "<|startoftext|>"),
    "<eos>": ("<eos>", "</s>", "[EOS]", "<EOS>", "[SEP]", "<end>", "<|endoftext|>",
              "<|end_of_text|>"),
}  # fmt: skip


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a file, which looks for no special symbol in a text.

    ValueError where there is no such file, or no tokenizer in it, or one without an unknown symbol
    that needs one.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"tokenizer.file={path} does not exist: give a tokenizer.json")
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(
            f"tokenizer.file={path} has {file.stat().st_size:,} bytes: no vocabulary of at most "
            f"{MOST_BYTES:,} is in it"
        )
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        # what is cut, filled up and put around a text is the data's matter here
        plain |= {"truncation": None, "padding": None, "post_processor": None}
        added = plain.get("added_tokens") or []
        plain["added_tokens"] = [token for token in added if not token.get("special")]
        tokenizer = Tokenizer.from_str(json.dumps(plain))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"tokenizer.file={path} is no tokenizer.json of Hugging Face tokenizers: {error}"
        ) from error
    except Exception as error:  # what the library itself raises is no more than an Exception
        raise ValueError(f"tokenizer.file={path} cannot be loaded: {error}") from error
    check_numbers(tokenizer, f"tokenizer.file={path}")
    try:
        tokenizer.encode("a \U0010fffd\u0378 z")
    except Exception as error:
        raise ValueError(
            f"tokenizer.file={path} cannot encode a text with an unknown symbol ({error}): its "
            "model needs an unk_token that is in its vocabulary"
        ) from error
    return tokenizer


def check_numbers(tokenizer: Tokenizer, where: str) -> None:
    """ValueError where symbols share a number, or where one is so large that a table of all of them
    would fill the memory.
    """
    numbers = Counter(tokenizer.get_vocab(with_added_tokens=True).values())
    if (largest := max(numbers, default=0)) > MOST_NUMBERS:
        raise ValueError(
            f"{where} gives a symbol the number {largest:,}: {MOST_NUMBERS:,} at most can be read"
        )
    if twice := [number for number, count in numbers.items() if count > 1]:
        # the library reads such a file, and writes one that it does not read any more
        raise ValueError(
            f"{where} gives several symbols the number {min(twice)}: each needs its own"
        )


def content(path: str) -> str | None:
    """A hash of a file, None where there is none (a restored run does not need it)."""
    file = Path(path).expanduser()
    if not file.is_file():
        return None
    return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()


def our_symbols(tokenizer: Tokenizer) -> tuple[list[str], np.ndarray]:
    """The symbols of a tokenizer behind our special ones, and its ids → places among them.

    A special symbol of its own takes the place of ours whose part it plays, by its name; a
    `[CLS]` is our <bos>, an `<|endoftext|>` our <eos>. The others keep their order.
    """
    check_numbers(tokenizer, "a tokenizer")
    table = tokenizer.get_vocab(with_added_tokens=True)
    unknown = getattr(tokenizer.model, "unk_token", None)
    if unknown is None:
        number = json.loads(tokenizer.to_str())["model"].get("unk_id")
        unknown = None if number is None else tokenizer.id_to_token(number)
    places: dict[str, int] = {} if unknown is None else {unknown: SPECIALS.index("<unk>")}
    for place, name in enumerate(SPECIALS):
        found = next((n for n in _NAMES[name] for n in (n, f"{n}▁") if n in table), None)
        if found is not None and place not in places.values():
            places.setdefault(found, place)
    symbols = list(SPECIALS)
    ours = np.full(max(table.values(), default=-1) + 1, SPECIALS.index("<unk>"), np.int32)
    for symbol, number in sorted(table.items(), key=lambda item: item[1]):
        if symbol in places:
            ours[number] = places[symbol]
        else:
            ours[number] = len(symbols)
            symbols.append(symbol)
    return symbols, ours
