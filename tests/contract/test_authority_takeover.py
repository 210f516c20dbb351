"""Recovery of authority, for every twin of the store: marks, audit, rows put in place of damaged ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sparrow.authority.floor import floor_of
from sparrow.authority.publisher import Publisher
from sparrow.authority.recovery import AuditEntry, Mark, MarkKind, Recovered
from sparrow.authority.types import Intent, Line
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.ports.store import AuthorityStore
from sparrow.store.errors import NotNewer, PutError, StoreUnusable
from sparrow.store.memory import MemoryDisk, MemoryStore
from sparrow.store.schema import DATABASE_NAME
from sparrow.store.sqlite import SqliteStore
from tests.support.authority import ask, bind, lineage, minted, new_publisher, shape

V1 = VolumeId("v1")
ENTRY = AuditEntry(verb="recover", volume_id=V1, who="somebody", detail="all answered")
MARK = Mark(volume_id=V1, kind=MarkKind.RESTORED, cause="a backup")


class Place:
    """Where a store is kept between two opens."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind, self.path, self.disk = kind, path / "store", MemoryDisk()
        self.opened: list[AuthorityStore] = []

    def open(self) -> AuthorityStore:
        for store in self.opened:
            store.close()
        made: AuthorityStore = (
            SqliteStore(self.path) if self.kind == "sqlite" else MemoryStore(self.disk)
        )
        self.opened.append(made)
        return made

    def damage(self, volume_id: VolumeId) -> None:
        for store in self.opened:
            store.close()
        if self.kind == "memory":
            self.disk.damage_line(volume_id)
            return
        db = sqlite3.connect(self.path / DATABASE_NAME)
        db.execute("DROP TRIGGER authority_update_is_newer")
        db.execute("UPDATE authority SET body = 'x' WHERE volume_id = ?", (volume_id,))
        db.execute(
            "CREATE TRIGGER authority_update_is_newer BEFORE UPDATE ON authority"
            " WHEN NEW.volume_id IS NOT OLD.volume_id"
            " OR (NEW.epoch, NEW.endpoint_version) <= (OLD.epoch, OLD.endpoint_version)"
            " OR NEW.write_seq <= OLD.write_seq"
            " BEGIN SELECT RAISE(ABORT, 'line is not newer'); END"
        )
        db.commit()
        db.close()


