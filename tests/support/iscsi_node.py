"""The iSCSI portal of a node in front of one volume, on a real socket; the test plays the core and the other node."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import structlog

from sparrow.authority.effects import AllowAccess
from sparrow.base.access import AccessList
from sparrow.base.errors import SparrowError, Unavailable, Withdrawn
from sparrow.base.ids import Lsn, NodeId, VolumeId
from sparrow.dataplane.model.links import Fabric
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.dataplane.model.state import ModelPool
from sparrow.formats.reservations import ReservationTable, encode_table
from sparrow.frontends.iscsi.naming import target_name
from sparrow.node.access import AccessBook
from sparrow.node.forwarding import Forwarding
from sparrow.node.iscsi import IscsiPortal
from sparrow.node.links import bind
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations
from sparrow.node.upcalls import Upcalls
from sparrow.ports.dataplane import ReservationsChanged, SessionParameters, Upcall
from sparrow.rpc.messages import (
    ReservationChangeAnswer,
    ReservationChangeRequest,
    ReservationLook,
    ReservationLookRequest,
    ReservationOutcome,
)
from tests.support.iscsi_client import IscsiClient
from tests.support.lines import SIZE, VOLUME, line, member, rid
from tests.support.waiting import WAIT_S

TARGET = target_name(VOLUME)
ISID = bytes.fromhex("800000000009")
PORTALS = {rid("b"): ("192.0.2.2:3260", "[2001:db8::2]:3260")}


class RecordingDataPlane(ModelDataPlane):
    """Keeps the sockets it is given, so that the test can play the core."""

    def __init__(self) -> None:
        super().__init__("na", ModelPool(), Fabric(), clock=lambda: 0.0)
        self.refuse = False
        self.tables: list[bytes] = []
        self.logging = asyncio.Event()
        self.logging.set()
        self.stale: list[bytes] = []
        self.askers: list[tuple[int, int]] = []
        self.withdrawn = False
        #: Key and tag of commands that were pinned; key and how many answers there were, of those that are no more.
        self.pins: list[tuple[int, int]] = []
        self.looks = 0
        self.not_now = 0
        self.error: SparrowError | None = None
        self.asked: list[tuple[int, int]] = []
        self.on_end: Callable[[int], None] = lambda _key: None
        self.on_table: Callable[[], None] = lambda: None
        self.changed = asyncio.Event()

    async def adopt_session(self, volume_id: VolumeId, fd: int, session: SessionParameters) -> None:
        if self.refuse:
            os.close(fd)
            raise Unavailable("no room")
        self.sessions[session.session_key] = (volume_id, fd, session)
        self.changed.set()

    def answer(self, session_key: int, tag: int, **answer: Any) -> None:
        super().answer(session_key, tag, **answer)
        self.changed.set()

    async def reservations(self, volume_id: VolumeId) -> tuple[Lsn, bytes | None]:
        self.looks += 1
        self.changed.set()
        if self.not_now:
            self.not_now -= 1
            raise Unavailable("not now")
        if self.error is not None:
            raise self.error
        return Lsn(len(self.tables)), self.tables[-1] if self.tables else None

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
        self.askers.append((session_key, tag))
        if self.withdrawn:
            raise Withdrawn("taken back")
        if self.stale:
            self.tables.append(self.stale.pop())
            return None
        assert expected_lsn == len(self.tables)
        self.tables.append(table)
        self.changed.set()
        await self.logging.wait()
        if self.error is not None:
            raise self.error
        # As the core does: it is told before it is answered.
        self.on_table()
        return Lsn(len(self.tables))

    async def pin_command(self, session_key: int, tag: int) -> bool:
        self.pins.append((session_key, tag))
        return not self.withdrawn

    async def unpin_command(self, session_key: int) -> None:
        self.pins.append((session_key, len(self.answers)))
        self.changed.set()

    async def end_session(self, session_key: int, *, leave_ms: int = 0) -> None:
        self.asked.append((session_key, leave_ms))
        found = self.sessions.pop(session_key, None)
        if found is not None:
            os.close(found[1])
        self.changed.set()
        asyncio.get_running_loop().call_soon(self.on_end, session_key)


class OtherNode:
    """The primary's, when this node is not."""

    def __init__(self) -> None:
        self.table = ReservationTable()
        self.away = False
        self.answer = ReservationChangeAnswer(outcome=ReservationOutcome.ANSWERED)
        self.asked: list[ReservationChangeRequest] = []

    async def look_at_reservations(
        self, addr: str, request: ReservationLookRequest, *, timeout_s: float
    ) -> ReservationLook:
        assert (addr, request.volume_id, timeout_s > 0) == ("nb:ctrl", VOLUME, True)
        if self.away:
            raise Unavailable("away")
        return ReservationLook(table=encode_table(self.table), ticket_ns=1)

    async def change_reservations(
        self, addr: str, request: ReservationChangeRequest, *, timeout_s: float
    ) -> ReservationChangeAnswer:
        assert (addr, timeout_s > 0) == ("nb:ctrl", True)
        self.asked.append(request)
        return self.answer


