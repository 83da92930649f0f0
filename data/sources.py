"""Where rows come from: the user's files, a local copy of a known data set, or the Hub."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, concatenate_datasets, disable_progress_bars, load_dataset

from data.arrays import SPLITS
from data.files import FORMATS, is_rows, read_file
from data.large_files import column_chunks, is_large, read_large

disable_progress_bars()  # they cover the run's own; loading takes seconds

_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_SPLIT_IN_PATH = re.compile(
    r"(?:^|[^a-z])(" + "|".join(sorted(_SPLIT_NAMES, key=len, reverse=True)) + r")(?![a-z])"
)


class Loaded(NamedTuple):
    """Rows of train, validation and test, and what the report should say about them."""

    splits: dict[str, Dataset]
    notes: dict[str, str] = {}  # noqa: RUF012 (never changed)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Local files (`root`) or a data set of the Hub; exactly one is set."""

    root: Path | None = None
    hub_id: str | None = None
    hub_config: str | None = None
    revision: str | None = None

    @classmethod
    def choose(
        cls,
        *,
        path: str | None,
        folder: str | None,
        data_dir: str | None,
        hub_id: str | None,
        hub_config: str | None = None,
        revision: str | None = None,
        name: str = "data",
    ) -> "Source":
        """The user's path, else the local copy below data_dir, else the Hub."""
        if path is not None:
            root = Path(path).expanduser()
            if not root.exists():
                raise ValueError(f"data.path={path} does not exist{_neighbours(root)}")
            return cls(root=root)
        copy = Path(data_dir).expanduser() / folder if data_dir and folder else None
        if copy is not None and copy.exists():
            return cls(root=copy)
        if hub_id is not None:
            return cls(hub_id=hub_id, hub_config=hub_config, revision=revision)
        if copy is not None:
            raise ValueError(
                f"data {name!r}: {copy} does not exist{_neighbours(copy)} and there is no copy of "
                "it on the Hub that is known here: set paths.data_dir (or UNROLL_DATA) to the "
                f"folder that holds {folder}/, or data.path to the files"
            )
        needs = (
            f"set paths.data_dir (or UNROLL_DATA) to the folder that holds {folder}/"
            if folder
            else "set data.path to a folder or a file, or data.hub_id to a data set of the Hub"
        )
        raise ValueError(f"data {name!r} does not say where its rows are: {needs}")

    def key(self) -> Any:
        """Plain data that changes when the files do."""
        if self.root is None:
            return asdict(self)
        # the path is not part of it: the same files elsewhere are the same data
        return [
            [str(file.relative_to(self.root)), file.stat().st_size, file.stat().st_mtime_ns]
            for file in _files(self.root)
        ]

    def __str__(self) -> str:
        return str(self.root) if self.root is not None else f"{self.hub_id} (Hub)"


def load(
    source: Source,
    *,
    columns: Sequence[str] | None,
    seed: int,
    together: str | None = None,
    in_order: bool = False,
    scratch: Path | None = None,
) -> Loaded:
    """Read the named columns (None: all) of every split; `carve` out of train what is missing.

    Files of more than 32 MB are written as Arrow below `scratch` and mapped from there.
    """
    named = list(columns or ())
    twice = [column for i, column in enumerate(named) if column in named[:i]]
    if twice:
        raise ValueError(f"two of data.*_column are {twice[0]!r}: name two different columns")
    found = _read_local(source.root, columns, scratch) if source.root else _read_hub(source)
    for split, rows in found.items():
        check_columns(named, rows.column_names, f"{source} ({split})")
        if len(rows) == 0:
            raise ValueError(f"the {split} split of {source} is empty: it needs at least one row")
    check_train(found, source)
    splits = {k: rows.select_columns(named) if named else rows for k, rows in found.items()}
    return carve(splits, seed=seed, together=together, in_order=in_order)


def check_columns(wanted: Sequence[str], there: Sequence[str], where: str) -> None:
    missing = [column for column in wanted if column not in there]
    if missing:
        raise ValueError(
            f"{where} has no column {missing[0]!r}; there are: "
            f"{', '.join(there)} (name yours with data.*_column=...)"
        )


def check_train(found: Mapping[str, Any], source: Source) -> None:
    if "train" not in found:
        raise ValueError(
            f"{source} has no train split; there is only {', '.join(found)}: "
            "name a file train.csv (or .jsonl, .parquet, .txt, ...)"
        )


def carve(
    found: dict[str, Dataset],
    *,
    seed: int,
    share: float = 0.1,
    together: str | None = None,
    in_order: bool = False,
) -> Loaded:
    """Take a missing validation or test split out of train.

    By seed, and rows that are equal in the column `together` (None: in the one that tells most
    rows apart) stay on one side; or, where rows go on from one another (`in_order`), from the end.
    """
    missing = [split for split in SPLITS if split not in found]
    if not missing:
        return Loaded({split: found[split] for split in SPLITS})
    train = found["train"]
    keys = None if in_order else _equal_rows(train, together)
    count = len(train) if keys is None else int(keys.max()) + 1
    each = max(1, round(share * count))
    if count <= each * len(missing):
        raise ValueError(
            f"{len(train)} rows ({count} different ones) are too few to take "
            f"{' and '.join(missing)} out of train: give more rows, or a file for each split"
        )
    sizes = [count - each * len(missing), *[each] * len(missing)]
    parts = _parts(keys, sizes, seed)
    splits, notes = dict(found), {}
    for split, rows in zip(["train", *missing], parts, strict=True):
        splits[split] = train.select(rows)
        how = "from the end" if in_order else f"by seed {seed}"
        if split != "train":
            notes[f"{split}_from"] = f"train, {len(rows)} of {len(train)} rows {how}"
    return Loaded({split: splits[split] for split in SPLITS}, notes)


