"""The node's composition root: builds everything around a data plane, and stops it in reverse.

The order on the way up: settings, the pool's lock and incarnation, the core (all ``node/process.py``), every replica
opened (``node/found.py``), then listeners and the conversation with the master. On the way down: no new connections and
calls, volumes closed with their gates, the core, the lock.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from sparrow.authority.adapter import SessionIds
from sparrow.base import events as names
from sparrow.base.ids import NodeId
from sparrow.frontends.reservations import SERVED
from sparrow.node.access import AccessBook
from sparrow.node.clock import raw_clock
from sparrow.node.config import WILDCARDS, NodeSettings, iscsi_portals
from sparrow.node.facts import SlotReports
from sparrow.node.forwarding import Door, Forwarding
from sparrow.node.found import Found
from sparrow.node.grants import GrantLinks
from sparrow.node.iscsi import IscsiPortal
from sparrow.node.keys import NodeKeys
from sparrow.node.links import LinkListener, TcpLinks, bind
from sparrow.node.master_link import MasterLink
from sparrow.node.mending import Mender
from sparrow.node.nbd import NbdPortal, bind_unix
from sparrow.node.nvme.controllers import FIRST_KEY as NVME_KEYS
from sparrow.node.nvme.portal import NvmePortal
from sparrow.node.outside import Identity
from sparrow.node.peer_service import PeerService
from sparrow.node.pool import Pool
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations
from sparrow.node.scrub import Scrubs
from sparrow.node.store_copy import StoreCopy
from sparrow.node.surroundings import Surroundings
from sparrow.node.tls import TlsServer
from sparrow.node.troubles import Troubles
from sparrow.node.upcalls import Upcalls
from sparrow.ports.dataplane import (
    BatchDamaged,
    CoreEvent,
    CoreLeaked,
    DataPlane,
    DiskFailed,
    GateClosed,
    GateOpened,
    GrantLinkLost,
    PageDamaged,
    PoolFull,
    PrimaryLost,
    ReservationsChanged,
    SessionEnded,
    SumsDamaged,
    Upcall,
    VolumeResized,
)
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.control_client import NodeControlClient
from sparrow.rpc.messages import Heartbeat
from sparrow.rpc.peer_client import PeerClients
from sparrow.rpc.peer_server import routes
from sparrow.rpc.proof import CallJudge, guarded
from sparrow.rpc.server import Server
from sparrow.runtime.cluster_key import ClusterKeys
from sparrow.runtime.config import join_address, split_address
from sparrow.runtime.tasks import Supervisor

STOP_GRACE_S: Final = 0.5
#: How full the pool is is looked at this often, and what of it is replicas, file by file, less often.
SPACE_EVERY_S: Final = 10.0
COUNT_EVERY_S: Final = 30.0


class Node:
    """A node without its process: what a test starts on a pool and a data plane of its own."""

    def __init__(
        self,
        settings: NodeSettings,
        pool: Pool,
        dataplane: DataPlane,
        log: FilteringBoundLogger,
        found: Found,
    ) -> None:
        self.settings = settings
        self._found = found
        self.pool = pool
        self.dataplane = dataplane
        self.supervisor = Supervisor(log)
        self._log = log
        self._space = (0, 0, 0)
        self._space_at = 0.0
        self._count_at = 0.0
        #: The first count, begun while the replicas are opened: the first heartbeat has to wait for it.
        self._counting: asyncio.Task[int] | None = None

        secrets = ClusterKeys(settings.cluster_key, log)
        calls = PeerClients(secrets)
        node_id = NodeId(settings.node_id)
        master = NodeControlClient(settings.master, node_id=node_id, keys=secrets)
        api = ApiClient(settings.master)
        self.supervisor.on_stop("master's store", api.close)
        self.supervisor.on_stop("peer clients", calls.close)
        self.supervisor.on_stop("master client", master.close)
        keys = NodeKeys()
        self.troubles = Troubles(raw_clock)
        links = TcpLinks(secrets, note=self.troubles.note)
        data_socket, data = bind(settings.listen_data)
        portals = [bind(one) for one in iscsi_portals(settings)]
        nvme_socket, nvme = bind(settings.listen_nvme)
        tls = None if settings.nbd_tls == "off" else _tls_server(settings)
        nbd_sockets, nbd = _nbd_sockets(settings)
        ctrl = _with_port(settings.listen_ctrl)
        self.me = Identity(
            node_id=node_id,
            incarnation=pool.state.incarnation,
            ctrl_addr=self._advertised(ctrl),
            data_addr=self._advertised(data),
            iscsi_addr=self._portal_address(portals[0][1], alone=len(portals) == 1),
            iscsi_portals=tuple(
                self._portal_address(bound, alone=len(portals) == 1) for _sock, bound in portals
            ),
            nvme_addr=self._advertised(nvme),
            nbd_addr=self._advertised(nbd) if nbd else "",
            nbd_tls=settings.nbd_tls == "required",
        )
        self._ctrl = ctrl
        self._zone = settings.zone
        self.grants = GrantLinks(
            me=self.me,
            dataplane=dataplane,
            links=links,
            keys=keys,
            cluster_id=self._cluster_id,
            spawn=self._spawn,
            log=log,
        )
        around = Surroundings(
            me=self.me,
            dataplane=dataplane,
            calls=calls,
            links=links,
            master=master,
            keys=keys,
            sessions=SessionIds(pool.state.incarnation),
            log=log,
            clock=raw_clock,
            cluster_id=self._cluster_id,
            control_live=lambda: self.master_link.live,
            urge=self._urge,
            want_grants=self.grants.want,
            note=self.troubles.note,
            master_generation=lambda: self.master_link.generation,
        )
        self._around = around
        self.replicas = Replicas(around)
        self.access = AccessBook(log, pool.directory / "access")
        self._reports = SlotReports(self.replicas, dataplane, self.me, log)
        self.mender = Mender(around, find=self.replicas.find, spawn=self._spawn)
        self.scrubs = Scrubs(
            around,
            self.mender,
            volumes=lambda: tuple(self.replicas),
            files=pool.scrub_file,
            every_s=settings.scrub_days * 86400,
            bytes_per_s=settings.scrub_mib_per_s << 20,
            aside=ThreadPoolExecutor(1, thread_name_prefix="scrub files").submit,
        )
        self.replicas.on_removed = self.scrubs.forget
        self.reservations = Reservations(dataplane, spawn=self._spawn, log=log)
        self.service = PeerService(
            self.replicas,
            around,
            self.scrubs,
            hear_generation=self._hear_generation,
            store_copy=StoreCopy(
                pool.directory,
                fetch=api.backup,
                heard=lambda: self.master_link.generation,
                cluster_id=self._cluster_id,
                log=log,
            ),
            door=Door(self.replicas, self.reservations, cluster_id=self._cluster_id),
        )
        self.master_link = MasterLink(
            me=self.me,
            master=master,
            replicas=self.replicas,
            access=self.access,
            build=self._heartbeat,
            resting=lambda: self._reports.resting,
            learn_cluster=pool.learn_cluster,
            spawn=self._spawn,
            log=log,
            generation=pool.state.master_generation,
            learn_generation=pool.learn_generation,
            note=self.troubles.note,
        )
        self.listener = LinkListener(
            data_socket,
            keys=secrets,
            judge=self.service.judge,
            adopt=self.service.adopt,
            log=log,
            note=self.troubles.note,
        )
        self.portal = IscsiPortal(
            [sock for sock, _bound in portals],
            addresses=self.me.iscsi_portals,
            replicas=self.replicas,
            access=self.access,
            dataplane=dataplane,
            reservations=self.reservations,
            log=log,
        )
        self.supervisor.on_stop("replication port", self.listener.close)
        self.replicas.before_removal(self.portal.dismiss)
        self.nvme = NvmePortal(
            nvme_socket,
            address=nvme,
            replicas=self.replicas,
            access=self.access,
            dataplane=dataplane,
            reservations=self.reservations,
            cluster_id=self._cluster_id,
            first_serial=pool.state.incarnation,
            log=log,
        )
        self.supervisor.on_stop("iscsi portal", self.portal.close)
        self.supervisor.on_stop("nvme portal", self.nvme.close)
        self.nbd = NbdPortal(
            nbd_sockets,
            replicas=self.replicas,
            access=self.access,
            dataplane=dataplane,
            log=log,
            tls=tls,
            policy=settings.nbd_tls,
        )
        self.supervisor.on_stop("nbd portal", self.nbd.close)
        self.upcalls = Upcalls(
            replicas=self.replicas,
            portal=self.portal,
            dataplane=dataplane,
            reservations=self.reservations,
            forwarding=Forwarding(calls),
            cluster_id=self._cluster_id,
            log=log,
        )
        self._server = Server(guarded(routes(self.service), CallJudge(secrets)))

    async def start(self) -> None:
        """Take over what was opened, then listen. Raises: ConfigError, MachineUnfit, StorageError."""
        self.supervisor.on_stop("data plane", self.dataplane.stop)
        self._counting = asyncio.get_running_loop().create_task(
            asyncio.to_thread(self.pool.used_by_replicas)
        )
        self.replicas.adopt(await self._found.everything())
        self._found.hand_over(self._take)
        self.supervisor.on_stop("volumes", self.replicas.close_all)
        await self._server.start(self._ctrl)
        self.supervisor.on_stop("control port", self._stop_server)
        self.supervisor.spawn(self.listener.serve(), name="replication port", vital=True)
        self.supervisor.spawn(self.portal.serve(), name="iscsi portal", vital=True)
        self.supervisor.spawn(self.nvme.serve(), name="nvme portal", vital=True)
        self.supervisor.spawn(self.nvme.watch(), name="nvme events", vital=True)
        self.supervisor.spawn(self.nbd.serve(), name="nbd portal", vital=True)
        self.supervisor.spawn(self.master_link.heartbeats(), name="heartbeats", vital=True)
        self.supervisor.spawn(self.scrubs.run(), name="scrubs", vital=True)
        self.supervisor.spawn(self.master_link.subscription(), name="subscription", vital=True)
        self.supervisor.spawn(self._outlive(), name="hold-off")
        self._log.info(names.PROCESS_STARTED, **self.ready_line())

    async def _outlive(self) -> None:
        """Once the hold-off has passed, only grants of this process can be running anywhere."""
        await asyncio.sleep(self.pool.hold_off_s)
        self.pool.outlived()

    async def stop(self) -> None:
        """Stop in reverse; bounded."""
        await self.supervisor.stop()
        self._log.info(names.PROCESS_STOPPED)

    def ready_line(self) -> dict[str, object]:
        """What is told once, on standard output, when the node listens."""
        return {
            "ready": "node",
            "node_id": self.me.node_id,
            "incarnation": self.me.incarnation,
            "ctrl": self.me.ctrl_addr,
            "data": self.me.data_addr,
            "iscsi": self.me.iscsi_addr,
            "nvme": self.me.nvme_addr,
            "nbd": self.me.nbd_addr,
            "pid": os.getpid(),
        }

    # ------------------------------------------------------------ from the core

    def _take(self, event: CoreEvent) -> None:
        """Everything the core tells, in order."""
        match event:
            case GrantLinkLost():
                self.grants.lost(event.node_key)
            case Upcall():
                if event.session_key >= NVME_KEYS:
                    self.nvme.take(event)
                else:
                    self.upcalls.take(event)
            case SessionEnded():
                self.portal.ended(event.session_key, event.cause)
                self.nvme.ended(event.session_key, event.cause)
                self.upcalls.ended(event.session_key)
                self.nbd.ended(event.session_key, event.cause)
            case ReservationsChanged():
                self.reservations.changed(event)
            case CoreLeaked():
                self._log.error(names.CORE_LEAKED, **event.held)
            case PageDamaged() | SumsDamaged() | BatchDamaged():
                self.mender.take(event)
            case _:
                volume = self.replicas.find(event.volume_id)
                if volume is not None:
                    volume.take(event)
                self._tell_nvme(event)
                if isinstance(event, GateOpened) and SERVED:
                    self.reservations.opened(event.volume_id)
                if isinstance(event, GateClosed):
                    self.nbd.gate_closed(event.volume_id, event.cause)

    def _tell_nvme(self, event: CoreEvent) -> None:
        """Hosts hear of what they are shown."""
        if isinstance(event, VolumeResized):
            self.nvme.resized(event.volume_id)
        elif isinstance(event, GateOpened | GateClosed | DiskFailed | PoolFull | PrimaryLost):
            self.nvme.changed()

    # ------------------------------------------------------------ small ones

    async def _heartbeat(self, sequence: int) -> Heartbeat:
        slots = await self._reports.take()
        if raw_clock() >= self._space_at:
            self._space_at = raw_clock() + SPACE_EVERY_S
            used = self._space[2]
            if raw_clock() >= self._count_at:
                self._count_at = raw_clock() + COUNT_EVERY_S
                counting, self._counting = self._counting, None
                used = await (counting or asyncio.to_thread(self.pool.used_by_replicas))
            self._space = (*self.pool.space(), used)
        total, free, used = self._space
        return Heartbeat(
            node_id=self.me.node_id,
            incarnation=self.me.incarnation,
            sequence=sequence,
            data_addr=self.me.data_addr,
            ctrl_addr=self.me.ctrl_addr,
            iscsi_addr=self.me.iscsi_addr,
            pool_total_bytes=total,
            pool_free_bytes=free,
            replica_used_bytes=used,
            slots=slots,
            troubles=(*self.troubles.current(), *self.replicas.troubles()),
            zone=self._zone,
        )

    def _cluster_id(self) -> str:
        return self.pool.state.cluster_id

    def _hear_generation(self, generation: int) -> int:
        return self.master_link.hear_generation(generation)

    def _urge(self) -> None:
        self.master_link.urge()

    async def _stop_server(self) -> None:
        await self._server.stop(grace_s=STOP_GRACE_S)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> object:
        return self.supervisor.spawn(work, name=name)

    def _portal_address(self, bound: str, *, alone: bool) -> str:
        """Several portals are on several networks: only one that listens everywhere is told by another name."""
        if not alone and split_address(bound)[0] not in WILDCARDS:
            return bound
        return self._advertised(bound)

    def _advertised(self, bound: str) -> str:
        host, port = split_address(bound)
        return join_address(self.settings.advertise_host or host, port)


def _tls_server(settings: NodeSettings) -> TlsServer:
    authority = Path(settings.tls_client_ca) if settings.tls_client_ca else None
    return TlsServer(Path(settings.tls_certificate), Path(settings.tls_key), authority)


def _nbd_sockets(settings: NodeSettings) -> tuple[tuple[socket.socket, ...], str]:
    """What NBD listens on, and the TCP address with its real port; empty when it has none."""
    sockets: list[socket.socket] = []
    address = ""
    if settings.listen_nbd:
        sock, address = bind(settings.listen_nbd)
        sockets.append(sock)
    if settings.nbd_socket:
        sockets.append(bind_unix(settings.nbd_socket))
    return tuple(sockets), address


def _with_port(addr: str) -> str:
    """The address with port 0 replaced by one that is free now."""
    host, port = split_address(addr)
    if port != 0:
        return addr
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return join_address(host, probe.getsockname()[1])
