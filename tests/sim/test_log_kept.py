"""How much of its log a replica keeps for one that comes back, by how long the log lasts; on a virtual clock."""

from __future__ import annotations

from typing import Any, Final

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


def log_after(*, pause_s: float) -> LogSummary:
    """Of the only replica, when all that was written is applied."""
    steps: list[Step] = []
    for group in range(GROUPS):
        steps.append(("group", *(((group * GROUP + n) % PAGES, 1) for n in range(GROUP))))
        if pause_s != 0:
            steps.append(("pause", pause_s))
    shape = Shape(nodes=1, volumes=1, replication_factor=1, min_in_sync=1)
    world = RealLog(Workload(name="log", shape=shape, steps=tuple(steps)), 0, "")
    found: list[LogSummary] = []

    async def look() -> None:
        ((_, plane),) = world.planes()
        found.append((await plane.status(V)).log)

    try:
        world.begin()
        world.follow_script()
        world.run(3.0)
        world.spawn(look(), "look")
        world.run(0.1)
    finally:
        world.close()
    (log,) = found
    assert log.applied_lsn == log.last_lsn
    return log


def test_a_log_that_is_overwritten_at_once_keeps_a_fifth() -> None:
    """Nobody comes back within the moment that it covers, so writers get the room."""
    log = log_after(pause_s=0.0)
    kept = log.last_lsn - log.oldest_lsn + 1
    assert 0 < kept * ENTRY_BYTES[0] <= WAL_BYTES_MIN // 5


def test_a_log_that_lasts_keeps_three_fifths() -> None:
    """A replica that is away for a moment reads from it what it missed."""
    log = log_after(pause_s=0.05)
    kept = log.last_lsn - log.oldest_lsn + 1
    assert kept * ENTRY_BYTES[1] > WAL_BYTES_MIN // 2
