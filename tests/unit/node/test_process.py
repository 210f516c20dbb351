"""The order in which a node's process begins."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparrow.base.errors import FailedPrecondition, MachineUnfit
from sparrow.base.ids import NodeId
from sparrow.dataplane import at_rest
from sparrow.node.config import NodeSettings
from sparrow.node.pool import Pool
from sparrow.node.process import run
from tests.support.locks import waits_for_a_lock
from tests.support.waiting import wait_for


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How cores were made; none of them runs."""
    asked: list[dict[str, Any]] = []

    def make(_pool: Path, **how: Any) -> None:
        asked.append(how)
        raise MachineUnfit("this one never runs")

    native = SimpleNamespace(NativeDataPlane=make)
    monkeypatch.setitem(sys.modules, "sparrow.dataplane.native.plane", native)
    monkeypatch.setitem(
        sys.modules, "sparrow.dataplane.wal_device", SimpleNamespace(WalDevice=None)
    )
    return asked


def settings(pool: Path) -> NodeSettings:
    return NodeSettings(node_id="n1", pool=pool, cluster_key=pool / "key", master="127.0.0.1:1")


def test_s6_the_hold_off_begins_when_the_pool_is_locked_never_before(
    tmp_path: Path, made: list[dict[str, Any]]
) -> None:
    before = Pool.open(tmp_path, NodeId("n1"), grant_s=7.0)
    with pytest.raises(FailedPrecondition, match="in use by another process"):
        run(settings(tmp_path))
    assert not made, "the process before lives, and may grant for as long as it does"
    hold_off_s = before.hold_off_s
    before.close()
    with pytest.raises(MachineUnfit):
        run(settings(tmp_path))
    assert [one["hold_off"] for one in made] == [hold_off_s], "the longest grant it ever gave"
    Pool.open(tmp_path, NodeId("n1")).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_waits_for_its_disk_says_so_and_ends_when_it_is_asked_to(
    tmp_path: Path,
    made: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """Also as the first process of a container, which no signal ends that it does not handle."""
    monkeypatch.setattr(at_rest, "TELL_S", 0.0)
    under_way = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(under_way, fcntl.LOCK_EX)
    told: list[tuple[str, str]] = []

    def warning(event: str, *, path: str, **_why: str) -> None:
        told.append((event, path))
        wait_for(lambda: waits_for_a_lock(os.getpid()))
        os.kill(os.getpid(), number)

    log = SimpleNamespace(warning=warning)
    monkeypatch.setattr("sparrow.runtime.logs.set_up", lambda **_process: log)

    def at_rest_at_last(*_: object) -> None:
        """Who does not handle the signal gets what it waits for."""
        os.close(under_way)

    before = signal.signal(number, at_rest_at_last)
    try:
        assert run(settings(tmp_path)) == 0
        assert signal.getsignal(number) is at_rest_at_last, "as it was"
    finally:
        signal.signal(number, before)
    os.close(under_way)
    assert told == [("disk.awaited", str(tmp_path))]
    assert not made
    Pool.open(tmp_path, NodeId("n1")).close()
