"""What a native data plane stands on: this machine's kernel, files and threads, or a simulated machine's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

from sparrow._native.core import Core
from sparrow.base.constants import FENCE_HOLD_S, GRANT_S, PAGE_BYTES, REPAIR_S, hold_off_s
from sparrow.base.ids import ReplicaId, ReplicaUuid, VolumeId, is_identifier
from sparrow.dataplane.files import descriptors, folders
from sparrow.dataplane.files.descriptors import ReplicaFiles
from sparrow.dataplane.ring import create_ring
from sparrow.dataplane.wal_device import WalDevice

RING_ENTRIES: Final = 4096
#: 4 KiB pages in the pool: 384 MiB, touched only as far as it is used.
POOL_PAGES: Final = 98304
#: 1 GiB unapplied per node: a start applies it before the node serves.
UNAPPLIED_PAGES_MAX: Final = 262144
#: After a start, where nothing is known of longer grants of earlier processes.
HOLD_OFF_S: Final = hold_off_s(GRANT_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSizes:
    """How much memory a core is given at its start, for nothing grows with the number of I/Os; and its bounds."""

    pages: int = POOL_PAGES
    #: Pages that the read cache may keep besides.
    cache_pages: int = 0
    versions: int = 65536
    #: 32 MiB unapplied per volume bound a restart's work.
    versions_per_volume: int = 8192
    #: As many more while a replica catches up, if half of ``versions`` and of ``pages`` are free then.
    versions_behind: int = 24576
    #: Sums blocks; one covers 960 pages.
    frames: int = 4096
    batches: int = 4096
    #: WAL writes in flight per volume.
    writes_max: int = 2
    #: Entries that a replica must be behind before it catches up by larger writes, for which the superblock is
    #: written twice.
    joint_lsns: int = 256
    #: As ``ports.dataplane.RecoverySettings`` has them; the rate in bytes per second.
    rebuild_rate: int = 0
    rebuild_stretch_percent: int = 130
    wal_pin_percent: int = 80

    @classmethod
    def of_buffer(cls, buffer_bytes: int, *, cache_bytes: int = 0) -> CoreSizes:
        """Sizes of a core with so much for what is under way; two thirds of it may be unapplied, of all volumes.

        The rest is left to what is being received and sent: what waits to be applied never takes the last page.
        """
        pages = buffer_bytes // PAGE_BYTES
        versions = min(pages * 2 // 3, UNAPPLIED_PAGES_MAX)
        return cls(pages=pages, versions=versions, cache_pages=cache_bytes // PAGE_BYTES)


class Machine(Protocol):
    """Files are made, opened and emptied where blocking is allowed, never by the core."""

    def make_core(self, sizes: CoreSizes, *, share_from: int) -> Core: ...

    def start(self, core: Core, drain: Callable[[], None]) -> None:
        """Let the core run; ``drain`` is called on the event loop whenever it has sent something."""

    async def stopped(self) -> None:
        """The core was told to stop: wait until it has. ``drain`` is not called any more."""

    def close(self) -> None:
        """Let go of what the core stood on."""

    def close_socket(self, fd: int) -> None:
        """A descriptor that the core never got."""

    async def format(
        self, volume_id: VolumeId, replica_id: ReplicaId, *, size_bytes: int, block_size: int
    ) -> ReplicaUuid: ...

    def replicas(self) -> Mapping[VolumeId, ReplicaId]: ...

    async def open(self, volume_id: VolumeId) -> ReplicaFiles: ...

    async def empty(self, files: ReplicaFiles) -> None: ...

    async def delete(self, volume_id: VolumeId) -> None: ...

    def held_bytes(self, files: ReplicaFiles) -> int:
        """How long a volume these files can hold."""

    async def lengthen(self, files: ReplicaFiles, size_bytes: int) -> None:
        """Make them hold that much, durably. Raises OSError."""

    def shares_flushes(self, files: ReplicaFiles) -> bool:
        """Whether a flush that is shared reaches this log."""

    def file_system(self, files: ReplicaFiles) -> int:
        """The same number for files that take their room from the same place."""

    def room_pages(self, files: ReplicaFiles) -> int:
        """Pages that the file system under these files still takes. Raises OSError."""


def make_core(
    sizes: CoreSizes,
    *,
    share_from: int,
    flush_fd: int = -1,
    ring: int = 0,
    table: int = 0,
    hold_off: float | None = None,
) -> Core:
    """A core of this size with the times that all nodes share; ``hold_off`` in seconds, None for the usual."""
    return Core(
        ring=ring,
        table=table,
        **asdict(sizes),
        share_from=share_from,
        flush_fd=flush_fd,
        grant_ns=int(GRANT_S * 1e9),
        fence_hold_ns=int(FENCE_HOLD_S * 1e9),
        repair_ns=int(REPAIR_S * 1e9),
        hold_off_ns=int((HOLD_OFF_S if hold_off is None else hold_off) * 1e9),
    )


class KernelMachine:
    """A ring and a thread of this process, a directory that holds ``volumes/``, and where the logs lie.

    ``flush_file`` is a file of the pool that nobody writes: who flushes for many logs asks it of that one.
    """

    def __init__(
        self,
        pool: Path,
        *,
        name: str,
        wal_device: WalDevice | None = None,
        hold_off: float | None = None,
        writes_fd: int | None = None,
        flush_file: Path | None = None,
    ) -> None:
        self._pool = pool
        self._hold_off = hold_off
        self._wal_device = wal_device
        if wal_device is not None:
            folders.reclaim_rings(pool, wal_device)
        self._name = name
        self._ring = create_ring(RING_ENTRIES)
        locked = [] if writes_fd is None else [writes_fd]
        if wal_device is not None:
            locked.append(wal_device.writes_fd)
        if locked:
            self._ring.keep_open(locked)
        self._flush_fd = -1
        # On a device the logs have no inodes, and the pool may be on another one.
        if flush_file is not None and wal_device is None:
            self._flush_fd = os.open(flush_file, os.O_RDONLY | os.O_CLOEXEC)
        self._thread: threading.Thread | None = None
        self._core: Core | None = None
        #: Threads that empty the files in these folders.
        self._emptying: dict[Path, asyncio.Future[None]] = {}

    # ------------------------------------------------------------------ the core

    def make_core(self, sizes: CoreSizes, *, share_from: int) -> Core:
        return make_core(
            sizes,
            share_from=share_from,
            flush_fd=self._flush_fd,
            ring=self._ring.address,
            hold_off=self._hold_off,
        )

    def start(self, core: Core, drain: Callable[[], None]) -> None:
        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(core.event_fd, 8)
            drain()

        self._core = core
        asyncio.get_running_loop().add_reader(core.event_fd, read)
        self._thread = threading.Thread(target=_run, args=(core,), name=self._name, daemon=True)
        self._thread.start()

    async def stopped(self) -> None:
        assert self._thread is not None, "started"
        assert self._core is not None, "started"
        await asyncio.to_thread(self._thread.join)
        asyncio.get_running_loop().remove_reader(self._core.event_fd)

    def close(self) -> None:
        self._ring.close()
        if self._flush_fd >= 0:
            os.close(self._flush_fd)
            self._flush_fd = -1

    def close_socket(self, fd: int) -> None:
        os.close(fd)

    # ------------------------------------------------------------------ files

    async def format(
        self, volume_id: VolumeId, replica_id: ReplicaId, *, size_bytes: int, block_size: int
    ) -> ReplicaUuid:
        return await asyncio.to_thread(
            folders.format_replica,
            self._pool,
            volume_id,
            replica_id,
            size_bytes=size_bytes,
            block_size=block_size,
            wal_device=self._wal_device,
        )

    def replicas(self) -> Mapping[VolumeId, ReplicaId]:
        """All but what somebody put aside under a name that nothing of ours has: the master takes no such name."""
        found = folders.find_replicas(self._pool)
        return {
            volume_id: ReplicaId(folder.name)
            for volume_id, folder in found
            if is_identifier(volume_id) and is_identifier(folder.name)
        }

    async def open(self, volume_id: VolumeId) -> ReplicaFiles:
        folder = folders.find_replica(self._pool, volume_id)
        return await asyncio.to_thread(descriptors.open_files, folder, self._wal_device)

    async def empty(self, files: ReplicaFiles) -> None:
        # Who gives up asks again: its thread goes on, and would empty what the next one's copy has brought.
        while (before := self._emptying.get(files.folder)) is not None:
            await asyncio.wait([before])
        thread = asyncio.get_running_loop().run_in_executor(None, descriptors.empty_files, files)
        self._emptying[files.folder] = thread
        thread.add_done_callback(lambda _done: self._emptying.pop(files.folder))
        await asyncio.shield(thread)

    async def delete(self, volume_id: VolumeId) -> None:
        # A thread that empties opens the files by their names: it would empty those of a replica that is made anew.
        while before := [one for at, one in self._emptying.items() if at.parent.name == volume_id]:
            await asyncio.wait(before)
        await asyncio.to_thread(folders.delete_files, self._pool, volume_id, self._wal_device)

    def held_bytes(self, files: ReplicaFiles) -> int:
        return descriptors.pages_held(files) * PAGE_BYTES

    async def lengthen(self, files: ReplicaFiles, size_bytes: int) -> None:
        await asyncio.to_thread(descriptors.grow_files, files, size_bytes)

    def shares_flushes(self, files: ReplicaFiles) -> bool:
        # Replicas, or all of them, may have been put on another disk than the pool's.
        if self._wal_device is not None:
            return True
        return os.fstat(files.wal_fd).st_dev == self._pool.stat().st_dev

    def file_system(self, files: ReplicaFiles) -> int:
        return os.fstat(files.extents_fd).st_dev

    def room_pages(self, files: ReplicaFiles) -> int:
        room = os.fstatvfs(files.extents_fd)
        return room.f_bavail * room.f_frsize // PAGE_BYTES


def _run(core: Core) -> None:
    """The reactor's thread."""
    rc = core.run()
    if rc < 0:
        # Nothing is served and nothing granted any more; the process must not go on as if it were alive.
        os.write(2, f"sparrow: the reactor ended: {os.strerror(-rc)}\n".encode())
        os.abort()
