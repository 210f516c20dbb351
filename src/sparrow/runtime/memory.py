"""How much memory this process may use: the machine's, or less where a control group bounds it (a container)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

GROUPS: Final = Path("/proc/self/cgroup")
MOUNT: Final = Path("/sys/fs/cgroup")
#: What version 1 says where nothing is bounded: as many pages as a signed 64-bit number holds.
_UNBOUNDED: Final = 1 << 62


def usable_bytes(*, groups: Path = GROUPS, mount: Path = MOUNT, machine: int | None = None) -> int:
    """Bytes; the smallest bound of the groups this process is in, and never more than the machine has.

    A process in a namespace of its own may be told of a path that it cannot see; then the bounds above it count, of
    which the topmost is its own.

    Source: cgroups(7), Documentation/admin-guide/cgroup-v2.rst (memory.max), cgroup-v1/memory.rst.
    """
    if machine is None:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_bounds(groups, mount)])


def _bounds(groups: Path, mount: Path) -> Iterator[int]:
    """Of every group above this process, in both versions."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            top, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for one in (group, *group.parents):
            bound = _read(one / name)
            if bound is not None:
                yield bound
            if one == top:
                break


def _read(path: Path) -> int | None:
    """None where there is no such file, and where it says that there is no bound."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _UNBOUNDED else None
