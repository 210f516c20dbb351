"""The NVMe/TCP portal of a node: its connections, from their first byte to the queue or controller they belong to.

The time until Connect is bounded, and so are the numbers of connections and controllers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events as names
from sparrow.base.errors import SparrowError
from sparrow.base.ids import VolumeId
from sparrow.frontends.nvme.connect import decode_connect, wrong_parameter
from sparrow.frontends.nvme.connection import Command, Connection
from sparrow.frontends.nvme.errors import NvmeError
from sparrow.frontends.nvme.events import AsyncEvent
from sparrow.frontends.nvme.naming import DISCOVERY_NQN
from sparrow.frontends.nvme.status import CommandRefused, Status
from sparrow.node.access import AccessBook
from sparrow.node.links import prepare
from sparrow.node.nvme.association import say_last
from sparrow.node.nvme.controllers import Controllers
from sparrow.node.nvme.discovery import Discovery
from sparrow.node.nvme.handshake import CONNECT_TIMEOUT_S, first_command
from sparrow.node.nvme.reservations import ReservationCommands
from sparrow.node.nvme.views import shown
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane, Upcall

CLOSE_TIMEOUT_S: Final = 1.0
#: Connections before their Connect is answered; more wait in the kernel's queue.
CONNECTS_MAX: Final = 128
#: Controllers of this node, discovery controllers included; a host beyond is told to come back.
CONTROLLERS_MAX: Final = 1024
#: Between two looks at ANA states: a promise that lapses tells nobody.
LOOK_S: Final = 0.5


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
        self._log = log
        self._look = asyncio.Event()
        self._controllers = Controllers(
            replicas=replicas,
            access=access,
            dataplane=dataplane,
            reservations=reservations,
            cluster_id=cluster_id,
            first_serial=first_serial,
            look=self._look,
            log=log,
        )
        self._discovery = Discovery(replicas, access, self._look)
        self._reserving = ReservationCommands(dataplane, reservations, log)
        self._talking: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(CONNECTS_MAX)
        access.watch(self.recheck)
        reservations.watch(self._controllers.notify, self._controllers.end_commands)

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
        ana = self._controllers.ana
        while True:
            self._look.clear()
            for volume_id in self._controllers.volumes():
                volume = self._replicas.find(volume_id)
                if volume is not None:
                    ana.note(volume, await ana.status(volume))
            if self._discovery:
                self._discovery.note()
            told = self._controllers or self._discovery
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
        self._controllers.tell(volume_id, AsyncEvent.NAMESPACE_CHANGED)

    def recheck(self, volume_id: VolumeId) -> None:
        """The access list, or a secret, is another."""
        self._controllers.recheck(volume_id)
        self._discovery.changed()

    def take(self, upcall: Upcall) -> None:
        """A command of reservations on an I/O queue."""
        host = self._controllers.host_of(upcall.session_key)
        if host is not None:  # else it is ending; the core drops its commands
            self._reserving.begin(upcall, host)

    def ended(self, session_key: int, cause: str) -> None:
        """The core says that a connection is gone."""
        self._controllers.ended(session_key, cause)

    # ------------------------------------------------------------ one connection

    async def _talk(self, sock: socket.socket, peer: str) -> None:
        connection = Connection()
        waiting = True
        try:
            prepare(sock)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                command = await first_command(sock, connection)
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
            await self._controllers.take_queue(sock, connection, command, connect, volume)
            return None
        if len(self._controllers) + len(self._discovery) >= CONTROLLERS_MAX:
            raise CommandRefused(Status.CONNECT_BUSY, retry=True)
        if volume is None:
            return self._discovery.serve(sock, connection, command, connect)
        running = await self._controllers.admit(sock, connection, command, connect, volume)
        return self._controllers.administer(running, peer)

    def _volume(self, nqn: str) -> Volume:
        """The volume of a subsystem. Raises: CommandRefused."""
        volume_id = shown(self._replicas).get(nqn)
        volume = None if volume_id is None else self._replicas.find(volume_id)
        if volume is None:
            raise wrong_parameter(256, in_data=True)
        return volume
