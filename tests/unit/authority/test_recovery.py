"""What nodes' superblocks prove, what they do not, and where a recovered volume goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.floor import floor_of
from sparrow.authority.invariants import BrokenInvariant, check_recovered
from sparrow.authority.publisher import Publisher
from sparrow.authority.recovery import (
    EPOCH_GAP,
    GENERATION_GAP,
    AuditEntry,
    CannotRecover,
    Finding,
    HeldReplica,
    Mark,
    MarkKind,
    NodeAnswer,
    Recovered,
    confirmed_line,
    desired_of,
    find,
    forced_line,
    loss,
    reset_line,
)
from sparrow.authority.results import Refusal, RefusedAsk
from sparrow.authority.types import Line, PlacedSlot, ReplicaState, Term, VolumePhase
from sparrow.base.access import AccessList
from sparrow.base.errors import SparrowError
from sparrow.base.ids import Epoch, Lsn, NodeId, ReplicaUuid
from sparrow.store.memory import MemoryDisk, MemoryStore
from tests.support.authority import bind
from tests.support.lines import VOLUME, line, rid, uuid_of

Answers = dict[NodeId, NodeAnswer]


def held(name: str, acted_on: Line | None, **changes: Any) -> HeldReplica:
    values: dict[str, Any] = {
        "volume_id": VOLUME,
        "replica_id": rid(name),
        "uuid": uuid_of(name),
        "state": ReplicaState.CLEAN,
        "suspect": False,
        "line": acted_on,
        "promised_epoch": 0 if acted_on is None else acted_on.lineage.epoch,
        "last_term": Term(epoch=Epoch(1), start=1),
        "last_lsn": Lsn(10),
    }
    return HeldReplica(**{**values, **changes})


def answer(name: str, *replicas: HeldReplica, **changes: Any) -> NodeAnswer:
    return replace(
        NodeAnswer(
            node_id=NodeId(f"n{name}"), cluster_id="c", master_generation=3, replicas=replicas
        ),
        **changes,
    )


def answers(**by_name: HeldReplica | NodeAnswer | None) -> Answers:
    """``a=held(..)``: node na holds it; None: na answered and has nothing; absent: na is away."""
    found = [
        one if isinstance(one, NodeAnswer) else answer(name, *(() if one is None else (one,)))
        for name, one in by_name.items()
    ]
    return {one.node_id: one for one in found}


OLD = line(1, 7, "a", "abc")
NEW = line(1, 8, "a", "a")


def test_a_volume_is_confirmed_when_all_members_of_its_newest_line_answered() -> None:
    found = find(
        VOLUME, answers(a=held("a", NEW), b=held("b", OLD), c=held("c", OLD)), recorded=None
    )
    assert found.confirmed
    assert found.newest == NEW
    assert confirmed_line(found, 9).lineage.epoch == 1 + EPOCH_GAP + 9
    assert confirmed_line(found, 9).in_sync == NEW.in_sync


def test_s18b_agreement_of_those_who_answered_proves_nothing_while_a_member_is_away() -> None:
    """(1,8){a} lives on a alone; b and c agree on (1,7){a,b,c}, and promoting one would lose a's solo commits."""
    found = find(VOLUME, answers(b=held("b", OLD), c=held("c", OLD)), recorded=None)
    assert not found.confirmed
    assert found.missing == ("no answer from a on na (na:ctrl)",)


def test_s18c_a_restored_record_is_not_enough_while_members_are_away() -> None:
    """Backup at (3,5); x, offline since, reports nothing newer; y and z serve at (5,2)."""
    backup = line(3, 5, "a", "abc")
    found = find(VOLUME, answers(a=held("a", backup)), recorded=backup)
    assert not found.confirmed
    newer = line(5, 2, "b", "bc")
    late = find(
        VOLUME,
        answers(a=held("a", backup), b=held("b", newer), c=held("c", newer)),
        recorded=backup,
    )
    assert late.confirmed
    assert confirmed_line(late, 9).lineage.epoch == 5 + EPOCH_GAP + 9
    assert confirmed_line(late, 9).primary == "b"


