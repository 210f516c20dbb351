"""One suite for every twin of ports.store.AuthorityStore."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparrow.authority.record import decode_line, encode_line
from sparrow.authority.types import (
    AckPolicy,
    DesiredVolume,
    LeavingSlot,
    Line,
    PlacedSlot,
    PlacementVerdict,
    VolumePhase,
)
from sparrow.base.access import AccessEntry, AccessList, Frontend, Secret
from sparrow.base.errors import AlreadyExists, NotFound
from sparrow.base.ids import EndpointVersion, NodeId, ReplicaId, VolumeId
from sparrow.lifecycle.nodes import NodeRecord, NodeState
from sparrow.ports.store import AuthorityStore, LoadedNodes
from sparrow.store.errors import (
    NotNewer,
    PolicyFixed,
    StoreClosed,
    StoreLockHeld,
    StoreTakenOver,
)
from sparrow.store.memory import MemoryDisk, MemoryStore
from sparrow.store.sqlite import SqliteStore
from tests.support.authority import bind, lineage, minted, new_publisher, reassign, shape

Open = Callable[[], AuthorityStore]


@pytest.fixture(params=["sqlite", "memory"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the store; what is opened again finds what was there."""
    disk = MemoryDisk()
    opened: list[AuthorityStore] = []

    def open_() -> AuthorityStore:
        store: AuthorityStore = (
            SqliteStore(tmp_path / "store") if request.param == "sqlite" else MemoryStore(disk)
        )
        opened.append(store)
        return store

    yield open_
    for store in opened:
        store.close()


def some_line(volume: str = "v1") -> Line:
    return minted(new_publisher().apply(bind(volume=volume)))


def next_of(line: Line, *, epoch: int, endpoint_version: int) -> Line:
    return replace(line, lineage=lineage(epoch, endpoint_version), write_seq=line.write_seq + 1)


def some_volume(volume: str = "v1") -> DesiredVolume:
    return DesiredVolume(
        volume_id=VolumeId(volume),
        shape=shape(2),
        slots=(
            PlacedSlot(replica_id=ReplicaId("r1"), node_id=NodeId("n1")),
            PlacedSlot(replica_id=ReplicaId("r2"), node_id=NodeId("n2")),
        ),
    )


def test_generation_grows_with_every_boot_and_the_cluster_stays_the_same(open_store: Open) -> None:
    store = open_store()
    cluster, first = store.cluster_id, store.raise_generation()
    store.close()
    again = open_store()
    assert len(cluster) == 32
    assert (again.cluster_id, first, again.raise_generation()) == (cluster, 1, 2)


def test_s18e_a_master_whose_store_a_later_one_took_over_makes_nothing_durable_any_more(
    open_store: Open,
) -> None:
    """Locks do not reach from one machine to another; the generation in the store does."""
    old, line = open_store(), some_line()
    old.raise_generation()
    old.put_lines([line])
    _let_go_of_the_lock(old)
    new = open_store()
    new.raise_generation()
    after = next_of(line, epoch=2, endpoint_version=1)
    for change in (
        lambda: old.put_lines([after]),
        lambda: old.create_volume(some_volume("v2")),
        lambda: old.put_node(NodeRecord(node_id=NodeId("n1"), state=NodeState.DRAINING)),
        lambda: old.delete_volume(VolumeId("v1")),
        lambda: old.mark_unconfirmed([]),
    ):
        with pytest.raises(StoreTakenOver, match="generation 2, this master is 1"):
            change()
    assert new.load_with_skips().lines == (line,)
    new.put_lines([after])
    assert new.load_with_skips().lines == (after,)


def _let_go_of_the_lock(store: AuthorityStore) -> None:
    if isinstance(store, SqliteStore):
        store._lock.release()
    else:
        assert isinstance(store, MemoryStore)
        store.disk.crash()


def test_what_was_put_is_loaded_again_exactly(open_store: Open) -> None:
    store = open_store()
    lines = [some_line("a"), some_line("b/../..%00_"), some_line("ünïcode")]
    store.put_lines(lines)
    store.close()
    loaded = open_store().load_with_skips()
    assert loaded.skips == ()
    assert {line.volume_id: line for line in loaded.lines} == {one.volume_id: one for one in lines}


@pytest.mark.parametrize("step", [(1, 1), (1, 2), (2, 1)])
def test_line_that_is_not_newer_is_refused_by_the_store_itself(
    open_store: Open, step: tuple[int, int]
) -> None:
    """D1: whatever the publisher believes."""
    store = open_store()
    line = some_line()
    held = replace(line, lineage=lineage(2, 1), write_seq=5)
    store.put_lines([held])
    epoch, endpoint_version = step
    older = replace(line, lineage=lineage(epoch, endpoint_version), write_seq=9)
    with pytest.raises(NotNewer):
        store.put_lines([older])
    assert store.load_with_skips().lines == (held,)


