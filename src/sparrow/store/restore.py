"""Putting a backup in the place of the master's database, offline.

A backup is older than the cluster. So the restored store marks every volume unconfirmed, until the volume's members
have said what they acted on since, and passes over as many master generations as there can have been boots.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sparrow.authority.recovery import GENERATION_GAP, AuditEntry
from sparrow.base.ids import VolumeId
from sparrow.store.errors import PutError, StoreUnusable
from sparrow.store.lock import StoreLock
from sparrow.store.schema import DATABASE_NAME, SCHEMA_VERSION, store_directory
from sparrow.store.sqlite import SqliteStore
from sparrow.store.takeover import copy_database, sync

DRAFT_NAME: Final = "restoring"
JOURNALS: Final = ("-wal", "-shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What stands now. ``kept`` is the database that was there before, None when there was none."""

    volumes: int
    generation: int
    kept: Path | None


def restore(directory: Path, backup: Path, *, who: str) -> Restored:
    """Put a copy of ``backup`` into the master's data directory, every volume of it unconfirmed.

    What was there is kept beside it under another name. A crash at any moment leaves the old database or the new one.

    Raises:
        StoreLockHeld: a master runs on the directory.
        StoreUnusable: the backup is none, or of another cluster than the database that is there.
        StoreDamaged, StorageError: the backup cannot be read, or the disk did not take it.
    """
    path = store_directory(directory)
    lock = StoreLock(path)
    draft = path / DRAFT_NAME
    try:
        _check_is_backup(backup)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        copy_database(backup, draft / DATABASE_NAME)
        restored = _mark(draft, path / DATABASE_NAME, backup, who)
        kept = _swap(path, draft)
        shutil.rmtree(draft, ignore_errors=True)
    except (sqlite3.Error, OSError) as error:
        raise PutError(f"{backup} could not be restored: {error}") from error
    finally:
        lock.release()
    return Restored(volumes=restored[0], generation=restored[1], kept=kept)


def _check_is_backup(backup: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{backup.absolute().as_uri()}?mode=ro", uri=True)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise StoreUnusable(f"{backup} cannot be read as a backup: {error}") from error
    if not 1 <= version <= SCHEMA_VERSION:
        raise StoreUnusable(
            f"{backup} is no backup of a master's store of this version or an older one.",
            hint="`sparrow authority backup FILE` writes one.",
        )


def _mark(draft: Path, old: Path, backup: Path, who: str) -> tuple[int, int]:
    """Mark the copy's volumes and raise its generation; how many, and to what."""
    generation = 0
    store = SqliteStore(draft, settle=True)
    try:
        found = _identity(old)
        if found is not None:
            cluster_id, generation = found
            if cluster_id != store.cluster_id:
                raise StoreUnusable(
                    f"{backup} is of cluster {store.cluster_id}, the database in {old.parent} of {cluster_id}.",
                    hint="Restore it into an empty directory, or take the right backup.",
                )
        audit = AuditEntry(
            verb="restore", volume_id=VolumeId(""), who=who, detail=f"from {backup.absolute()}"
        )
        return store.mark_restored(above=generation, gap=GENERATION_GAP, audit=audit)
    finally:
        store.close()


def _identity(database: Path) -> tuple[str, int] | None:
    """Cluster and generation of the database that is there; None when there is none that can be read."""
    if not database.exists():
        return None
    with (
        suppress(sqlite3.Error, TypeError, ValueError),
        closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as db,
    ):
        # What waits in its journal belongs to it: the file is about to be kept under another name.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        rows = dict(db.execute("SELECT key, value FROM meta").fetchall())
        return str(rows["cluster_id"]), int(rows["generation"])
    return None


def _swap(path: Path, draft: Path) -> Path | None:
    """Keep the old database under another name, and put the draft in its place."""
    new, old = draft / DATABASE_NAME, path / DATABASE_NAME
    if any(Path(f"{new}{suffix}").exists() for suffix in JOURNALS):
        raise PutError("the restored copy did not come to rest in one file")
    sync(new)
    kept: Path | None = None
    if old.exists():
        kept = next(
            name
            for number in range(1, 1_000_000)
            if not (name := path / f"{DATABASE_NAME}.before-restore-{number}").exists()
        )
        os.link(old, kept)
        for suffix in JOURNALS:
            journal = Path(f"{old}{suffix}")
            if journal.exists():
                journal.rename(f"{kept}{suffix}")
        sync(path)
    new.replace(old)
    sync(path)
    return kept