@pytest.fixture(params=["sqlite", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(request.param, tmp_path)
    yield made
    for store in made.opened:
        store.close()


def some_line() -> Line:
    return minted(new_publisher().apply(bind(volume="v1")))


def later(line: Line, epoch: int) -> Line:
    return replace(line, lineage=lineage(epoch, 1), write_seq=line.write_seq + 1024)


def recovered(line: Line | None) -> Recovered:
    return Recovered(volume_id=V1, basis=None, line=line, desired=None, audit=ENTRY)


def test_marks_last_until_their_volume_is_recovered(place: Place) -> None:
    store = place.open()
    store.mark_unconfirmed([MARK])
    store.mark_unconfirmed([replace(MARK, kind=MarkKind.LOST, cause="another")])
    store = place.open()
    assert store.load_marks() == (MARK,)
    assert not store.empty
    store.put_recovered(recovered(later(some_line(), 1030)))
    store = place.open()
    assert store.load_marks() == ()
    assert [line.lineage.epoch for line in store.load_with_skips().lines] == [1030]


def test_a_damaged_row_gives_way_to_a_recovered_line_and_is_kept_aside(place: Place) -> None:
    line = some_line()
    place.open().put_lines([line])
    place.damage(V1)
    store = place.open()
    assert [skip.volume_id for skip in store.load_with_skips().skips] == [V1]
    assert store.recorded_epoch(V1) == 1
    with pytest.raises(NotNewer):
        store.put_lines([line])
    store.put_recovered(recovered(later(line, 1025)))
    loaded = place.open().load_with_skips()
    assert loaded.skips == ()
    assert [one.lineage.epoch for one in loaded.lines] == [1025]
    if place.kind == "sqlite":
        db = sqlite3.connect(place.path / DATABASE_NAME)
        assert db.execute("SELECT volume_id, epoch, body FROM authority_damaged").fetchall() == [
            ("v1", 1, "x")
        ]
        db.close()
    else:
        assert len(place.disk.damaged) == 1


def test_a_row_that_can_be_read_is_not_put_back_by_a_recovery(place: Place) -> None:
    store = place.open()
    line = later(some_line(), 2000)
    store.put_lines([line])
    with pytest.raises(NotNewer):
        store.put_recovered(recovered(replace(line, lineage=lineage(1999, 1))))
    assert store.load_with_skips().lines == (line,)
    assert store.audit(5) == ()


def test_only_an_empty_store_becomes_the_store_of_a_lost_one(place: Place) -> None:
    store = place.open()
    assert store.empty
    store.begin_recovery(cluster_id="c" * 32, generation=1029, awaited=["h:1"], audit=ENTRY)
    with pytest.raises(StoreUnusable):
        store.begin_recovery(cluster_id="d" * 32, generation=1, awaited=[], audit=ENTRY)
    store = place.open()
    assert store.cluster_id == "c" * 32
    assert store.awaited_nodes() == ("h:1",)
    assert store.raise_generation() == 1030
    assert store.epoch_floor == floor_of(1029)
    store.set_awaited_nodes([], replace(ENTRY, verb="give-up"))
    assert place.open().awaited_nodes() == ()


def test_d8_a_volume_without_a_line_begins_above_the_floor_in_every_life_of_the_store(
    place: Place,
) -> None:
    """Of a new store the floor is 0. Of one that stands for a lost store, what begins there is above it."""
    assert place.open().epoch_floor == 0
    store = place.open()
    store.begin_recovery(cluster_id="c" * 32, generation=1029, awaited=[], audit=ENTRY)
    store = place.open()
    publisher = Publisher(store, store.raise_generation())
    publisher.load()
    first = minted(publisher.apply(bind(volume="v1")))
    assert first.lineage == lineage(floor_of(1029) + 1, 1)
    never_bound = ask(
        Intent.RETIRE, volume_id=VolumeId("v2"), replica_id=ReplicaId("r1"), shape=shape(3)
    )
    tomb = minted(publisher.apply(never_bound))
    assert tomb.lineage == first.lineage
    again = Publisher(place.open(), 1031)
    again.load()
    assert minted(again.apply(bind(volume="v3"))).lineage == first.lineage


def test_what_is_about_to_be_done_is_recorded_by_itself(place: Place) -> None:
    store = place.open()
    store.append_audit(replace(ENTRY, verb="recover-from-stale"))
    (entry,) = place.open().audit(5)
    assert (entry.verb, entry.volume_id, entry.who) == ("recover-from-stale", V1, "somebody")


def test_audit_entries_are_told_newest_first_and_stay(place: Place) -> None:
    store = place.open()
    for verb in ("one", "two", "three"):
        store.set_awaited_nodes([], replace(ENTRY, verb=verb))
    assert [entry.verb for entry in store.audit(2)] == ["three", "two"]
    if place.kind == "sqlite":
        assert store.audit(1)[0].at.endswith("Z")
        store.close()
        db = sqlite3.connect(place.path / DATABASE_NAME)
        for statement in ("UPDATE audit SET who = 'x'", "DELETE FROM audit"):
            with pytest.raises(sqlite3.IntegrityError, match="audit entries stay"):
                db.execute(statement)
        db.close()


def test_a_backup_is_whole_durable_and_never_over_another_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store")
    store.put_lines([some_line()])
    store.backup_to(tmp_path / "copy.db")
    with pytest.raises(PutError, match="exists already"):
        store.backup_to(tmp_path / "copy.db")
    with pytest.raises(PutError):
        store.backup_to(tmp_path / "nowhere" / "copy.db")
    store.close()
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "copy.db").rename(there / DATABASE_NAME)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "there"]
    copy = SqliteStore(there, settle=True)
    assert copy.load_with_skips().lines == (some_line(),)
    copy.close()
