"""Schedules of what must not grow or wait without end, on the compiled core; see ``test_core_schedules``."""

from __future__ import annotations

from dataclasses import replace

from sparrow.base.constants import GRANT_S
from sparrow.dataplane.virtual import SIZES
from sparrow.sim.compiled.client import RUN_MAX
from tests.support.compiled import CompiledStage, StagedWorld, compiled_stage
from tests.support.stage import V

UNAPPLIED_MAX = 128
#: Writes in flight of a flood.
DEPTH = 64
WRITTEN = 600


class LittleUnapplied(StagedWorld):
    """Its volumes may have few pages that are not applied: a crash leaves no more to a start."""

    sizes = replace(SIZES, versions_per_volume=UNAPPLIED_MAX)


# ---------------------------------------------------------------- L14


def test_l14_grants_come_past_what_a_peer_does_not_read() -> None:
    """b reads nothing more of what it is fed: a megabyte is on its way, and a's next send waits behind that.

    Rule: asks and grants have a connection of their own, and wait for nothing that is sent on another one.
    """
    with compiled_stage(2, 1) as s:
        s.client.quiet = True
        value = s.written(s.a, 128)
        s.stall_feed(s.b)
        answers = [s.client.write(s.plane(s.a), 0, RUN_MAX) for _ in range(60)]
        s.run(0.5)
        began, opened = s.world.loop.now, s.heard("gate.opened")
        while s.world.loop.now < began + 3 * GRANT_S:
            (peer,) = s.status(s.a).peers
            assert peer.shipped_lsn < s.look(s.a).head
            assert s.last_read(s.a, 128) == value
            s.run(0.1)
        assert s.heard("gate.opened") == opened
        s.stall_feed(s.b, stalled=False)
        s.until(lambda: all(answer is None or answer.done() for answer in answers))
        s.ends_well()


# ---------------------------------------------------------------- L15


def flooded(s: CompiledStage) -> int:
    """a is written to as fast as it takes it; the most that was in its log and not applied, in pages."""
    under_way = []
    most = written = 0
    while written < WRITTEN:
        under_way = [one for one in under_way if not one.done()]
        while len(under_way) < DEPTH:
            under_way.append(s.write(s.a, written % 4)[1])
            written += 1
        s.run(0.002)
        inside = s.look(s.a)
        most = max(most, inside.head - inside.applied)
    return most


def test_l15_a_crash_leaves_a_start_no_more_than_the_bound() -> None:
    """Each entry is one page. Power goes in the middle of a flood.

    Rule: a write for which the volume has too much unapplied waits for the flusher.
    """
    with compiled_stage(1, 1, kind=LittleUnapplied) as s:
        s.client.quiet = True
        s.run(2)
        assert UNAPPLIED_MAX // 2 < flooded(s) <= UNAPPLIED_MAX
        s.lose_power(s.a)
        s.world.start_node(s.a)
        s.until(lambda: s.plane(s.a).look(V) is not None, look_s=0.0005)
        found = s.look(s.a)
        assert found.head - found.applied <= UNAPPLIED_MAX
        s.ends_well()


def close_all(s: CompiledStage) -> None:
    """What a node does first when it is told to stop."""
    closing = s.node(s.a).process.spawn(s.node(s.a).replicas.close_all(), "close")
    s.until(closing.done)


def test_l15_a_stop_leaves_a_start_nothing() -> None:
    """The same flood, and the node is stopped as an operator does.

    Rule: who closes a replica applies what its log holds first.
    """
    with compiled_stage(1, 1, kind=LittleUnapplied) as s:
        s.client.quiet = True
        s.run(2)
        flooded(s)
        head = s.look(s.a).head
        close_all(s)
        s.lose_power(s.a)
        assert [s.superblock(s.a, copy).number("applied_lsn") for copy in (0, 1)] == [head, head]
        s.world.start_node(s.a)
        s.ends_well()
