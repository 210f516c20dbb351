"""The SQLite store: damage row by row, the lock, and what must fail the boot."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sparrow.authority.floor import floor_of
from sparrow.authority.recovery import AuditEntry
from sparrow.base.ids import NodeId, VolumeId
from sparrow.lifecycle.nodes import NodeRecord, NodeState
from sparrow.store.errors import PutError, StoreDamaged, StoreLockHeld, StoreUnusable
from sparrow.store.lock import LOCK_NAME
from sparrow.store.schema import DATABASE_NAME
from sparrow.store.sqlite import SqliteStore
from tests.support.authority import V, bind, minted, new_publisher


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A closed store with lines of v1 and v2."""
    store = SqliteStore(tmp_path)
    store.raise_generation()
    lines = [minted(new_publisher().apply(bind(volume=name))) for name in ("v1", "v2")]
    store.put_lines(lines)
    store.close()
    return tmp_path


def by_hand(directory: Path, *statements: str) -> None:
    """Change the database behind the store's back, triggers and all."""
    db = sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)
    for name in ("authority_update_is_newer", "authority_insert_is_newer", "authority_rows_stay"):
        db.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("body = replace(body, '\"epoch\":1', '\"epoch\":7')", "checksum"),
        ("checksum = 'x'", "checksum"),
        ("body = 'not json', checksum = '3a'", "checksum"),
        ("version = 2", "version"),
        ("epoch = 9", "columns"),
        ("write_seq = 9", "columns"),
        ("body = CAST(x'ff00ff' AS TEXT)", "not text"),
        ("body = 5", "checksum"),
    ],
)
def test_damaged_row_is_skipped_by_name_and_the_others_load(
    filled: Path, change: str, cause: str
) -> None:
    by_hand(filled, f"UPDATE authority SET {change} WHERE volume_id = 'v1'")
    store = SqliteStore(filled)
    loaded = store.load_with_skips()
    store.close()
    assert [line.volume_id for line in loaded.lines] == ["v2"]
    assert [skip.volume_id for skip in loaded.skips] == ["v1"]
    assert cause in loaded.skips[0].cause


def test_record_under_another_volumes_name_puts_both_in_doubt(filled: Path) -> None:
    by_hand(
        filled,
        "UPDATE authority SET (epoch, endpoint_version, write_seq, body, checksum) ="
        " (SELECT epoch, endpoint_version, write_seq, body, checksum FROM authority"
        " WHERE volume_id = 'v1') WHERE volume_id = 'v2'",
    )
    store = SqliteStore(filled)
    loaded = store.load_with_skips()
    store.close()
    assert loaded.lines == ()
    assert {skip.volume_id for skip in loaded.skips} == {"v1", "v2"}


def test_valid_checksum_does_not_excuse_a_line_that_contradicts_itself(filled: Path) -> None:
    import hashlib

    db = sqlite3.connect(filled / DATABASE_NAME)
    body = db.execute("SELECT body FROM authority WHERE volume_id = 'v1'").fetchone()[0]
    db.close()
    forged = body.replace('"primary":"r1"', '"primary":"r9"')
    check = hashlib.sha256(forged.encode()).hexdigest()
    by_hand(
        filled,
        f"UPDATE authority SET body = '{forged}', checksum = '{check}' WHERE volume_id = 'v1'",
    )
    store = SqliteStore(filled)
    loaded = store.load_with_skips()
    store.close()
    assert [skip.volume_id for skip in loaded.skips] == ["v1"]
    assert "primary" in loaded.skips[0].cause


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE authority SET epoch = 0 WHERE volume_id = 'v1'",
        "UPDATE authority SET write_seq = 9 WHERE volume_id = 'v1'",
        "UPDATE authority SET write_seq = 9, endpoint_version = 0 WHERE volume_id = 'v1'",
        "UPDATE authority SET write_seq = 1, endpoint_version = 5 WHERE volume_id = 'v1'",
        "UPDATE authority SET volume_id = 'v9', epoch = 9, write_seq = 9 WHERE volume_id = 'v1'",
        "DELETE FROM authority WHERE volume_id = 'v1'",
        "INSERT OR REPLACE INTO authority SELECT * FROM authority WHERE volume_id = 'v1'",
    ],
)
def test_database_itself_refuses_to_go_back(filled: Path, statement: str) -> None:
    db = sqlite3.connect(filled / DATABASE_NAME)
    with pytest.raises(sqlite3.IntegrityError, match="not newer"):
        db.execute(statement)
    db.close()