@pytest.mark.parametrize("change", [{"min_in_sync": 1}, {"ack": AckPolicy.LOCAL}])
def test_s29_policy_and_minimum_of_a_recorded_volume_are_fixed(
    open_store: Open, change: dict[str, Any]
) -> None:
    """Until its tombstone; what comes after that may have others."""
    store = open_store()
    line, wanted = some_line(), replace(some_volume("v1"), shape=shape(3))
    store.put_lines([line])
    store.create_volume(wanted)
    for epoch, endpoint_version in ((1, 2), (2, 1)):
        other = replace(next_of(line, epoch=epoch, endpoint_version=endpoint_version), **change)
        with pytest.raises(PolicyFixed):
            store.put_lines([other])
    with pytest.raises(PolicyFixed):
        store.update_volume(replace(wanted, shape=replace(wanted.shape, **change)))
    assert store.load_with_skips().lines == (line,)
    assert store.load_volumes().volumes == (wanted,)
    tombstone = replace(next_of(line, epoch=1, endpoint_version=2), retired=True)
    store.put_lines([tombstone])
    again = replace(next_of(tombstone, epoch=2, endpoint_version=1), retired=False, **change)
    store.put_lines([again])
    assert store.load_with_skips().lines == (again,)


def test_newer_endpoint_version_or_epoch_is_taken(open_store: Open) -> None:
    store = open_store()
    line = some_line()
    store.put_lines([line])
    line = next_of(line, epoch=1, endpoint_version=2)
    store.put_lines([line])
    line = next_of(line, epoch=2, endpoint_version=1)
    store.put_lines([line])
    assert store.load_with_skips().lines == (line,)


def test_write_seq_must_grow_as_well(open_store: Open) -> None:
    store = open_store()
    line = some_line()
    store.put_lines([line])
    with pytest.raises(NotNewer):
        store.put_lines([replace(line, lineage=lineage(1, 2))])


def test_lines_of_one_put_stand_or_fall_together(open_store: Open) -> None:
    store = open_store()
    held = some_line("b")
    store.put_lines([held])
    with pytest.raises(NotNewer):
        store.put_lines([some_line("a"), held])
    assert store.load_with_skips().lines == (held,)


def test_previous_record_can_be_shown_and_is_never_loaded(open_store: Open) -> None:
    store = open_store()
    first = some_line()
    store.put_lines([first])
    assert store.previous_records([first.volume_id]) == {}
    second = next_of(first, epoch=1, endpoint_version=2)
    store.put_lines([second])
    shown = store.previous_records([first.volume_id, VolumeId("none")])
    assert {key: decode_line(text) for key, text in shown.items()} == {first.volume_id: first}
    assert store.load_with_skips().lines == (second,)


def test_volumes_are_created_once_updated_and_deleted(open_store: Open) -> None:
    store = open_store()
    volume = some_volume()
    store.create_volume(volume)
    with pytest.raises(AlreadyExists):
        store.create_volume(volume)
    changed = replace(volume, phase=VolumePhase.ACTIVE)
    store.update_volume(changed)
    store.close()
    store = open_store()
    assert store.load_volumes().volumes == (changed,)
    store.delete_volume(volume.volume_id)
    store.delete_volume(volume.volume_id)
    assert store.load_volumes().volumes == ()
    with pytest.raises(NotFound):
        store.update_volume(changed)


def test_wanted_node_states_are_kept_and_replaced(open_store: Open) -> None:
    store = open_store()
    assert store.load_nodes() == LoadedNodes()
    store.put_node(NodeRecord(node_id=NodeId("n1"), state=NodeState.CORDONED))
    drained = NodeRecord(node_id=NodeId("n1"), state=NodeState.DRAINING)
    other = NodeRecord(node_id=NodeId("n2"), state=NodeState.LOST)
    store.put_node(other)
    store.put_node(drained)
    store.close()
    assert open_store().load_nodes() == LoadedNodes(nodes=(drained, other))


def test_the_topology_version_grows_with_every_change_of_what_is_wanted(open_store: Open) -> None:
    store = open_store()
    seen = [store.topology_version]
    volume = some_volume()
    store.create_volume(volume)
    seen.append(store.topology_version)
    with pytest.raises(AlreadyExists):
        store.create_volume(volume)
    assert store.topology_version == seen[-1], "nothing changed"
    store.update_volume(replace(volume, phase=VolumePhase.ACTIVE))
    seen.append(store.topology_version)
    store.put_node(NodeRecord(node_id=NodeId("n1"), state=NodeState.CORDONED))
    seen.append(store.topology_version)
    store.close()
    store = open_store()
    store.delete_volume(volume.volume_id)
    seen.append(store.topology_version)
    assert seen == sorted(set(seen))


