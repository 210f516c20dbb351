"""How much of its log a replica keeps for one that comes back, by how long the log lasts; on a virtual clock."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sparrow.base.ids import NodeId
from sparrow.dataplane.files.contents import WAL_BYTES_MIN
from sparrow.dataplane.virtual import VirtualPool
from sparrow.ports.dataplane import LogSummary
from sparrow.sim.compiled.sweep import Step, SweepWorld, V, Workload
from sparrow.sim.world import Shape

PAGES: Final = 64
GROUP: Final = 8
#: More than twice around the ring.
GROUPS: Final = 1000
#: Of a page in the log at least: a page, and no more than a header for each.
ENTRY_BYTES: Final = (4096, 8192)


class RealLog(SweepWorld):
    """A ring as small as a real replica's may be; the simulator's own is smaller than what a writer asks for."""

    def _make_pool(self, name: NodeId) -> Any:
        return VirtualPool(self.room, self.hosts[name], wal_bytes=WAL_BYTES_MIN)


def logs_after(*, members: int, pause_s: float) -> list[LogSummary]:
    """Of each replica, when all that was written is applied."""
    steps: list[Step] = []
    for group in range(GROUPS):
        steps.append(("group", *(((group * GROUP + n) % PAGES, 1) for n in range(GROUP))))
        if pause_s != 0:
            steps.append(("pause", pause_s))
    shape = Shape(nodes=members, volumes=1, replication_factor=members, min_in_sync=1)
    world = RealLog(Workload(name="log", shape=shape, steps=tuple(steps)), 0, "")
    found: list[LogSummary] = []

    async def look() -> None:
        found.extend([(await plane.status(V)).log for _, plane in world.planes()])

    try:
        world.begin()
        world.follow_script()
        world.run(3.0)
        world.spawn(look(), "look")
        world.run(0.1)
    finally:
        world.close()
    assert len(found) == members
    assert all(log.applied_lsn == log.last_lsn for log in found)
    return found


def kept(log: LogSummary) -> int:
    return log.last_lsn - log.oldest_lsn + 1


def test_a_log_that_is_overwritten_at_once_keeps_a_fifth() -> None:
    """Nobody comes back within the moment that it covers, so writers get the room."""
    for log in logs_after(members=2, pause_s=0.0):
        assert 0 < kept(log) * ENTRY_BYTES[0] <= WAL_BYTES_MIN // 5


def test_a_log_that_lasts_keeps_three_fifths() -> None:
    """A replica that is away for a moment reads from it what it missed."""
    for log in logs_after(members=2, pause_s=0.05):
        assert kept(log) * ENTRY_BYTES[1] > WAL_BYTES_MIN // 2


@pytest.mark.parametrize("pause_s", [0.0, 0.05], ids=["at once", "lasts"])
def test_the_log_of_an_only_member_keeps_nothing(pause_s: float) -> None:
    """Nobody comes back to it, and its own next start would read all of it."""
    (log,) = logs_after(members=1, pause_s=pause_s)
    assert kept(log) == 0
