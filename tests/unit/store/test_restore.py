"""A backup put in the place of a store: what it marks, what it keeps, what it refuses."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from sparrow.authority.floor import floor_of
from sparrow.authority.recovery import GENERATION_GAP, MarkKind
from sparrow.store.errors import StoreCopied, StoreLockHeld, StoreUnusable
from sparrow.store.home import home_of
from sparrow.store.restore import restore
from sparrow.store.schema import DATABASE_NAME
from sparrow.store.sqlite import SqliteStore
from tests.support.authority import bind, minted, new_publisher


def test_a_restored_store_believes_nothing_and_outnumbers_every_boot(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store")
    store.raise_generation()
    store.put_lines([minted(new_publisher().apply(bind(volume="v1")))])
    store.backup_to(tmp_path / "copy")
    for _ in range(3):
        store.raise_generation()
    with pytest.raises(StoreLockHeld):
        restore(tmp_path / "store", tmp_path / "copy", who="me")
    store.close()
    done = restore(tmp_path / "store", tmp_path / "copy", who="me")
    assert (done.volumes, done.generation) == (1, 4 + GENERATION_GAP)
    assert done.kept is not None
    assert done.kept.exists()
    again = SqliteStore(tmp_path / "store")
    assert [mark.kind for mark in again.load_marks()] == [MarkKind.RESTORED]
    assert again.epoch_floor == floor_of(4 + GENERATION_GAP)
    assert again.raise_generation() == 5 + GENERATION_GAP
    assert [entry.verb for entry in again.audit(9)] == ["restore"]
    again.close()


def test_a_copy_of_a_store_is_refused_until_it_is_restored_in_its_place(tmp_path: Path) -> None:
    """Beside a living master it would decide on the same lines; restored it believes nothing."""
    store = SqliteStore(tmp_path / "store")
    generation = store.raise_generation()
    store.put_lines([minted(new_publisher().apply(bind(volume="v1")))])
    store.close()
    there = tmp_path / "there"
    shutil.copytree(tmp_path / "store", there)
    with pytest.raises(StoreCopied, match="is a copy of a master's store") as caught:
        SqliteStore(there)
    assert "sparrow authority restore" in caught.value.hint
    done = restore(there, there / DATABASE_NAME, who="me")
    assert done.generation == generation + GENERATION_GAP
    again = SqliteStore(there)
    assert [mark.kind for mark in again.load_marks()] == [MarkKind.RESTORED]
    again.close()
    original = SqliteStore(tmp_path / "store")
    assert original.load_marks() == ()
    original.close()


def test_a_copy_that_took_the_originals_place_is_refused_as_well(tmp_path: Path) -> None:
    """`tar x`, `rsync`, `cp -a`: times and names come along, the file is another one."""
    SqliteStore(tmp_path / "store").close()
    database = tmp_path / "store" / DATABASE_NAME
    shutil.copy2(database, tmp_path / "copy")
    (tmp_path / "copy").replace(database)
    with pytest.raises(StoreCopied):
        SqliteStore(tmp_path / "store")


def test_a_store_whose_directory_is_renamed_stays_at_home(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store")
    generation = store.raise_generation()
    store.close()
    (tmp_path / "store").rename(tmp_path / "moved")
    moved = SqliteStore(tmp_path / "moved")
    assert moved.raise_generation() == generation + 1
    assert moved.load_marks() == ()
    moved.close()


def test_a_store_of_an_older_program_is_at_home_where_it_is_found(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "store").close()
    with closing(sqlite3.connect(tmp_path / "store" / DATABASE_NAME)) as db:
        db.execute("DELETE FROM meta WHERE key = 'home'")
        db.execute("PRAGMA user_version = 6")
        db.commit()
    for _ in range(2):
        SqliteStore(tmp_path / "store").close()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    with pytest.raises(StoreCopied):
        SqliteStore(tmp_path / "copy")


def test_a_time_of_birth_that_begins_to_be_told_makes_no_other_file(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "store").close()
    database = tmp_path / "store" / DATABASE_NAME
    inode = str(database.stat().st_ino)
    for recorded in (inode, home_of(database)):
        with closing(sqlite3.connect(database)) as db:
            db.execute("UPDATE meta SET value = ? WHERE key = 'home'", (recorded,))
            db.commit()
        SqliteStore(tmp_path / "store").close()
    with closing(sqlite3.connect(database)) as db:
        (kept,) = db.execute("SELECT value FROM meta WHERE key = 'home'").fetchone()
        assert kept == home_of(database), "the fuller form"
        db.execute("UPDATE meta SET value = ? WHERE key = 'home'", (f"{inode} 1.000000000",))
        db.commit()
    with pytest.raises(StoreCopied):
        SqliteStore(tmp_path / "store")


def test_the_time_of_birth_tells_files_with_one_inode_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines that were set up alike give their first files the same numbers."""
    (tmp_path / "file").touch()
    whole = home_of(tmp_path / "file")
    inode, _, born = whole.partition(" ")
    assert int(inode) == (tmp_path / "file").stat().st_ino
    assert abs(float(born) - time.time()) < 3600
    monkeypatch.setattr("sparrow.store.home.STATX_BTIME", 0)
    assert home_of(tmp_path / "file") == inode, "a file system that does not tell"
    with pytest.raises(FileNotFoundError):
        home_of(tmp_path / "nowhere")


def test_what_is_no_backup_or_of_another_cluster_changes_nothing(tmp_path: Path) -> None:
    mine, other = SqliteStore(tmp_path / "mine"), SqliteStore(tmp_path / "other")
    other.backup_to(tmp_path / "copy")
    cluster = mine.cluster_id
    mine.close()
    other.close()
    (tmp_path / "empty").touch()
    (tmp_path / "noise").write_bytes(b"noise" * 1000)
    before = (tmp_path / "mine" / DATABASE_NAME).read_bytes()
    for name in ("copy", "empty", "noise", "nowhere"):
        with pytest.raises(StoreUnusable):
            restore(tmp_path / "mine", tmp_path / name, who="me")
    assert (tmp_path / "mine" / DATABASE_NAME).read_bytes() == before
    again = SqliteStore(tmp_path / "mine")
    assert again.cluster_id == cluster
    assert again.load_marks() == ()
    again.close()
