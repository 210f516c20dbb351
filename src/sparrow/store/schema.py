"""The database of the master's store: its tables, the triggers that guard them, the way up from an older version.

Write-ahead journal with ``synchronous=FULL``: a commit that returned survives a power cut. A database that cannot be
read, or that was copied here, fails the open.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from pathlib import Path
from typing import Final

from sparrow.authority.floor import EPOCHS_PER_GENERATION, floor_of
from sparrow.authority.recovery import GENERATION_GAP
from sparrow.store import takeover
from sparrow.store.errors import StoreDamaged, StoreUnusable, copied
from sparrow.store.home import home_of, same_home

DATABASE_NAME: Final = "authority.db"
SCHEMA_VERSION: Final = 7

#: The triggers are the guard of last resort: they hold for any statement, also one typed by hand.
_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE authority (
  volume_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, endpoint_version INTEGER NOT NULL,
  write_seq INTEGER NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL, checksum TEXT NOT NULL
);
CREATE TABLE authority_previous (volume_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE volumes (
  volume_id TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL, checksum TEXT NOT NULL
);
CREATE TRIGGER authority_update_is_newer BEFORE UPDATE ON authority
WHEN NEW.volume_id IS NOT OLD.volume_id
  OR (NEW.epoch, NEW.endpoint_version) <= (OLD.epoch, OLD.endpoint_version)
  OR NEW.write_seq <= OLD.write_seq
BEGIN SELECT RAISE(ABORT, 'line is not newer'); END;
CREATE TRIGGER authority_insert_is_newer BEFORE INSERT ON authority
WHEN EXISTS (SELECT 1 FROM authority WHERE volume_id = NEW.volume_id)
BEGIN SELECT RAISE(ABORT, 'line is not newer'); END;
CREATE TRIGGER authority_rows_stay BEFORE DELETE ON authority
BEGIN SELECT RAISE(ABORT, 'line is not newer'); END;
"""

#: What a store of an older version lacks; each script takes it one version up. New stores run all of them.
_UPGRADES: Final = {
    1: """
CREATE TABLE nodes (
  node_id TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL, checksum TEXT NOT NULL
);
INSERT INTO meta VALUES ('topology_version', '0');
CREATE TRIGGER topology_version_grows BEFORE UPDATE ON meta
WHEN OLD.key = 'topology_version' AND CAST(NEW.value AS INTEGER) <= CAST(OLD.value AS INTEGER)
BEGIN SELECT RAISE(ABORT, 'the topology version only grows'); END;
""",
    2: takeover.SCHEMA,
    # Policy and minimum are a volume's own until its tombstone (docs/decisions). Functions that read JSON are not
    # allowed in a trigger of a schema that is not trusted; a canonical text has each key once, and in a string its
    # quotes would be escaped.
    3: "".join(
        f"""
CREATE TRIGGER {table}_policy_stays BEFORE UPDATE ON {table}
WHEN instr(OLD.body, '"ack":') > 0 AND instr(NEW.body, '"ack":') > 0 AND instr(OLD.body, '"retired":true') = 0
  AND (substr(OLD.body, instr(OLD.body, '"ack":'), 14)
      IS NOT substr(NEW.body, instr(NEW.body, '"ack":'), 14)
    OR substr(OLD.body, instr(OLD.body, '"min_in_sync":'), 16)
      IS NOT substr(NEW.body, instr(NEW.body, '"min_in_sync":'), 16))
BEGIN SELECT RAISE(ABORT, 'policy is fixed'); END;
"""
        for table in ("authority", "volumes")
    ),
    # A store that was restored or rebuilt by an older program gets the floor it would have now.
    4: f"""
INSERT INTO meta SELECT 'epoch_floor',
  CAST(coalesce(max(CAST(value AS INTEGER) * {EPOCHS_PER_GENERATION}), 0) AS TEXT)
  FROM meta WHERE key = 'generation' AND CAST(value AS INTEGER) > {GENERATION_GAP};
CREATE TRIGGER epoch_floor_grows BEFORE UPDATE ON meta
WHEN OLD.key = 'epoch_floor' AND CAST(NEW.value AS INTEGER) < CAST(OLD.value AS INTEGER)
BEGIN SELECT RAISE(ABORT, 'the epoch floor only grows'); END;
""",  # noqa: S608 - our own numbers
    5: """
CREATE TABLE secrets (
  name TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL, checksum TEXT NOT NULL
);
""",
    # The file a store is in: filled in at the first start, so of an older store where it is found (``store.home``).
    6: "INSERT INTO meta VALUES ('home', '');",
}


