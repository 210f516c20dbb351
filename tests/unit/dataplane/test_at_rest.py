"""Waiting for what a killed process left to its disk."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparrow.dataplane import at_rest
from sparrow.dataplane.at_rest import lock_at_rest, tell_nobody
from tests.support.locks import waits_for_a_lock
from tests.support.waiting import wait_for


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY)


@contextmanager
def under_way(path: Path, until: Callable[[], bool]) -> Iterator[None]:
    """Something is written there until this holds."""
    writes = opened(path)
    fcntl.flock(writes, fcntl.LOCK_EX)

    def disk() -> None:
        try:
            wait_for(until, within_s=10.0)
        finally:
            os.close(writes)

    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(disk)
        yield
        ended.result()


def test_who_waits_for_long_tells_what_for_and_has_the_lock_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_rest, "TELL_S", 0.0)
    own, other = opened(tmp_path), opened(tmp_path)
    told: list[Path] = []
    with under_way(tmp_path, lambda: bool(told)):
        lock_at_rest(own, tmp_path, told.append)
    assert told == [tmp_path]
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for fd in (own, other):
        os.close(fd)


def test_who_waits_for_a_moment_says_nothing_and_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_rest, "TELL_S", 3600.0)
    own = opened(tmp_path)
    with under_way(tmp_path, lambda: waits_for_a_lock(os.getpid())):
        lock_at_rest(own, tmp_path, tell_nobody)
    assert not [one for one in threading.enumerate() if isinstance(one, threading.Timer)]
    os.close(own)
