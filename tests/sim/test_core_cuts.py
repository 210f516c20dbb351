"""A cut under way, on the compiled core: what is answered meanwhile."""

from __future__ import annotations

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, ReplicaId
from sparrow.ports.dataplane import JoinOutcome
from sparrow.sim.compiled.faults import batches
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V

#: Batches that never commit; each is wiped with a write of its own.
SUFFIX = 24


def test_no_fence_is_answered_within_a_cut() -> None:
    """a has batches that never committed, is joined by a newer primary, and is fenced by the next one in the middle of
    the cut; its disk takes up to a second for each.

    Rule: a fence is answered when the cut is durable, so what it tells of the log is what stays. Whoever opens with
    that answer counts on it, and would ask for entries that are being wiped, as if they had been damaged.
    """
    with compiled_stage(2, 1) as s:
        cut_and_fenced(s)


def cut_and_fenced(s: CompiledStage) -> None:
    s.client.quiet = True
    s.run(1)
    s.written(s.a, 0)
    shared = s.look(s.a).head
    s.until(lambda: s.look(s.b).head == shared)
    # Nobody else decides anything from here on.
    s.cut("a-m", "b-m", "a-b")
    for _ in range(SUFFIX):
        # A batch each: what comes while nobody looks shares one, and few are wiped soon.
        s.write(s.a, 0)
        s.turn(s.a)
        s.run(0.002)
    a, b = s.plane(s.a), s.plane(s.b)
    s.until(lambda: s.look(s.a).durable == shared + SUFFIX, seconds=1, look_s=0.001)
    whole = len(batches(s.cluster.room, s.files(s.a)))
    assert whole >= SUFFIX
    epoch, process = s.line.lineage.epoch, s.node(s.a).process
    newer = Term(epoch=Epoch(epoch + 1), start=1)
    heir = next(one.replica_id for one in s.line.members if one.node_id == s.b)
    fenced = process.spawn(a.fence(V, newer, heir), "fence")
    s.until(fenced.done)
    assert fenced.result().log.last_lsn == shared + SUFFIX
    status = s.node(s.b).process.spawn(b.status(V), "status")
    s.until(status.done)
    s.slow_disk(s.a, 1.0)
    joined = process.spawn(a.join(V, newer, status.result().log), "join")
    s.until(lambda: len(batches(s.cluster.room, s.files(s.a))) < whole, seconds=60)
    newest = Term(epoch=Epoch(epoch + 2), start=1)
    again = process.spawn(a.fence(V, newest, ReplicaId("r9")), "fence")
    s.until(lambda: joined.done() and again.done(), seconds=120)
    assert joined.result()[:2] == (JoinOutcome.JOINED, shared)
    assert again.result().log.last_lsn == shared
    assert again.result().promised_epoch == epoch + 2
    assert s.look(s.a).head == shared
    # Whoever waits for the master in the middle of something gets its answer.
    s.works_again(s.a)
    s.open("a-m", "b-m", "a-b")
    s.run(5)
