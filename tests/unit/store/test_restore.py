"""A backup put in the place of a store: what it marks, what it keeps, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparrow.authority.floor import floor_of
from sparrow.authority.recovery import GENERATION_GAP, MarkKind
from sparrow.store.errors import StoreLockHeld, StoreUnusable
from sparrow.store.restore import restore
from sparrow.store.sqlite import DATABASE_NAME, SqliteStore
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
