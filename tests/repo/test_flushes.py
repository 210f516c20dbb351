"""Files that go through the page cache are flushed in one place (`src/_native/extent/sync.pyx` says why)."""

from __future__ import annotations

import re
from pathlib import Path

CORE = Path(__file__).resolve().parents[2] / "src" / "_native"
FLUSH = re.compile(r"\.io\.datasync\(&[\w.]+, &[\w.]+, ([\w.]+)\)")
WRITE = re.compile(
    r"\.io\.write\(\s*&[\w.]+, &[\w.]+, ([\w.]+), (?:[^()]|\([^()]*\))*?, *([\w. ]+),?\s*\)\n"
)
#: Past the page cache: a write there is told its own error.
DIRECT = {"volume.log.fd", "batch.volume.log.fd", "volume.super.fd", "sb.fd"}


def found(pattern: re.Pattern[str]) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (path.relative_to(CORE).as_posix(), match.groups())
        for path in sorted(CORE.rglob("*.pyx"))
        for match in pattern.finditer(path.read_text())
    ]


def test_nobody_else_flushes_extents_or_sums() -> None:
    assert found(FLUSH) == [
        ("extent/absence.pyx", ("volume.absence_fd",)),
        ("extent/sync.pyx", ("sync.fd",)),
        # The pool's lock file, or a log: neither has anything in the page cache.
        ("wal/durable.pyx", ("fd",)),
    ]


def test_no_write_through_the_page_cache_flushes_by_itself() -> None:
    writes = found(WRITE)
    calls = sum(path.read_text().count(".io.write(") for path in CORE.rglob("*.pyx"))
    assert len(writes) == calls, "a write is not understood here"
    assert {fd for _path, (fd, dsync) in writes if dsync.strip() != "False"} <= DIRECT