@pytest.mark.parametrize("junk", [b"", b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8192])
def test_unreadable_database_fails_the_boot_or_is_empty_and_says_so(
    tmp_path: Path, junk: bytes
) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(junk)
    if not junk:
        SqliteStore(tmp_path).close()  # a crash before the first transaction leaves exactly this
        return
    with pytest.raises(StoreDamaged, match=DATABASE_NAME):
        SqliteStore(tmp_path)


def test_damaged_page_fails_the_boot(filled: Path) -> None:
    path = filled / DATABASE_NAME
    whole = bytearray(path.read_bytes())
    for page in range(4096, len(whole), 4096):
        whole[page : page + 16] = b"\xff" * 16
    path.write_bytes(whole)
    with pytest.raises(StoreDamaged):
        SqliteStore(filled)
    # The lock was let go: the operator can try again.
    with pytest.raises(StoreDamaged):
        SqliteStore(filled)


def test_row_that_the_schema_forbids_fails_the_boot(filled: Path) -> None:
    """Damage that every statement reads over: only the check of the whole database finds it."""
    db = sqlite3.connect(filled / DATABASE_NAME, isolation_level=None)
    schema = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'volumes'").fetchone()[0]
    db.execute("PRAGMA writable_schema = ON")
    change = "UPDATE sqlite_schema SET sql = ? WHERE name = 'volumes'"
    db.execute(change, (schema.replace("body TEXT NOT NULL", "body TEXT"),))
    db.close()
    db = sqlite3.connect(filled / DATABASE_NAME, isolation_level=None)
    db.execute("INSERT INTO volumes (volume_id, version, checksum) VALUES ('v9', 1, '')")
    db.execute("PRAGMA writable_schema = ON")
    db.execute(change, (schema,))
    db.close()
    with pytest.raises(StoreDamaged, match="NULL value"):
        SqliteStore(filled)


def test_store_of_another_schema_or_another_program_is_left_alone(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / DATABASE_NAME)
    db.execute("CREATE TABLE somebody_elses (x)")
    db.commit()
    db.close()
    with pytest.raises(StoreUnusable, match="something else"):
        SqliteStore(tmp_path)
    newer = tmp_path / "newer"
    SqliteStore(newer).close()
    db = sqlite3.connect(newer / DATABASE_NAME)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreUnusable, match="schema 99"):
        SqliteStore(newer)


@pytest.mark.parametrize("bad", ["", "  ", "."])
def test_directory_must_be_named(bad: str) -> None:
    with pytest.raises(StoreUnusable, match="needs a directory"):
        SqliteStore(bad)


def test_directory_that_is_a_file_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(StoreUnusable, match="file"):
        SqliteStore(path)


def test_new_directory_is_private(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "deep" / "store").close()
    mode = stat.S_IMODE((tmp_path / "deep" / "store").stat().st_mode)
    assert mode == 0o700


