"""A command of the tests is what a shell would start."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import commands

PROGRAMS = {
    "says": "import os, sys; print(sys.argv, os.getcwd(), sys.stdin.read(), os.environ['GIVEN'])",
    "both": "import sys; print('out 没有'); print('error', file=sys.stderr)",
    "ends with a number": "import sys; sys.exit(3)",
    "ends with words": "import sys; sys.exit('error: no')",
    "fails": "raise SystemError",
    "says goodbye": "import atexit; atexit.register(print, 'goodbye'); print('hello')",
    "starts others": (
        "import multiprocessing as m; print(m.get_start_method(), m.current_process().name)"
    ),
    "has a name": "class One: pass\nprint(__name__, One.__module__)",
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("way", ["-c", "a file", "-m"])
def test_it_answers_as_one_that_a_shell_starts(name: str, way: str, tmp_path: Path) -> None:
    program, file = PROGRAMS[name], tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    command = {"-c": ["-c", program], "-m": ["-m", "program"]}.get(way, [str(file)])
    command += ["a", "b c"]
    env = os.environ | {"GIVEN": "this", "PYTHONIOENCODING": "utf-8"}
    done = commands.run(command, cwd=tmp_path, env=env, stdin="read\n")
    shell = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=env, input="read\n", capture_output=True,
        text=True, encoding="utf-8",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (shell.returncode, shell.stdout)
    assert done.stderr.splitlines()[-1:] == shell.stderr.splitlines()[-1:]


def test_one_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    later = "import pathlib, time; time.sleep(2); pathlib.Path('later').touch()"
    program = (
        "import pathlib, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {later!r}])\n"
        "pathlib.Path('begun').touch(); time.sleep(60)"
    )
    started = commands.Command(["-c", program], cwd=tmp_path)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        started.end(timeout=0.1)
    assert started.returncode == -signal.SIGKILL
    time.sleep(3)
    assert not (tmp_path / "later").exists()
