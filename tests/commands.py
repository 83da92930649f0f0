"""Commands of this repository, in processes of their own.

They are forks of one process that has imported the libraries, which takes most of the time of a
short command. Otherwise they are what a shell would start: with arguments, environment, directory,
input and output of their own, and a group of processes that a signal may end.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(  # not wandb: importing it makes a folder that a process deletes
    ["lightning", "datasets", "sacrebleu", "matplotlib.pyplot", "hydra", "rich"]
)


class Command:
    """A command that runs: `["train.py", "task=tagging"]`, `["-c", "print(1)"]` or `["-m", ...]`,
    all of them Python's. Without `env` it has the environment of the tests; without `apart`, what
    it says as an error stands in its output.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        apart: bool = False,
    ) -> None:
        self.line = [str(word) for word in command]
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name) / name for name in ("in", "out", "error")]
        self._files[0].write_text(stdin, encoding="utf-8")
        files = self._files if apart else [*self._files[:2], self._files[1]]
        self._process = CONTEXT.Process(
            target=_become, args=(self.line, cwd, dict(os.environ if env is None else env), files)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, -9 where SIGKILL ended it."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self, timeout: float = 600) -> str:
        """Its output, once it has ended."""
        self._process.join(timeout)
        if self._process.is_alive():
            os.killpg(self.pid, signal.SIGKILL)
            self._process.join()
            raise subprocess.TimeoutExpired(self.line, timeout, self._said(1), self._said(2))
        return self._said(1)

    def _said(self, place: int) -> str:
        file = self._files[place]
        return file.read_text(encoding="utf-8") if file.exists() else ""


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """A command that has ended, its output and errors apart."""
    started = Command(command, cwd=cwd, env=env, stdin=stdin, apart=True)
    out = started.end(timeout)
    code = started.returncode
    assert code is not None
    return subprocess.CompletedProcess(started.line, code, out, started._said(2))


def _become(line: list[str], cwd: Path, env: dict[str, str], files: list[Path]) -> None:
    """The command, in the process that was forked for it."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the platform's, which this process was not
    multiprocessing.current_process().name = "MainProcess"
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for place, file in enumerate(files):
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, place)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stderr.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    kind, sys.argv = line[0], line[1:] if line[0] == "-m" else line
    try:
        if kind == "-c":
            sys.argv = ["-c", *line[2:]]
            sys.path.insert(0, "")
            program = {"__name__": "__main__", "__builtins__": __builtins__}
            exec(compile(line[1], "<string>", "exec"), program)
        elif kind == "-m":
            sys.path.insert(0, str(cwd))
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str((cwd / kind).parent))
            runpy.run_path(kind, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
