"""The controllers of volumes on this node, each with its admin queue here and its I/O queues in the core.

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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events as names
from sparrow.base.errors import NotFound, Refused, SparrowError
from sparrow.base.ids import VolumeId
from sparrow.formats.reservations import ReservationNexus
from sparrow.frontends.access import Admitted, Asker, Denied
from sparrow.frontends.nvme.admin import ABORT, GET_FEATURES, GET_LOG_PAGE, VolumeView, aborts
from sparrow.frontends.nvme.connect import AUTHENTICATION, ConnectRequest, wrong_parameter
from sparrow.frontends.nvme.connection import Command, Connection
from sparrow.frontends.nvme.errors import NvmeError
from sparrow.frontends.nvme.events import AsyncEvent
from sparrow.frontends.nvme.features import RESERVATION_PERSISTENCE
from sparrow.frontends.nvme.registry import LivingController, Registry, same_host
from sparrow.frontends.nvme.status import CommandRefused, Status
from sparrow.frontends.reservations.machine import Notice
from sparrow.node.access import AccessBook
from sparrow.node.iscsi import port_group
from sparrow.node.nvme.ana import AnaStates
from sparrow.node.nvme.association import Association, send
from sparrow.node.nvme.handshake import accept, asker_of, authenticate
from sparrow.node.nvme.views import counters_of, subsystem_of
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations, abort_commands
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane, QueueParameters

#: The core names connections of all protocols by one number each; those of NVMe/TCP begin here.
FIRST_KEY: Final = 1 << 48


@dataclass(slots=True)
class Running:
    """A controller of a volume with its admin queue, and what its hosts were told last."""

    living: LivingController
    association: Association
    ana_group: int
    asker: Asker
    admitted: Admitted
    #: Queues the core has or is being given: set when the core has let go.
    gone: dict[int, asyncio.Event] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Controllers:
    """Those of one node. ``look`` is set when a host came that wants to hear of changes."""

    def __init__(
        self,
        *,
        replicas: Replicas,
        access: AccessBook,
        dataplane: DataPlane,
        reservations: Reservations,
        cluster_id: Callable[[], str],
        first_serial: int,
        look: asyncio.Event,
        log: FilteringBoundLogger,
    ) -> None:
        self.ana = AnaStates(dataplane, self.tell)
        self._replicas = replicas
        self._access = access
        self._dataplane = dataplane
        self._reservations = reservations
        self._cluster_id = cluster_id
        self._look = look
        self._log = log
        self._registry = Registry(first_serial=first_serial)
        self._running: dict[int, Running] = {}
        self._queues: dict[int, tuple[Running, int]] = {}
        self._next_key = FIRST_KEY

    def __len__(self) -> int:
        return len(self._running)

    # ------------------------------------------------------------ their life

    async def admit(
        self,
        sock: socket.socket,
        connection: Connection,
        command: Command,
        connect: ConnectRequest,
        volume: Volume,
    ) -> Running:
        """Make a controller, answer its Connect, have its host authenticate, end what that had here.

        In this order: whoever only knows a host's name must not end its controllers.

        Raises: CommandRefused, Refused.
        """
        asker = asker_of(sock, connect)
        admitted = self._admission(volume, asker)
        place = port_group(volume)
        now = asyncio.get_running_loop().time()
        living = self._registry.add(volume.volume_id, connect, place=place, now=now)
        living.proven = False
        result = living.controller.cntlid | (AUTHENTICATION if admitted.secret else 0)
        accept(connection, command, connect, result)
        try:
            if admitted.secret:
                await authenticate(sock, connection, connect, admitted)
            await self._end_older(volume.volume_id, connect)
            # No await from here to the entry in running, so that no change of the list falls between the two.
            self._check_still(volume, asker, admitted)
        except BaseException:
            self._registry.remove(living.key)
            raise
        living.proven = True
        running: Running

        async def picture(asked: Command) -> VolumeView:
            return await self._picture(running, asked)

        async def on_reset() -> None:
            await self._end_queues(running)

        association = Association(
            sock, connection, living.controller, picture=picture, on_reset=on_reset
        )
        running = Running(living, association, place, asker, admitted)
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

    async def administer(self, running: Running, peer: str) -> None:
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

    async def _end_queues(self, running: Running) -> None:
        """Returns when the core has let go of every I/O queue of the controller."""
        for key, gone in tuple(running.gone.items()):
            await self._dataplane.end_session(key)
            await gone.wait()

    # ------------------------------------------------------------ who is let in

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

    # ------------------------------------------------------------ what their admin commands are answered from

    async def _picture(self, running: Running, command: Command) -> VolumeView:
        """What the controller shows now; only log pages need the core's word of this moment."""
        volume = self._replicas.find(running.living.volume_id)
        if volume is None:
            raise NotFound(f"{running.living.volume_id} was removed meanwhile.")
        status = None
        state, changes = self.ana.last(volume.volume_id)
        if command.opcode == GET_LOG_PAGE:
            status = await self.ana.status(volume)
            state, changes = self.ana.note(volume, status)
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

    # ------------------------------------------------------------ I/O queues

    async def take_queue(
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
        secret = running.admitted.secret
        result = living.controller.cntlid | (AUTHENTICATION if secret else 0)
        accept(connection, command, connect, result)
        try:
            await send(sock, connection.take_output())
            if secret:
                await authenticate(sock, connection, connect, running.admitted)
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

    def host_of(self, session_key: int) -> ReservationNexus | None:
        """Whose I/O queue this is; None when it is ending."""
        found = self._queues.get(session_key)
        return None if found is None else found[0].living.controller.host

    # ------------------------------------------------------------ what their hosts hear of

    def volumes(self) -> list[VolumeId]:
        """Volumes that have controllers here, sorted."""
        return sorted({one.living.volume_id for one in self._running.values()})

    def tell(self, volume_id: VolumeId, event: AsyncEvent) -> None:
        """Something of a volume changed."""
        for one in self._running.values():
            if one.living.volume_id == volume_id:
                one.association.tell(event)

    def recheck(self, volume_id: VolumeId) -> None:
        """The access list, or a secret, is another: end the controllers that would not be let in as they were."""
        for one in self._running.values():
            if one.living.volume_id != volume_id:
                continue
            if self._access.decide(volume_id, one.asker) != one.admitted:
                one.association.end("the access list does not allow it any more")

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

    async def end_commands(self, volume_id: VolumeId, nexus: ReservationNexus) -> None:
        """Somebody preempted this host, and wants what it has under way aborted."""
        keys = [
            key
            for key, (one, _number) in self._queues.items()
            if one.living.volume_id == volume_id and one.living.controller.host == nexus
        ]
        await abort_commands(self._dataplane, keys)


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
