"""Pretrained word vectors: GloVe's and word2vec's text format, plain or gzip."""

import gzip
from pathlib import Path
from typing import TextIO

import torch

from data.codec import TextCodec
from models.embedding import Inputs


def read_vectors(path: str, codec: TextCodec | None, inputs: Inputs) -> float:
    """Copy the vectors of known words into an embedding → the share of the vocabulary found.

    A line is a word and its numbers, split by spaces; word2vec's first line (count, width) is
    passed over. A word that is not there is looked up in lower case.
    """
    file = Path(path).expanduser()
    if codec is None or inputs.embedding is None:
        raise ValueError(f"task.vectors={path}: this data has no words, so no word has a vector")
    if not file.is_file():
        raise ValueError(f"task.vectors={path} does not exist")
    width = inputs.output_size
    wanted: dict[str, list[int]] = {}
    for i, symbol in enumerate(codec.symbols):
        wanted.setdefault(symbol, []).append(i)
    lowered: dict[str, list[int]] = {}
    for i, symbol in enumerate(codec.symbols):
        if symbol.lower() != symbol:
            lowered.setdefault(symbol.lower(), []).append(i)
    matrix = torch.zeros(len(codec.symbols), width)
    exact = torch.zeros(len(codec.symbols), dtype=torch.bool)
    known = torch.zeros(len(codec.symbols), dtype=torch.bool)
    try:
        with _open(file) as lines:
            for number, line in enumerate(lines, 1):
                word, _, numbers = line.rstrip().partition(" ")
                if number == 1 and len(numbers.split()) == 1 and word.isdigit():
                    continue
                rows = wanted.get(word, [])
                more = lowered.get(word, [])
                if number > 2 and not rows and not more:
                    continue
                vector = _numbers(numbers, path, number)
                if len(vector) != width:
                    raise ValueError(
                        f"task.vectors={path}: line {number} holds {len(vector)} numbers, but "
                        f"model.embedding_size is {width}; set model.embedding_size={len(vector)}"
                    )
                values = torch.tensor(vector)
                for row in rows:
                    matrix[row], known[row], exact[row] = values, True, True
                for row in more:
                    if not exact[row]:
                        matrix[row], known[row] = values, True
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"task.vectors={path} cannot be read as text: {error}") from error
    if not known.any():
        raise ValueError(f"task.vectors={path} has no vector for any word of the vocabulary")
    inputs.load_vectors(matrix, known)
    return known.float().mean().item()


def _numbers(text: str, path: str, line: int) -> list[float]:
    try:
        return [float(value) for value in text.split()]
    except ValueError as error:
        raise ValueError(
            f"task.vectors={path}: line {line} is not a word and its numbers ({error})"
        ) from error


def _open(file: Path) -> TextIO:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8")
    return file.open(encoding="utf-8")
