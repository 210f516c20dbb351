"""What a test needs from the machine, as marks whose skip reason names the missing thing.

pytestmark = needs_program("qemu-img")
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

import pytest

PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "iscsi-ls": "libiscsi-bin",
    "iscsi-inq": "libiscsi-bin",
    "iscsi-dd": "libiscsi-bin",
    "iscsi-perf": "libiscsi-bin",
    "iscsi-test-cu": "libiscsi-bin",
    "mkfs.ext4": "e2fsprogs",
    "fio": "fio",
    "tgtd": "tgt",
}


def needs_program(name: str) -> pytest.MarkDecorator:
    """Skip where a program is not on the path."""
    package = PACKAGES.get(name, name)
    return pytest.mark.skipif(
        shutil.which(name) is None,
        reason=f"needs {name} (apt-get install {package}, or make test-deps)",
    )


def needs_root() -> pytest.MarkDecorator:
    """Skip for ordinary users."""
    return pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def needs_qemu_iscsi() -> pytest.MarkDecorator:
    """Skip where qemu-img cannot open iscsi:// addresses."""
    return pytest.mark.skipif(
        not _qemu_speaks_iscsi(),
        reason="needs qemu-img with iSCSI (apt-get install qemu-utils qemu-block-extra, or make test-deps)",
    )


@cache
def _qemu_speaks_iscsi() -> bool:
    program = shutil.which("qemu-img")
    if program is None:
        return False
    shown = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
    return any(
        "iscsi" in line.split()
        for line in shown.splitlines()
        if line.startswith("Supported formats")
    )


def needs_io_uring() -> pytest.MarkDecorator:
    """Skip where no ring can be made; the reason is the start-up error's own."""
    return pytest.mark.skipif(_ring_problem() != "", reason=f"needs io_uring: {_ring_problem()}")


@cache
def _ring_problem() -> str:
    try:
        from sparrow.dataplane import ring
    except ImportError as error:
        return f"the native core is not built (make native): {error}"
    try:
        ring.probe()
    except ring.RingUnavailable as error:
        return error.sentence()
    return ""
