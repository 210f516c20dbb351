"""Observations: which heartbeat counts, for how long, and what it changed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.observation import ObservationStore
from sparrow.authority.types import Observation, SlotFact
from sparrow.base.errors import InvalidArgument
from sparrow.base.ids import Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId

N = NodeId("n1")
V = VolumeId("v1")


def fact(volume: str = "v1", **changes: Any) -> SlotFact:
    base = SlotFact(
        volume_id=VolumeId(volume),
        replica_id=ReplicaId("r1"),
        uuid=ReplicaUuid("1" * 32),
        data_addr="d:1",
        ctrl_addr="c:1",
        ready_for_primary=True,
    )
    return replace(base, **changes)


def heartbeat(at: float, sequence: int = 1, incarnation: int = 1, *facts: SlotFact) -> Observation:
    return Observation(
        node_id=N, incarnation=incarnation, sequence=sequence, received_at=at, slots=facts
    )


def test_fact_is_fresh_up_to_and_at_its_expiry_and_not_after() -> None:
    store = ObservationStore(window=2.0)
    store.ingest(heartbeat(10.0, 1, 1, fact()))
    assert store.sight(N, 12.0).fresh
    assert not store.sight(N, math.nextafter(12.0, math.inf)).fresh


def test_expiry_is_announced_and_found_at_the_announced_moment() -> None:
    store = ObservationStore(window=2.0)
    store.ingest(heartbeat(10.0))
    at = store.next_expiry()
    assert at is not None
    assert store.expire(12.0) == ()
    assert store.expire(at) == (N,)
    assert store.expire(at + 1) == ()
    assert store.next_expiry() is None


def test_heartbeats_in_between_postpone_the_expiry() -> None:
    store = ObservationStore(window=2.0)
    store.ingest(heartbeat(10.0, 1))
    store.ingest(heartbeat(11.5, 2))
    assert store.expire(12.1) == ()
    assert store.sight(N, 13.4).fresh
    assert store.expire(13.6) == (N,)


@pytest.mark.parametrize(("incarnation", "sequence"), [(2, 4), (2, 5), (1, 99)])
def test_older_or_repeated_heartbeat_is_counted_and_ignored(
    incarnation: int, sequence: int
) -> None:
    store = ObservationStore()
    store.ingest(heartbeat(10.0, 5, 2, fact(last_lsn=Lsn(9))))
    done = store.ingest(heartbeat(11.0, sequence, incarnation, fact(last_lsn=Lsn(1))))
    assert not done.accepted
    assert store.superseded_count == 1
    assert store.slots_on(N, V)[0].last_lsn == 9
    assert store.sight(N, 11.0).heard_at == 10.0


def test_new_incarnation_starts_its_own_sequence() -> None:
    store = ObservationStore()
    store.ingest(heartbeat(10.0, 500, 1))
    assert store.ingest(heartbeat(11.0, 1, 2)).accepted


@pytest.mark.parametrize("at", [0.0, -1.0, math.nan, math.inf])
def test_observation_without_a_time_is_refused_whole(at: float) -> None:
    store = ObservationStore()
    with pytest.raises(InvalidArgument):
        store.ingest(heartbeat(at, 1, 1, fact()))
    assert store.nodes() == ()


def test_observation_without_a_node_is_refused() -> None:
    store = ObservationStore()
    with pytest.raises(InvalidArgument):
        store.ingest(replace(heartbeat(1.0), node_id=NodeId("")))
    assert store.nodes() == ()


def test_positions_alone_change_nothing_that_must_be_decided() -> None:
    store = ObservationStore()
    assert store.ingest(heartbeat(10.0, 1, 1, fact())).changed == {V}
    moved = fact(last_lsn=Lsn(5), commit_lsn=Lsn(5), primary_silent_ms=100)
    done = store.ingest(heartbeat(10.5, 2, 1, moved))
    assert (done.changed, done.mentioned, done.revived) == (frozenset(), {V}, False)
    done = store.ingest(heartbeat(11.0, 3, 1, fact(disk_failed=True)))
    assert done.changed == {V}


def test_volume_that_is_not_mentioned_any_more_changed() -> None:
    store = ObservationStore()
    store.ingest(heartbeat(10.0, 1, 1, fact("a"), fact("b")))
    assert store.ingest(heartbeat(10.5, 2, 1, fact("b"))).changed == {VolumeId("a")}
    assert store.hosts(VolumeId("a")) == frozenset()
    assert store.hosts(VolumeId("b")) == {N}


def test_node_that_comes_back_changes_all_it_mentions() -> None:
    store = ObservationStore(window=2.0)
    store.ingest(heartbeat(10.0, 1, 1, fact()))
    done = store.ingest(heartbeat(20.0, 2, 1, fact()))
    assert done.revived
    assert done.changed == {V}


def test_highest_commit_is_remembered_over_a_disk_that_was_rolled_back() -> None:
    store = ObservationStore()
    store.ingest(heartbeat(10.0, 1, 1, fact(commit_lsn=Lsn(100))))
    store.ingest(heartbeat(11.0, 1, 2, fact(commit_lsn=Lsn(40))))
    mine, other = ReplicaUuid("1" * 32), ReplicaUuid("2" * 32)
    assert store.highest_commit(V, frozenset({mine, other})) == 100
    assert store.highest_commit(V, frozenset({other})) == 0


def test_closed_stream_counts_until_the_node_speaks_again() -> None:
    store = ObservationStore()
    store.ingest(heartbeat(10.0, 1))
    store.stream_opened(N, 1, 7)
    assert store.sight(N, 10.0).up
    assert not store.stream_closed(N, 6, 10.1)
    assert store.stream_closed(N, 7, 10.2)
    assert not store.sight(N, 10.2).up
    store.ingest(heartbeat(10.25, 2))  # was on its way when the process died
    assert not store.sight(N, 10.3).up
    store.ingest(heartbeat(10.7, 3))
    assert store.sight(N, 10.7).up


def test_stream_of_an_older_process_is_refused() -> None:
    store = ObservationStore()
    store.ingest(heartbeat(10.0, 1, 5))
    assert not store.stream_opened(N, 4, 1)
    assert store.stream_opened(N, 5, 2)
    assert store.sight(N, 10.0).stream_open
    store.ingest(heartbeat(10.5, 1, 6))
    assert not store.sight(N, 10.5).stream_open, "it was the stream of the process before"
