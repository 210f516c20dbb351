"""Replicas of a pool: found, made whole or not at all, deleted for good.

A replica is made in a folder of another name and renamed when everything in it is durable, so a folder by the right
name is a whole replica.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sparrow.base.errors import AlreadyExists, ConfigError, NotFound, StorageError
from sparrow.base.ids import ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane.files.absences import open_absences
from sparrow.dataplane.files.contents import wal_bytes_for, write_extents, write_sums, write_zeros
from sparrow.dataplane.files.superblock import (
    blank_superblock,
    uuid_of,
    volume_key,
    write_superblock,
)
from sparrow.dataplane.wal_device import WalDevice


def find_replicas(pool: Path) -> Iterator[tuple[VolumeId, Path]]:
    """Every whole replica of a pool."""
    volumes = pool / "volumes"
    if not volumes.is_dir():
        return
    for volume in sorted(volumes.iterdir()):
        folder = _replica_in(volume)
        if folder is not None:
            yield VolumeId(volume.name), folder


def find_replica(pool: Path, volume_id: VolumeId) -> Path:
    """Looks at this volume alone: a node that starts asks for hundreds. Raises: NotFound."""
    folder = _replica_in(pool / "volumes" / volume_id)
    if folder is None:
        raise NotFound(f"This pool holds no replica of volume {volume_id!r}.")
    return folder


def _replica_in(volume: Path) -> Path | None:
    """The whole replica in a volume's folder; None when there is none."""
    for folder in sorted(volume.iterdir()) if volume.is_dir() else ():
        if (folder / "superblock").is_file() and not folder.name.endswith(".new"):
            return folder
    return None


def format_replica(
    pool: Path,
    volume_id: VolumeId,
    replica_id: ReplicaId,
    *,
    size_bytes: int,
    block_size: int,
    wal_device: WalDevice | None = None,
) -> ReplicaUuid:
    """Make a blank replica; durable under its name when this returns.

    Raises:
        AlreadyExists: the pool holds a replica of this volume.
        StorageError: the pool has no room, or its file system refused something.
    """
    parent = pool / "volumes" / volume_id
    folder = parent / replica_id
    fresh = parent / f"{replica_id}.new"
    there = _replica_in(parent)
    if there is not None:
        raise AlreadyExists(
            f"Volume {volume_id!r} has files in {there} already; they are never overwritten."
        )
    own = ReplicaUuid(uuid.uuid4().hex)
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        if wal_device is None:
            ring = None
            write_zeros(fresh / "wal", wal_bytes_for(size_bytes))
        else:
            # Before a ring is given away: without that folder a pool counts as not mounted (``reclaim_rings``).
            _sync_folder(pool)
            ring = wal_device.allocate(own, wal_bytes_for(size_bytes))
        write_extents(fresh / "extents", size_bytes)
        write_sums(fresh / "sums", volume_key(volume_id), size_bytes)
        os.close(open_absences(fresh, size_bytes))
        write_superblock(
            fresh / "superblock",
            blank_superblock(
                volume_id,
                replica_id,
                bytes.fromhex(own),
                size_bytes=size_bytes,
                block_size=block_size,
                wal_bytes=wal_bytes_for(size_bytes),
                wal_offset=0 if ring is None else ring.offset,
                wal_device=bytes(16) if wal_device is None else bytes.fromhex(wal_device.uuid),
            ),
        )
        _sync_folder(fresh)
        fresh.rename(folder)
        for path in (parent, parent.parent, pool):
            _sync_folder(path)
    except (OSError, StorageError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if wal_device is not None:
            wal_device.free(own)
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"The replica of volume {volume_id!r} could not be made in {parent}: {error.strerror}.",
            hint="Look at the room and the health of the pool's file system.",
        ) from error
    return own


def reclaim_rings(pool: Path, wal_device: WalDevice) -> None:
    """Give back what a crash left on the WAL device; nothing while a replica cannot say which ring is its own.

    A pool that never held a replica gives nothing back either: its disk is not mounted, or it is another node's place.
    Its replicas would find their logs given away, with what was acknowledged and is nowhere else on this node.

    Raises: ConfigError, in that case; StorageError: the device cannot be written.
    """
    if wal_device.rings and not (pool / "volumes").is_dir():
        raise ConfigError(
            f"The WAL device {wal_device.path} holds logs of {len(wal_device.rings)} replicas, and the pool {pool}"
            " never held one.",
            hint="Mount the pool, or name the right one with --pool. If it is gone for good, clear the first MiB of"
            " the device.",
        )
    try:
        own = [uuid_of(folder) for _, folder in find_replicas(pool)]
    except (StorageError, OSError):
        return
    wal_device.keep_only(own)


def delete_files(pool: Path, volume_id: VolumeId, wal_device: WalDevice | None = None) -> None:
    """Remove a replica for good; what is left half-way is removed by the next call.

    Raises: StorageError.
    """
    folder = pool / "volumes" / volume_id
    if not folder.is_dir():
        return
    leaving: list[ReplicaUuid] = []
    try:
        # Without its superblock no folder is a replica, whatever else is left of it.
        for superblock in folder.glob("*/superblock"):
            with suppress(StorageError, OSError):  # whatever they are, they are to go
                leaving.append(uuid_of(superblock.parent))
            superblock.unlink()
        shutil.rmtree(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise StorageError(
            f"The files in {folder} cannot be deleted: {error.strerror}.",
            hint="What is left of them is deleted after a start of the node on a disk that works.",
        ) from error
    # A ring that a crash leaves behind here is given back at the next start.
    if wal_device is not None:
        for replica in leaving:
            wal_device.free(replica)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
