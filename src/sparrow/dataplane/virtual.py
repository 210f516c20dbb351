"""A simulated machine under the compiled core: its processes come and go, its disk stays (``_native/io/simio.pyx``)."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from sparrow._native.core import Core
from sparrow._native.front.direct import Direct
from sparrow._native.io.simio import STRIKES, Room
from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import AlreadyExists, NotFound
from sparrow.base.ids import ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane.files.absences import read_absences
from sparrow.dataplane.files.contents import blank_sums
from sparrow.dataplane.files.descriptors import ReplicaFiles
from sparrow.dataplane.files.superblock import blank_superblock, choose_superblock, volume_key
from sparrow.dataplane.machine import CoreSizes, make_core
from sparrow.formats.absences import ABSENCE_BLOCK, ABSENCES_MAX, absence_blocks
from sparrow.formats.sums import PAGES_PER_BLOCK, SUMS_BLOCK
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES, SUPERBLOCK_FILE_BYTES

__all__ = ["SIZES", "STRIKES", "Direct", "Room", "VirtualMachine", "VirtualPool", "VirtualReplica"]

#: Small, so that a core costs little to make and its limits are met.
SIZES: Final = CoreSizes(
    pages=6144,
    versions=4096,
    versions_per_volume=1024,
    versions_behind=768,
    frames=32,
    batches=192,
    writes_max=2,
    joint_lsns=4,
)
#: The smallest ring in which three batches of the largest size stay free most of the time.
WAL_BYTES: Final = 5 << 20
#: Numbers of files as in the core's events.
WAL, EXTENTS, SUMS, SUPER, ABSENCES = 1, 2, 3, 4, 5
PAGES_WITHOUT_END: Final = 1 << 30
#: What one block of checksums stands for.
BLOCK_BYTES: Final = PAGES_PER_BLOCK * PAGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualReplica:
    """The files of one replica, for as long as they exist."""

    replica_id: ReplicaId
    uuid: ReplicaUuid
    superblock_fd: int
    wal_fd: int
    extents_fd: int
    sums_fd: int
    absences_fd: int


class OpenedFiles(ReplicaFiles):
    """Descriptors of a room are the files themselves: there is nothing to close."""

    __slots__ = ()

    def close(self) -> None:
        pass


class VirtualPool:
    """The disk of one machine.

    Args:
        host: its number in the room.
    """

    def __init__(self, room: Room, host: int, *, wal_bytes: int = WAL_BYTES) -> None:
        self.room = room
        self.host = host
        self.wal_bytes = wal_bytes
        self.files: dict[VolumeId, VirtualReplica] = {}
        #: Pages it has; None for no end.
        self.capacity: int | None = None
        #: Of the newest master that was heard.
        self.generation = 0

    def learn_generation(self, generation: int) -> None:
        self.generation = max(self.generation, generation)

    def wipe(self) -> None:
        """Another, empty disk."""
        for volume_id in tuple(self.files):
            self.remove(volume_id)
        self.generation = 0

    def remove(self, volume_id: VolumeId) -> None:
        replica = self.files.pop(volume_id, None)
        if replica is not None:
            for fd in (
                replica.superblock_fd,
                replica.wal_fd,
                replica.extents_fd,
                replica.sums_fd,
                replica.absences_fd,
            ):
                self.room.clear(fd)


class VirtualMachine:
    """``dataplane.machine.Machine`` for one process.

    Args:
        aside: waits as long as a helper thread takes for something.
    """

    def __init__(
        self,
        pool: VirtualPool,
        rng: Random,
        *,
        aside: Callable[[], Awaitable[None]],
    ) -> None:
        self.pool = pool
        self.drain: Callable[[], None] = lambda: None
        self._room = pool.room
        self._rng = rng
        self._aside = aside

    # ------------------------------------------------------------------ the core

    def make_core(self, sizes: CoreSizes, *, share_from: int) -> Core:
        return make_core(sizes, share_from=share_from, table=self._room.table(self.pool.host))

    def start(self, core: Core, drain: Callable[[], None]) -> None:
        self.drain = drain
        self._room.start(self.pool.host, core.addresses[0])

    async def stopped(self) -> None:
        self._room.kill(self.pool.host, "cut")

    def close(self) -> None:
        pass

    def close_socket(self, fd: int) -> None:
        self._room.close(fd)

    # ------------------------------------------------------------------ files

    async def format(
        self, volume_id: VolumeId, replica_id: ReplicaId, *, size_bytes: int, block_size: int
    ) -> ReplicaUuid:
        await self._aside()
        pool, room = self.pool, self._room
        if volume_id in pool.files:
            raise AlreadyExists(f"Volume {volume_id!r} has files already.")
        own = self._rng.getrandbits(128).to_bytes(16, "big")
        blocks = b"".join(blank_sums(volume_key(volume_id), size_bytes))
        fds = {
            kind: room.make_file(pool.host, kind, size)
            for kind, size in (
                (SUPER, SUPERBLOCK_FILE_BYTES),
                (WAL, pool.wal_bytes),
                (EXTENTS, size_bytes),
                (SUMS, len(blocks)),
                (ABSENCES, absence_blocks(size_bytes) * ABSENCES_MAX * ABSENCE_BLOCK.size),
            )
        }
        room.pwrite(fds[SUMS], 0, blocks)
        superblock = blank_superblock(
            volume_id,
            replica_id,
            own,
            size_bytes=size_bytes,
            block_size=block_size,
            wal_bytes=pool.wal_bytes,
        )
        room.pwrite(fds[SUPER], 0, superblock * 2)
        uuid = ReplicaUuid(own.hex())
        # The rename: from here on it is a replica, durably.
        pool.files[volume_id] = VirtualReplica(
            replica_id=replica_id,
            uuid=uuid,
            superblock_fd=fds[SUPER],
            wal_fd=fds[WAL],
            extents_fd=fds[EXTENTS],
            sums_fd=fds[SUMS],
            absences_fd=fds[ABSENCES],
        )
        await self._aside()
        return uuid

    def replicas(self) -> Mapping[VolumeId, ReplicaId]:
        return {one: self.pool.files[one].replica_id for one in sorted(self.pool.files)}

    async def open(self, volume_id: VolumeId) -> ReplicaFiles:
        await self._aside()
        replica = self.pool.files.get(volume_id)
        if replica is None:
            raise NotFound(f"This pool holds no replica of volume {volume_id!r}.")
        folder = Path(f"/{volume_id}/{replica.replica_id}")
        both = self._room.pread(replica.superblock_fd, 0, 2 * SUPERBLOCK_BYTES)
        copies = [both[:SUPERBLOCK_BYTES], both[SUPERBLOCK_BYTES:]]
        best, suspect = choose_superblock(copies, folder)
        best, absences = read_absences(
            lambda offset, length: self._room.pread(replica.absences_fd, offset, length),
            best,
            SUPERBLOCK.unpack(best),
        )
        return OpenedFiles(
            folder=folder,
            superblock_fd=replica.superblock_fd,
            wal_fd=replica.wal_fd,
            extents_fd=replica.extents_fd,
            extents_direct_fd=replica.extents_fd,
            sums_fd=replica.sums_fd,
            absences_fd=replica.absences_fd,
            absences=absences,
            superblock=best,
            fields=SUPERBLOCK.unpack(best),
            suspect=suspect,
        )

    async def empty(self, files: ReplicaFiles) -> None:
        await self._aside()
        self._room.clear(files.extents_fd)
        # As long as they were made meanwhile.
        size_bytes = self._room.size(files.sums_fd) // SUMS_BLOCK.size * BLOCK_BYTES
        blocks = list(blank_sums(files.fields.number("volume_key"), size_bytes))
        for number, block in enumerate(blocks):
            await self._aside()
            self._room.pwrite(files.sums_fd, number * SUMS_BLOCK.size, block)
        await self._aside()

    def held_bytes(self, files: ReplicaFiles) -> int:
        sums = self._room.size(files.sums_fd) // SUMS_BLOCK.size * BLOCK_BYTES
        return min(sums, self._room.size(files.extents_fd))

    async def lengthen(self, files: ReplicaFiles, size_bytes: int) -> None:
        """As ``files.grow_files``: the sums first. What a crash leaves half-way is made whole by the next call."""
        await self._aside()
        room, at = self._room, self._room.size(files.sums_fd)
        key = files.fields.number("volume_key")
        blocks = b"".join(blank_sums(key, size_bytes, first=at // SUMS_BLOCK.size))
        if self.room_pages(files) * PAGE_BYTES < len(blocks):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room.lengthen(files.sums_fd, at + len(blocks))
        room.pwrite(files.sums_fd, at, blocks)
        await self._aside()
        room.lengthen(files.extents_fd, size_bytes)
        await self._aside()

    async def delete(self, volume_id: VolumeId) -> None:
        await self._aside()
        self.pool.remove(volume_id)

    def shares_flushes(self, files: ReplicaFiles) -> bool:
        return True  # one disk for each host

    def file_system(self, files: ReplicaFiles) -> int:
        return self.pool.host

    def room_pages(self, files: ReplicaFiles) -> int:
        capacity = self.pool.capacity
        if capacity is None:
            return PAGES_WITHOUT_END
        return max(0, capacity - self._room.held(self.pool.host))
