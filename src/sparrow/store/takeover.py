"""Statements behind the recovery of authority: marks, audit, damaged rows set aside, whole copies of the database.

A row leaves the authority table only while it is noted in ``repairing``, in the transaction that puts another in its
place; the audit table can only be added to. Both are guarded by the database itself.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from sparrow.authority.recovery import AuditEntry, Mark, MarkKind
from sparrow.base.ids import VolumeId

#: What schema 3 added.
SCHEMA: Final = """
CREATE TABLE unconfirmed (volume_id TEXT PRIMARY KEY, kind TEXT NOT NULL, cause TEXT NOT NULL);
CREATE TABLE repairing (volume_id TEXT PRIMARY KEY);
CREATE TABLE authority_damaged (
  at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  volume_id, epoch, endpoint_version, write_seq, version, body, checksum
);
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  verb TEXT NOT NULL, volume_id TEXT NOT NULL, who TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'audit entries stay'); END;
CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'audit entries stay'); END;
DROP TRIGGER authority_rows_stay;
CREATE TRIGGER authority_rows_stay BEFORE DELETE ON authority
WHEN NOT EXISTS (SELECT 1 FROM repairing WHERE volume_id = OLD.volume_id)
BEGIN SELECT RAISE(ABORT, 'line is not newer'); END;
INSERT INTO meta VALUES ('awaited_nodes', '[]');
"""


def set_aside(db: sqlite3.Connection, volume_id: VolumeId) -> None:
    """Move a damaged row out of the way, kept as it was."""
    db.execute("INSERT INTO repairing VALUES (?)", (volume_id,))
    db.execute(
        "INSERT INTO authority_damaged"
        " (volume_id, epoch, endpoint_version, write_seq, version, body, checksum)"
        " SELECT volume_id, epoch, endpoint_version, write_seq, version, body, checksum"
        " FROM authority WHERE volume_id = ?",
        (volume_id,),
    )
    db.execute("DELETE FROM authority WHERE volume_id = ?", (volume_id,))
    db.execute("DELETE FROM repairing")


def insert_marks(db: sqlite3.Connection, marks: Sequence[Mark]) -> None:
    """Add marks; a volume that has one keeps it."""
    db.executemany(
        "INSERT INTO unconfirmed VALUES (?, ?, ?) ON CONFLICT (volume_id) DO NOTHING",
        [(mark.volume_id, mark.kind.value, mark.cause) for mark in marks],
    )


def mark_all_restored(db: sqlite3.Connection) -> int:
    """Mark every volume that has a row, whatever is in it; how many."""
    return db.execute(
        "INSERT OR REPLACE INTO unconfirmed"
        " SELECT volume_id, ?, 'its record was restored from a backup'"
        " FROM (SELECT volume_id FROM authority UNION SELECT volume_id FROM volumes)"
        " WHERE typeof(volume_id) = 'text' AND volume_id != ''",
        (MarkKind.RESTORED.value,),
    ).rowcount


def read_marks(db: sqlite3.Connection) -> tuple[Mark, ...]:
    """All marks by volume id. Text comes as bytes."""
    rows = db.execute("SELECT volume_id, kind, cause FROM unconfirmed ORDER BY volume_id")
    return tuple(
        Mark(volume_id=VolumeId(_text(key)), kind=MarkKind(_text(kind)), cause=_text(cause))
        for key, kind, cause in rows
    )


def insert_audit(db: sqlite3.Connection, entry: AuditEntry) -> None:
    db.execute(
        "INSERT INTO audit (verb, volume_id, who, detail) VALUES (?, ?, ?, ?)",
        (entry.verb, entry.volume_id, entry.who, entry.detail),
    )


def read_audit(db: sqlite3.Connection, last: int) -> tuple[AuditEntry, ...]:
    """The last entries, newest first. Text comes as bytes."""
    rows = db.execute(
        "SELECT verb, volume_id, who, detail, at FROM audit ORDER BY id DESC LIMIT ?", (last,)
    )
    return tuple(
        AuditEntry(
            verb=_text(verb),
            volume_id=VolumeId(_text(volume_id)),
            who=_text(who),
            detail=_text(detail),
            at=_text(at),
        )
        for verb, volume_id, who, detail, at in rows
    )


def set_meta(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))


def copy_database(source: Path, target: Path) -> None:
    """Copy a database, as it is at one moment, to a file that must not exist yet; durable when this returns.

    Raises: sqlite3.Error, OSError.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as here,
        closing(sqlite3.connect(target)) as there,
    ):
        here.backup(there)
        # The copy is one file: nothing of it may wait in a journal beside it.
        there.execute("PRAGMA journal_mode = DELETE")
    sync(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Make a file's content, or a directory's names, durable. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _text(value: bytes) -> str:
    return bytes(value).decode(errors="replace")
