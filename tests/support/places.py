"""Directories for data that must lie on a real disk: O_DIRECT and fsync mean nothing on a memory file system."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        _run("umount", str(mount))


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


def _run(*command: str) -> str:
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
