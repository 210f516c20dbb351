"""The master's store in one SQLite database (``store/schema.py``).

Each change is one durable transaction. A line that is not newer than the stored one is refused by the database itself,
whoever asks. A row that cannot be believed is skipped and reported.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sparrow.authority.floor import floor_of
from sparrow.authority.recovery import AuditEntry, Mark, Recovered
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
    taken_over,
)
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
from sparrow.store.schema import DATABASE_NAME, be_at_home, meta, open_database, store_directory

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
            self._connection = open_database(path / DATABASE_NAME)
            be_at_home(self._connection, path / DATABASE_NAME, settle=settle)
            self._cluster_id = meta(self._connection, "cluster_id")
        except BaseException:
            self.close()
            raise

    @property
    def cluster_id(self) -> str:
        return self._cluster_id

    def raise_generation(self) -> int:
        with self._change() as db:
            generation = int(meta(db, "generation")) + 1
            db.execute("UPDATE meta SET value = ? WHERE key = 'generation'", (str(generation),))
        self._generation = generation
        return generation

    @property
    def epoch_floor(self) -> int:
        return int(meta(self._db(), "epoch_floor"))

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
        return int(meta(self._db(), "topology_version"))

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
            return int(meta(db, "generation")) == 0 and not any(
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
            generation = max(int(meta(db, "generation")), above) + gap
            takeover.set_meta(db, "generation", str(generation))
            takeover.set_meta(db, "epoch_floor", str(floor_of(generation)))
            count = takeover.mark_all_restored(db)
            takeover.insert_audit(db, audit)
        return count, generation

    def awaited_nodes(self) -> tuple[str, ...]:
        return tuple(str(one) for one in json.loads(meta(self._db(), "awaited_nodes")))

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
            found = int(meta(db, "generation"))
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
