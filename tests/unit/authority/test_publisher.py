"""The publisher: who may mint what, and what a failed write leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sparrow.authority.invariants import BrokenInvariant
from sparrow.authority.publisher import Publisher
from sparrow.authority.results import Minted, PutFailed, Refusal, RefusedAsk, Unchanged
from sparrow.authority.types import Intent, Line, LoadedLines, VolumeShape
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.store.memory import MemoryDisk, MemoryStore
from tests.support.authority import (
    V,
    ask,
    bind,
    grow,
    lineage,
    member,
    members,
    minted,
    new_publisher,
    reassign,
    shape,
    shrink,
)


def refused(result: object) -> Refusal:
    assert isinstance(result, RefusedAsk), result
    return result.code


def test_first_bind_mints_one_one_with_every_member_in_sync() -> None:
    line = minted(new_publisher().apply(bind()))
    assert line.lineage == lineage(1, 1)
    assert line.in_sync == ("r1", "r2", "r3")
    assert (line.write_seq, line.master_generation, line.primary) == (1, 1, "r1")


def test_second_bind_is_refused_under_any_replica() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    assert refused(publisher.apply(bind())) is Refusal.ALREADY_BOUND
    other = bind(primary="r2", basis=line.lineage)
    assert refused(publisher.apply(other)) is Refusal.ALREADY_BOUND
    assert publisher.line(V) == line


def test_bind_of_an_old_slot_after_restart_is_refused() -> None:
    """D1: after a restart only the newest line is known, and it counts for every slot."""
    disk = MemoryDisk()
    publisher = new_publisher(disk)
    line = minted(publisher.apply(bind()))
    moved = minted(publisher.apply(reassign(line, "r2")))
    disk.crash()
    again = new_publisher(disk)
    assert refused(again.apply(bind(primary="r1"))) is Refusal.ALREADY_BOUND
    assert again.line(V) == moved


def test_refresh_bumps_the_endpoint_version_and_only_that() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    moved = member(1, data_addr="10.9.9.9:1")
    refresh = ask(Intent.REFRESH_ENDPOINT, basis=line.lineage, members=(moved,))
    after = minted(publisher.apply(refresh))
    assert after.lineage == lineage(1, 2)
    assert after.primary_member.data_addr == "10.9.9.9:1"
    assert after.in_sync == line.in_sync


def test_refresh_with_the_same_address_writes_and_delivers_nothing() -> None:
    disk = MemoryDisk()
    publisher = new_publisher(disk)
    line = minted(publisher.apply(bind()))
    reader = publisher.subscribe(V)
    reader.take()
    disk.fail_next()  # a write would be noticed
    same = ask(Intent.REFRESH_ENDPOINT, basis=line.lineage, members=(member(1),))
    assert isinstance(publisher.apply(same), Unchanged)
    assert reader.take() == []


def test_refresh_of_an_unbound_volume_or_of_another_slot_is_refused() -> None:
    publisher = new_publisher()
    unbound = ask(Intent.REFRESH_ENDPOINT, basis=lineage(1, 1), members=(member(1),))
    assert refused(publisher.apply(unbound)) is Refusal.NOT_BOUND
    line = minted(publisher.apply(bind()))
    old_slot = ask(
        Intent.REFRESH_ENDPOINT,
        replica_id=ReplicaId("r2"),
        basis=line.lineage,
        members=(member(2, data_addr="x:1"),),
    )
    assert refused(publisher.apply(old_slot)) is Refusal.NOT_PRIMARY


def test_reassign_starts_an_epoch_and_leaves_the_old_primary_out() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    after = minted(publisher.apply(reassign(line, "r2", leave_out=(ReplicaId("r3"),))))
    assert after.lineage == lineage(2, 1)
    assert (after.primary, after.in_sync, after.eligible) == ("r2", ("r2",), ())


def test_endpoint_version_restarts_under_a_new_epoch_and_then_counts() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    assert line.lineage == lineage(1, 2)
    line = minted(publisher.apply(reassign(line, "r2")))
    line = minted(publisher.apply(shrink(line, "r3")))
    assert line.lineage == lineage(2, 2)
    assert line.write_seq == 4


def test_reassign_of_an_unbound_volume_is_refused() -> None:
    wanted = ask(Intent.REASSIGN, basis=lineage(1, 1))
    assert refused(new_publisher().apply(wanted)) is Refusal.NOT_BOUND


def test_reassign_outside_in_sync_is_refused() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    assert refused(publisher.apply(reassign(line, "r3"))) is Refusal.NOT_IN_SYNC
    assert refused(publisher.apply(reassign(line, "r9"))) is Refusal.NOT_A_MEMBER


def test_eligible_replica_takes_over_only_when_the_ask_says_so() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    line = minted(publisher.apply(shrink(line, "r2")))
    assert (line.in_sync, line.eligible) == (("r1",), ("r2",))
    assert refused(publisher.apply(reassign(line, "r2"))) is Refusal.NOT_IN_SYNC
    after = minted(publisher.apply(reassign(line, "r2", from_eligible=True)))
    assert (after.primary, after.in_sync, after.eligible) == ("r2", ("r2",), ())


def test_shrink_and_grow_are_for_the_recorded_primary_only() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    stranger = shrink(line, "r3", asker=ReplicaId("r2"))
    assert refused(publisher.apply(stranger)) is Refusal.NOT_PRIMARY
    assert refused(publisher.apply(grow(line, "r3", asker=ReplicaId("r2")))) is Refusal.NOT_PRIMARY
    assert publisher.line(V) == line


def test_primary_cannot_shrink_itself_out() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    assert refused(publisher.apply(shrink(line, "r1"))) is Refusal.PRIMARY_STAYS


def test_shrink_that_changes_nothing_still_mints() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    after = minted(publisher.apply(shrink(line, "r3")))
    assert after.lineage == lineage(1, 3)
    assert after.in_sync == line.in_sync


def test_shrink_below_minimum_is_refused_while_another_can_take_over() -> None:
    publisher = new_publisher(can_hand_over=lambda _line, _leaving: True)
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    assert refused(publisher.apply(shrink(line, "r2"))) is Refusal.HAND_OVER_FIRST
    assert publisher.line(V) == line


def test_shrink_above_minimum_does_not_ask_who_could_take_over() -> None:
    def never_called(_line: Line, _leaving: ReplicaId) -> bool:
        raise AssertionError

    publisher = new_publisher(can_hand_over=never_called)
    line = minted(publisher.apply(bind()))
    minted(publisher.apply(shrink(line, "r3")))


def test_growing_back_to_the_minimum_empties_eligible() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    line = minted(publisher.apply(shrink(line, "r2")))
    line = minted(publisher.apply(grow(line, "r3")))
    assert (line.in_sync, line.eligible) == (("r1", "r3"), ())


def test_growing_below_the_minimum_takes_only_the_peer_from_eligible() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind(shape=shape(3, 3))))
    line = minted(publisher.apply(shrink(line, "r3")))
    line = minted(publisher.apply(shrink(line, "r2")))
    assert line.eligible == ("r2", "r3")
    line = minted(publisher.apply(grow(line, "r2")))
    assert (line.in_sync, line.eligible) == (("r1", "r2"), ("r3",))


def test_shrink_can_clear_eligible_before_a_term_is_opened_below_the_minimum() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    line = minted(publisher.apply(shrink(line, "r2", clear_eligible=True)))
    assert (line.in_sync, line.eligible) == (("r1",), ())


@pytest.mark.parametrize(
    ("wanted", "code"),
    [({"replica_id": "r9"}, Refusal.NOT_A_MEMBER), ({"uuid": "f" * 32}, Refusal.UUID_MISMATCH)],
)
def test_refused_grow_uses_its_basis_up(wanted: dict[str, str], code: Refusal) -> None:
    """A delayed copy of an ask its sender gave up on must find a newer line, not a member by then."""
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    denied = replace(grow(line, "r3"), **wanted)
    answer = publisher.apply(denied)
    assert refused(answer) is code
    assert isinstance(answer, RefusedAsk)
    assert answer.basis == line.lineage
    assert answer.recorded is not None
    assert answer.recorded.lineage > line.lineage
    assert refused(publisher.apply(denied)) is Refusal.STALE_BASIS


def test_basis_from_the_future_is_told_apart_from_a_stale_one() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    ahead = shrink(line, "r3", basis=lineage(1, 9))
    assert refused(publisher.apply(ahead)) is Refusal.BASIS_AHEAD


def test_set_members_replaces_nobody_who_is_in_sync() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    renewed = member(3, uuid="c" * 32)
    wanted = ask(Intent.SET_MEMBERS, basis=line.lineage, members=(member(1), member(2), renewed))
    assert refused(publisher.apply(wanted)) is Refusal.MEMBER_IN_USE
    line = minted(publisher.apply(shrink(line, "r3")))
    line = minted(publisher.apply(replace(wanted, basis=line.lineage)))
    assert line.member(ReplicaId("r3")) == renewed
    assert line.lineage == lineage(1, 3)


def test_eligible_files_that_were_formatted_anew_are_not_eligible_any_more() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind(2, shape=shape(2, 2))))
    line = minted(publisher.apply(shrink(line, "r2")))
    assert line.eligible == ("r2",)
    elsewhere = member(2, uuid="c" * 32, node_id="n9")
    wanted = ask(Intent.SET_MEMBERS, basis=line.lineage, members=(member(1), elsewhere))
    assert refused(publisher.apply(wanted)) is Refusal.MEMBER_IN_USE
    here = member(2, uuid="c" * 32)
    line = minted(publisher.apply(replace(wanted, members=(member(1), here))))
    assert line.member(ReplicaId("r2")) == here
    assert line.eligible == ()


def test_retired_volume_keeps_its_epoch_and_is_bound_again_at_the_next() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(reassign(line, "r2")))
    tomb = minted(publisher.apply(ask(Intent.RETIRE, basis=line.lineage)))
    assert tomb.retired
    assert tomb.lineage == lineage(2, 2)
    assert refused(publisher.apply(reassign(tomb, "r3"))) is Refusal.RETIRED
    assert refused(publisher.apply(bind())) is Refusal.STALE_BASIS
    again = minted(publisher.apply(bind(basis=tomb.lineage)))
    assert again.lineage == lineage(3, 1)
    assert again.write_seq == tomb.write_seq + 1


def test_retiring_twice_changes_nothing() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(bind()))
    tomb = minted(publisher.apply(ask(Intent.RETIRE, basis=line.lineage)))
    assert isinstance(publisher.apply(ask(Intent.RETIRE, basis=tomb.lineage)), Unchanged)


def test_unbound_volume_retires_into_a_tombstone() -> None:
    publisher = new_publisher()
    tomb = minted(publisher.apply(ask(Intent.RETIRE, shape=shape())))
    assert tomb.retired
    assert minted(publisher.apply(bind(basis=tomb.lineage))).lineage == lineage(2, 1)


BAD = [
    (bind(volume=""), Refusal.NO_VOLUME),
    (bind(primary=""), Refusal.NO_REPLICA),
    (replace(bind(), members=(member(1, data_addr=""),)), Refusal.NO_DATA_ADDR),
    (replace(bind(), members=(member(1, ctrl_addr=""),)), Refusal.NO_CTRL_ADDR),
    (replace(bind(), members=(member(1, uuid=""),)), Refusal.NO_UUID),
    (replace(bind(), intent=0), Refusal.UNKNOWN_INTENT),
    (replace(bind(), intent=99), Refusal.UNKNOWN_INTENT),
    (replace(bind(), members=()), Refusal.NO_MEMBERS),
    (replace(bind(), members=members(9)), Refusal.TOO_MANY_MEMBERS),
    (replace(bind(), members=(member(1), member(1))), Refusal.DUPLICATE_MEMBER),
    (bind(primary="r7"), Refusal.NOT_A_MEMBER),
    (replace(bind(), shape=None), Refusal.NO_SHAPE),
    (bind(shape=shape(2)), Refusal.BAD_SHAPE),
    (bind(shape=replace(shape(), min_in_sync=0)), Refusal.BAD_SHAPE),
    (bind(shape=replace(shape(), size_bytes=0)), Refusal.BAD_SHAPE),
    (ask(Intent.REASSIGN), Refusal.NO_BASIS),
    (ask(Intent.REASSIGN, basis=lineage(0, 1)), Refusal.NO_BASIS),
    (ask(Intent.SHRINK_IN_SYNC, basis=lineage(1, 1)), Refusal.NO_ASKER),
    (ask(Intent.GROW_IN_SYNC, basis=lineage(1, 1)), Refusal.NO_ASKER),
]


@pytest.mark.parametrize(("bad", "code"), BAD, ids=[code.value for _, code in BAD])
def test_bad_ask_is_refused_by_its_own_name_and_leaves_nothing(bad: object, code: Refusal) -> None:
    publisher = new_publisher()
    assert refused(publisher.apply(bad)) is code  # type: ignore[arg-type]
    assert not publisher.lines


def test_first_failing_check_names_the_refusal() -> None:
    everything = ask(Intent.BIND, volume_id=VolumeId(""), replica_id=ReplicaId(""))
    assert refused(new_publisher().apply(everything)) is Refusal.NO_VOLUME


def test_failed_put_leaves_no_trace() -> None:
    disk = MemoryDisk()
    publisher = new_publisher(disk)
    line = minted(publisher.apply(bind()))
    reader = publisher.subscribe(V)
    reader.take()
    disk.fail_next("no space left on device")
    result = publisher.apply(reassign(line, "r2"))
    assert isinstance(result, PutFailed)
    assert "no space" in result.cause
    assert publisher.line(V) == line
    assert reader.take() == []
    after = minted(publisher.apply(reassign(line, "r2")))
    assert (after.lineage, after.write_seq) == (lineage(2, 1), 2)


def test_failed_batch_is_tried_one_by_one() -> None:
    disk = MemoryDisk()
    publisher = new_publisher(disk)
    disk.faults.extend(["no space", None, "no space"])
    results = publisher.apply_all([bind(volume="a"), bind(volume="b")])
    assert isinstance(results[0], Minted)
    assert isinstance(results[1], PutFailed)
    assert set(publisher.lines) == {"a"}


def test_asks_of_one_batch_see_the_lines_before_them() -> None:
    publisher = new_publisher()
    first = bind()
    results = publisher.apply_all([first, first])
    assert isinstance(results[0], Minted)
    assert refused(results[1]) is Refusal.ALREADY_BOUND


def test_subscribers_share_a_fact_and_late_ones_get_the_newest_at_once() -> None:
    publisher = new_publisher()
    early, other = publisher.subscribe(V), publisher.subscribe(VolumeId("other"))
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(reassign(line, "r2")))
    late, all_volumes = publisher.subscribe(V), publisher.subscribe(None)
    assert early.take() == [line]  # a slow reader ends at the newest, and skips
    assert late.take() == [line]
    assert all_volumes.take() == [line]
    assert other.take() == []


def test_reader_is_woken_once_per_batch_of_news_and_sees_the_durable_line() -> None:
    woken: list[int] = []
    disk = MemoryDisk()
    publisher = new_publisher(disk)
    publisher.subscribe(V, lambda: woken.append(len(disk.lines)))
    line = minted(publisher.apply(bind()))
    minted(publisher.apply(shrink(line, "r3")))
    assert woken == [1]


def test_closing_is_idempotent_and_a_closed_reader_gets_nothing() -> None:
    publisher = new_publisher()
    reader, stays = publisher.subscribe(V), publisher.subscribe(V)
    reader.close()
    reader.close()
    line = minted(publisher.apply(bind()))
    assert (reader.take(), stays.take()) == ([], [line])
    publisher.close()
    publisher.close()
    assert stays.closed


def test_reader_may_close_itself_while_it_is_woken() -> None:
    publisher = new_publisher()
    readers: list[object] = []

    def wake() -> None:
        first.close()

    first = publisher.subscribe(V, wake)
    readers.append(publisher.subscribe(V))
    line = minted(publisher.apply(bind()))
    assert publisher.line(V) == line
    assert first.closed


def test_quarantined_volume_mints_nothing_and_others_go_on() -> None:
    """D2: a damaged record is not an absent one."""
    disk = MemoryDisk()
    publisher = new_publisher(disk)
    line = minted(publisher.apply(bind()))
    other = minted(publisher.apply(bind(volume="v2")))
    disk.damage_line(V)
    disk.crash()
    again = new_publisher(disk)
    assert [skip.volume_id for skip in again.skips] == [V]
    assert refused(again.apply(bind())) is Refusal.QUARANTINED
    assert refused(again.apply(reassign(line, "r2"))) is Refusal.QUARANTINED
    minted(again.apply(reassign(other, "r2")))


def test_lines_of_a_later_generation_are_not_believed() -> None:
    disk = MemoryDisk(generation=8)
    publisher = new_publisher(disk)
    minted(publisher.apply(bind()))
    disk.crash()
    disk.generation = 3  # a restored copy of the counter
    again = new_publisher(disk)
    assert refused(again.apply(bind())) is Refusal.QUARANTINED


def test_reload_reproduces_the_line_and_continues_from_it() -> None:
    disk = MemoryDisk()
    publisher = new_publisher(disk)
    line = minted(publisher.apply(bind()))
    line = minted(publisher.apply(shrink(line, "r3")))
    disk.crash()
    again = new_publisher(disk)
    assert again.line(V) == line
    after = minted(again.apply(reassign(line, "r2")))
    assert after.lineage == lineage(2, 1)
    assert (after.write_seq, after.master_generation) == (3, 2)


def test_shape_of_the_line_is_that_of_the_bind() -> None:
    wanted = VolumeShape(size_bytes=4 << 20, block_size=512, replication_factor=1, min_in_sync=1)
    line = minted(new_publisher().apply(bind(1, shape=wanted)))
    assert (line.size_bytes, line.block_size, line.min_in_sync) == (4 << 20, 512, 1)


class _Believing(MemoryStore):
    """A store that gives back whatever it was made with, and counts the lines of each put."""

    def __init__(self, *lines: Line) -> None:
        super().__init__()
        self.lines = lines
        self.puts: list[int] = []

    def load_with_skips(self) -> LoadedLines:
        return LoadedLines(lines=self.lines)

    def put_lines(self, lines: Sequence[Line]) -> None:
        self.puts.append(len(lines))


def test_asks_of_one_batch_are_one_write() -> None:
    """Each is computed on the line of the one before it; a write for each would be a sync for each."""
    store = _Believing()
    publisher = Publisher(store, 1)
    first = bind()
    line = minted(new_publisher().apply(first))
    results = publisher.apply_all((first, shrink(line, "r3"), bind(volume="v2")))
    assert [minted(one).lineage for one in results] == [lineage(1, 1), lineage(1, 2), lineage(1, 1)]
    assert store.puts == [3]


def test_line_that_breaks_an_invariant_is_never_written() -> None:
    """A line with the same files twice must not be carried on by the next mint."""
    line = minted(new_publisher().apply(bind()))
    twice = (line.members[0], line.members[1], replace(line.members[2], uuid=line.members[1].uuid))
    store = _Believing(replace(line, members=twice))
    publisher = Publisher(store, 1)
    publisher.load()
    with pytest.raises(BrokenInvariant, match="uuids"):
        publisher.apply(shrink(line, "r3"))
    assert store.puts == []
    assert publisher.line(V) == replace(line, members=twice)
