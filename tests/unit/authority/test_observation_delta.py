"""Heartbeats as deltas: what counts as a base, what a delta changes, and that deltas and wholes agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparrow.authority.observation import ObservationStore
from sparrow.authority.types import Observation, SlotFact, SlotName
from sparrow.base.ids import Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId

N = NodeId("n1")
A, B = VolumeId("a"), VolumeId("b")


def fact(volume: str, replica: str = "r1", lsn: int = 0, *, failed: bool = False) -> SlotFact:
    return SlotFact(
        volume_id=VolumeId(volume),
        replica_id=ReplicaId(replica),
        uuid=ReplicaUuid("1" * 32),
        data_addr="d:1",
        ctrl_addr="c:1",
        ready_for_primary=True,
        disk_failed=failed,
        last_lsn=Lsn(lsn),
        commit_lsn=Lsn(lsn),
    )


def whole(at: float, number: int, *slots: SlotFact, incarnation: int = 1) -> Observation:
    return Observation(
        node_id=N,
        incarnation=incarnation,
        sequence=number,
        revision=number,
        received_at=at,
        slots=slots,
    )


def delta(
    at: float,
    number: int,
    *slots: SlotFact,
    base: int,
    removed: tuple[str, ...] = (),
    incarnation: int = 1,
) -> Observation:
    return Observation(
        node_id=N,
        incarnation=incarnation,
        sequence=number,
        revision=number if slots or removed else base,
        base_revision=base,
        received_at=at,
        slots=slots,
        removed=tuple(
            SlotName(volume_id=VolumeId(one), replica_id=ReplicaId("r1")) for one in removed
        ),
    )


def started() -> ObservationStore:
    """One node with replicas of a and b, at revision 1."""
    store = ObservationStore(window=2.0)
    store.ingest(whole(10.0, 1, fact("a"), fact("b")))
    return store


def test_a_delta_changes_what_it_names_and_keeps_the_rest() -> None:
    store = started()
    done = store.ingest(delta(10.5, 2, fact("a", failed=True), base=1))
    assert (done.changed, done.mentioned) == ({A}, {A})
    assert store.slots_on(N, A) == (fact("a", failed=True),)
    assert store.slots_on(N, B) == (fact("b"),)


def test_a_delta_without_changes_renews_every_fact_and_speaks_of_none() -> None:
    store = started()
    done = store.ingest(delta(11.5, 2, base=1))
    assert done.accepted
    assert not done.changed
    assert not done.mentioned
    assert store.expire(12.1) == ()
    assert store.sight(N, 13.5).fresh
    assert store.expire(13.6) == (N,)


def test_positions_in_a_delta_are_mentioned_and_change_nothing() -> None:
    store = started()
    done = store.ingest(delta(10.5, 2, fact("a", lsn=9), base=1))
    assert (done.changed, done.mentioned) == (frozenset(), {A})
    assert store.highest_commit(A, frozenset({ReplicaUuid("1" * 32)})) == 9


def test_a_removed_slot_is_gone_and_its_volume_changed() -> None:
    store = started()
    done = store.ingest(delta(10.5, 2, base=1, removed=("a",)))
    assert done.changed == {A}
    assert store.hosts(A) == frozenset()
    assert store.volumes_on(N) == {B}


def test_of_two_replicas_of_one_volume_only_the_removed_one_goes() -> None:
    store = ObservationStore()
    store.ingest(whole(10.0, 1, fact("a", "r2"), fact("a", "r1")))
    store.ingest(delta(10.5, 2, base=1, removed=("a",)))
    assert store.slots_on(N, A) == (fact("a", "r2"),)
    assert store.hosts(A) == {N}


def test_a_slot_removed_and_made_again_in_one_delta_each_counts() -> None:
    store = started()
    store.ingest(delta(10.5, 2, base=1, removed=("a",)))
    done = store.ingest(delta(11.0, 3, fact("a", lsn=4), base=2))
    assert done.changed == {A}
    assert store.hosts(A) == {N}


def test_after_a_lost_delta_the_next_one_is_refused_until_a_whole_one_comes() -> None:
    store = started()
    # The delta with sequence 2 (a's disk failed) never arrived; this one was made on top of it.
    done = store.ingest(delta(11.0, 3, fact("b", failed=True), base=2))
    assert not done.accepted
    assert store.wants_full(N)
    assert store.slots_on(N, B) == (fact("b"),), "nothing of it was taken"
    assert store.sight(N, 11.0).heard_at == 10.0, "nor does it renew what it did not confirm"
    done = store.ingest(whole(11.1, 4, fact("a", failed=True), fact("b", failed=True)))
    assert done.changed == {A, B}
    assert not store.wants_full(N)
    assert store.ingest(delta(11.5, 5, base=4)).accepted


def test_after_a_lost_answer_the_same_base_is_refused() -> None:
    store = started()
    store.ingest(delta(10.5, 2, fact("a", lsn=5), base=1))
    assert not store.ingest(delta(11.0, 3, fact("a", lsn=6), base=1)).accepted
    assert store.wants_full(N)


def test_a_repeated_delta_is_ignored_and_asks_for_nothing() -> None:
    store = started()
    news = delta(10.5, 2, fact("a", lsn=5), base=1)
    store.ingest(news)
    assert not store.ingest(replace(news, received_at=10.6)).accepted
    assert not store.wants_full(N)
    assert store.superseded_count == 1
    assert store.sight(N, 10.6).heard_at == 10.5


def test_a_delta_that_a_newer_heartbeat_overtook_is_ignored() -> None:
    store = started()
    store.ingest(whole(10.6, 3, fact("a", lsn=7), fact("b")))
    assert not store.ingest(delta(10.7, 2, fact("a", lsn=5), base=1)).accepted
    assert store.slots_on(N, A)[0].last_lsn == 7
    assert not store.wants_full(N)


def test_a_delta_of_a_new_process_has_no_base_although_the_number_is_the_same() -> None:
    store = started()
    assert not store.ingest(delta(10.5, 2, base=1, incarnation=2)).accepted
    assert store.wants_full(N)
    assert store.sight(N, 10.5).incarnation == 1
    store.stream_opened(N, 2, 7)
    assert not store.ingest(delta(10.6, 3, base=1, incarnation=2)).accepted, "the stream is no base"
    assert store.ingest(whole(10.7, 4, fact("a"), incarnation=2)).changed == {A, B}


def test_a_delta_to_a_master_that_knows_nothing_asks_for_all() -> None:
    store = ObservationStore()
    assert not store.ingest(delta(10.0, 5, fact("a"), base=4)).accepted
    assert store.wants_full(N)
    assert not store.sight(N, 10.0).fresh
    assert store.volumes_on(N) == frozenset()


def test_a_delta_of_a_node_that_had_expired_touches_all_its_volumes() -> None:
    store = started()
    store.expire(13.0)
    done = store.ingest(delta(13.0, 2, base=1))
    assert done.revived
    assert done.changed == {A, B}


def test_an_empty_delta_after_a_closed_stream_brings_the_node_back_with_all_its_volumes() -> None:
    store = started()
    store.stream_opened(N, 1, 7)
    store.stream_closed(N, 7, 10.2)
    assert not store.ingest(delta(10.25, 2, base=1)).changed, (
        "it was on its way when the stream closed"
    )
    assert not store.sight(N, 10.25).up
    assert store.ingest(delta(10.7, 3, base=1)).changed == {A, B}
    assert store.sight(N, 10.7).up
    assert not store.ingest(delta(11.2, 4, base=1)).changed


@pytest.mark.parametrize("flag", ["reachable", "eligible"])
def test_a_flag_of_the_node_touches_all_its_volumes(flag: str) -> None:
    store = started()
    changes = {flag: False}
    assert store.ingest(replace(delta(10.5, 2, base=1), **changes)).changed == {A, B}


class Sender:
    """A node and its master's store; the other store gets every inventory whole."""

    def __init__(self) -> None:
        self.now = 10.0
        self.sequence = 0
        self.incarnation = 1
        self.slots: dict[tuple[str, str], SlotFact] = {}
        self.acked: tuple[int, dict[tuple[str, str], SlotFact]] | None = None
        self.by_delta, self.by_whole = ObservationStore(), ObservationStore()
        self.late: list[Observation] = []

    def beat(self, *, arrives: bool, answered: bool) -> None:
        self.now += 0.1
        self.sequence += 1
        slots = tuple(self.slots.values())
        full = whole(self.now, self.sequence, *slots, incarnation=self.incarnation)
        sent = full if self.acked is None else self._against(*self.acked)
        if not arrives:
            self.late.append(sent)
            return
        done = self.by_delta.ingest(sent)
        if done.accepted:
            other = self.by_whole.ingest(full)
            assert done.changed == other.changed
            assert done.mentioned <= other.mentioned | other.changed
        if self.by_delta.wants_full(N):
            assert not done.accepted
            self.acked = None
        elif answered:
            self.acked = (sent.revision, dict(self.slots))

    def _against(self, base: int, held: dict[tuple[str, str], SlotFact]) -> Observation:
        changed = [one for key, one in self.slots.items() if held.get(key) != one]
        removed = [
            SlotName(volume_id=VolumeId(volume), replica_id=ReplicaId(replica))
            for volume, replica in held.keys() - self.slots.keys()
        ]
        made = delta(self.now, self.sequence, *changed, base=base, incarnation=self.incarnation)
        revision = self.sequence if changed or removed else base
        return replace(made, removed=tuple(removed), revision=revision)

    def deliver_late(self) -> None:
        """What got stuck on the way arrives now."""
        for one in self.late:
            done = self.by_delta.ingest(replace(one, received_at=self.now))
            assert not done.accepted, "a newer heartbeat was sent meanwhile, or its base is gone"
        self.late.clear()

    def restart(self) -> None:
        self.incarnation += 1
        self.sequence = 0
        self.acked = None


