"""Replicas of this node: made, opened, looked at, made longer, closed; and the table of reservations in their logs."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Mapping
from typing import Final

from sparrow.authority.types import ReplicaState
from sparrow.base.errors import (
    DamagedData,
    LocalProtocolError,
    SparrowError,
    StorageError,
    Unavailable,
    UnknownFormat,
)
from sparrow.base.ids import Epoch, Lsn, ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane.decode import (
    NONE_U64,
    STATE_NUMBERS,
    decode_status,
    decode_statuses,
    decode_summary,
    words_of,
)
from sparrow.dataplane.files.superblock import replica_text
from sparrow.dataplane.native.base import OpenVolume
from sparrow.dataplane.native.errors import error_of
from sparrow.dataplane.native.lines import Lines, decode_saved, none_lacks_applied
from sparrow.dataplane.native.room import Room
from sparrow.ports.dataplane import OpenReport, VolumeStatus

VOLUMES_MAX: Final = 1023
#: Files that could not be made longer, for want of room mostly, are tried again after this.
GROW_AGAIN_S: Final = 1.0


class Replicas(Room, Lines):
    """Their life, and what is said of one as a whole."""

    async def format_replica(
        self, volume_id: VolumeId, replica_id: ReplicaId, *, size_bytes: int, block_size: int
    ) -> ReplicaUuid:
        return await self._machine.format(
            volume_id, replica_id, size_bytes=size_bytes, block_size=block_size
        )

    def replicas(self) -> Mapping[VolumeId, ReplicaId]:
        return self._machine.replicas()

    async def open_replica(self, volume_id: VolumeId) -> OpenReport:
        if volume_id in self._volumes:
            raise LocalProtocolError(f"Volume {volume_id!r} is open already.")
        files = await self._machine.open(volume_id)
        fields = files.fields
        try:
            line, pending = decode_saved(fields.blob("line")[: fields.number("line_bytes")])
        except UnknownFormat:
            files.close()
            raise
        volume = OpenVolume(
            volume_id=volume_id,
            index=self._free_index(),
            replica_id=ReplicaId(files.folder.name),
            uuid=ReplicaUuid(files.fields.blob("uuid").hex()),
            files=files,
            file_system=self._machine.file_system(files),
        )
        self._by_index[volume.index] = volume
        unwanted = line is not None and none_lacks_applied(line, volume.replica_id, volume.uuid)
        answer = await self._send(
            "open",
            volume.index,
            a=files.superblock_fd,
            b=files.wal_fd,
            c=files.extents_fd,
            d=files.sums_fd,
            flags=int(files.suspect)
            | int(unwanted) << 1
            | int(not self._machine.shares_flushes(files)) << 2,
            data=files.superblock
            + struct.pack(
                "<3Q", self._machine.held_bytes(files), files.absences_fd, files.extents_direct_fd
            )
            + files.absences,
        )
        if answer.rc < 0:
            del self._by_index[volume.index]
            files.close()
            if answer.rc == -errno.EBADMSG:
                raise DamagedData(
                    f"The table of reservations of volume {volume_id!r} is not what its superblock says.",
                    hint="Whom it kept out nobody here knows; another replica has it. Rebuild this one.",
                )
            if answer.rc == -errno.ENOSPC:
                raise Unavailable(
                    f"What volume {volume_id!r} has not applied finds no room in memory beside that of others."
                )
            if answer.rc == -errno.EFBIG:
                raise StorageError(
                    f"What volume {volume_id!r} has not applied is more than this node's buffer has room for.",
                    hint="Nothing is lost. Start the node with as large a --buffer-mib as it had before.",
                )
            raise StorageError(
                f"The log of volume {volume_id!r} could not be read: {os.strerror(-answer.rc)}."
            )
        self._volumes[volume_id] = volume
        self._statuses = None
        await self._tell_room([volume], self._machine.room_pages(volume.files))
        if line is not None:
            # A crash may have come between the line and the maps that follow from it.
            await self._set_absent(volume, line)
        return OpenReport(
            replica_id=volume.replica_id,
            size_bytes=words_of(answer.payload)[-1],
            block_size=fields.number("block_size"),
            log=decode_summary(words_of(answer.payload), volume.uuid),
            promised_epoch=Epoch(fields.number("promised_epoch")),
            promised_primary=replica_text(fields.blob("promised_primary")),
            line=line,
            pending=pending,
            torn_after_lsn=None if answer.a == NONE_U64 else Lsn(answer.a),
            damaged_after_lsn=None if answer.b == NONE_U64 else Lsn(answer.b),
            let_go_to_lsn=Lsn(answer.c) if answer.c else None,
            completed_blocks=words_of(answer.payload)[-2],
            superblock_damaged=files.suspect,
        )

    def _free_index(self) -> int:
        for _ in range(VOLUMES_MAX):
            index = self._next_index
            self._next_index = index % VOLUMES_MAX + 1
            if index not in self._by_index:
                return index
        raise Unavailable(f"A node holds at most {VOLUMES_MAX} replicas.")

    async def close_replica(self, volume_id: VolumeId) -> None:
        volume = self._volumes.pop(volume_id, None)
        if volume is None:
            return
        self._statuses = None
        await self._send("close", volume.index)
        self._by_index.pop(volume.index, None)
        volume.files.close()
        if volume.direct is not None:
            volume.direct.close()

    async def delete_replica(self, volume_id: VolumeId) -> None:
        await self.close_replica(volume_id)
        await self._machine.delete(volume_id)

    async def status(self, volume_id: VolumeId) -> VolumeStatus:
        answer = await self._call("status", volume_id)
        return decode_status(answer.payload, volume_id, self._open(volume_id).uuid)

    async def statuses(self) -> dict[VolumeId, VolumeStatus]:
        answer = await self._send("statuses", 0, a=self._taken)
        if answer.rc < 0:
            raise error_of("statuses", VolumeId(""), answer)
        for index, told in decode_statuses(answer.payload):
            volume = self._by_index.get(index)
            if volume is not None:
                volume.status = decode_status(told, volume.volume_id, volume.uuid)
                self._statuses = None
        self._taken = answer.a
        if self._statuses is None:
            self._statuses = {
                volume_id: volume.status
                for volume_id, volume in self._volumes.items()
                if volume.status is not None
            }
        return self._statuses

    async def resize(self, volume_id: VolumeId, size_bytes: int) -> None:
        volume = self._open(volume_id)
        try:
            await self._machine.lengthen(volume.files, size_bytes)
        except OSError as error:
            raise StorageError(
                f"The files of volume {volume_id!r} cannot be made longer: {error.strerror}."
            ) from error
        await self._call("grown", volume_id, a=size_bytes)
        await self._call("resize", volume_id, a=size_bytes)

    async def reservations(self, volume_id: VolumeId) -> tuple[Lsn, bytes | None]:
        answer = await self._call("reservations", volume_id)
        return Lsn(answer.a), answer.payload or None

    async def log_reservations(
        self,
        volume_id: VolumeId,
        expected_lsn: Lsn,
        table: bytes,
        *,
        session_key: int = 0,
        tag: int = 0,
        by_ns: int = 0,
    ) -> Lsn | None:
        answer = await self._call(
            "log_reservations",
            volume_id,
            a=expected_lsn,
            b=session_key,
            c=tag,
            d=by_ns,
            data=table,
        )
        return Lsn(answer.a) if answer.a else None

    async def _lengthen(self, volume: OpenVolume, size_bytes: int) -> None:
        """A resize came from the primary: nothing more is taken from it until the files are as long."""
        while self._volumes.get(volume.volume_id) is volume:
            try:
                await self._machine.lengthen(volume.files, size_bytes)
                await self._call("grown", volume.volume_id, a=size_bytes)
            except (SparrowError, OSError):
                await asyncio.sleep(GROW_AGAIN_S)
                continue
            return

    async def set_state(self, volume_id: VolumeId, state: ReplicaState) -> None:
        await self._call("set_state", volume_id, a=STATE_NUMBERS[state])
