"""The NVMe/TCP portal of a node in front of one volume, on a real socket; the test plays the core."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import structlog

from sparrow.authority.effects import AllowAccess
from sparrow.base.access import AccessList, Frontend, Secret
from sparrow.base.errors import SparrowError, Unavailable
from sparrow.base.ids import Lsn, NodeId, VolumeId
from sparrow.dataplane.model.links import Fabric
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.dataplane.model.state import ModelPool
from sparrow.frontends.nvme.naming import subsystem_nqn
from sparrow.node.access import AccessBook
from sparrow.node.links import bind
from sparrow.node.nvme.portal import NvmePortal
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations
from sparrow.ports.dataplane import QueueParameters, ReservationsChanged, VolumeStatus
from tests.support.lines import SIZE, VOLUME, line, rid
from tests.support.nvme_host import (
    Admin,
    Queue,
    attach,
    close_all,
)

T = TypeVar("T")
NQN = subsystem_nqn(VOLUME)
PORTALS: dict[tuple[str, str], tuple[str, ...]] = {
    ("c", Frontend.NVME): ("192.0.2.3:4420", "[2001:db8::3]:4421"),
    ("c", Frontend.ISCSI): ("192.0.2.3:3260",),
}


class RecordingDataPlane(ModelDataPlane):
    """Keeps the sockets it is given, so that the test can play the core."""

    def __init__(self) -> None:
        super().__init__("na", ModelPool(), Fabric(), clock=lambda: 0.0)
        self.refuse = False
        self.on_end: Callable[[int], None] = lambda _key: None
        self.gate_open = True
        self.silent_ms: int | None = None
        self.ends: list[int] = []
        self.aborts: list[tuple[int, int]] = []
        self.tables: list[bytes] = []
        self.askers: list[tuple[int, int]] = []
        self.lost: SparrowError | None = None
        self.on_table: Callable[[ReservationsChanged], None] = lambda _event: None
        self.error: SparrowError | None = None
        self.changed = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def adopt_queue(self, volume_id: VolumeId, fd: int, queue: QueueParameters) -> None:
        if self.refuse:
            os.close(fd)
            raise Unavailable("no room")
        self.queues[queue.session_key] = (volume_id, fd, queue)

    async def abort_command(self, session_key: int, command_id: int) -> bool:
        self.aborts.append((session_key, command_id))
        return command_id == 7

    def answer(self, session_key: int, tag: int, **answer: Any) -> None:
        super().answer(session_key, tag, **answer)
        self.changed.set()

    async def reservations(self, volume_id: VolumeId) -> tuple[Lsn, bytes | None]:
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
        assert expected_lsn == len(self.tables)
        self.askers.append((session_key, tag))
        if self.lost is not None:
            raise self.lost
        self.tables.append(table)
        lsn = Lsn(len(self.tables))
        self.on_table(ReservationsChanged(volume_id=volume_id, lsn=lsn, table=table))
        return lsn

    async def end_session(self, session_key: int) -> None:
        self.ends.append(session_key)
        found = self.queues.pop(session_key, None)
        if found is not None:
            os.close(found[1])
            asyncio.get_running_loop().create_task(self._ended(session_key))

    async def _ended(self, session_key: int) -> None:
        await self.let_go.wait()
        self.on_end(session_key)

    async def status(self, volume_id: VolumeId) -> VolumeStatus:
        return cast(
            "VolumeStatus",
            SimpleNamespace(
                gate_open=self.gate_open, primary_silent_ms=self.silent_ms,
                reads=1, writes=2, read_bytes=3, written_bytes=4,
            ),
        )  # fmt: skip


class Node:
    """A portal in front of one volume that this node is primary of."""

    def __init__(self) -> None:
        self.dataplane = RecordingDataPlane()
        self.volume = SimpleNamespace(
            volume_id=VOLUME,
            replica_id=rid("b"),
            known_line=line(1, 1, "b", "abc"),
            size_bytes=SIZE,
            block_size=4096,
            disk_failed=False,
            pool_full=False,
            frozen=False,
            primacy=object(),
            portals_of=lambda replica, protocol: PORTALS.get((replica, protocol), ()),
        )
        self.volumes = {VOLUME: self.volume}
        holder = type("Holder", (), {"__iter__": lambda _self: iter(self.volumes.values())})()
        holder.find = self.volumes.get
        holder.get = self.volumes.__getitem__
        sock, address = bind("127.0.0.1:0")
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        log = structlog.get_logger().bind(node=NodeId("na"))
        self.access = AccessBook(log)
        self.allow(AccessList())
        self.reservations = Reservations(self.dataplane, spawn=self.spawn, log=log, patience_s=0.02)
        self.dataplane.on_table = self.reservations.changed
        self.portal = NvmePortal(
            sock,
            address=address,
            replicas=cast("Replicas", holder),
            access=self.access,
            dataplane=self.dataplane,
            reservations=self.reservations,
            cluster_id=lambda: "c1",
            first_serial=7,
            log=log,
        )
        self.dataplane.on_end = lambda key: self.portal.ended(key, "command")
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(self.portal.serve()), loop.create_task(self.portal.watch())]

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        raise AssertionError(f"{name}: RESERVE(6) is not of NVMe")

    def allow(self, access: AccessList, *secrets: Secret) -> None:
        """The master's newest word of who may use the volume."""
        self.access.learn(AllowAccess(volume_id=VOLUME, access=access, secrets=secrets))

    async def do(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        return await asyncio.to_thread(work, *arguments, **options)

    async def attach(self, **options: Any) -> tuple[Admin, list[Queue]]:
        return await self.do(attach, self.address, NQN, **options)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.portal.close()
        close_all()
        for _, fd, _ in self.dataplane.queues.values():
            os.close(fd)
