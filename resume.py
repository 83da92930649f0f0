"""Which earlier run `resume=` goes on with, and what must not have changed since."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

import build
from building.defaults import older, placeless
from tasks import checkpoint, checkpoint_files, journal
from tasks.console import say

ASIDE = ("resume", "paths", "logger", "ckpt", "fit", "find_lr")  # say nothing about what is trained
FIXED = (
    "task._target_",
    "task.parts",
    "data",
    "tokenizer",
    "model",
    "cell",
    "recurrent",
)  # make the model
FREE = (  # say how, not what: the fingerprint tells whether the rows are the same
    "data.eval_batch_size",
    "data.num_workers",
    "data.cache_dir",
    "data.data_dir",
    "data.path",
)


class Earlier(NamedTuple):
    """A run that was not finished, and the newest checkpoint of it that is whole."""

    folder: Path
    checkpoint: dict[str, Any]

    @property
    def path(self) -> str:
        return str(self.checkpoint["path"])

    def reopen(self) -> None:
        """Take back from the run's files what was written after the checkpoint."""
        counts = self.checkpoint.get("journal", {})
        journal.cut(self.folder, counts, step=self.checkpoint["global_step"])


def check(config: Any) -> None:
    """ValueError where `resume` contradicts other keys; before anything long."""
    if config.resume and (config.ckpt is not None or not config.fit):
        raise ValueError(
            f"resume={config.resume} goes on with a training from its own checkpoint: leave out "
            "ckpt= and fit=false"
        )


def earlier(config: Any, fingerprint: str) -> Earlier | None:
    """The run to go on with: `resume=RUN` names it, `resume=true` means the newest one of this
    config, which may be none.

    ValueError where nothing can be read, or data, vocabulary or model are others now.
    """
    asked = config.resume
    if not asked:
        return None
    own = Path(config.paths.run_dir)
    if asked is True:
        folder = next(_alike(config, own), None)
        if folder is None:
            journal.cut(own, {}, step=0)  # of a run that was killed before it saved anything
            say(f"resume=true: no run of this config below {own.parent}; this one begins anew")
            return None
    else:
        folder = _named(str(asked))
    _check_links(folder)
    found = Earlier(folder, _newest_whole(folder))
    _compare(config, found, fingerprint)
    say(f"resume: going on after step {found.checkpoint['global_step']:,} of {found.path}")
    return found


def _alike(config: Any, own: Path) -> Iterator[Path]:
    """Runs of this config, the newest first; where the run directory holds one, that alone."""
    if _checkpoints(own):
        yield own
        return
    runs = [path for path in own.parent.glob("*/") if _checkpoints(path)]
    runs.sort(key=lambda path: _checkpoints(path)[0].stat().st_mtime, reverse=True)
    yield from (folder for folder in runs if not differences(folder, config))


def _named(place: str) -> Path:
    folder = Path(place).expanduser()
    if folder.suffix == ".ckpt":
        raise ValueError(
            f"resume={place}: give the run's directory; it finds the newest checkpoint"
        )
    if not _checkpoints(folder):
        checkpoint.find(folder)  # says what is there instead
        raise ValueError(f"resume={place}: {folder} holds no checkpoints and config.yaml")
    return folder


def _check_links(folder: Path) -> None:
    """ValueError where a run of somebody else would make this one write outside its directory."""
    for path in folder.rglob("*"):
        below = path.relative_to(folder).parts
        if below[0] == "wandb" and len(below) > 2:  # W&B links its logs, and writes new ones
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"resume: {path} leads out of the run's directory, to {path.resolve()}: put what "
                "it names in its place"
            )


def _checkpoints(folder: Path) -> list[Path]:
    if not (folder / "config.yaml").is_file():
        return []
    return checkpoint_files.found(folder / "checkpoints")


def _newest_whole(folder: Path) -> dict[str, Any]:
    damaged = []
    for path in _checkpoints(folder):
        try:
            found = checkpoint.read(path)
        except ValueError as error:
            damaged.append(str(error))
            say(f"resume: {error}; the one before it is used")
            continue
        return found
    raise ValueError(f"resume: no checkpoint of {folder} is whole: {'; '.join(damaged)}")


def _compare(config: Any, found: Earlier, fingerprint: str) -> None:
    changed = differences(found.folder, config)
    free, mend = _free(config, found)
    fixed = {k: both for k, both in changed.items() if _below(k, FIXED) and k not in free}
    if fixed:
        raise ValueError(
            f"{found.folder} cannot go on with another model or other data: {_listed(fixed)}; "
            f"{mend if 'data.batch_size' in fixed else ''}"
            "give what it was trained with, or start a new run"
        )
    before = found.checkpoint["unroll"]["fingerprint"]
    if before != fingerprint:
        raise ValueError(
            f"{found.folder} cannot go on: its data changed since (rows and vocabulary had the "
            f"fingerprint {before}, now it is {fingerprint}); bring the old data back, or start a "
            "new run"
        )
    if changed:
        say(f"resume: changed since: {_listed(changed)}")


def _free(config: Any, found: Earlier) -> tuple[tuple[str, ...], str]:
    """The keys of data that may change, and why `data.batch_size` may not where it is not there.

    As many examples a step on another number of ranks are the same steps; a word is said where
    they are others.
    """
    if config.data.get("streaming"):
        return FREE[:1], ""  # ranks and workers share out the rows of a stream
    stored = OmegaConf.load(found.folder / "config.yaml")
    now = build.ranks(config)
    before = found.checkpoint.get("ranks", now)  # older checkpoints do not say
    size, old = (each.data.get("batch_tokens") or each.data.batch_size for each in (config, stored))
    told = f"{size} × {now} rank(s), was {old} × {before}"
    if size * now == old * before:
        return (*FREE, "data.batch_size"), ""
    if size == old:
        say(
            f"resume: warning: a step is {told}: training goes on with other steps, and in the "
            "epoch that was not finished some examples come twice or not at all"
        )
    return FREE, f"a step would be {told}: only a batch that keeps the product may change; "


def differences(folder: Path, config: Any) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ from those of an earlier run → (its value, this one's).

    A key that is younger than the run had its default there.
    """
    stored = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(stored, dict)
    now = placeless(build.plain(config))
    was = older(placeless(stored), now)
    keys = sorted(key for key in was.keys() | now.keys() if not _below(key, ASIDE))
    pairs = {key: (was.get(key), now.get(key)) for key in keys}
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


def _below(key: str, parts: tuple[str, ...]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def _listed(changed: Mapping[str, tuple[Any, Any]]) -> str:
    shown = [f"{key} is {now}, was {was}" for key, (was, now) in list(changed.items())[:8]]
    more = len(changed) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])