class Node:
    """A portal in front of one volume that this node is primary of."""

    def __init__(self, *, patience_s: float = WAIT_S) -> None:
        self.dataplane = RecordingDataPlane()
        self.peer = OtherNode()
        self.spawned: list[asyncio.Task[None]] = []
        known = line(1, 1, "a", "abc")
        self.volume = SimpleNamespace(
            volume_id=VOLUME,
            replica_id=rid("a"),
            known_line=known,
            size_bytes=SIZE,
            block_size=4096,
            disk_failed=False,
            pool_full=False,
            frozen=False,
            primacy=object(),
            gate_open=True,
            portals_of=lambda replica, _protocol: PORTALS.get(replica, ()),
            peer=member,
        )
        volumes = {VOLUME: self.volume}
        replicas = SimpleNamespace(find=volumes.get, get=volumes.__getitem__)
        holder = type("Holder", (), {"__iter__": lambda _self: iter(volumes.values())})()
        holder.find = replicas.find
        holder.get = replicas.get
        self.volumes = volumes
        sock, self.address = bind("127.0.0.1:0")
        log = structlog.get_logger().bind(node=NodeId("na"))
        self.access = AccessBook(log)
        self.access.learn(AllowAccess(volume_id=VOLUME, access=AccessList()))
        self.reservations = Reservations(
            self.dataplane, spawn=self.spawn, log=log, patience_s=patience_s
        )
        self.portal = IscsiPortal(
            [sock],
            addresses=[self.address],
            replicas=cast("Replicas", holder),
            access=self.access,
            dataplane=self.dataplane,
            reservations=self.reservations,
            log=log,
        )
        self.upcalls = Upcalls(
            replicas=cast("Replicas", holder),
            portal=self.portal,
            dataplane=self.dataplane,
            reservations=self.reservations,
            forwarding=Forwarding(self.peer, within_s=0.05, patience_s=patience_s),
            cluster_id=lambda: "c1",
            log=log,
        )
        self.dataplane.on_end = lambda key: self.portal.ended(key, "command")
        self.dataplane.on_table = self.commit
        self.task = asyncio.get_running_loop().create_task(self.portal.serve())

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.spawned.append(task)

    def commit(self) -> None:
        """The core tells of the newest table."""
        table = self.dataplane.tables[-1]
        lsn = Lsn(len(self.dataplane.tables))
        self.reservations.changed(ReservationsChanged(volume_id=VOLUME, lsn=lsn, table=table))

    async def log_in(self, **options: Any) -> IscsiClient:
        host, _, port = self.address.rpartition(":")
        options.setdefault("target", TARGET)
        return await asyncio.to_thread(IscsiClient, host, int(port), timeout_s=WAIT_S, **options)

    async def reached(self, condition: Callable[[], bool]) -> None:
        """Wait until the core was told enough."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self.dataplane.changed.clear()
                await self.dataplane.changed.wait()

    async def adopted(self, count: int) -> list[SessionParameters]:
        """Wait until the core has this many sessions."""
        await self.reached(lambda: len(self.dataplane.sessions) == count)
        return [session for _volume, _fd, session in self.dataplane.sessions.values()]

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.portal.close()
        for key in list(self.dataplane.sessions):
            await self.dataplane.end_session(key)


def command(cdb: bytes, *, lun: int = 0) -> bytes:
    """The header of a SCSI Command PDU."""
    return struct.pack(">BB2xIQII4xI4x", 0x01, 0x80, 0, lun, 7, 0, 1)[:32].ljust(
        32, b"\0"
    ) + cdb.ljust(16, b"\0")


READ_KEYS = bytes([0x5E, 0, 0, 0, 0, 0, 0, 0, 64, 0])


def pr_out(action: int, *, key: int = 0, other: int = 0, kind: int = 0) -> tuple[bytes, bytes]:
    """PERSISTENT RESERVE OUT: its header and its parameters."""
    cdb = struct.pack(">BBB2xIx", 0x5F, action, kind, 24)
    return command(cdb), struct.pack(">QQ8x", key, other)


def send(
    node: Node, session: SessionParameters, header: bytes, data: bytes = b"", *, tag: int = 1
) -> None:
    """As the core hands up a command while the gate is open."""
    node.upcalls.take(
        Upcall(
            volume_id=VOLUME,
            session_key=session.session_key,
            tag=tag,
            header=header,
            data=data,
            gate_open=True,
        )
    )


async def answered(node: Node, count: int = 1) -> list[tuple[int, int, int, bytes, bytes]]:
    """Wait for so many answers and take them."""
    await node.reached(lambda: len(node.dataplane.answers) >= count)
    found = list(node.dataplane.answers)
    node.dataplane.answers.clear()
    return found


async def carry_out(
    node: Node, session: SessionParameters, header: bytes, data: bytes = b""
) -> tuple[int, bytes, bytes]:
    """Status, sense and data of one command."""
    send(node, session, header, data)
    ((key, _tag, status, sense, data_in),) = await answered(node)
    assert key == session.session_key
    return status, sense, data_in


async def two_sessions(node: Node) -> tuple[SessionParameters, SessionParameters]:
    """Of two initiators."""
    clients = [
        await node.log_in(isid=ISID),
        await node.log_in(isid=ISID, initiator="iqn.2020-01.com.example:other"),
    ]
    first, second = await node.adopted(2)
    for client in clients:
        client.close()
    return first, second
