"""The order in which a node's process begins."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparrow.base.errors import FailedPrecondition, MachineUnfit
from sparrow.base.ids import NodeId
from sparrow.node.config import NodeSettings
from sparrow.node.pool import Pool
from sparrow.node.process import run


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