def test_every_node_the_operator_named_must_answer() -> None:
    full = answers(a=held("a", OLD), b=held("b", OLD), c=held("c", OLD))
    assert find(VOLUME, full, recorded=None).confirmed
    found = find(VOLUME, full, recorded=None, awaited=["n9:7401"])
    assert found.missing == ("no answer from n9:7401",)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (held("c", OLD, uuid=ReplicaUuid("f" * 32)), "other files"),
        (None, "c on nc has no files of it"),
        (held("c", OLD, suspect=True), "cannot tell"),
        (held("c", OLD, promised_epoch=2), "promised epoch 2, of which nobody"),
        (answer("c", broken=(VOLUME,)), "cannot open its files"),
        (held("c", line(1, 7, "b", "abc")), "two different lines"),
        (held("d", OLD), "c on nc has no files of it"),
    ],
)
def test_a_member_whose_word_does_not_count_keeps_the_volume_unconfirmed(
    odd: HeldReplica | NodeAnswer | None, words: str
) -> None:
    found = find(VOLUME, answers(a=held("a", OLD), b=held("b", OLD), c=odd), recorded=None)
    assert not found.confirmed
    assert any(words in one for one in found.missing), found.missing


def test_a_line_of_somebody_who_is_no_member_any_more_counts_as_seen() -> None:
    newer = line(4, 1, "b", "bc", members="bcd")
    found = find(
        VOLUME,
        answers(a=held("a", newer), b=held("b", OLD), c=held("c", OLD), d=held("d", None)),
        recorded=None,
    )
    assert found.newest == newer
    assert found.confirmed


def test_the_new_epoch_is_above_every_promise_seen() -> None:
    found = find(VOLUME, answers(a=held("a", OLD, promised_epoch=40)), recorded=None)
    assert forced_line(found, 9).lineage.epoch == 40 + EPOCH_GAP + 9


def test_a_volume_nobody_has_a_line_of_is_confirmed_by_its_placed_nodes() -> None:
    slots = [PlacedSlot(replica_id=rid(one), node_id=NodeId(f"n{one}")) for one in "ab"]
    assert not find(VOLUME, answers(a=None), recorded=None, placed=slots).confirmed
    both = find(VOLUME, answers(a=None, b=held("b", None)), recorded=None, placed=slots)
    assert both.confirmed
    assert both.newest is None


def test_a_tombstone_is_honoured_although_its_files_are_gone() -> None:
    tomb = line(3, 2, "a", "ab", retired=True)
    found = find(VOLUME, answers(a=None, b=held("b", tomb), c=None), recorded=None)
    assert found.confirmed
    ended = confirmed_line(found, 9)
    assert ended.retired
    assert desired_of(ended, None) is None


def test_a_tombstone_is_not_honoured_while_somebody_holds_files_that_nobody_can_read() -> None:
    """The store is from before the volume was made anew; of the new life's only node the WAL device is not there."""
    tomb = line(3, 2, "a", "ab", retired=True)
    blind = answer("z", broken=(VOLUME,))
    for newest in (tomb, None):
        placed = [] if newest else [PlacedSlot(replica_id=rid("a"), node_id=NodeId("na"))]
        found = find(
            VOLUME, answers(a=None, b=None, c=None, z=blind), recorded=newest, placed=placed
        )
        assert found.missing == ("nz has files of it that cannot be opened",)
    there = answers(a=held("a", OLD), b=held("b", OLD), c=held("c", OLD), z=blind)
    assert find(VOLUME, there, recorded=None).confirmed, (
        "a newer line would be known to its members"
    )


def test_by_force_only_those_in_sync_who_answered_with_good_files_go_on() -> None:
    now = line(2, 4, "a", "abc")
    longer = Term(epoch=Epoch(2), start=1)
    found = find(
        VOLUME,
        answers(b=held("b", now), c=held("c", now, last_term=longer, last_lsn=Lsn(4))),
        recorded=None,
    )
    forced = forced_line(found, 9)
    assert forced.in_sync == ("b", "c")
    assert forced.primary == "c", "the longest log"
    check_recovered(now, forced)
    assert "If a acted on a newer line, every write acknowledged under it is lost" in loss(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": ReplicaState.REBUILDING},
        {"state": ReplicaState.QUARANTINED},
        {"state": ReplicaState.CONDEMNED},
        {"suspect": True},
        {"uuid": ReplicaUuid("f" * 32)},
    ],
)
def test_not_even_force_builds_on_files_that_hold_nothing_certain(changes: dict[str, Any]) -> None:
    found = find(VOLUME, answers(a=held("a", NEW, **changes), b=held("b", OLD)), recorded=None)
    with pytest.raises(CannotRecover):
        forced_line(found, 9)


