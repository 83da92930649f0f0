"""A study that many processes share: a trial is run by one of them, whoever dies.

As many trials as are wanted wait in the study from its beginning. A worker takes one by making it
RUNNING, which the storage lets one worker do, and from then on moves its `beat`. Where a worker
died, its trial stays as it is (its number, its parameters, its directory) and another takes it
over: of those who want to, the storage's order of their claims chooses one.
"""

import os
import socket
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from sweeping.lock import Lock

HOST = socket.gethostname()
RELEASED = -1  # the beat of a trial whose worker was asked to stop

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(place: str) -> BaseStorage:
    """A database's URL (sqlite:///..., postgresql://...), or the path of a journal file.

    ValueError where a database cannot be opened.
    """
    if "://" not in place:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(place))
    try:
        return get_storage(place)
    except Exception as error:  # a driver that is not installed, a server that does not answer
        raise ValueError(f"storage={place} cannot be opened: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class Queue:
    """The trials of a study, numbered 0 to `trials` - 1, for one worker of several.

    `lease` is how many seconds a trial's beat may stand still before its worker counts as dead.
    Where that worker ran on this machine its lock tells at once. Nobody's clock is compared with
    another's: a worker times what it sees.
    """

    def __init__(
        self, study: optuna.Study, storage: BaseStorage, *, trials: int, folder: Path, lease: float
    ) -> None:
        self.study, self.storage = study, storage
        self.trials, self.folder, self.lease = trials, folder, lease
        self.worker = f"{HOST}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.lock: Lock | None = None  # of the trial that is run
        self._seen: dict[int, tuple[Any, float]] = {}
        self._beaten = 0.0

    def fill(self, first: dict[str, Any]) -> None:
        """Let trials wait in the study until there are as many as are wanted, the very first of
        them with the values that `first` holds.

        Where two machines do so at once there are more; those beyond are never taken.
        """
        for number in range(len(self.study.get_trials(deepcopy=False)), self.trials):
            self.study.enqueue_trial(first if number == 0 else {})

    def wanted(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials that count, in these states (or in any)."""
        found = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in found if trial.number < self.trials]

    def finished(self) -> bool:
        wanted = self.wanted()
        return len(wanted) == self.trials and all(trial.state.is_finished() for trial in wanted)

    def next(self) -> Trial | None:
        """A trial to run: one whose worker is dead, or one that waits. None: nothing to do now."""
        for trial in self.wanted(TrialState.RUNNING):
            if self._abandoned(trial):
                return self._own(trial)
        for trial in self.wanted(TrialState.WAITING):
            if self._start(trial):
                return self._own(trial)
        return None

    def beat(self, trial: Trial, *, force: bool = False) -> bool:
        """Say that the trial goes on; False where somebody else has taken it over."""
        if not force and time.monotonic() - self._beaten < self.lease / 5:
            return True
        self._beaten = time.monotonic()
        attributes = self.storage.get_trial(trial._trial_id).user_attrs
        if attributes.get("worker") != self.worker:
            return False
        trial.set_user_attr("beat", attributes["beat"] + 1)
        return True

    def release(self, trial: Trial) -> None:
        """Give a trial back, to be gone on with by anybody."""
        if self.beat(trial, force=True):
            trial.set_user_attr("beat", RELEASED)
        self.let_go()

    def let_go(self) -> None:
        if self.lock is not None:
            self.lock.leave()
        self.lock = None

    def _start(self, trial: FrozenTrial) -> bool:
        lock = Lock(self._path(trial))
        if lock.take():  # before the trial is RUNNING: whoever finds it so may rely on the lock
            try:
                if self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    self.lock = lock
                    return True
            except UpdateFinishedTrialError:
                pass
        lock.leave()
        return False

    def _own(self, taken: FrozenTrial) -> Trial:
        trial = Trial(self.study, taken._trial_id)
        trial.set_user_attr("worker", self.worker)
        trial.set_user_attr("beat", 0)
        trial.set_user_attr("starts", len(self._claims(trial.number)) + 1)
        self._beaten = time.monotonic()
        return trial

    def _path(self, trial: FrozenTrial) -> Path:
        return self.folder / f"{trial.number}.lock"

    def _abandoned(self, trial: FrozenTrial) -> bool:
        """Whether its worker is dead, and this one takes its place."""
        path = self._path(trial)
        lock = Lock(path) if path.exists() else None  # else it runs where files are others
        if lock is not None and not lock.take():
            lock.leave()  # its worker, or the training that it began, still runs
            return False
        round_ = len(self._claims(trial.number))
        if self._is_still(trial._trial_id, lock is not None) and self._claim(trial.number, round_):
            self.lock = lock or Lock(path)
            self.lock.take()
            return True
        if lock is not None:
            lock.leave()
        return False

    def _is_still(self, identity: int, known: bool) -> bool:
        """Whether nobody runs a trial: by its lock, where it is `known` here, and its beat."""
        trial = self.storage.get_trial(identity)
        if trial.state != TrialState.RUNNING:  # it was finished a moment ago
            return False
        worker, beat = (trial.user_attrs.get(name) for name in ("worker", "beat"))
        claims = len(self._claims(trial.number))
        mark = (worker, beat, claims)
        before, since = self._seen.get(trial.number, (None, 0.0))
        if before != mark:
            since = time.monotonic()
            self._seen[trial.number] = mark, since
        if claims < trial.user_attrs.get("starts", 0):  # else somebody is just taking it over
            here = known and str(worker).startswith(f"{HOST}-")
            if here or beat == RELEASED:
                return True
        return time.monotonic() - since > self.lease

    def _claims(self, number: int) -> dict[int, str]:
        """Who took a trial over: the first claim of each round is the one that holds."""
        held: dict[int, str] = {}
        try:
            identity = self.storage.get_study_id_from_name(self._claims_name)
        except KeyError:
            return held
        for claim in self.storage.get_all_trials(identity, deepcopy=False):
            if claim.user_attrs["trial"] == number:
                held.setdefault(claim.user_attrs["round"], claim.user_attrs["worker"])
        return held

    def _claim(self, number: int, round_: int) -> bool:
        claims = optuna.create_study(
            storage=self.storage, study_name=self._claims_name, load_if_exists=True
        )
        mine = {"trial": number, "round": round_, "worker": self.worker}
        claims.add_trial(create_trial(state=TrialState.WAITING, user_attrs=mine))
        return self._claims(number)[round_] == self.worker

    @property
    def _claims_name(self) -> str:
        return f"{self.study.study_name} (taken over)"
