"""Where a run writes what it measures: a CSV file that survives a resume, W&B and TensorBoard.

Beyond metrics a logger may take the config, tables of samples and pictures. `log_config`,
`log_table` and `log_picture` hand them to every logger that can, and pass over the others.
"""

import csv
import netrc
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn


@rank_zero_only
def log_config(loggers: Iterable[Logger], config: Mapping[str, Any]) -> None:
    """Give the resolved config (plain dictionaries) to every logger."""
    for logger in loggers:
        logger.log_hyperparams(dict(config))


@rank_zero_only
def log_table(
    loggers: Iterable[Logger],
    name: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    step: int | None = None,
) -> None:
    """Give a table (samples beside their references, ...) to every logger that takes tables."""
    for logger in loggers:
        if (method := getattr(logger, "log_table", None)) is not None:
            method(name, list(columns), [list(row) for row in rows], step=step)


@rank_zero_only
def log_picture(
    loggers: Iterable[Logger], name: str, path: str | Path, step: int | None = None
) -> None:
    """Give a PNG file to every logger that takes pictures."""
    for logger in loggers:
        if (method := getattr(logger, "log_image", None)) is not None:
            method(name, [str(path)], step=step)


BEFORE = "api.wandb.ai"
FLUSH = "x_transaction_log_flush_interval"  # seconds


class AppendingCSV(Logger):
    """`<folder>/metrics.csv`: a row a call, on disk at once; a resumed run goes on below.

    Columns come in the order in which they first appear, after `step` and `epoch`; a new one
    rewrites the file. What a resumed run does again is cut away first: see `tasks.journal`.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        return self.save_dir

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run directory holds the config already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {"step": step, **{k: float(v) for k, v in metrics.items()}}
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        if not self._columns:
            self._columns = self._header()
        if new := [key for key in row if key not in self._columns]:
            self._widen(new)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _header(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])

    def _widen(self, new: list[str]) -> None:
        rows: list[dict[str, str]] = []
        if self._columns:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        else:
            new = ["step", "epoch", *(key for key in new if key not in ("step", "epoch"))]
        self._columns = self._columns + new
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # a run killed here keeps the old file whole
        temporary = self.path.with_suffix(".csv.new")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.path)


class Wandb(WandbLogger):
    """Weights & Biases: online where a key is configured, else offline: no prompt, no network.

    The run lies in `<folder>/wandb`; `wandb sync <folder>/wandb/offline-run-*` uploads it later.
    `mode` (online, offline, disabled) decides where it is given, else the environment's WANDB_MODE.
    `wandb/logged.txt` names what was logged at which step: a resumed run goes over some steps
    again, and logs none twice.
    What wandb holds is written every second, so that a kill loses no more (its default: 15 s).
    Console, code, git state, packages and the machine's description are not captured. wandb is
    imported when the first thing is logged.
    """

    def __init__(
        self,
        *,
        folder: str,
        project: str = "unroll",
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str | None = None,
        system_metrics: bool = False,
    ) -> None:
        settings = {
            "console": "off",
            "silent": True,
            "disable_git": True,
            "disable_code": True,
            "init_timeout": 30.0,
            "x_disable_meta": True,
            "x_disable_stats": not system_metrics,
            "x_save_requirements": False,
        }
        super().__init__(
            name=name,
            project=project,
            save_dir=folder,
            id=_earlier_id(Path(folder)),
            group=group,
            tags=list(tags),
            mode=mode,
            settings=settings,
        )
        self._wandb_init.pop("anonymous", None)  # wandb no longer knows it, and warns
        self._record = Path(folder) / "wandb" / "logged.txt"
        self._logged: set[str] | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # tables and pictures come through here too
        if self._first_time(" ".join(sorted(metrics)), step):
            super().log_metrics(metrics, step)

    def _first_time(self, what: str, step: int | None) -> bool:
        if self._logged is None:
            before = self._record.read_text("utf-8") if self._record.is_file() else ""
            self._logged = set(before.splitlines())
        line = f"{step}\t{what}"
        if line in self._logged:
            return False
        self._logged.add(line)
        self._record.parent.mkdir(parents=True, exist_ok=True)
        with self._record.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return True

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            import wandb

            if FLUSH in wandb.Settings.model_fields:  # versions before have no such setting
                self._wandb_init["settings"][FLUSH] = 1.0
            mode = self._wandb_init["mode"] or wandb_mode()
            Path(self._wandb_init["dir"]).mkdir(parents=True, exist_ok=True)
            try:
                self._start(mode)
            except wandb.errors.Error as error:
                if mode != "online":
                    raise
                rank_zero_warn(f"W&B cannot be reached ({error}): this run is logged offline")
                self._start("offline")
        return self._experiment

    def _start(self, mode: str) -> None:
        self._wandb_init["mode"] = mode
        # the experiment of the parent class, which starts the run and sets its x axis
        WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]


class TensorBoard(TensorBoardLogger):
    """TensorBoard events in `<folder>/tensorboard`; tables become Markdown."""

    def __init__(self, *, folder: str) -> None:
        # the plain tag "hp_metric" would stand empty beside every run
        super().__init__(folder, name="tensorboard", version="", default_hp_metric=False)

    @rank_zero_only
    def log_table(
        self, name: str, columns: list[str], rows: list[list[Any]], step: int | None = None
    ) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        cells = ((str(c).replace("|", "\\|").replace("\n", "<br>") for c in line) for line in lines)
        self.experiment.add_text(name, "\n".join(f"| {' | '.join(c)} |" for c in cells), step)

    @rank_zero_only
    def log_image(self, name: str, images: list[str], step: int | None = None) -> None:
        from torchvision.io import ImageReadMode, decode_image

        for path in images:
            self.experiment.add_image(name, decode_image(path, ImageReadMode.RGB), step)


def _earlier_id(folder: Path) -> str | None:
    """The id of the run that this folder holds already: a resumed run goes on under it."""
    runs = sorted(folder.glob("wandb/*run-*_*-*"), key=lambda path: path.stat().st_mtime)
    match = re.search(r"run-\d+_\d+-(\w+)$", runs[-1].name) if runs else None
    return match[1] if match else None


def wandb_mode() -> str:
    """What the user configured; else online if there is a key for the server, else offline."""
    import wandb

    settings = wandb.setup().settings
    if chosen := os.environ.get("WANDB_MODE"):
        return "offline" if chosen == "dryrun" else chosen
    if settings.mode != "online":  # `wandb offline`, `wandb disabled`
        return settings.mode
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    return "online" if settings.api_key or _has_netrc_key(settings.base_url) else "offline"


def _has_netrc_key(server: str) -> bool:
    places = [os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"]
    path = next((place for place in places if place and Path(place).exists()), None)
    try:
        saved = netrc.netrc(str(path)).hosts if path else {}
    except (netrc.NetrcParseError, OSError):
        return False
    # wandb's default host has changed; it still reads a key that was saved for the one before
    return any(saved.get(host, ("", "", ""))[2] for host in (urlsplit(server).netloc, BEFORE))