def test_force_without_any_line_has_nothing_to_go_on_from() -> None:
    with pytest.raises(CannotRecover):
        forced_line(find(VOLUME, {}, recorded=None), 9)


def test_a_desired_volume_is_rebuilt_from_the_lines_shape() -> None:
    wanted = desired_of(NEW, None)
    assert wanted is not None
    assert wanted.phase is VolumePhase.ACTIVE
    assert wanted.shape.size_bytes == NEW.size_bytes
    assert [slot.node_id for slot in wanted.slots] == ["na", "nb", "nc"]
    leaving = replace(wanted, phase=VolumePhase.DELETING)
    kept = desired_of(NEW, leaving)
    assert kept is not None
    assert kept.phase is VolumePhase.DELETING


def test_what_no_line_has_is_kept_from_the_store_that_was_restored() -> None:
    wanted = desired_of(NEW, None)
    assert wanted is not None
    access = AccessList(revision=4, allow_none=True)
    held = replace(wanted, size_wanted=2 * NEW.size_bytes, access=access, attached_to="host-a")
    kept = desired_of(NEW, held)
    assert kept == replace(held, phase=VolumePhase.ACTIVE)


def test_of_a_move_half_done_the_best_replicas_are_kept_and_the_others_leave() -> None:
    """Two copies are wanted, the line has three members: c was to replace b, and has nothing yet."""
    moving = replace(line(3, 7, "b", "ab", members="abc"), replication_factor=2, min_in_sync=1)
    wanted = desired_of(moving, None)
    assert wanted is not None
    assert [slot.replica_id for slot in wanted.slots] == ["a", "b"]
    (leaving,) = wanted.leaving
    assert leaving.replica_id == "c"
    assert leaving.successor in {"a", "b"}


def test_a_reset_ends_above_everything_seen_and_recorded() -> None:
    seen = find(VOLUME, answers(a=held("a", NEW)), recorded=None)
    tomb = reset_line(seen, None, 5000, 9)
    assert tomb.retired
    assert tomb.lineage.epoch == 5000 + EPOCH_GAP + 9
    check_recovered(NEW, tomb)
    blind = reset_line(
        Finding(volume_id=VOLUME, newest=None, highest_epoch=0, highest_write_seq=0, missing=()),
        None,
        0,
        9,
    )
    check_recovered(None, blind)
    assert blind.retired


def test_d8_a_reset_of_what_nobody_knows_ends_above_the_floor_of_the_store() -> None:
    nothing = Finding(
        volume_id=VOLUME, newest=None, highest_epoch=0, highest_write_seq=0, missing=()
    )
    tomb = reset_line(nothing, None, 0, 1030, epoch_floor=floor_of(1029))
    assert tomb.lineage.epoch > floor_of(1029)
    check_recovered(None, tomb, epoch_floor=floor_of(1029))
    with pytest.raises(BrokenInvariant, match="floor"):
        check_recovered(None, reset_line(nothing, None, 0, 1030), epoch_floor=floor_of(1029))


@pytest.mark.parametrize(
    "changes",
    [
        {"lineage": line(1 + EPOCH_GAP - 1, 1, "a", "a").lineage},
        {"lineage": line(1 + EPOCH_GAP, 2, "a", "a").lineage},
        {"in_sync": ("a", "b")},
        {"primary": rid("b"), "in_sync": ("b",)},
        {"size_bytes": NEW.size_bytes * 2},
        {"members": line(1, 1, "a", "a", members="abd").members},
        {"write_seq": NEW.write_seq},
        {"master_generation": 0},
    ],
)
def test_a_recovered_line_that_breaks_a_rule_is_never_minted(changes: dict[str, Any]) -> None:
    good = confirmed_line(
        find(VOLUME, answers(a=held("a", NEW), b=held("b", OLD), c=held("c", OLD)), recorded=None),
        9,
    )
    check_recovered(NEW, good)
    with pytest.raises(BrokenInvariant):
        check_recovered(NEW, replace(good, **changes))