def test_what_is_given_up_and_why_nodes_were_chosen_is_kept(open_store: Open) -> None:
    store = open_store()
    volume = replace(
        some_volume(),
        leaving=(
            LeavingSlot(
                replica_id=ReplicaId("r3"),
                node_id=NodeId("n3"),
                successor=ReplicaId("r2"),
                cause="n3 is being drained",
            ),
        ),
        verdicts=(
            PlacementVerdict(node_id=NodeId("n1"), chosen=True, reason="has room", room_bytes=7),
            PlacementVerdict(node_id=NodeId("n3"), chosen=False, reason="left", room_bytes=0),
        ),
    )
    store.create_volume(volume)
    store.close()
    assert open_store().load_volumes().volumes == (volume,)


def test_store_is_open_once_and_can_be_opened_after_it_was_closed(open_store: Open) -> None:
    store = open_store()
    with pytest.raises(StoreLockHeld):
        open_store()
    store.close()
    store.close()
    open_store()


def test_closed_store_refuses_everything(open_store: Open) -> None:
    store = open_store()
    store.close()
    line, volume = some_line(), some_volume()
    calls: list[Callable[[], object]] = [
        store.load_with_skips,
        lambda: store.put_lines([line]),
        store.load_volumes,
        lambda: store.create_volume(volume),
        lambda: store.update_volume(volume),
        lambda: store.delete_volume(volume.volume_id),
        store.raise_generation,
        store.load_nodes,
        lambda: store.put_node(NodeRecord(node_id=NodeId("n1"), state=NodeState.LOST)),
        lambda: store.topology_version,
        lambda: store.previous_records([line.volume_id]),
    ]
    for call in calls:
        with pytest.raises(StoreClosed):
            call()


def test_hundred_cycles_of_minting_and_reloading_never_lose_a_line(open_store: Open) -> None:
    store = open_store()
    line = some_line()
    store.put_lines([line])
    for count in range(100):
        version = EndpointVersion(line.lineage.endpoint_version + 1)
        line = next_of(line, epoch=1 + count // 50, endpoint_version=version)
        store.put_lines([line])
        assert store.load_with_skips().lines == (line,)


def test_publisher_goes_on_after_a_restart_from_either_store(open_store: Open) -> None:
    from sparrow.authority.publisher import Publisher

    store = open_store()
    publisher = Publisher(store, store.raise_generation())
    publisher.load()
    line = minted(publisher.apply(bind()))
    store.close()
    store = open_store()
    again = Publisher(store, store.raise_generation())
    again.load()
    assert again.line(line.volume_id) == line
    assert minted(again.apply(reassign(line, "r2"))).lineage == lineage(2, 1)


def test_record_text_is_canonical() -> None:
    line = some_line()
    text = encode_line(line)
    assert " " not in text
    assert encode_line(decode_line(text)) == text


def test_secrets_are_kept_replaced_and_forgotten(open_store: Open) -> None:
    store = open_store()
    store.put_secret(Secret(name="b", value=b"\0binary\xff value"))
    store.put_secret(Secret(name="a", value=b"old value of a secret"))
    store.put_secret(Secret(name="a", value=b"new value of a secret"))
    store.put_secret(Secret(name="c", value=b"value of another one"))
    store.delete_secret("c")
    store.delete_secret("never there")
    store.close()
    loaded = open_store().load_secrets()
    assert [(one.name, one.value) for one in loaded.secrets] == [
        ("a", b"new value of a secret"),
        ("b", b"\0binary\xff value"),
    ]
    assert loaded.damaged == ()


def test_the_access_list_of_a_volume_is_kept(open_store: Open) -> None:
    access = AccessList(
        revision=7,
        entries=(
            AccessEntry(protocol=Frontend.ISCSI, name="iqn.2004-10.com.example:h", secret="a"),
            AccessEntry(protocol=Frontend.NBD, name="CN=host1"),
            AccessEntry(protocol=Frontend.NVME, name="*", secret="a", target_secret="b"),
        ),
        allow_none=True,
    )
    volume = DesiredVolume(
        volume_id=VolumeId("v1"),
        shape=shape(),
        slots=(PlacedSlot(replica_id=ReplicaId("r1"), node_id=NodeId("n1")),),
    )
    store = open_store()
    store.create_volume(volume)
    store.update_volume(replace(volume, access=access))
    store.close()
    (loaded,) = open_store().load_volumes().volumes
    assert loaded == replace(volume, access=access)


def test_where_a_volume_is_attached_is_kept_and_forgotten(open_store: Open) -> None:
    volume = DesiredVolume(volume_id=VolumeId("v1"), shape=shape(), slots=())
    for attached_to in ("host1.example", ""):
        store = open_store()
        if not store.load_volumes().volumes:
            store.create_volume(volume)
        store.update_volume(replace(volume, attached_to=attached_to))
        store.close()
        store = open_store()
        (loaded,) = store.load_volumes().volumes
        assert loaded.attached_to == attached_to
        store.close()
