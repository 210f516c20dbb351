"""The master's store in one SQLite database (docs/ARCHITECTURE.md, "Authority store").

Write-ahead journal with ``synchronous=FULL``: a commit that returned survives a power cut. A line that is not newer
than the stored one is refused by the database itself, whoever asks. A row that cannot be believed is skipped and
reported; a database that cannot be read fails the open.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sparrow.authority.floor import EPOCHS_PER_GENERATION, floor_of
from sparrow.authority.recovery import GENERATION_GAP, AuditEntry, Mark, Recovered
from sparrow.authority.types import DesiredVolume, Line, LoadedLines, SkippedRecord
from sparrow.base.access import Secret
from sparrow.base.errors import AlreadyExists, NotFound
from sparrow.base.ids import NodeId, VolumeId
from sparrow.lifecycle.nodes import NodeRecord
from sparrow.ports.store import LoadedNodes, LoadedSecrets, LoadedVolumes
from sparrow.store import takeover
from sparrow.store.errors import (
    NotNewer,
    PolicyFixed,
    PutError,
    StoreClosed,
    StoreDamaged,
    StoreUnusable,
    copied,
    taken_over,
)
from sparrow.store.home import home_of, same_home
from sparrow.store.lock import StoreLock
from sparrow.store.rows import (
    LineRow,
    Row,
    believable_epoch,
    line_row,
    loaded_secrets,
    node_row,
    read_line_row,
    read_node_row,
    read_volume_row,
    secret_row,
    volume_row,
)

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
_RAISE_TOPOLOGY: Final = """
UPDATE meta SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE key = 'topology_version'
"""

_UPDATE: Final = """
UPDATE authority SET epoch = :epoch, endpoint_version = :endpoint_version, write_seq = :write_seq,
  version = :version, body = :body, checksum = :checksum
