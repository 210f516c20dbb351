"""The newest line acted on, kept in the superblock, and the maps of absent members that follow from it."""

from __future__ import annotations

import json

from sparrow.authority.record import BadRecord, decode_line, encode_line
from sparrow.authority.types import AckPolicy, Line
from sparrow.base.errors import UnknownFormat
from sparrow.base.ids import ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane.native.base import Base, OpenVolume
from sparrow.formats.absences import ABSENCES_MAX


class Lines(Base):
    """Commands that follow from a line."""

    async def set_line(
        self, volume_id: VolumeId, line: Line, pending: tuple[ReplicaId, ...]
    ) -> None:
        text = json.dumps(
            {"line": encode_line(line), "pending": list(pending)}, separators=(",", ":")
        )
        await self._call("set_line", volume_id, data=text.encode())
        await self._set_absent(self._open(volume_id), line)

    async def _set_absent(self, volume: OpenVolume, line: Line) -> None:
        """Whom this replica keeps a map of: nobody, unless it is in sync itself and knows what changes.

        And whether it is the only member, so that its log need keep nothing for anybody.
        """
        absent = [
            bytes.fromhex(member.uuid)
            for member in line.members
            if member.replica_id not in line.in_sync and member.replica_id != volume.replica_id
        ]
        own = line.member(volume.replica_id)
        if own is None or own.uuid != volume.uuid or volume.replica_id not in line.in_sync:
            absent = []
        alone = own is not None and own.uuid == volume.uuid and line.members == (own,)
        await self._call(
            "set_absent",
            volume.volume_id,
            flags=1 if alone else 0,
            data=b"".join(absent[:ABSENCES_MAX]),
        )


def none_lacks_applied(line: Line, replica_id: ReplicaId, uuid: ReplicaUuid) -> bool:
    """Whether every member has all that this replica has applied: all are in sync, and commits wait for all of them.

    Under ack=quorum one of three in sync may lack what the other two committed. A line that this replica has not heard
    of yet may have left somebody out: it lacks what was committed since, and is copied to if the log does not have it.
    """
    own = line.member(replica_id)
    return (
        own is not None
        and own.uuid == uuid
        and line.ack is not AckPolicy.QUORUM
        and {member.replica_id for member in line.members} == {*line.in_sync}
    )


def decode_saved(blob: bytes) -> tuple[Line | None, tuple[ReplicaId, ...]]:
    """The line and the pending peers of a superblock; None before the first line.

    Raises: UnknownFormat: they are whole, by the superblock's checksum, and no words of this version.
    """
    if not blob:
        return None, ()
    try:
        saved = json.loads(blob)
        return decode_line(saved["line"]), tuple(ReplicaId(name) for name in saved["pending"])
    except (BadRecord, KeyError, TypeError, ValueError) as error:
        raise UnknownFormat(
            f"The line in its superblock is not one that this version of sparrow reads: {error}.",
            hint="Run the version that wrote it. Nothing was changed.",
        ) from error