def store_directory(directory: str | Path) -> Path:
    """The directory of a store, made if missing. Raises: StoreUnusable."""
    if not str(directory).strip() or str(directory) == ".":
        raise StoreUnusable(
            "the master's store needs a directory", hint="Name one that only this master uses."
        )
    path = Path(directory)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be the store's directory: {error}") from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StoreUnusable(f"{path} may not be read and written by this user")
    return path


def open_database(path: Path) -> sqlite3.Connection:
    """Open it, made if it is new and brought up to date if it is old. Raises: StoreDamaged, StoreUnusable."""
    db: sqlite3.Connection | None = None
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        _prepare(db, path)
    except BaseException as error:
        if db is not None:
            db.close()
        if isinstance(error, sqlite3.Error | ValueError):
            raise StoreDamaged(
                f"{path} cannot be opened as the master's store: {error}",
                hint="Keep the file, and restore the store or rebuild the master from its nodes.",
            ) from error
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Set durability, make the tables if the file is new, and read every page once."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        _create(db, path)
    elif version in _UPGRADES:
        _upgrade(db, version)
    elif version != SCHEMA_VERSION:
        raise StoreUnusable(
            f"{path} has schema {version}, this program knows {SCHEMA_VERSION}",
            hint="Use the version of sparrow that wrote it.",
        )
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StoreDamaged(f"{path} is damaged: {verdict}")
    if int(meta(db, "epoch_floor")) > floor_of(int(meta(db, "generation"))):
        raise StoreDamaged(f"{path} is damaged: its epoch floor is above its generation's")


def be_at_home(db: sqlite3.Connection, path: Path, *, settle: bool) -> None:
    """Record where the store is, or see that it is there still. Raises: StoreCopied, StoreDamaged."""
    try:
        here = home_of(path)
        recorded = meta(db, "home")
        if recorded and not settle:
            if not same_home(recorded, here):
                raise copied(path)
            here = max(here, recorded, key=len)  # the one that tells the time of birth
        if recorded == here:
            return
        db.execute("UPDATE meta SET value = ? WHERE key = 'home'", (here,))
    except (sqlite3.Error, OSError) as error:
        raise StoreDamaged(f"{path} cannot be opened as the master's store: {error}") from error


def _create(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables in one transaction, and the directory entry durable."""
    if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise StoreUnusable(f"{path} is a database of something else")
    # One script in one transaction: a crash half-way leaves an empty file, which is made again.
    db.executescript("BEGIN IMMEDIATE;" + _SCHEMA + "".join(_UPGRADES.values()))
    db.execute("INSERT INTO meta VALUES ('cluster_id', ?)", (uuid.uuid4().hex,))
    db.execute("INSERT INTO meta VALUES ('generation', '0')")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _upgrade(db: sqlite3.Connection, version: int) -> None:
    """Bring an older store up to this version, in one transaction."""
    scripts = "".join(script for since, script in sorted(_UPGRADES.items()) if since >= version)
    db.executescript("BEGIN IMMEDIATE;" + scripts)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")


def meta(db: sqlite3.Connection, key: str) -> str:
    """A value that there is one of. Raises: StoreDamaged, when there is none."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise StoreDamaged(f"the store has no {key}")
    value = row[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
