"""Connections of initiators: handed to the core, their upcalls answered, their commands ended."""

from __future__ import annotations

import errno
from typing import Final

from sparrow._native.core import nbd_config, queue_config, session_config
from sparrow.base.errors import LocalProtocolError, SparrowError
from sparrow.base.ids import VolumeId
from sparrow.dataplane.decode import words_of
from sparrow.dataplane.native.base import Base
from sparrow.frontends.reservations.machine import Notice
from sparrow.ports.dataplane import NbdParameters, QueueParameters, SessionParameters

#: As ``Attention`` of front/iscsi/session.pxd has them.
ATTENTIONS: Final = {
    Notice.RESERVATIONS_PREEMPTED: 32,
    Notice.RESERVATIONS_RELEASED: 64,
    Notice.REGISTRATIONS_PREEMPTED: 128,
}
assert set(ATTENTIONS) == set(Notice)


class Clients(Base):
    """Commands of frontends."""

    async def adopt_session(self, volume_id: VolumeId, fd: int, session: SessionParameters) -> None:
        config = session_config(
            key=session.session_key,
            tsih=session.tsih,
            cid=session.cid,
            exp_cmd_sn=session.exp_cmd_sn,
            stat_sn=session.stat_sn,
            queue_depth=0,
            initiator_recv_bytes_max=session.initiator_recv_bytes_max,
            target_recv_bytes_max=session.target_recv_bytes_max,
            max_burst_bytes=session.max_burst_bytes,
            first_burst_bytes=session.first_burst_bytes,
            max_outstanding_r2t=session.max_outstanding_r2t,
            initial_r2t=session.initial_r2t,
            immediate_data=session.immediate_data,
            header_digest=session.header_digest,
            data_digest=session.data_digest,
            reinstated=session.reinstated,
            nexus=session.nexus,
        )
        self._sessions[session.session_key] = volume_id
        try:
            await self._call(
                "adopt_session", volume_id, a=fd, data=config + session.pending, socket_fd=fd
            )
        except SparrowError:
            self._sessions.pop(session.session_key, None)
            raise

    async def adopt_queue(self, volume_id: VolumeId, fd: int, queue: QueueParameters) -> None:
        config = queue_config(
            key=queue.session_key,
            depth=queue.entries,
            sq_head=queue.sq_head,
            data_align=queue.data_align,
            flow_control=queue.flow_control,
            header_digest=queue.header_digest,
            data_digest=queue.data_digest,
            nexus=queue.nexus,
        )
        self._sessions[queue.session_key] = volume_id
        try:
            await self._call(
                "adopt_queue", volume_id, a=fd, data=config + queue.pending, socket_fd=fd
            )
        except SparrowError:
            self._sessions.pop(queue.session_key, None)
            raise

    async def adopt_nbd(self, volume_id: VolumeId, fd: int, client: NbdParameters) -> None:
        config = nbd_config(
            key=client.session_key,
            structured=client.structured,
            allocation=client.context is not None,
            context=client.context or 0,
        )
        self._sessions[client.session_key] = volume_id
        try:
            await self._call(
                "adopt_nbd", volume_id, a=fd, data=config + client.pending, socket_fd=fd
            )
        except SparrowError:
            self._sessions.pop(client.session_key, None)
            raise

    def answer(
        self, session_key: int, tag: int, *, status: int, sense: bytes, data_in: bytes
    ) -> None:
        self._tell("answer", a=session_key, b=tag, c=status, d=len(sense), data=sense + data_in)

    def answer_raw(self, session_key: int, tag: int, header: bytes, data: bytes) -> None:
        self._tell("answer_raw", a=session_key, b=tag, data=header + data)

    def raise_attention(self, session_key: int, notice: Notice) -> None:
        self._tell("attention", a=session_key, b=ATTENTIONS[notice])

    async def abort_commands(self, session_key: int) -> None:
        await self._send("preempted", 0, a=session_key)

    async def pin_command(self, session_key: int, tag: int) -> bool:
        rc = (await self._send("pin", 0, a=session_key, b=tag)).rc
        if rc == -errno.EBUSY:
            raise LocalProtocolError(f"Command {tag} of session {session_key} is pinned already.")
        return rc == 0

    async def unpin_command(self, session_key: int) -> None:
        await self._send("unpin", 0, a=session_key)

    async def end_session(self, session_key: int, *, leave_ms: int = 0) -> None:
        await self._send("end_session", 0, a=session_key, b=leave_ms)

    async def abort_command(self, session_key: int, command_id: int) -> bool:
        return bool((await self._send("abort_command", 0, a=session_key, b=command_id)).a)

    async def page_states(
        self, volume_id: VolumeId, *, first_page: int, page_count: int
    ) -> tuple[tuple[int, bool], ...]:
        answer = await self._call("page_states", volume_id, a=first_page, b=page_count)
        return tuple((word >> 1, bool(word & 1)) for word in words_of(answer.payload))
