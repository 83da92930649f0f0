"""A file that one process has, and those that it hands it to: free when all of them have ended."""

import fcntl
import os
from pathlib import Path


class Lock:
    """`flock` on a file; the system frees it, however its holders end."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    def take(self) -> bool:
        """Whether it is this process' own now; never waits."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def leave(self) -> None:
        os.close(self.file)