KEYS = [(volume, replica) for volume in "abc" for replica in ("r1", "r2")]
STEPS: st.SearchStrategy[Callable[[Sender], None]] = st.one_of(
    st.builds(
        lambda key, lsn, failed: (
            lambda node: node.slots.update({key: fact(*key, lsn, failed=failed)})
        ),
        st.sampled_from(KEYS),
        st.integers(0, 5),
        st.booleans(),
    ),
    st.builds(lambda key: lambda node: node.slots.pop(key, None), st.sampled_from(KEYS)),
    st.builds(
        lambda arrives, answered: lambda node: node.beat(arrives=arrives, answered=answered),
        st.booleans(),
        st.booleans(),
    ),
    st.just(lambda node: (node.beat(arrives=True, answered=True), node.deliver_late())[0]),
    st.just(Sender.restart),
)


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=40))
def test_deltas_and_wholes_lead_to_the_same_state(steps: list[Callable[[Sender], None]]) -> None:
    """Heartbeats and answers are lost, repeated late, and processes restart; wholes alone are the measure."""
    node = Sender()
    for step in steps:
        step(node)
    for _ in range(2):
        node.beat(arrives=True, answered=True)
    one, other = node.by_delta, node.by_whole
    uuids = frozenset({ReplicaUuid("1" * 32)})
    assert one.sight(N, node.now) == other.sight(N, node.now)
    assert one.volumes_on(N) == other.volumes_on(N)
    for volume in (VolumeId(name) for name in "abc"):
        assert one.slots_on(N, volume) == other.slots_on(N, volume)
        assert one.hosts(volume) == other.hosts(volume)
        assert one.highest_commit(volume, uuids) == other.highest_commit(volume, uuids)
        assert set(one.slots_on(N, volume)) == {
            f for f in node.slots.values() if f.volume_id == volume
        }
