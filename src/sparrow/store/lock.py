"""One process per store: an exclusive kernel lock on a file in its directory."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from sparrow.store.errors import StoreLockHeld

LOCK_NAME = ".sparrow-authority-lock"


class StoreLock:
    """Held from construction until ``release`` or the end of the process, crash included.

    The file stays for ever and holds the last holder's PID for a person to read; only the kernel's lock counts.

    Raises:
        StoreLockHeld: another process has it.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK_NAME
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _recorded_pid(self._fd)
            self.release()
            raise StoreLockHeld(
                f"the store {directory} is in use by process {pid}",
                hint="Stop that master first, or give this one another directory.",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others in; idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                os.close(fd)


def _recorded_pid(fd: int) -> str:
    text = os.pread(fd, 32, 0).decode(errors="replace").strip()
    return text or "unknown"
