"""What makes a replica ready to be fed waits for its disk, and whoever asked may have gone on meanwhile."""

from __future__ import annotations

import asyncio

from sparrow.authority.types import ReplicaState, Term
from sparrow.base.errors import Unavailable
from sparrow.base.ids import Epoch
from sparrow.ports.dataplane import JoinOutcome
from sparrow.rpc.messages import JoinRequest
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V

#: What one operation of the disk takes at most.
SLOW_S = 0.05


def term_of(s: CompiledStage) -> Term:
    """The one under way."""
    epoch, start, _first = s.plane(s.a).terms(V)[-1]
    return Term(epoch=Epoch(epoch), start=start)


def test_a_preparation_that_waits_is_over_when_the_replica_is_joined() -> None:
    """b, which is in sync, is to be made ready for a copy and applies what it has first. Its primary joins it again.

    The link ends with the preparation, so the join comes while that waits. Rule: it does not go on; it would take away
    the log of a replica that is counted on.
    """
    with compiled_stage(2, 1) as s:
        s.run(3)
        prepared_and_joined(s)
        s.ends_well()


def prepared_and_joined(s: CompiledStage) -> None:
    written = [s.write(s.a, page)[1] for page in sorted(s.client.pages)[:8]]
    s.until(lambda: all(one.done() for one in written))
    b, look = s.plane(s.b), s.look(s.b)
    assert look.applied < look.head
    s.slow_disk(s.b, SLOW_S)
    summary = s.node(s.a).process.spawn(s.plane(s.a).status(V), "status")
    s.until(summary.done)
    term = term_of(s)
    prepared = s.node(s.b).process.spawn(
        b.prepare_rebuild(V, term, summary.result().log, None), "prepare"
    )
    s.until(prepared.done, seconds=60)
    assert isinstance(prepared.exception(), Unavailable)


def test_a_join_that_waits_is_over_when_another_was_asked_for() -> None:
    """b is joined twice; its primary gave the first one up. Both wait for a quiet log, and the later goes first.

    Rule: the first does not go on behind it. It shows a log that is shorter by now, and what it says of the replica
    would refuse the link of the second.
    """
    with compiled_stage(2, 1) as s:
        s.run(3)
        joined_twice(s)
        s.ends_well()


def joined_twice(s: CompiledStage) -> None:
    log = s.status(s.a).log
    term = term_of(s)
    first, second = (
        s.node(s.b).process.spawn(s.plane(s.b).join(V, term, log), f"join {i}") for i in range(2)
    )
    s.until(lambda: first.done() and second.done())
    assert isinstance(first.exception(), Unavailable)
    assert second.result()[0] is JoinOutcome.JOINED


def test_a_join_that_is_late_takes_away_nothing_of_its_own_term() -> None:
    """A join of b that its primary gave up comes behind the one that was answered, and b then has a line to write down.

    What b looked at before that is outdated when it goes on: meanwhile it was fed, and acknowledged.
    Rule: entries of the term that is joined are in its primary's log; one that ends before them was shown earlier.
    """
    with compiled_stage(2, 1) as s:
        s.run(3)
        joined_late(s)
        assert s.node(s.b).replicas.get(V).state is ReplicaState.CLEAN
        s.ends_well()


def joined_late(s: CompiledStage) -> None:
    volume = s.node(s.b).replicas.get(V)
    process = s.node(s.b).process
    late = JoinRequest(
        volume_id=V,
        replica_id=volume.replica_id,
        term=term_of(s),
        primary=s.line.primary,
        log=s.status(s.a).log,
        line=s.line,
    )
    assert s.look(s.b).head == late.log.last_lsn
    written = asyncio.Event()

    async def line_that_is_written_down() -> None:
        async with volume._changing:
            await written.wait()

    joined = process.spawn(s.node(s.b).service.join(late), "late join")
    process.spawn(line_that_is_written_down(), "line")
    s.written(s.a, 0)
    head = s.look(s.b).head
    assert head > late.log.last_lsn
    assert not joined.done()
    written.set()
    s.until(joined.done)
    assert isinstance(joined.exception(), Unavailable)
    assert s.look(s.b).head >= head
    assert not s.heard("peer.lost"), "the link goes on"


def test_a_preparation_that_is_late_takes_away_nothing_of_its_own_term() -> None:
    """One that its primary had given up comes behind the join and the link that this went on with; b is counted on.

    Rule: as of a late join. A preparation that lets the log go would leave a member of the in-sync set with nothing.
    """
    with compiled_stage(2, 1) as s:
        s.run(3)
        prepared_late(s)
        assert s.node(s.b).replicas.get(V).state is ReplicaState.CLEAN
        s.ends_well()


def prepared_late(s: CompiledStage) -> None:
    log = s.status(s.a).log
    s.written(s.a, 0)
    head = s.look(s.b).head
    assert head > log.last_lsn
    late = s.node(s.b).process.spawn(
        s.plane(s.b).prepare_rebuild(V, term_of(s), log, None), "late preparation"
    )
    s.until(late.done)
    assert isinstance(late.exception(), Unavailable)
    assert not s.heard("peer.lost"), "the link goes on"
    assert s.look(s.b).head >= head
    assert s.status(s.b).log.state is ReplicaState.CLEAN
