"""Links between data planes over the simulated network, in the model's own words."""

from __future__ import annotations

from typing import Any

from sparrow.dataplane.model.links import FIRST_TOKEN, End, Fabric, Link
from sparrow.sim.clock import Process
from sparrow.sim.network import Connection, Network


class SimEnd(End):
    """One side of a link; what arrives is handled inside its process."""

    def __init__(self, fabric: SimFabric, fd: int, process: Process, pipe: Connection) -> None:
        super().__init__(node=process.name, fd=fd, link=Link(fabric))
        self.fabric = fabric
        self.process = process
        self.pipe = pipe
        self.lost = ""

    def send(self, message: Any) -> None:
        if not self.lost:
            if self.node == self.pipe.client:
                self.pipe.to_server(message)
            else:
                self.pipe.to_client(message)

    def arrived(self, message: Any) -> None:
        self.process.soon(self.arrive, message)

    def arrive(self, message: Any) -> None:
        if self.lost:
            return
        if self.on_message is None:
            self.waiting.append(message)
        else:
            self.on_message(message)

    def broke(self, cause: str) -> None:
        self.process.soon(self._lose, cause)

    def _lose(self, cause: str) -> None:
        if not self.lost:
            self.lost = cause
            self.fabric.ends.pop(self.fd, None)
            if self.on_lost is not None:
                self.on_lost(cause)

    def attach(self, on_message: Any, on_lost: Any) -> None:
        self.on_message, self.on_lost = on_message, on_lost
        waiting, self.waiting = self.waiting, []
        for message in waiting:
            on_message(message)
        if self.lost:
            on_lost(self.lost)

    def close(self) -> None:
        if not self.lost:
            self.lost = "closed"
            self.fabric.ends.pop(self.fd, None)
            self.pipe.close(self.node)
            if self.on_lost is not None:
                self.on_lost("closed")


class SimFabric(Fabric):
    """All links of one simulation."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self._next = FIRST_TOKEN

    def link(self, client: Process, server: Process) -> tuple[int, int]:
        """Two descriptors of one new link."""
        pipe = Connection(self.network, client=client.name, server=server.name)
        ours, theirs = (SimEnd(self, self._take(), one, pipe) for one in (client, server))
        pipe.on_client, pipe.on_client_lost = ours.arrived, ours.broke
        pipe.on_server, pipe.on_server_lost = theirs.arrived, theirs.broke
        self.ends[ours.fd], self.ends[theirs.fd] = ours, theirs
        return ours.fd, theirs.fd

    def claimed(self, fd: int) -> None:
        """Whoever asked for this descriptor has it."""

    def kill(self, node: str) -> None:
        """The world tells the network who died; here only the descriptors go."""
        for fd in [fd for fd, end in self.ends.items() if end.node == node]:
            del self.ends[fd]

    def _take(self) -> int:
        self._next += 1
        return self._next
