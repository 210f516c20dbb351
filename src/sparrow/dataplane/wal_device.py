"""A raw device that holds the logs of a node's replicas: who has which ring (`formats/wal_device.py`).

Blocking, like `dataplane/files/`: called on helper threads, or before the node's loop runs. One update at a time.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
import threading
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sparrow._native.crc import crc32c
from sparrow.base.errors import ConfigError, StorageError
from sparrow.base.ids import NodeId, ReplicaUuid
from sparrow.dataplane.at_rest import lock_at_rest, tell_nobody
from sparrow.formats.wal_device import (
    WAL_DEVICE_FORMAT,
    WAL_DEVICE_MAGIC,
    WAL_DEVICE_RINGS_AT,
    WAL_DEVICE_ROW,
    WAL_DEVICE_ROWS_MAX,
    WAL_DEVICE_TABLE,
    WAL_DEVICE_TABLE_BYTES,
)

STEP_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Where one replica's log lies, bytes from the start of the device."""

    uuid: ReplicaUuid
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


class WalDevice:
    """An opened and locked WAL device. Make one with :meth:`open`.

    Attributes:
        writes_fd: the device as it is locked (``at_rest``); what writes keeps it open until it has written.
    """

    def __init__(self, path: Path, fd: int, writes_fd: int, size: int) -> None:
        self.path = path
        self.writes_fd = writes_fd
        self.uuid = ""
        self._fd = fd
        self._size = size
        self._node_id = NodeId("")
        self._sequence = 0
        self._rings: tuple[Ring, ...] = ()
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, path: Path, node_id: NodeId, *, tell: Callable[[Path], None] = tell_nobody
    ) -> WalDevice:
        """Take a device into use, or find it as it was left; wait for what a killed process left to it.

        A device whose first MiB is not empty and holds no table is left alone: it may be somebody's data. That nothing
        is left of a process of the same pool is known by the pool's lock; the device may have been another pool's. The
        lock is on the device's node: of who used the device by a node of its own, in a container, nothing is seen.

        Args:
            tell: as ``lock_at_rest`` has it.
        Raises:
            ConfigError: it is in use, is no block device, holds something else, or belongs to another node.
            StorageError: it cannot be read or written.
        """
        try:
            # O_EXCL on a block device: refused while it is mounted or part of something else, or a process has it so,
            # see open(2).
            fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"The WAL device {path} cannot be opened: {error.strerror}.",
                hint="Name a partition or logical volume that this user may write, not mounted and no other node's.",
            ) from error
        with ExitStack() as undo:
            undo.callback(os.close, fd)
            try:
                _require_block_device(fd, path)
                writes_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                undo.callback(os.close, writes_fd)
                lock_at_rest(writes_fd, path, tell)
                device = cls(path, fd, writes_fd, os.lseek(fd, 0, os.SEEK_END))
                device._load(node_id)
            except OSError as error:
                raise _failed(path, error) from error
            undo.pop_all()
        return device

    def close(self) -> None:
        os.close(self.writes_fd)
        os.close(self._fd)

    @property
    def rings(self) -> tuple[Ring, ...]:
        """All that are given away, by offset."""
        return self._rings

    def open_ring(self) -> int:
        """A descriptor of its own for a replica's log; the caller closes it."""
        return os.open(self.path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)

    def allocate(self, replica: ReplicaUuid, size: int) -> Ring:
        """A ring of zeros for this replica; it and its row are durable when this returns.

        Raises:
            StorageError: no gap is large enough, the table is full, or the device failed.
        """
        with self._lock:
            ring = Ring(uuid=replica, offset=self._gap(size), size=size)
            try:
                with mmap.mmap(-1, STEP_BYTES) as zeros:
                    for at in range(ring.offset, ring.end, STEP_BYTES):
                        os.pwritev(self._fd, [zeros], at)
                os.fsync(self._fd)
                self._store((*self._rings, ring))
            except OSError as error:
                raise _failed(self.path, error) from error
            return ring

    def free(self, replica: ReplicaUuid) -> None:
        """Give the ring back; nothing when it has none."""
        self._keep(ring for ring in self._rings if ring.uuid != replica)

    def keep_only(self, replicas: Iterable[ReplicaUuid]) -> None:
        """Give back what a crash left: rings of no replica of the pool. Before any replica is made."""
        known = frozenset(replicas)
        self._keep(ring for ring in self._rings if ring.uuid in known)

    def _keep(self, rings: Iterable[Ring]) -> None:
        with self._lock:
            kept = tuple(rings)
            if kept != self._rings:
                try:
                    self._store(kept)
                except OSError as error:
                    raise _failed(self.path, error) from error

    def _gap(self, size: int) -> int:
        """First gap that is large enough."""
        if len(self._rings) >= WAL_DEVICE_ROWS_MAX:
            raise StorageError(f"The WAL device {self.path} holds {len(self._rings)} logs already.")
        at = int(WAL_DEVICE_RINGS_AT)
        for ring in self._rings:
            if ring.offset - at >= size:
                return at
            at = ring.end
        if self._size - at >= size:
            return at
        raise StorageError(
            f"The WAL device {self.path} has no room for a log of {size >> 20} MiB.",
            hint="Delete volumes that are not needed, or use a larger device.",
        )

    # ------------------------------------------------------------------ the table

    def _load(self, node_id: NodeId) -> None:
        if self._size < WAL_DEVICE_RINGS_AT + STEP_BYTES:
            raise ConfigError(f"The WAL device {self.path} is too small: {self._size} bytes.")
        head = self._read(0, int(WAL_DEVICE_RINGS_AT))
        copies = [
            head[at : at + WAL_DEVICE_TABLE_BYTES]
            for at in (0, int(WAL_DEVICE_TABLE_BYTES))
            if _whole(head[at : at + WAL_DEVICE_TABLE_BYTES])
        ]
        if not copies:
            if any(head):
                raise ConfigError(
                    f"The WAL device {self.path} holds something that is not sparrow's.",
                    hint=f"If it is not needed: wipe it with 'dd if=/dev/zero of={self.path} bs=1M count=1'.",
                )
            self.uuid, self._node_id = uuid.uuid4().hex, node_id
            self._store(())
            return
        found = max(
            (WAL_DEVICE_TABLE.unpack(copy) for copy in copies),
            key=lambda table: table.number("sequence"),
        )
        owner = found.blob("node_id").rstrip(b"\0").decode()
        if owner != node_id:
            raise ConfigError(
                f"The WAL device {self.path} belongs to node {owner}, not to {node_id}.",
                hint="Each node needs a device of its own.",
            )
        self.uuid, self._node_id = found.blob("uuid").hex(), node_id
        self._sequence = found.number("sequence")
        self._rings = tuple(_rows(found.blob("rows"), found.number("count")))

    def _store(self, rings: tuple[Ring, ...]) -> None:
        """Copy 0, durably, then copy 1: at any moment one of them is whole."""
        ordered = tuple(sorted(rings, key=lambda ring: ring.offset))
        table = WAL_DEVICE_TABLE.pack(
            {
                "magic": WAL_DEVICE_MAGIC,
                "check": 0,
                "format": WAL_DEVICE_FORMAT,
                "sequence": self._sequence + 1,
                "uuid": bytes.fromhex(self.uuid),
                "node_id": self._node_id.encode().ljust(64, b"\0"),
                "count": len(ordered),
                "rows": b"".join(map(_row, ordered)).ljust(
                    WAL_DEVICE_ROWS_MAX * WAL_DEVICE_ROW.size, b"\0"
                ),
            }
        )
        at = WAL_DEVICE_TABLE.offset_of("check")
        table = table[:at] + struct.pack("<I", crc32c(table)) + table[at + 4 :]
        with mmap.mmap(-1, WAL_DEVICE_TABLE_BYTES) as pages:
            pages[:] = table
            for copy in (0, int(WAL_DEVICE_TABLE_BYTES)):
                os.pwritev(self._fd, [pages], copy)
                os.fsync(self._fd)
        self._sequence += 1
        self._rings = ordered

    def _read(self, offset: int, size: int) -> bytes:
        with mmap.mmap(-1, size) as pages:
            if os.preadv(self._fd, [pages], offset) != size:
                raise StorageError(f"The WAL device {self.path} ended early at {offset}.")
            return pages[:]


