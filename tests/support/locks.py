"""Who waits for a lock of a file, as the kernel tells it."""

from __future__ import annotations

from pathlib import Path


def waits_for_a_lock(pid: int) -> bool:
    """Whether some thread of a process waits for a lock of a file now.

    Source: proc_locks(5): a second field ``->``, the process in the sixth.
    """
    rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(row[1] == "->" and row[5] == str(pid) for row in rows)
