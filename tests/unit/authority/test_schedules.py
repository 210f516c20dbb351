"""Histories that break naive rules, on the publisher's side. Nodes A, B, C are r1, r2, r3."""

from __future__ import annotations

from sparrow.authority.results import PutFailed, Refusal, RefusedAsk
from sparrow.authority.types import Line
from sparrow.base.ids import ReplicaId
from sparrow.store.memory import MemoryDisk
from tests.support.authority import (
    V,
    bind,
    grow,
    minted,
    new_publisher,
    reassign,
    shape,
    shrink,
)


def refusal(result: object) -> Refusal:
    assert isinstance(result, RefusedAsk), result
    return result.code


def two(publisher: object) -> Line:
    return minted(publisher.apply(bind(2, shape=shape(2))))  # type: ignore[attr-defined]


def test_s1_peer_that_was_never_grown_cannot_be_promoted() -> None:
    """Until the Grow is minted the returning peer is no successor, whatever it has."""
    publisher = new_publisher()
    line = two(publisher)
    alone = minted(publisher.apply(shrink(line, "r2")))
    assert refusal(publisher.apply(reassign(alone, "r2"))) is Refusal.NOT_IN_SYNC
    joined = minted(publisher.apply(grow(alone, "r2")))
    assert minted(publisher.apply(reassign(joined, "r2"))).primary == "r2"


def test_s3_grow_whose_answer_was_lost_is_in_the_line_a_later_ask_must_name() -> None:
    publisher = new_publisher()
    line = two(publisher)
    alone = minted(publisher.apply(shrink(line, "r2")))
    minted(publisher.apply(grow(alone, "r2")))  # the answer is lost
    late = publisher.apply(shrink(alone, "r2"))
    assert refusal(late) is Refusal.STALE_BASIS
    assert isinstance(late, RefusedAsk)
    assert late.recorded is not None
    assert late.recorded.in_sync == ("r1", "r2")


def test_s4_first_fact_of_any_subscription_is_the_newest_line() -> None:
    """The old primary that comes back must not be told its own old line first."""
    disk = MemoryDisk()
    publisher = new_publisher(disk)
    line = two(publisher)
    moved = minted(publisher.apply(reassign(line, "r2")))
    assert publisher.subscribe(V).take() == [moved]
    disk.crash()
    assert new_publisher(disk).subscribe(V).take() == [moved]


def test_s5a_reassign_decided_before_a_shrink_is_not_applied_after_it() -> None:
    publisher = new_publisher()
    line = two(publisher)
    queued = reassign(line, "r2")
    alone = minted(publisher.apply(shrink(line, "r2")))
    assert refusal(publisher.apply(queued)) is Refusal.STALE_BASIS
    assert publisher.line(V) == alone


def test_s5b_grow_of_a_deposed_primary_is_not_applied_to_its_successor() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    delayed = grow(line, "r3")
    moved = minted(publisher.apply(reassign(line, "r2")))
    assert refusal(publisher.apply(delayed)) is Refusal.STALE_BASIS
    assert publisher.line(V) == moved


def test_s5c_cancelling_shrink_kills_the_grow_that_is_still_on_its_way() -> None:
    publisher = new_publisher()
    line = two(publisher)
    alone = minted(publisher.apply(shrink(line, "r2")))
    delayed = grow(alone, "r2")
    cancelled = minted(publisher.apply(shrink(alone, "r2")))
    assert cancelled.lineage > alone.lineage
    assert refusal(publisher.apply(delayed)) is Refusal.STALE_BASIS
    assert publisher.line(V) == cancelled


def test_s5_no_answer_is_given_when_the_store_failed() -> None:
    disk = MemoryDisk()
    publisher = new_publisher(disk)
    line = two(publisher)
    disk.fail_next()
    assert isinstance(publisher.apply(shrink(line, "r2")), PutFailed)
    assert publisher.line(V) == line


def test_s17_files_are_part_of_a_members_name() -> None:
    publisher = new_publisher()
    line = two(publisher)
    alone = minted(publisher.apply(shrink(line, "r2")))
    other_disk = grow(alone, "r2", uuid="f" * 32)
    assert refusal(publisher.apply(other_disk)) is Refusal.UUID_MISMATCH
    now = publisher.line(V)
    assert now is not None
    assert ReplicaId("r2") not in now.in_sync


def test_l4_last_standing_is_not_the_only_heir_below_the_minimum() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    line = minted(publisher.apply(shrink(line, "r2")))
    heir = minted(publisher.apply(reassign(line, "r2", from_eligible=True)))
    assert heir.primary == "r2"
