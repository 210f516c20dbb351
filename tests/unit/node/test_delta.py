"""What a node sends of its inventory, by what its master said it took."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.authority.types import SlotFact, SlotName
from sparrow.base.ids import Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.master.heartbeat import check_heartbeat
from sparrow.node.delta import Deltas
from sparrow.rpc.messages import Heartbeat, HeartbeatAck

OK = HeartbeatAck(sequence=1, master_generation=1, cluster_id="c")
SEND_FULL = replace(OK, send_full=True)


def slot(volume: str, lsn: int = 0) -> SlotFact:
    return SlotFact(
        volume_id=VolumeId(volume),
        replica_id=ReplicaId("r1"),
        uuid=ReplicaUuid("1" * 32),
        data_addr="d:1",
        ctrl_addr="c:1",
        ready_for_primary=True,
        last_lsn=Lsn(lsn),
    )


def facts(sequence: int, *slots: SlotFact) -> Heartbeat:
    return Heartbeat(
        node_id=NodeId("n1"),
        incarnation=1,
        sequence=sequence,
        data_addr="d:1",
        ctrl_addr="c:1",
        iscsi_addr="i:1",
        pool_total_bytes=1,
        pool_free_bytes=1,
        slots=slots,
    )


def told(*slots: SlotFact) -> Deltas:
    """A master took these under revision 1."""
    deltas = Deltas()
    sent = deltas.report(facts(1, *slots))
    assert sent.base_revision is None
    assert (sent.revision, sent.slots) == (1, slots)
    assert deltas.acknowledged(OK)
    return deltas


def test_after_the_first_only_what_changed_is_sent() -> None:
    deltas = told(slot("a"), slot("b"), slot("c"))
    sent = deltas.report(facts(2, slot("a", 5), slot("b")))
    check_heartbeat(sent)
    assert (sent.base_revision, sent.revision) == (1, 2)
    assert sent.slots == (slot("a", 5),)
    assert sent.removed == (SlotName(volume_id=VolumeId("c"), replica_id=ReplicaId("r1")),)


def test_nothing_changed_means_no_slots_and_the_same_revision() -> None:
    deltas = told(slot("a"))
    for sequence in (2, 3):
        sent = deltas.report(facts(sequence, slot("a")))
        check_heartbeat(sent)
        assert (sent.base_revision, sent.revision, sent.slots, sent.sequence) == (
            1,
            1,
            (),
            sequence,
        )
        deltas.acknowledged(OK)


def test_without_an_answer_the_base_stays() -> None:
    deltas = told(slot("a"))
    deltas.report(facts(2, slot("a", 5)))
    sent = deltas.report(facts(3, slot("a", 5)))
    assert (sent.base_revision, sent.revision, sent.slots) == (1, 3, (slot("a", 5),))


def test_send_full_is_answered_with_everything() -> None:
    deltas = told(slot("a"), slot("b"))
    deltas.report(facts(2, slot("a", 5), slot("b")))
    assert not deltas.acknowledged(SEND_FULL)
    sent = deltas.report(facts(3, slot("a", 5), slot("b")))
    assert (sent.base_revision, len(sent.slots)) == (None, 2)


def test_an_answer_that_arrives_after_a_reconnect_is_no_base() -> None:
    deltas = told(slot("a"))
    deltas.report(facts(2, slot("a", 5)))
    deltas.forget()
    assert deltas.acknowledged(OK)
    assert deltas.report(facts(3, slot("a", 5))).base_revision is None


@pytest.mark.parametrize("change", ["pool_free_bytes", "eligible"])
def test_what_is_not_a_slot_is_always_said(change: str) -> None:
    deltas = told(slot("a"))
    whole = replace(facts(2, slot("a")), **{change: 0})
    assert getattr(deltas.report(whole), change) == 0


def test_facts_that_are_the_same_object_are_not_compared() -> None:
    slots = (slot("a"), slot("b"))
    deltas = told(*slots)
    first = deltas.report(facts(2, *slots))
    assert deltas.acknowledged(OK)
    whole = facts(3)
    same = replace(whole, slots=first.slots)
    assert deltas.report(same).removed, "other facts than those it knows are compared"
    deltas = Deltas()
    assert deltas.report(facts(1, *slots)).base_revision is None
    known = replace(facts(2), slots=slots)
    assert deltas.acknowledged(OK)
    sent = deltas.report(known)
    check_heartbeat(sent)
    assert (sent.slots, sent.removed, sent.revision, sent.base_revision) == ((), (), 1, 1)
    assert deltas.acknowledged(OK)
    changed = deltas.report(facts(4, slot("a", 5), slot("b")))
    assert (changed.base_revision, changed.revision, changed.slots) == (1, 4, (slot("a", 5),))
