"""What frontends ask: sessions, reads and writes of clients, reservations."""

from __future__ import annotations

from typing import Final

from sparrow.base.errors import (
    OutcomeUnknown,
    Refused,
    SparrowError,
    StaleEpoch,
    StorageError,
    Unavailable,
    Withdrawn,
)
from sparrow.base.ids import Lsn, VolumeId
from sparrow.dataplane.model.shipping import Shipping
from sparrow.dataplane.model.state import ModelVolume
from sparrow.formats.reservations import RESERVATION_BYTES
from sparrow.frontends.reservations.machine import Notice
from sparrow.ports.dataplane import NbdParameters, QueueParameters, SessionParameters

LAST_LSN: Final = Lsn(1 << 62)


class Clients(Shipping):
    """Sessions of clients and what they ask."""

    async def adopt_session(self, volume_id: VolumeId, fd: int, session: SessionParameters) -> None:
        self._volume(volume_id)
        self.sessions[session.session_key] = (volume_id, fd, session)

    async def adopt_queue(self, volume_id: VolumeId, fd: int, queue: QueueParameters) -> None:
        self._volume(volume_id)
        self.queues[queue.session_key] = (volume_id, fd, queue)

    async def adopt_nbd(self, volume_id: VolumeId, fd: int, client: NbdParameters) -> None:
        self._volume(volume_id)
        self.nbd_clients[client.session_key] = (volume_id, fd, client)

    def answer(
        self, session_key: int, tag: int, *, status: int, sense: bytes, data_in: bytes
    ) -> None:
        self.answers.append((session_key, tag, status, sense, data_in))

    def answer_raw(self, session_key: int, tag: int, header: bytes, data: bytes) -> None:
        self.answers.append((session_key, tag, -1, header, data))

    def raise_attention(self, session_key: int, notice: Notice) -> None:
        self.attentions.append((session_key, notice))

    async def end_session(self, session_key: int, *, leave_ms: int = 0) -> None:
        del leave_ms  # nobody is there to be asked
        self.sessions.pop(session_key, None)
        self.queues.pop(session_key, None)
        self.nbd_clients.pop(session_key, None)

    async def abort_command(self, session_key: int, command_id: int) -> bool:
        del session_key, command_id  # nobody has commands under way here
        return False

    async def abort_commands(self, session_key: int) -> None:
        self.aborted.append(session_key)

    async def pin_command(self, session_key: int, tag: int) -> bool:
        del tag
        return session_key in self.sessions or session_key in self.queues

    async def unpin_command(self, session_key: int) -> None:
        del session_key  # nothing waits for it

    async def write(self, volume_id: VolumeId, page: int, data: bytes) -> Lsn:
        """What a client's WRITE does; returns when it would be acknowledged. Raises: Refused, Unavailable."""
        return await self._client_entry(volume_id, page, data, zeros=0)

    async def committed(self, volume_id: VolumeId, lsn: Lsn) -> None:
        """Returns when an entry is committed. Raises: Unavailable when the term ends before."""
        await self._committed(volume_id, self._volume(volume_id), lsn)

    async def zero(self, volume_id: VolumeId, page: int, count: int) -> Lsn:
        """What a client's UNMAP does, likewise."""
        return await self._client_entry(volume_id, page, b"", zeros=count)

    async def _client_entry(
        self, volume_id: VolumeId, page: int, data: bytes, *, zeros: int
    ) -> Lsn:
        volume = self._volume(volume_id)
        self._look_at_gate(volume_id, volume)
        if not volume.gate_open or not volume.writable:
            raise Refused("The gate is closed.")
        lsn = self._log_entry(volume_id, volume, page, data, zeros=zeros)
        await self._answered(volume_id, volume, lsn)
        self._look_at_gate(volume_id, volume)
        if not volume.gate_open:
            raise Refused("The gate closed before the answer could leave.")
        return lsn

    def read(self, volume_id: VolumeId, page: int) -> bytes:
        """What a client's READ gives: the committed view. Raises: Refused."""
        volume = self._volume(volume_id)
        self._look_at_gate(volume_id, volume)
        if not volume.gate_open:
            raise Refused("The gate is closed.")
        return volume.files.log.view(max(volume.commit, volume.answered)).get(page, b"")

    async def reservations(self, volume_id: VolumeId) -> tuple[Lsn, bytes | None]:
        volume = self._volume(volume_id)
        self._look_whether_serving(volume_id, volume)
        await self._committed(volume_id, volume, volume.files.log.table_at(LAST_LSN)[0])
        self._look_whether_serving(volume_id, volume)
        return volume.files.log.table_at(volume.commit)

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
        del session_key, tag  # nobody has commands under way here
        volume = self._volume(volume_id)
        self._look_whether_serving(volume_id, volume)
        if len(table) != RESERVATION_BYTES:
            raise StorageError(f"{volume_id}: a table of {len(table)} bytes.")
        if by_ns and self._clock() * 1e9 >= by_ns:
            raise Withdrawn(f"{volume_id}: it is too late.")
        if not volume.writable:
            raise Unavailable(f"{volume_id} takes no writes now.")
        if expected_lsn != volume.files.log.table_at(LAST_LSN)[0]:
            return None
        lsn = self._log_entry(volume_id, volume, None, table)
        try:
            await self._committed(volume_id, volume, lsn)
        except SparrowError as error:
            raise OutcomeUnknown(f"{volume_id}: a table is logged: {error}") from error
        return lsn

    def _look_whether_serving(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        self._look_at_gate(volume_id, volume)
        if not volume.primary or not volume.term_start or volume.commit < volume.term_start:
            raise StaleEpoch(f"{volume_id} is not open here.")
        if not volume.gate_open:
            raise Unavailable(f"The gate of {volume_id} is closed.")