def test_two_recoveries_from_the_same_findings_begin_at_different_epochs() -> None:
    """The store of the first was lost before anybody acted on what it gave; its line must not be made again."""
    found = find(VOLUME, answers(a=held("a", NEW)), recorded=None)
    first, second = forced_line(found, 9), forced_line(found, 9 + GENERATION_GAP)
    assert second.lineage.epoch > first.lineage.epoch
    assert forced_line(replace(found, highest_epoch=found.highest_epoch + 1), 9) != first


def test_a_life_of_which_the_restored_store_has_an_older_tombstone_goes_on_above_both() -> None:
    """The backup has a deletion after many mints; a store that did not know of it made the volume again."""
    tomb = replace(line(9, 1, "a", "a", retired=True), write_seq=5000)
    again = replace(line(floor_of(1030) + 1, 2, "b", "b", members="b"), write_seq=2)
    found = find(VOLUME, answers(b=held("b", again)), recorded=tomb)
    assert found.newest == again
    for made in (confirmed_line(found, 2060), forced_line(found, 2060)):
        assert made.lineage > again.lineage
        assert made.write_seq > tomb.write_seq
    assert reset_line(found, None, 0, 2060).write_seq > tomb.write_seq


def test_a_tombstone_never_comes_back_to_life() -> None:
    tomb = line(3, 2, "a", "ab", retired=True)
    living = replace(
        tomb, retired=False, lineage=line(3 + EPOCH_GAP, 1, "a", "a").lineage, write_seq=999_999
    )
    with pytest.raises(BrokenInvariant):
        check_recovered(tomb, living)


# ------------------------------------------------------------ the publisher


def unconfirmed_publisher(disk: MemoryDisk, generation: int = 9) -> Publisher:
    store = MemoryStore(disk)
    store.mark_unconfirmed([Mark(volume_id=VOLUME, kind=MarkKind.RESTORED, cause="a backup")])
    publisher = Publisher(store, generation)
    publisher.load()
    return publisher


def recovered(generation: int = 9) -> Recovered:
    full = find(
        VOLUME, answers(a=held("a", NEW), b=held("b", OLD), c=held("c", OLD)), recorded=None
    )
    new = confirmed_line(full, generation)
    return Recovered(
        volume_id=VOLUME,
        basis=full.newest,
        line=new,
        desired=desired_of(new, None),
        audit=AuditEntry(verb="recover", volume_id=VOLUME, who="test", detail="all answered"),
    )


def test_an_unconfirmed_volume_mints_nothing_and_shows_nobody_its_record() -> None:
    disk = MemoryDisk()
    MemoryStore(disk).put_lines([line(1, 7, "a", "abc")])
    disk.crash()
    publisher = unconfirmed_publisher(disk)
    assert publisher.line(VOLUME) is None
    assert publisher.doubted_line(VOLUME) == OLD
    assert publisher.subscribe(VOLUME).take() == []
    assert publisher.subscribe(None).take() == []
    refused = publisher.apply(bind(volume=VOLUME))
    assert isinstance(refused, RefusedAsk)
    assert refused.code is Refusal.QUARANTINED


def test_a_recovered_volume_is_durable_before_anybody_hears_of_it_and_survives_a_restart() -> None:
    disk = MemoryDisk()
    publisher = unconfirmed_publisher(disk)
    told = publisher.subscribe(VOLUME)
    disk.fail_next()
    with pytest.raises(SparrowError):
        publisher.recover(recovered())
    assert told.take() == []
    assert publisher.quarantined(VOLUME)
    publisher.recover(recovered())
    (new,) = told.take()
    assert new.lineage.epoch == 1 + EPOCH_GAP + 9
    assert not publisher.quarantined(VOLUME)
    disk.crash()
    again = Publisher(MemoryStore(disk), 10)
    again.load()
    assert again.line(VOLUME) == new
    assert [entry.verb for entry in disk.audit] == ["recover"]


def test_a_line_that_is_in_use_is_never_recovered_over() -> None:
    disk = MemoryDisk()
    publisher = unconfirmed_publisher(disk)
    publisher.recover(recovered())
    with pytest.raises(AssertionError):
        publisher.recover(recovered())
