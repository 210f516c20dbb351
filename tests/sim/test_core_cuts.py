"""A cut under way, on the compiled core: what is answered meanwhile."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from sparrow.authority.types import Term
from sparrow.base.errors import NotFound
from sparrow.base.ids import Epoch, Lsn, ReplicaId
from sparrow.ports.dataplane import AtRest, JoinOutcome
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


def test_what_was_read_of_a_batch_says_nothing_of_the_one_that_begins_there_after_a_cut() -> None:
    """a has a batch that never committed, on disk only, and it is read twice, by a scrub and for a peer. Both reads
    hang. Meanwhile a newer primary joins a and cuts the batch, and another one comes to its place, which is larger.

    Rule: a batch is known by its checksum. The new one is not damaged because it is not what was read, and what is put
    back where it begins is not of the old one's size.
    """
    with compiled_stage(2, 1) as s:
        looked_at_and_cut(s)


def looked_at_and_cut(s: CompiledStage) -> None:
    s.client.quiet = True
    s.run(1)
    s.written(s.a, 0)
    shared = s.look(s.a).head
    s.until(lambda: s.look(s.b).head == shared)
    s.cut("a-m", "b-m", "a-b")
    s.write(s.a, 0)
    at_place(s, shared + 1)
    large: bytes = done(s, s.plane(s.a).read_log(V, Lsn(shared + 1), bytes_max=1))
    epoch = s.line.lineage.epoch
    cut_by_a_newer_primary(s, epoch + 1, shared)
    done(s, s.plane(s.a).begin_term(V, Epoch(epoch + 2)))
    s.node(s.a).process.spawn(s.plane(s.a).commit_inherited(V), "inherit")
    at_place(s, shared + 1)
    # What a start reads back is in no memory.
    s.world.kill_node(s.a)
    s.world.start_node(s.a)
    s.until(lambda: V in s.plane(s.a)._volumes)
    a, process = s.plane(s.a), s.node(s.a).process
    s.slow_disk(s.a, 1000.0)
    checked = process.spawn(a.check_batch(V, Lsn(shared + 1)), "check")
    read = process.spawn(a.read_log(V, Lsn(shared + 1), bytes_max=1), "read")
    s.turn(s.a)
    s.works_again(s.a)
    cut_by_a_newer_primary(s, epoch + 3, shared)
    done(s, a.begin_term(V, Epoch(epoch + 4)))
    assert done(s, a.append_log(V, large)) == shared + 1
    assert not checked.done()
    assert not read.done()

    s.until(lambda: checked.done() and read.done(), seconds=2000, look_s=10)
    assert checked.result().state is AtRest.WHOLE
    assert isinstance(read.exception(), NotFound)
    assert not s.heard("batch.damaged")


def done(s: CompiledStage, call: Coroutine[Any, Any, Any]) -> Any:
    """What a call to a's core brings."""
    called = s.node(s.a).process.spawn(call, "call")
    s.until(called.done)
    return called.result()


def at_place(s: CompiledStage, lsn: int) -> None:
    s.until(lambda: s.look(s.a).durable == lsn, seconds=1, look_s=0.001)


def cut_by_a_newer_primary(s: CompiledStage, epoch: int, to_lsn: int) -> None:
    term = Term(epoch=Epoch(epoch), start=1)
    heir = next(one.replica_id for one in s.line.members if one.node_id == s.b)
    done(s, s.plane(s.a).fence(V, term, heir))
    joined = done(s, s.plane(s.a).join(V, term, s.status(s.b).log))
    assert joined[:2] == (JoinOutcome.JOINED, to_lsn)
