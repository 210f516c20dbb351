"""Discovery controllers: what subsystems there are and where, as far as each host may see."""

from __future__ import annotations

import asyncio
import socket

from sparrow.base.ids import VolumeId
from sparrow.frontends.access import Admitted
from sparrow.frontends.nvme.admin import DiscoveryController, DiscoveryView
from sparrow.frontends.nvme.connect import ConnectRequest
from sparrow.frontends.nvme.connection import Command, Connection
from sparrow.frontends.nvme.events import AsyncEvent
from sparrow.node.access import AccessBook
from sparrow.node.nvme.association import Association
from sparrow.node.nvme.handshake import accept, asker_of
from sparrow.node.nvme.views import Discoverable, discoverable, discovery_entries
from sparrow.node.replicas import Replicas


class Discovery:
    """Those of one node. ``look`` is set when somebody came who wants to hear of changes."""

    def __init__(self, replicas: Replicas, access: AccessBook, look: asyncio.Event) -> None:
        self._replicas = replicas
        self._access = access
        self._look = look
        self._associations: set[Association] = set()
        self._listed: tuple[Discoverable, int] = ((), 1)

    def __len__(self) -> int:
        return len(self._associations)

    async def serve(
        self, sock: socket.socket, connection: Connection, command: Command, connect: ConnectRequest
    ) -> None:
        """Answer the Connect of a discovery controller and run its admin queue to the end."""
        now = asyncio.get_running_loop().time()
        # Discovery controllers share nothing with each other: any number does.
        controller = DiscoveryController(cntlid=1, connect=connect, now=now)
        local = local_of(sock)
        asker = asker_of(sock, connect)

        def may_see(volume_id: VolumeId) -> bool:
            return isinstance(self._access.decide(volume_id, asker), Admitted)

        async def picture(_asked: Command) -> DiscoveryView:
            entries = discovery_entries(self._replicas, local, may_see=may_see)
            return DiscoveryView(entries=entries, generation=self.note())

        async def on_reset() -> None:
            """It has no I/O queues."""

        association = Association(sock, connection, controller, picture=picture, on_reset=on_reset)
        accept(connection, command, connect, controller.cntlid)
        self._associations.add(association)
        self._look.set()
        try:
            await association.run()
        finally:
            self._associations.discard(association)

    def note(self) -> int:
        """Keep the list of subsystems and ports; hosts hear of a change. Returns how often it changed."""
        found = discoverable(self._replicas)
        was, generation = self._listed
        if found != was:
            generation += 1
            self._listed = (found, generation)
            self.changed()
        return generation

    def changed(self) -> None:
        """Somebody may see more, or less."""
        for association in self._associations:
            association.tell(AsyncEvent.DISCOVERY_CHANGED)


def local_of(sock: socket.socket) -> str:
    """The address a host reached us at."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
