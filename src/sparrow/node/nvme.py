"""The NVMe/TCP portal of a node: connections, Connect and admin queues in Python; I/O queues go to the core.

Unauthenticated bytes meet only the sans-IO machines of ``frontends.nvme``. The time until Connect is bounded, and so
are the numbers of connections and controllers.

The end of a controller. Whatever ends it, its admin queue, the keep alive timer, a newer controller of the same host,
ends all of it: its I/O queues are ended in the core, and it counts as gone when the last of them is. A newer controller
of the host is answered only after that: commands of the old association without an LSN have died with it, so none of
them can land after a command of the new one.

A lost I/O queue does not end its controller: the host sees it closed as well, and closes the admin queue when it has
done with it. Hung up on first, a Linux host that disconnects (it closes I/O queues, then shuts the controller down)
waits a minute for an answer that never comes.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events as names
from sparrow.base.access import Frontend
from sparrow.base.errors import NotFound, Refused, SparrowError, StaleEpoch, Withdrawn
from sparrow.base.ids import VolumeId
from sparrow.formats.nvme import NVME_SC_ANA_TRANSITION, NVME_SC_INTERRUPTED
from sparrow.formats.reservations import ReservationNexus, ReservationTable
from sparrow.frontends.access import Admitted, Asker, Denied
from sparrow.frontends.nvme.admin import (
    ABORT,
    GET_FEATURES,
    GET_LOG_PAGE,
    DiscoveryController,
    DiscoveryView,
    VolumeView,
    aborts,
)
from sparrow.frontends.nvme.auth import Authentication, Names
from sparrow.frontends.nvme.connect import (
    AUTHENTICATION,
    ConnectRequest,
    decode_connect,
    wrong_parameter,
)
from sparrow.frontends.nvme.connection import Command, Connection
from sparrow.frontends.nvme.errors import NvmeError
from sparrow.frontends.nvme.events import AsyncEvent
from sparrow.frontends.nvme.features import RESERVATION_PERSISTENCE
from sparrow.frontends.nvme.naming import DISCOVERY_NQN
from sparrow.frontends.nvme.registry import LivingController, Registry, same_host
from sparrow.frontends.nvme.reservations import (
    REPORT,
    ReservationCommand,
    change,
    report,
)
from sparrow.frontends.nvme.status import CommandRefused, Status
from sparrow.frontends.nvme.subsystem import AnaState
from sparrow.frontends.reservations import SERVED
from sparrow.frontends.reservations.machine import Change, Notice
from sparrow.node.access import AccessBook, is_loopback
from sparrow.node.iscsi import port_group
from sparrow.node.links import prepare
from sparrow.node.nvme_association import READ_BYTES, Association, say_last, send
from sparrow.node.nvme_views import (
    Discoverable,
    ana_state,
    counters_of,
    discoverable,
    discovery_entries,
    shown,
    subsystem_of,
)
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations, abort_commands
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane, QueueParameters, Upcall, VolumeStatus

CONNECT_TIMEOUT_S: Final = 10.0
#: A core that takes longer to answer stands still.
STATUS_TIMEOUT_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 1.0
#: Connections before their Connect is answered; more wait in the kernel's queue.
CONNECTS_MAX: Final = 128
#: Controllers of this node, discovery controllers included; a host beyond is told to come back.
CONTROLLERS_MAX: Final = 1024
#: Between two looks at ANA states: a promise that lapses tells nobody.
LOOK_S: Final = 0.5
#: The core names connections of all protocols by one number each; those of NVMe/TCP begin here.
FIRST_KEY: Final = 1 << 48


@dataclass(slots=True)
class _Running:
    """A controller of a volume with its admin queue, and what its hosts were told last."""

    living: LivingController
    association: Association
    ana_group: int
    asker: Asker
    admitted: Admitted
    #: Queues the core has or is being given: set when the core has let go.
    gone: dict[int, asyncio.Event] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class NvmePortal:
    """Accepts hosts on one listening, non-blocking socket; ``address`` is what it is bound to."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        address: str,
        replicas: Replicas,
        access: AccessBook,
        dataplane: DataPlane,
        reservations: Reservations,
        cluster_id: Callable[[], str],
        first_serial: int,
        log: FilteringBoundLogger,
    ) -> None:
        self.address = address
        self._socket = sock
        self._replicas = replicas
        self._access = access
        access.watch(self.recheck)
        self._dataplane = dataplane
        self._reservations = reservations
        reservations.watch(self.notify, self.end_commands)
        self._answering: set[asyncio.Task[None]] = set()
        self._cluster_id = cluster_id
        self._log = log
        self._registry = Registry(first_serial=first_serial)
        self._running: dict[int, _Running] = {}
        self._discovering: set[Association] = set()
        self._queues: dict[int, tuple[_Running, int]] = {}
        self._next_key = FIRST_KEY
        self._talking: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(CONNECTS_MAX)
        self._look = asyncio.Event()
        self._ana: dict[VolumeId, tuple[AnaState, int]] = {}
        self._discovery: tuple[Discoverable, int] = ((), 1)

    async def serve(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            sock, address = await loop.sock_accept(self._socket)
            task = loop.create_task(self._talk(sock, f"{address[0]}:{address[1]}"))
            self._talking.add(task)
            task.add_done_callback(self._talking.discard)

    async def watch(self) -> None:
        """Tell hosts of changes of ANA states and of the list of subsystems, until cancelled."""
        while True:
            self._look.clear()
            for volume_id in sorted({one.living.volume_id for one in self._running.values()}):
                volume = self._replicas.find(volume_id)
                if volume is not None:
                    self._note(volume, await self._status(volume))
            if self._discovering:
                self._note_subsystems()
            told = self._running or self._discovering
            try:
                async with asyncio.timeout(LOOK_S if told else None):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        for task in self._talking:
            task.cancel()
        if self._talking:
            # The core may be stopped already, and then says no more of its connections.
            await asyncio.wait(self._talking, timeout=CLOSE_TIMEOUT_S)
        for task in self._talking:
            task.cancel()
        self._socket.close()

    # ------------------------------------------------------------ from the node

    def changed(self) -> None:
        """A gate opened or closed, a line is new."""
        self._look.set()

    def resized(self, volume_id: VolumeId) -> None:
        """The size of a volume is another one."""
        for one in self._running.values():
            if one.living.volume_id == volume_id:
                one.association.tell(AsyncEvent.NAMESPACE_CHANGED)

    def recheck(self, volume_id: VolumeId) -> None:
        """The access list, or a secret, is another: end the controllers that would not be let in as they were."""
        for one in self._running.values():
            if one.living.volume_id != volume_id:
                continue
            if self._access.decide(volume_id, one.asker) != one.admitted:
                one.association.end("the access list does not allow it any more")
        for association in self._discovering:
            association.tell(AsyncEvent.DISCOVERY_CHANGED)

    def take(self, upcall: Upcall) -> None:
        """A command of reservations on an I/O queue."""
        found = self._queues.get(upcall.session_key)
        if found is None:
            return  # it is ending; the core drops its commands
        host = found[0].living.controller.host
        task = asyncio.get_running_loop().create_task(self._reserve(upcall, host))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _reserve(self, upcall: Upcall, host: ReservationNexus) -> None:
        data, status = b"", int(Status.SUCCESS)
        try:
            data = await self._reserved(upcall, host)
        except CommandRefused as refusal:
            status = refusal.status
        except Withdrawn:
            return
        except StaleEpoch:
            status = int(NVME_SC_ANA_TRANSITION)
        except SparrowError as error:
            # Interrupted: it could not be done now, or nobody knows whether it is (node/reservations.py).
            self._log.info(
                names.CALL_FAILED, call="reservation", volume=upcall.volume_id, cause=str(error)
            )
            status = int(NVME_SC_INTERRUPTED)
        self._dataplane.answer(
            upcall.session_key, upcall.tag, status=status, sense=b"", data_in=data
        )

    async def _reserved(self, upcall: Upcall, host: ReservationNexus) -> bytes:
        """Carry it out; data for the host. Raises: CommandRefused, SparrowError."""
        if not SERVED:
            raise CommandRefused(Status.INVALID_OPCODE)
        command = ReservationCommand.of(upcall.header, upcall.data)
        if command.opcode == REPORT:
            return report(command, await self._reservations.table(upcall.volume_id))

        def decide(table: ReservationTable) -> tuple[bytes, Change]:
            return b"", change(command, table, host)

        return await self._reservations.change(
            upcall.volume_id, decide, session_key=upcall.session_key, tag=upcall.tag
        )

    async def end_commands(self, volume_id: VolumeId, nexus: ReservationNexus) -> None:
        """Somebody preempted this host, and wants what it has under way aborted."""
        keys = [
            key
            for key, (one, _number) in self._queues.items()
            if one.living.volume_id == volume_id and one.living.controller.host == nexus
        ]
        await abort_commands(self._dataplane, keys)

    def notify(self, volume_id: VolumeId, nexus: ReservationNexus, notice: Notice) -> None:
        """Reservations changed in a way that this host is to hear of."""
        for one in self._running.values():
            controller = one.living.controller
            if (
                one.living.volume_id == volume_id
                and controller.host == nexus
                and controller.notified(notice)
            ):
                one.association.tell(AsyncEvent.RESERVATION_NOTICE)

    def ended(self, session_key: int, cause: str) -> None:
        """The core says that a connection is gone."""
        found = self._queues.pop(session_key, None)
        if found is None:
            return
        running, qid = found
        if running.living.queues.get(qid) == session_key:
            del running.living.queues[qid]
        running.gone.pop(session_key).set()
        self._log.info(
            names.SESSION_ENDED,
            volume=running.living.volume_id,
            initiator=running.living.controller.connect.host_nqn,
            session=session_key,
            cause=cause,
        )

    # ------------------------------------------------------------ one connection

    async def _talk(self, sock: socket.socket, peer: str) -> None:
        connection = Connection()
        waiting = True
        try:
            prepare(sock)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                command = await self._first_command(sock, connection)
            if command is None:
                return
            try:
                serving = await self._connect(sock, connection, command, peer)
            except CommandRefused as refusal:
                connection.complete(command.cid, refusal.status, refusal.result)
                self._log.info(names.SESSION_REFUSED, peer=peer, cause=str(refusal))
                await say_last(sock, connection.take_output())
                return
            if serving is not None:
                self._room.release()
                waiting = False
                await serving
        except TimeoutError:
            self._log.info(names.SESSION_REFUSED, peer=peer, cause="no progress in time")
        except NvmeError as error:
            self._log.info(names.SESSION_REFUSED, peer=peer, code=error.code, cause=str(error))
            await say_last(sock, connection.take_output() + error.reply)
        except (SparrowError, OSError) as error:
            self._log.info(names.SESSION_REFUSED, peer=peer, cause=str(error))
        finally:
            if waiting:
                self._room.release()
            sock.close()

    async def _connect(
        self, sock: socket.socket, connection: Connection, command: Command, peer: str
    ) -> Coroutine[Any, Any, None] | None:
        """Carry out a Connect; what serves the admin queue from then on, None for an I/O queue: the core has it.

        Raises: CommandRefused, SparrowError.
        """
        connect = decode_connect(command)
        volume = None
        if connect.subsystem_nqn != DISCOVERY_NQN:
            volume = self._volume(connect.subsystem_nqn)
        if connect.qid != 0:
            await self._io_queue(sock, connection, command, connect, volume)
            return None
        if len(self._running) + len(self._discovering) >= CONTROLLERS_MAX:
            raise CommandRefused(Status.CONNECT_BUSY, retry=True)
        if volume is None:
            return self._discover(sock, connection, command, connect)
        running = await self._admit(sock, connection, command, connect, volume)
        return self._administer(running, peer)

    async def _first_command(self, sock: socket.socket, connection: Connection) -> Command | None:
        """Run the initialization up to the first command; None when the host went away."""
        loop = asyncio.get_running_loop()
        while True:
            command = connection.next_command()
            await send(sock, connection.take_output())
            if command is not None:
                return command
            data = await loop.sock_recv(sock, READ_BYTES)
            if not data:
                return None
            connection.feed(data)

    def _volume(self, nqn: str) -> Volume:
        """The volume of a subsystem. Raises: CommandRefused."""
        volume_id = shown(self._replicas).get(nqn)
        volume = None if volume_id is None else self._replicas.find(volume_id)
        if volume is None:
            raise wrong_parameter(256, in_data=True)
        return volume

    def _admission(self, volume: Volume, asker: Asker) -> Admitted:
        """May this host use the volume, as the list is now? Raises: CommandRefused."""
        found = self._access.decide(volume.volume_id, asker)
        if isinstance(found, Denied):
            self._refused(volume, asker, found.cause)
            raise CommandRefused(Status.CONNECT_HOST)
        return found

    def _check_still(self, volume: Volume, asker: Asker, admitted: Admitted) -> None:
        """Raises: Refused (the list, or a secret, was changed since the host was let in)."""
        if self._access.decide(volume.volume_id, asker) != admitted:
            raise Refused(f"Access to {volume.volume_id} was changed during the Connect.")

    def _refused(self, volume: Volume, asker: Asker, cause: str) -> None:
        self._log.warning(
            names.SESSION_REFUSED, volume=volume.volume_id, initiator=asker.name, cause=cause
        )

    # ------------------------------------------------------------ controllers of volumes

    async def _admit(
        self,
        sock: socket.socket,
        connection: Connection,
        command: Command,
        connect: ConnectRequest,
        volume: Volume,
    ) -> _Running:
        """Make a controller, answer its Connect, have its host authenticate, end what that had here.

        In this order: whoever only knows a host's name must not end its controllers.

        Raises: CommandRefused, Refused.
        """
        asker = _asker(sock, connect)
        admitted = self._admission(volume, asker)
        place = port_group(volume)
        now = asyncio.get_running_loop().time()
        living = self._registry.add(volume.volume_id, connect, place=place, now=now)
        living.proven = False
        connection.sq_entries = connect.entries
        connection.flow_control = connect.flow_control
        result = living.controller.cntlid | (AUTHENTICATION if admitted.secret else 0)
        connection.complete(command.cid, Status.SUCCESS, result)
        try:
            if admitted.secret:
                await self._authenticate(sock, connection, connect, admitted)
            await self._end_older(volume.volume_id, connect)
            # No await from here to the entry in _running, so that no change of the list falls between the two.
            self._check_still(volume, asker, admitted)
        except BaseException:
            self._registry.remove(living.key)
            raise
        living.proven = True
        running: _Running

        async def picture(asked: Command) -> VolumeView:
            return await self._picture(running, asked)

        async def on_reset() -> None:
            await self._end_queues(running)

        association = Association(
            sock, connection, living.controller, picture=picture, on_reset=on_reset
        )
        running = _Running(living, association, place, asker, admitted)
        self._running[living.key] = running
        self._look.set()
        return running

    async def _end_older(self, volume_id: VolumeId, connect: ConnectRequest) -> None:
        """Returns when nothing is left of other controllers of this host."""
        while older := [
            one
            for one in self._running.values()
            if one.living.volume_id == volume_id
            and same_host(one.living.controller.connect, connect)
        ]:
            for one in older:
                one.association.end("replaced by a newer controller of the same host")
            for one in older:
                await one.over.wait()

    async def _authenticate(
        self,
        sock: socket.socket,
        connection: Connection,
        connect: ConnectRequest,
        admitted: Admitted,
    ) -> None:
        """Run DH-HMAC-CHAP on a queue whose Connect was answered. Raises: Refused, NvmeError."""
        assert admitted.secret is not None
        exchange = Authentication(
            Names(host=connect.host_nqn, subsystem=connect.subsystem_nqn),
            secret=admitted.secret,
            target_secret=admitted.target_secret,
            random_bytes=os.urandom,
        )
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            while not (exchange.done or exchange.failed):
                command = await self._first_command(sock, connection)
                if command is None:
                    raise Refused("The host went away before it had authenticated.")
                try:
                    connection.complete(command.cid, Status.SUCCESS, 0, exchange.execute(command))
                except CommandRefused as refusal:
                    connection.complete(command.cid, refusal.status, refusal.result)
                await send(sock, connection.take_output())
        if exchange.failed:
            raise Refused("The host did not prove its secret.")

    async def _administer(self, running: _Running, peer: str) -> None:
        """Run an admin queue to its end, and end all of its controller with it."""
        living = running.living
        cause = "closed"
        about = {
            "volume": living.volume_id,
            "initiator": living.controller.connect.host_nqn,
            "controller": living.controller.cntlid,
        }
        self._log.info(names.SESSION_STARTED, peer=peer, **about)
        try:
            cause = await running.association.run()
        except NvmeError as error:
            cause = str(error)
            raise
        except (SparrowError, OSError) as error:
            cause = str(error)
        finally:
            self._registry.remove(living.key)
            try:
                await self._end_queues(running)
            finally:
                del self._running[living.key]
                running.over.set()
            self._log.info(names.SESSION_ENDED, cause=cause, **about)

    async def _end_queues(self, running: _Running) -> None:
        """Returns when the core has let go of every I/O queue of the controller."""
        for key, gone in tuple(running.gone.items()):
            await self._dataplane.end_session(key)
            await gone.wait()

    async def _picture(self, running: _Running, command: Command) -> VolumeView:
        """What the controller shows now; only log pages need the core's word of this moment."""
        volume = self._replicas.find(running.living.volume_id)
        if volume is None:
            raise NotFound(f"{running.living.volume_id} was removed meanwhile.")
        status = None
        state, changes = self._ana.get(volume.volume_id, (AnaState.CHANGE, 0))
        if command.opcode == GET_LOG_PAGE:
            status = await self._status(volume)
            state, changes = self._note(volume, status)
        aborted = command.opcode == ABORT and await self._abort(running.living, command)
        subsystem = subsystem_of(
            volume, self._cluster_id(), ana_group=running.ana_group, state=state
        )
        return VolumeView(
            subsystem=subsystem,
            counters=counters_of(status),
            ana_changes=changes,
            aborted=aborted,
            persistent=await self._persistent(volume, command),
        )

    async def _abort(self, living: LivingController, command: Command) -> bool:
        """Ask the core to take a command of an I/O queue back; whether it was."""
        qid, cid = aborts(command)
        key = living.queues.get(qid)
        return key is not None and await self._dataplane.abort_command(key, cid)

    async def _persistent(self, volume: Volume, command: Command) -> bool:
        """What Get Features says of persistence; where the volume is not served nobody knows, so no."""
        feature = command.entry.number("cdw10") & 0xFF
        if command.opcode != GET_FEATURES or feature != RESERVATION_PERSISTENCE:
            return False
        try:
            return (await self._reservations.table(volume.volume_id)).aptpl
        except SparrowError:
            return False

    async def _status(self, volume: Volume) -> VolumeStatus | None:
        """The core's word, or None when it has none in time."""
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return await self._dataplane.status(volume.volume_id)
        except (SparrowError, TimeoutError):
            return None

    def _note(self, volume: Volume, status: VolumeStatus | None) -> tuple[AnaState, int]:
        """Keep the ANA state of a volume; hosts hear of a change. Returns it and how often it changed."""
        state = ana_state(volume, status)
        was, changes = self._ana.get(volume.volume_id, (None, 0))
        if state is not was:
            changes += 1
            self._ana[volume.volume_id] = (state, changes)
            for one in self._running.values():
                if one.living.volume_id == volume.volume_id and was is not None:
                    one.association.tell(AsyncEvent.ANA_CHANGED)
        return state, changes

    # ------------------------------------------------------------ I/O queues

    async def _io_queue(
        self,
        sock: socket.socket,
        connection: Connection,
        command: Command,
        connect: ConnectRequest,
        volume: Volume | None,
    ) -> None:
        """Answer an I/O Connect and give the connection to the core. Raises: CommandRefused, SparrowError."""
        if volume is None:
            raise wrong_parameter(42, in_data=False)
        living = self._registry.for_queue(volume.volume_id, connect)
        running = self._running[living.key]
        key = self._next_key
        self._next_key += 1
        living.queues[connect.qid] = key
        running.gone[key] = asyncio.Event()
        self._queues[key] = (running, connect.qid)
        connection.sq_entries = connect.entries
        connection.flow_control = connect.flow_control
        secret = running.admitted.secret
        result = living.controller.cntlid | (AUTHENTICATION if secret else 0)
        connection.complete(command.cid, Status.SUCCESS, result)
        try:
            await send(sock, connection.take_output())
            if secret:
                await self._authenticate(sock, connection, connect, running.admitted)
            await self._dataplane.adopt_queue(
                volume.volume_id,
                os.dup(sock.fileno()),
                queue_parameters(key, connection, living.controller.host),
            )
        except BaseException:
            self.ended(key, "not adopted")
            raise
        if living.key not in self._running or running.association.ending:
            # Its controller ended while it was handed over.
            await self._dataplane.end_session(key)
        self._log.info(
            names.SESSION_STARTED,
            volume=volume.volume_id,
            initiator=connect.host_nqn,
            session=key,
            queue=connect.qid,
        )

    # ------------------------------------------------------------ discovery

    async def _discover(
        self, sock: socket.socket, connection: Connection, command: Command, connect: ConnectRequest
    ) -> None:
        now = asyncio.get_running_loop().time()
        # Discovery controllers share nothing with each other: any number does.
        controller = DiscoveryController(cntlid=1, connect=connect, now=now)
        local = _local(sock)

        asker = _asker(sock, connect)

        def may_see(volume_id: VolumeId) -> bool:
            return isinstance(self._access.decide(volume_id, asker), Admitted)

        async def picture(_asked: Command) -> DiscoveryView:
            entries = discovery_entries(self._replicas, local, may_see=may_see)
            return DiscoveryView(entries=entries, generation=self._note_subsystems())

        async def on_reset() -> None:
            """It has no I/O queues."""

        association = Association(sock, connection, controller, picture=picture, on_reset=on_reset)
        connection.sq_entries = connect.entries
        connection.flow_control = connect.flow_control
        connection.complete(command.cid, Status.SUCCESS, controller.cntlid)
        self._discovering.add(association)
        self._look.set()
        try:
            await association.run()
        finally:
            self._discovering.discard(association)

    def _note_subsystems(self) -> int:
        """Keep the list of subsystems and ports; hosts hear of a change. Returns how often it changed."""
        found = discoverable(self._replicas)
        was, generation = self._discovery
        if found != was:
            generation += 1
            self._discovery = (found, generation)
            for association in self._discovering:
                association.tell(AsyncEvent.DISCOVERY_CHANGED)
        return generation


def queue_parameters(key: int, connection: Connection, host: ReservationNexus) -> QueueParameters:
    """What the core needs of a queue whose Connect was answered."""
    return QueueParameters(
        session_key=key,
        entries=connection.sq_entries,
        sq_head=connection.sq_head,
        data_align=connection.data_align,
        flow_control=connection.flow_control,
        header_digest=connection.header_digest,
        data_digest=connection.data_digest,
        pending=connection.residual,
        nexus=host.record(),
    )


def _asker(sock: socket.socket, connect: ConnectRequest) -> Asker:
    """The host as the access list knows it, and whether it is on this machine."""
    loopback = is_loopback(sock.getsockname()[0])
    return Asker(protocol=Frontend.NVME, name=connect.host_nqn, loopback=loopback)


def _local(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