def test_second_opener_learns_the_store_and_the_holder(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with pytest.raises(StoreLockHeld, match=str(os.getpid())) as caught:
        SqliteStore(tmp_path)
    assert str(tmp_path) in str(caught.value)
    store.close()


def test_stale_lock_file_of_a_dead_holder_is_harmless(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text("999999\nold words that are longer than a pid")
    store = SqliteStore(tmp_path)
    assert (tmp_path / LOCK_NAME).read_text() == f"{os.getpid()}\n"
    store.close()
    assert (tmp_path / LOCK_NAME).exists()


def test_kernel_drops_the_lock_of_a_killed_holder(tmp_path: Path) -> None:
    code = (
        "import sys; from sparrow.store.sqlite import SqliteStore;"
        f"store = SqliteStore({str(tmp_path)!r}); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreLockHeld, match=str(holder.pid)):
        SqliteStore(tmp_path)
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    SqliteStore(tmp_path).close()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[SqliteStore]:
    """A store whose database may not grow any more."""
    store = SqliteStore(tmp_path)
    db = store._db()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    yield store
    store.close()


def test_full_disk_is_a_failed_put_that_left_nothing(full: SqliteStore) -> None:
    lines = [minted(new_publisher().apply(bind(volume=f"v{number}" * 40))) for number in range(200)]
    with pytest.raises(PutError, match="full"):
        full.put_lines(lines)
    assert full.load_with_skips().lines == ()
    assert full.raise_generation() == 1, "and the store goes on"


def test_epoch_beyond_the_column_is_a_failed_put(tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.support.authority import lineage

    store = SqliteStore(tmp_path)
    line = minted(new_publisher().apply(bind()))
    with pytest.raises(PutError):
        store.put_lines([replace(line, lineage=lineage(1 << 63, 1))])
    assert store.load_with_skips().lines == ()
    store.close()


def test_damaged_volume_row_is_skipped(tmp_path: Path) -> None:
    from tests.support.authority import FakeCluster

    cluster = FakeCluster()
    cluster.create("v1")
    volume = cluster.loop.desired(V)
    assert volume is not None
    store = SqliteStore(tmp_path)
    store.create_volume(volume)
    store.close()
    db = sqlite3.connect(tmp_path / DATABASE_NAME)
    db.execute("UPDATE volumes SET body = replace(body, 'r1', 'r7')")
    db.commit()
    db.close()
    store = SqliteStore(tmp_path)
    loaded = store.load_volumes()
    store.close()
    assert loaded.volumes == ()
    assert [skip.volume_id for skip in loaded.skips] == [V]


def test_commit_that_returned_is_on_the_disk(filled: Path) -> None:
    """In a write-ahead journal anything less than FULL forgets the last commits at a power cut."""
    store = SqliteStore(filled)
    db = store._db()
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    SqliteStore(tmp_path).close()
    db = sqlite3.connect(tmp_path / DATABASE_NAME)
    for trigger in (
        "topology_version_grows",
        "authority_policy_stays",
        "volumes_policy_stays",
        "epoch_floor_grows",
    ):
        db.execute(f"DROP TRIGGER {trigger}")
    db.execute(
        "DELETE FROM meta WHERE key IN ('topology_version', 'awaited_nodes', 'epoch_floor', 'home')"
    )
    for table in ("nodes", "unconfirmed", "repairing", "authority_damaged", "audit", "secrets"):
        db.execute(f"DROP TABLE {table}")
    record = {
        "volume_id": "a", "size_bytes": 1 << 20, "block_size": 4096, "replication_factor": 1,
        "ack": "sync", "min_in_sync": 1, "slots": [], "phase": "active",
    }  # fmt: skip
    body = json.dumps(record, sort_keys=True, separators=(",", ":"))
    check = hashlib.sha256(body.encode()).hexdigest()
    db.execute("INSERT INTO volumes VALUES ('a', 1, ?, ?)", (body, check))
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    store = SqliteStore(tmp_path)
    assert [volume.volume_id for volume in store.load_volumes().volumes] == ["a"]
    assert store.topology_version == 0
    store.put_node(NodeRecord(node_id=NodeId("n1"), state=NodeState.CORDONED))
    store.close()
    again = SqliteStore(tmp_path)
    assert again.topology_version == 1
    again.close()


@pytest.mark.parametrize(("generation", "floor"), [(7, 0), (2053, floor_of(2053))])
def test_d8_a_store_that_an_older_program_restored_gets_its_floor(
    tmp_path: Path, generation: int, floor: int
) -> None:
    SqliteStore(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as db:
        db.execute("DROP TRIGGER epoch_floor_grows")
        db.execute("DELETE FROM meta WHERE key IN ('epoch_floor', 'home')")
        db.execute("UPDATE meta SET value = ? WHERE key = 'generation'", (str(generation),))
        db.execute("DROP TABLE secrets")
        db.execute("PRAGMA user_version = 4")
        db.commit()
    store = SqliteStore(tmp_path)
    assert store.epoch_floor == floor
    store.close()


def test_d8_the_floor_only_grows_and_is_never_above_its_generation(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    audit = AuditEntry(verb="recover", volume_id=VolumeId(""), who="somebody", detail="")
    store.begin_recovery(cluster_id="c" * 32, generation=1029, awaited=[], audit=audit)
    store.close()
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as db:
        lower = "UPDATE meta SET value = ? WHERE key = 'epoch_floor'"
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            db.execute(lower, (str(floor_of(1029) - 1),))
        db.execute(lower, (str(floor_of(1029) + 1),))
        db.commit()
    with pytest.raises(StoreDamaged, match="epoch floor"):
        SqliteStore(tmp_path)


def test_a_damaged_row_of_a_node_is_told_with_its_name(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.put_node(NodeRecord(node_id=NodeId("n1"), state=NodeState.DRAINING))
    store.close()
    db = sqlite3.connect(tmp_path / DATABASE_NAME)
    db.execute("UPDATE nodes SET body = replace(body, 'draining', 'active')")
    db.commit()
    db.close()
    store = SqliteStore(tmp_path)
    loaded = store.load_nodes()
    assert loaded.nodes == ()
    assert [node_id for node_id, _ in loaded.damaged] == ["n1"]
    store.close()


def test_the_topology_version_is_not_set_back_even_by_hand(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.put_node(NodeRecord(node_id=NodeId("n1"), state=NodeState.DRAINING))
    store.close()
    db = sqlite3.connect(tmp_path / DATABASE_NAME)
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        db.execute("UPDATE meta SET value = '0' WHERE key = 'topology_version'")
    db.close()