WHERE volume_id = :volume_id AND (epoch, endpoint_version) < (:epoch, :endpoint_version)
"""
_INSERT: Final = """
INSERT INTO authority (volume_id, epoch, endpoint_version, write_seq, version, body, checksum)
VALUES (:volume_id, :epoch, :endpoint_version, :write_seq, :version, :body, :checksum)
"""
_SELECT_LINES: Final = (
    "SELECT volume_id, version, body, checksum, epoch, endpoint_version, write_seq FROM authority"
)
_KEEP_PREVIOUS: Final = """
INSERT INTO authority_previous (volume_id, body)
SELECT volume_id, body FROM authority WHERE volume_id = ?
ON CONFLICT (volume_id) DO UPDATE SET body = excluded.body
"""


class SqliteStore:
    """``ports.store.AuthorityStore`` on disk.

    Args:
        directory: of the database and its lock; made if missing.
        settle: a copy of a store is to be at home here from now on; its volumes are the caller's to mark.

    Raises:
        StoreUnusable: the directory is empty text, is no directory, may not be used, or is of another version.
        StoreCopied: the database was copied here.
        StoreLockHeld: another process has it open.
        StoreDamaged: the database cannot be read.

    Thread: one at a time.
    """

    def __init__(self, directory: str | Path, *, settle: bool = False) -> None:
        path = store_directory(directory)
        self._path = path / DATABASE_NAME
        self._lock = StoreLock(path)
        self._connection: sqlite3.Connection | None = None
        #: Raised by this process; None before.
        self._generation: int | None = None
        try:
            self._connection = _open(path / DATABASE_NAME)
            _be_at_home(self._connection, path / DATABASE_NAME, settle=settle)
            self._cluster_id = _meta(self._connection, "cluster_id")
        except BaseException:
            self.close()
            raise

    @property
    def cluster_id(self) -> str:
        return self._cluster_id

    def raise_generation(self) -> int:
        with self._change() as db:
            generation = int(_meta(db, "generation")) + 1
            db.execute("UPDATE meta SET value = ? WHERE key = 'generation'", (str(generation),))
        self._generation = generation
        return generation

    @property
    def epoch_floor(self) -> int:
        return int(_meta(self._db(), "epoch_floor"))

    def load_with_skips(self) -> LoadedLines:
        lines: list[Line] = []
        skips: list[SkippedRecord] = []
        with self._reading() as db:
            for row in db.execute(_SELECT_LINES + " ORDER BY volume_id"):
                found = read_line_row(_line_row(row))
                if isinstance(found, Line):
                    lines.append(found)
                else:
                    skips.extend(found)
        doubted = {skip.volume_id for skip in skips}
        return LoadedLines(
            lines=tuple(line for line in lines if line.volume_id not in doubted),
            skips=tuple(skips),
        )

    def put_lines(self, lines: Sequence[Line]) -> None:
        with self._change() as db:
            for line in lines:
                _put(db, line)

    @property
    def topology_version(self) -> int:
        return int(_meta(self._db(), "topology_version"))

    def load_nodes(self) -> LoadedNodes:
        nodes: list[NodeRecord] = []
        damaged: list[tuple[NodeId, str]] = []
        with self._reading() as db:
            rows = db.execute("SELECT node_id, version, body, checksum FROM nodes ORDER BY node_id")
            for key, version, body, check in rows:
                found = read_node_row(Row(key=key, version=version, body=body, checksum=check))
                if isinstance(found, NodeRecord):
                    nodes.append(found)
                else:
                    damaged.append(found)
        return LoadedNodes(nodes=tuple(nodes), damaged=tuple(damaged))

    def put_node(self, record: NodeRecord) -> None:
        row = node_row(record)
        with self._change() as db:
            db.execute(
                "INSERT OR REPLACE INTO nodes (node_id, version, body, checksum) VALUES (?, ?, ?, ?)",
                (row.key, row.version, row.body, row.checksum),
            )
            db.execute(_RAISE_TOPOLOGY)

    def load_secrets(self) -> LoadedSecrets:
        with self._reading() as db:
            return loaded_secrets(
                Row(key=key, version=version, body=body, checksum=checksum)
                for key, version, body, checksum in db.execute(
                    "SELECT name, version, body, checksum FROM secrets ORDER BY name"
                )
            )

    def put_secret(self, secret: Secret) -> None:
        row = secret_row(secret)
        with self._change() as db:
            db.execute(
                "INSERT OR REPLACE INTO secrets (name, version, body, checksum) VALUES (?, ?, ?, ?)",
                (row.key, row.version, row.body, row.checksum),
            )

    def delete_secret(self, name: str) -> None:
        with self._change() as db:
            db.execute("DELETE FROM secrets WHERE name = ?", (name,))

    def load_volumes(self) -> LoadedVolumes:
        volumes: list[DesiredVolume] = []
        skips: list[SkippedRecord] = []
        with self._reading() as db:
            rows = db.execute(
                "SELECT volume_id, version, body, checksum FROM volumes ORDER BY volume_id"
            )
            for key, version, body, check in rows:
                found = read_volume_row(Row(key=key, version=version, body=body, checksum=check))
                if isinstance(found, DesiredVolume):
                    volumes.append(found)
                else:
                    skips.append(found)
        return LoadedVolumes(volumes=tuple(volumes), skips=tuple(skips))

    def create_volume(self, volume: DesiredVolume) -> None:
        row = volume_row(volume)
        with self._change() as db:
            done = db.execute(
                "INSERT INTO volumes (volume_id, version, body, checksum) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (volume_id) DO NOTHING",
                (row.key, row.version, row.body, row.checksum),
            )
            if done.rowcount == 0:
                raise AlreadyExists(f"volume {volume.volume_id} exists already")
            db.execute(_RAISE_TOPOLOGY)

    def update_volume(self, volume: DesiredVolume) -> None:
        row = volume_row(volume)
        with self._change() as db:
            done = db.execute(
                "UPDATE volumes SET version = ?, body = ?, checksum = ? WHERE volume_id = ?",
                (row.version, row.body, row.checksum, row.key),
            )
            if done.rowcount == 0:
                raise NotFound(f"volume {volume.volume_id} does not exist")
            db.execute(_RAISE_TOPOLOGY)

    def delete_volume(self, volume_id: VolumeId) -> None:
        with self._change() as db:
            db.execute("DELETE FROM volumes WHERE volume_id = ?", (volume_id,))
            db.execute(_RAISE_TOPOLOGY)

    @property
    def empty(self) -> bool:
        with self._reading() as db:
            return int(_meta(db, "generation")) == 0 and not any(
                db.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone()[0]  # noqa: S608 - our own names
                for table in ("authority", "volumes", "unconfirmed")
            )

    def load_marks(self) -> tuple[Mark, ...]:
        with self._reading() as db:
            return takeover.read_marks(db)

    def mark_unconfirmed(self, marks: Sequence[Mark]) -> None:
        with self._change() as db:
            takeover.insert_marks(db, marks)

    def put_recovered(self, recovered: Recovered) -> None:
        volume_id = recovered.volume_id
        damaged = self._is_damaged(volume_id)
        with self._change() as db:
            if recovered.line is not None:
                if damaged:
                    takeover.set_aside(db, volume_id)
                _put(db, recovered.line)
            if recovered.desired is not None:
                row = volume_row(recovered.desired)
                db.execute(
                    "INSERT OR REPLACE INTO volumes (volume_id, version, body, checksum) VALUES (?, ?, ?, ?)",
                    (row.key, row.version, row.body, row.checksum),
                )
                db.execute(_RAISE_TOPOLOGY)
            db.execute("DELETE FROM unconfirmed WHERE volume_id = ?", (volume_id,))
            takeover.insert_audit(db, recovered.audit)

    def begin_recovery(
        self, *, cluster_id: str, generation: int, awaited: Sequence[str], audit: AuditEntry
    ) -> None:
        if not self.empty:
            raise StoreUnusable("the store is not empty")
        with self._change() as db:
            takeover.set_meta(db, "cluster_id", cluster_id)
            takeover.set_meta(db, "generation", str(generation))
            takeover.set_meta(db, "epoch_floor", str(floor_of(generation)))
            takeover.set_meta(db, "awaited_nodes", json.dumps(list(awaited)))
            takeover.insert_audit(db, audit)
        self._cluster_id = cluster_id

    def mark_restored(self, *, above: int, gap: int, audit: AuditEntry) -> tuple[int, int]:
        """Mark every volume of a restored copy unconfirmed, and raise the generation; how many, and to what.

        Args:
            above: a generation the cluster has lived through, as far as is known.
        """
        with self._change() as db:
            generation = max(int(_meta(db, "generation")), above) + gap
            takeover.set_meta(db, "generation", str(generation))
            takeover.set_meta(db, "epoch_floor", str(floor_of(generation)))
            count = takeover.mark_all_restored(db)
            takeover.insert_audit(db, audit)
        return count, generation

    def awaited_nodes(self) -> tuple[str, ...]:
        return tuple(str(one) for one in json.loads(_meta(self._db(), "awaited_nodes")))

    def set_awaited_nodes(self, awaited: Sequence[str], audit: AuditEntry | None = None) -> None:
        with self._change() as db:
            takeover.set_meta(db, "awaited_nodes", json.dumps(list(awaited)))
            if audit is not None:
                takeover.insert_audit(db, audit)

    def append_audit(self, entry: AuditEntry) -> None:
        with self._change() as db:
            takeover.insert_audit(db, entry)

    def audit(self, last: int) -> tuple[AuditEntry, ...]:
        with self._reading() as db:
            return takeover.read_audit(db, last)

    def recorded_epoch(self, volume_id: VolumeId) -> int:
        with self._reading() as db:
            row = db.execute(
                "SELECT epoch FROM authority WHERE volume_id = ?", (volume_id,)
            ).fetchone()
        return believable_epoch(None if row is None else row[0])

    @property
    def revision(self) -> int:
        return self._db().total_changes

    def backup_to(self, path: Path) -> None:
        """The copy is read through a connection of its own."""
        try:
            takeover.copy_database(self._path, path)
        except FileExistsError as error:
            raise PutError(f"{path} exists already") from error
        except (sqlite3.Error, OSError) as error:
            path.unlink(missing_ok=True)
            raise PutError(f"the backup {path} could not be written: {error}") from error

    def previous_records(self, volume_ids: Sequence[VolumeId]) -> dict[VolumeId, str]:
        found: dict[VolumeId, str] = {}
        with self._reading() as db:
            for volume_id in volume_ids:
                row = db.execute(
                    "SELECT body FROM authority_previous WHERE volume_id = ?", (volume_id,)
                ).fetchone()
                if row is not None:
                    found[volume_id] = bytes(row[0]).decode(errors="replace")
        return found

    def _is_damaged(self, volume_id: VolumeId) -> bool:
        """Whether there is a row of the volume and it cannot be believed."""
        with self._reading() as db:
            row = db.execute(_SELECT_LINES + " WHERE volume_id = ?", (volume_id,)).fetchone()
        return row is not None and not isinstance(read_line_row(_line_row(row)), Line)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._lock.release()

    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreClosed("the store is closed")
        return self._connection

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction: what is inside is committed as a whole, or not at all.

        The lock keeps a second master out of the directory where locks reach; a volume attached to two machines, or a
        copy put in place, is no such place. So the generation is compared inside every transaction as well.
        """
        db = self._db()
        try:
            db.execute("BEGIN IMMEDIATE")
            self._check_not_taken_over(db)
            yield db
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if isinstance(error, sqlite3.IntegrityError) and "not newer" in str(error):
                raise NotNewer("the stored line is not older than the one to be put") from error
            if isinstance(error, sqlite3.IntegrityError) and "policy is fixed" in str(error):
                raise PolicyFixed("the recorded volume has another policy or minimum") from error
            if isinstance(error, sqlite3.Error | OverflowError):
                raise PutError(f"the store did not take the change: {error}") from error
            raise

    def _check_not_taken_over(self, db: sqlite3.Connection) -> None:
        """Raises: StoreTakenOver."""
        if self._generation is not None:
            found = int(_meta(db, "generation"))
            if found != self._generation:
                raise taken_over(found, self._generation)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Text as bytes, so that one undecodable row is one skipped row."""
        db = self._db()
        db.text_factory = bytes
        try:
            yield db
        except sqlite3.Error as error:
            raise StoreDamaged(f"the store cannot be read: {error}") from error
        finally:
            db.text_factory = str


def _put(db: sqlite3.Connection, line: Line) -> None:
    """Store a line and keep the one before it; the triggers refuse one that is not newer."""
    row = line_row(line)
    db.execute(_KEEP_PREVIOUS, (line.volume_id,))
    values = {
        "volume_id": row.key,
        "epoch": row.epoch,
        "endpoint_version": row.endpoint_version,
        "write_seq": row.write_seq,
        "version": row.version,
        "body": row.body,
        "checksum": row.checksum,
    }
    if db.execute(_UPDATE, values).rowcount == 0:
        db.execute(_INSERT, values)


def _line_row(row: tuple[object, ...]) -> LineRow:
    key, version, body, check, epoch, endpoint_version, write_seq = row
    return LineRow(
        key=key,
        version=version,
        body=body,
        checksum=check,
        epoch=epoch,
        endpoint_version=endpoint_version,
        write_seq=write_seq,
    )


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


def _open(path: Path) -> sqlite3.Connection:
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
    if int(_meta(db, "epoch_floor")) > floor_of(int(_meta(db, "generation"))):
        raise StoreDamaged(f"{path} is damaged: its epoch floor is above its generation's")


def _be_at_home(db: sqlite3.Connection, path: Path, *, settle: bool) -> None:
    """Record where the store is, or see that it is there still. Raises: StoreCopied, StoreDamaged."""
    try:
        here = home_of(path)
        recorded = _meta(db, "home")
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


def _meta(db: sqlite3.Connection, key: str) -> str:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise StoreDamaged(f"the store has no {key}")
    value = row[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