def _parts(keys: np.ndarray | None, sizes: list[int], seed: int) -> list[Any]:
    """Rows of train and of what is taken out of it: so many different `keys` (N,) each by seed, or
    without keys so many rows each in order."""
    bounds = np.cumsum([0, *sizes])
    if keys is None:
        return [range(a, b) for a, b in pairwise(bounds.tolist())]
    place = np.empty(bounds[-1], np.int64)
    place[np.random.default_rng(seed).permutation(bounds[-1])] = np.arange(bounds[-1])
    # of those that are permuted to the front, the rest is trained on
    start = np.cumsum([0, *sizes[1:]])
    found = place[keys]
    taken = [np.flatnonzero((found >= a) & (found < b)) for a, b in pairwise(start)]
    return [np.flatnonzero(found >= start[-1]), *taken]


def _equal_rows(rows: Dataset, together: str | None) -> np.ndarray:
    """(N,) the same number for rows whose texts are the same (numbers do not tell rows apart)."""
    texts = [n for n, f in rows.features.items() if getattr(f, "dtype", "") == "string"]
    if together in texts:
        texts = [together]
    # a label says little: the column with most different values stands for the row
    numbered = [_numbered(rows, name) for name in texts]
    most = max(numbered, key=lambda numbers: numbers.max(), default=None)
    if most is None or (together not in texts and most.max() + 1 < 0.5 * len(rows)):
        return np.arange(len(rows))
    return most


def _numbered(rows: Dataset, column: str) -> np.ndarray:
    """(N,) values counted in the order in which they come first; their hashes stand for them."""
    some = (np.array([hash(v) for v in part]) for part in column_chunks(rows, column))
    _, first, numbers = np.unique(np.concatenate([*some]), return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[numbers]


def split_files(root: Path) -> dict[str, list[Path]]:
    """The files of each split, by the split's name in a file's or a folder's."""
    named: dict[str, list[Path]] = {}
    unnamed: list[Path] = []
    for file in _files(root):
        relative = file.name if file == root else str(file.relative_to(root))
        split = _SPLIT_IN_PATH.search(relative.lower())
        (named.setdefault(_SPLIT_NAMES[split[1]], []) if split else unnamed).append(file)
    if "train" not in named and unnamed:  # one pile of rows, perhaps beside a test file
        named["train"] = unnamed
    if root.is_file():
        named = {"train": [root]}
    if not named:
        raise ValueError(
            f"{root} holds no file of a known format ({', '.join(FORMATS)}, each also .gz)"
        )
    return named


def _read_local(
    root: Path, columns: Sequence[str] | None, scratch: Path | None
) -> dict[str, Dataset]:
    if is_saved(root):
        return read_saved(root)
    named = split_files(root)

    def read(file: Path) -> Dataset:
        if scratch is not None and is_large(file):
            return read_large(file, columns, scratch)
        return read_file(file, columns)

    return {split: _join([read(f) for f in files], files) for split, files in named.items()}


def _join(parts: list[Dataset], files: list[Path]) -> Dataset:
    try:
        return concatenate_datasets([part for part in parts if len(part)] or parts[:1])
    except ValueError as error:
        names = ", ".join(str(file) for file in files)
        raise ValueError(f"the columns of {names} do not agree: {error}") from error


def is_saved(root: Path) -> bool:
    """Whether `save_to_disk` of the library `datasets` wrote this folder."""
    return any((root / name).exists() for name in ("dataset_dict.json", "state.json"))


def read_saved(root: Path) -> dict[str, Dataset]:
    from datasets import load_from_disk

    saved = load_from_disk(str(root))
    return {"train": saved} if isinstance(saved, Dataset) else normalised(dict(saved))


def _read_hub(source: Source) -> dict[str, Dataset]:
    return normalised(dict(load_hub(source)))


def load_hub(source: Source, *, streaming: bool = False) -> Any:
    try:
        return load_dataset(
            source.hub_id, source.hub_config, revision=source.revision, streaming=streaming
        )
    except Exception as error:  # the Hub's client raises dozens of kinds
        raise ValueError(
            f"could not load {source.hub_id!r} (config {source.hub_config}, revision "
            f"{source.revision}) from the Hub: {type(error).__name__}: {error}. Without a network, "
            "set paths.data_dir (or UNROLL_DATA) to a folder with local copies, or data.path"
        ) from error


def normalised(found: dict[str, Any]) -> dict[str, Any]:
    """Splits by our names for them; a data set of one split is training."""
    known = {
        _SPLIT_NAMES[k.lower()]: rows for k, rows in found.items() if k.lower() in _SPLIT_NAMES
    }
    return known or ({"train": next(iter(found.values()))} if len(found) == 1 else found)


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    return sorted(
        file
        for file in root.rglob("*")
        if file.is_file()
        and is_rows(file)
        and not any(part.startswith((".", "_")) for part in file.relative_to(root).parts)
        and file.name.lower() not in ("readme.txt", "license.txt", "licence.txt")
    )


def _neighbours(missing: Path) -> str:
    """What exists nearest to a path that does not."""
    parent = next((p for p in missing.absolute().parents if p.exists()), None)
    if parent is None:
        return ""
    names = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))[:12]
    return f" ({parent} holds: {', '.join(names) or 'nothing'})"
