"""Directories for data that must lie on a real disk: O_DIRECT and fsync mean nothing on a memory file system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: For the kernel to let go of a file system nobody uses any more.
UNMOUNT_S = 15.0


@contextmanager
def disk_directory(prefix: str) -> Iterator[Path]:
    """A fresh directory under $SPARROW_TEST_DIR or /var/tmp; removed at the end, whatever happened."""
    parent = Path(os.environ.get("SPARROW_TEST_DIR", "/var/tmp"))
    path = Path(tempfile.mkdtemp(prefix=f"sparrow-{prefix}-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def small_file_system(place: Path, name: str, size_bytes: int) -> Iterator[Path]:
    """An ext4 of its own in a file, mounted; needs root, mkfs.ext4 and loop devices."""
    image, mount = place / f"{name}.img", place / name
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-m", "0", str(image))
    _run("mount", "-o", "loop", str(image), str(mount))
    try:
        yield mount
    finally:
        _unmount(mount)


@contextmanager
def loop_device(place: Path, name: str, size_bytes: int) -> Iterator[Path]:
    """A block device of its own over a file; needs root and loop devices."""
    image = place / f"{name}.img"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    device = _run("losetup", "--find", "--show", "--direct-io=on", str(image)).strip()
    try:
        yield Path(device)
    finally:
        _run("losetup", "--detach", device)


def _unmount(mount: Path) -> None:
    """A killed process is reaped before the kernel has torn down its ring, which holds files open a moment longer."""
    deadline = time.monotonic() + UNMOUNT_S
    while True:
        try:
            _run("umount", str(mount))
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _run(*command: str) -> str:
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class Disk:
    """A file system of one pool, which can be filled up and can fail; needs root, mkfs.ext4 and loop devices.

    It fails as ext4 does when its device is gone: every read, write and flush from then on ends with EIO, and what was
    not flushed is lost (EXT4_IOC_SHUTDOWN, without a last flush of the journal).
    """

    _SHUTDOWN = 0x8004587D
    _NO_LAST_FLUSH = 2

    def __init__(self, place: Path, name: str, size_bytes: int) -> None:
        self.path = place / name
        self._image = place / f"{name}.img"
        self._ballast = self.path / "ballast"
        self.path.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.path))

    def unmount(self) -> None:
        if os.path.ismount(self.path):
            _unmount(self.path)

    def fill(self) -> None:
        """Leave no room at all."""
        room = os.statvfs(self.path)
        with self._ballast.open("wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
            file.seek(0, os.SEEK_END)
            # What fallocate left over.
            while os.write(file.fileno(), bytes(4096)):
                pass

    def empty(self) -> None:
        """Take :meth:`fill` back."""
        self._ballast.unlink(missing_ok=True)

    def fail(self) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, self._SHUTDOWN, struct.pack("I", self._NO_LAST_FLUSH))
        finally:
            os.close(fd)

    def replace(self) -> None:
        """The device is back, with what it had. Nothing may have files open there."""
        self.unmount()
        self.mount()