def _require_block_device(fd: int, path: Path) -> None:
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        raise ConfigError(
            f"The WAL device {path} is no block device.",
            hint="Leave wal_device empty to keep the logs in the pool's files.",
        )


def _whole(copy: bytes) -> bool:
    at = WAL_DEVICE_TABLE.offset_of("check")
    (check,) = struct.unpack_from("<I", copy, at)
    plain = copy[:at] + bytes(4) + copy[at + 4 :]
    return copy[:8] == struct.pack("<Q", WAL_DEVICE_MAGIC) and crc32c(plain) == check


def _row(ring: Ring) -> bytes:
    return WAL_DEVICE_ROW.pack(
        {"uuid": bytes.fromhex(ring.uuid), "offset": ring.offset, "bytes": ring.size}
    )


def _rows(rows: bytes, count: int) -> Iterable[Ring]:
    for at in range(0, count * WAL_DEVICE_ROW.size, WAL_DEVICE_ROW.size):
        row = WAL_DEVICE_ROW.unpack(rows[at : at + WAL_DEVICE_ROW.size])
        yield Ring(
            uuid=ReplicaUuid(row.blob("uuid").hex()),
            offset=row.number("offset"),
            size=row.number("bytes"),
        )


def _failed(path: Path, error: OSError) -> StorageError:
    return StorageError(f"The WAL device {path} failed: {error.strerror}.")
