"""A primary and its peers: who is needed, what is shipped, who grants; and the gate that hangs on them."""

from __future__ import annotations

import struct

from sparrow.authority.types import Term
from sparrow.base.ids import NO_LINK, LinkId, Lsn, ReplicaUuid, VolumeId
from sparrow.dataplane.events import GATE_NUMBERS, Mail
from sparrow.dataplane.native.base import Base
from sparrow.ports.dataplane import Membership, RebuildPlan


class Peers(Base):
    """Commands of replication, grants and the gate."""

    async def set_membership(self, volume_id: VolumeId, membership: Membership) -> Lsn:
        slots = (*membership.needed, *membership.one_of)
        answer = await self._call(
            "set_membership",
            volume_id,
            a=len(membership.needed),
            b=int(membership.writable),
            flags=int(membership.ack_local),
            data=struct.pack(f"={len(slots)}I", *slots),
        )
        return Lsn(answer.a)

    async def ship(
        self,
        volume_id: VolumeId,
        slot: int,
        node_key: int,
        fd: int,
        *,
        joined_lsn: Lsn,
        rebuild: RebuildPlan | None = None,
        uuid: ReplicaUuid | None = None,
        link: LinkId = NO_LINK,
    ) -> None:
        plan = b""
        if rebuild is not None:
            plan = struct.pack(
                "<7Q",
                rebuild.kind,
                rebuild.joined_lsn,
                rebuild.cursor,
                rebuild.from_lsn,
                rebuild.base_lsn,
                rebuild.patched,
                rebuild.pages,
            ) + bytes.fromhex(uuid or "").rjust(16, b"\0")

        def made(answer: Mail) -> None:
            # Mail is in the order in which the core acted, and it does not speak of a link that another one replaced:
            # what it says of the peer behind this is of this link.
            volume = self._volumes.get(volume_id)
            if volume is not None and answer.rc >= 0:
                volume.links[slot] = link

        await self._call(
            "ship",
            volume_id,
            a=slot,
            b=node_key,
            c=fd,
            d=joined_lsn,
            data=plan,
            socket_fd=fd,
            heard=made,
        )

    async def receive(self, volume_id: VolumeId, fd: int, term: Term) -> None:
        await self._call("receive", volume_id, a=fd, b=term.epoch, c=term.start, socket_fd=fd)

    async def drop_peer(self, volume_id: VolumeId, slot: int) -> None:
        await self._call("drop_peer", volume_id, a=slot)

    async def peer_acked(self, volume_id: VolumeId, slot: int, lsn: Lsn) -> None:
        await self._call("peer_acked", volume_id, a=slot, b=lsn)

    async def grant_ask_link(self, node_key: int, fd: int) -> None:
        await self._send("grant_link", 0, a=fd, b=1, c=node_key, socket_fd=fd)

    async def grant_serve_link(self, fd: int) -> None:
        await self._send("grant_link", 0, a=fd, b=0, socket_fd=fd)

    async def open_gate(self, volume_id: VolumeId, *, wait_ms: int) -> None:
        await self._call("open_gate", volume_id, a=max(0, wait_ms))

    async def close_gate(self, volume_id: VolumeId, cause: str) -> None:
        await self._call(
            "close_gate", volume_id, a=GATE_NUMBERS.get(cause, GATE_NUMBERS["command"])
        )
