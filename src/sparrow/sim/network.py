"""The network between processes: calls, streams and links that are late, lost, doubled, reordered or cut one way.

Calls are single messages: each may be lost, come twice, or come long after its caller gave up. Streams and links are
connections: in order and whole, they stall while a direction is cut and are reset when one end's process dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from sparrow.base.errors import SparrowError, TimedOut, Unavailable
from sparrow.sim.clock import Process, SimLoop

LATENCY_S: Final = (0.0002, 0.002)
#: A client's keepalive finds a silent connection dead after this; a server never does.
KEEPALIVE_S: Final = 4.0
#: A cut call message may have been under way: it comes when the way is open again.
LATE_CHANCE: Final = 0.2
CUT_LATE_S: Final = (0.1, 4.0)
#: The second of two arrivals comes so much later than it would alone.
TWICE_LATE_S: Final = 1.0
SLOW_S: Final = (0.02, 0.5, 3.0)
#: Whatever was sent, however bad the weather, has arrived within this, or never does.
ALL_ARRIVED_S: Final = max(CUT_LATE_S[1], LATENCY_S[1] + SLOW_S[-1] + TWICE_LATE_S) + 0.1


@dataclass(slots=True)
class Weather:
    """How bad it is between everybody now: chances per message, and how late a late one is at most."""

    loss: float = 0.0
    twice: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.0


class Network:
    """Directions that are cut, the weather, and who listens where."""

    def __init__(self, loop: SimLoop, rng: Random) -> None:
        self.loop = loop
        self.rng = rng
        self.weather = Weather()
        self.cut: set[tuple[str, str]] = set()
        self.messages = 0
        #: What answers at each address's host; absent while nobody listens.
        self.listening: dict[str, Process] = {}
        self.services: dict[str, Any] = {}
        self.connections: dict[Connection, None] = {}
        #: Errors that no handler may raise.
        self.on_bug: Callable[[str, BaseException], None] = lambda _who, _error: None

    # ------------------------------------------------------------ ways

    def block(self, a: str, b: str) -> None:
        """Nothing goes from a to b any more."""
        if (a, b) not in self.cut:
            self.cut.add((a, b))
            for one in self.connections:
                if {a, b} == {one.client, one.server}:
                    self.loop.at(KEEPALIVE_S * self.rng.uniform(0.5, 1.0), one.keepalive)

    def open(self, a: str, b: str) -> None:
        if (a, b) in self.cut:
            self.cut.discard((a, b))
            for one in list(self.connections):
                if {a, b} == {one.client, one.server}:
                    one.flow()

    def delay(self) -> float:
        late = self.weather.slow and self.rng.random() < self.weather.slow
        return self.rng.uniform(*LATENCY_S) + (
            self.rng.uniform(0, self.weather.slow_s) if late else 0.0
        )

    def send(self, a: str, b: str, arrive: Callable[[], None]) -> None:
        """One message: none, one or two arrivals."""
        self.messages += 1
        if (a, b) in self.cut:
            if self.rng.random() < LATE_CHANCE:
                self.loop.at(self.rng.uniform(*CUT_LATE_S), self._send_late, a, b, arrive)
            return
        if self.weather.loss and self.rng.random() < self.weather.loss:
            return
        self.loop.at(self.delay(), arrive)
        if self.weather.twice and self.rng.random() < self.weather.twice:
            self.loop.at(self.delay() + self.rng.uniform(0, TWICE_LATE_S), arrive)

    def _send_late(self, a: str, b: str, arrive: Callable[[], None]) -> None:
        if (a, b) not in self.cut:
            arrive()

    # ------------------------------------------------------------ processes

    def listen(self, process: Process, service: Any) -> None:
        self.listening[process.name] = process
        self.services[process.name] = service

    def died(self, name: str, *, silently: bool = False) -> None:
        """A process is gone. Its machine resets its connections, unless that went too."""
        self.listening.pop(name, None)
        self.services.pop(name, None)
        for one in list(self.connections):
            if name in {one.client, one.server}:
                one.died(name, silently=silently)

    # ------------------------------------------------------------ calls

    async def call(
        self,
        caller: str,
        server: str,
        serve: Callable[[Any], Awaitable[Any]],
        *,
        timeout_s: float,
        unclaimed: Callable[[Any], None] | None = None,
    ) -> Any:
        """Call a service; ``unclaimed`` gets an answer that came too late.

        Raises: whatever the service raises; TimedOut, Unavailable.
        """
        answer: asyncio.Future[Any] = self.loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if answer.done():
                # The network may deliver one answer twice: the second is no other one.
                taken = not answer.cancelled() and answer.exception() is None and answer.result()
                if error is None and unclaimed is not None and taken is not result:
                    unclaimed(result)
            elif error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        def arrive() -> None:
            process = self.listening.get(server)
            if process is None:
                refused = Unavailable(f"{server} refused the connection.")
                self.send(server, caller, lambda: settle(None, refused))
                return
            process.spawn(self._handle(server, caller, serve, settle), "call")

        self.send(caller, server, arrive)
        claimed = False
        try:
            async with asyncio.timeout(timeout_s):
                result = await answer
                claimed = True
                return result
        except TimeoutError:
            raise TimedOut(f"{server} did not answer within {timeout_s} s.") from None
        finally:
            # The answer may be there when the caller is called off before its turn.
            there = not claimed and answer.done() and not answer.cancelled()
            if there and answer.exception() is None and unclaimed is not None:
                unclaimed(answer.result())

    async def _handle(
        self,
        server: str,
        caller: str,
        serve: Callable[[Any], Awaitable[Any]],
        settle: Callable[[Any, BaseException | None], None],
    ) -> None:
        result, error = None, None
        try:
            result = await serve(self.services[server])
        except SparrowError as refused:
            error = refused
        except Exception as bug:  # noqa: BLE001 - the server's last resort too: told as INTERNAL, and here as a violation
            self.on_bug(server, bug)
            error = Unavailable("Internal error.")
        self.send(server, caller, lambda: settle(result, error))

    # ------------------------------------------------------------ streams

    async def stream(
        self, caller: str, server: str, serve: Callable[[Any], AsyncGenerator[Any, None]]
    ) -> AsyncGenerator[Any, None]:
        """A server's answers one by one, in order. Raises: Unavailable when it breaks."""
        items: asyncio.Queue[Any] = asyncio.Queue()
        pipe = Connection(self, client=caller, server=server)
        pipe.on_client = items.put_nowait
        pipe.on_client_lost = lambda cause: items.put_nowait(
            Unavailable(f"The stream broke: {cause}.")
        )

        def arrive(_message: Any) -> None:
            process = self.listening.get(server)
            if process is None:
                pipe.to_client(Unavailable(f"{server} refused the connection."))
                return
            task = process.spawn(self._pump(server, serve(self.services[server]), pipe), "stream")
            pipe.on_server_lost = lambda _cause: process.soon(task.cancel)

        pipe.on_server = arrive
        pipe.to_server("open")
        try:
            while True:
                item = await items.get()
                if isinstance(item, SparrowError):
                    raise item
                yield item
        finally:
            pipe.close(caller)

    async def _pump(
        self, server: str, answers: AsyncGenerator[Any, None], pipe: Connection
    ) -> None:
        try:
            async with aclosing(answers) as stream:
                async for item in stream:
                    pipe.to_client(item)
            pipe.to_client(Unavailable("The stream ended."))
        except SparrowError as error:
            pipe.to_client(error)
        except Exception as bug:  # noqa: BLE001 - as in _handle
            self.on_bug(server, bug)
            pipe.to_client(Unavailable("Internal error."))


def _nobody(_message: Any) -> None:
    pass


class Connection:
    """Two ways, each in order: what is sent while a way is cut arrives when it is open again, or never."""

    def __init__(self, network: Network, *, client: str, server: str) -> None:
        self.network = network
        self.client = client
        self.server = server
        self.on_client: Callable[[Any], None] = _nobody
        self.on_server: Callable[[Any], None] = _nobody
        self.on_client_lost: Callable[[str], None] = _nobody
        self.on_server_lost: Callable[[str], None] = _nobody
        #: Ends that still listen.
        self.living = {client, server} if client != server else {client}
        self._waiting: dict[str, list[tuple[str, Any]]] = {client: [], server: []}
        self._last: dict[str, float] = {client: 0.0, server: 0.0}
        network.connections[self] = None
        if {(client, server), (server, client)} & network.cut:
            network.loop.at(KEEPALIVE_S, self.keepalive)

    def to_client(self, message: Any) -> None:
        self._put(self.client, "message", message)

    def to_server(self, message: Any) -> None:
        self._put(self.server, "message", message)

    def close(self, by: str) -> None:
        """One end closes; the other hears of it in its turn."""
        if by in self.living:
            self.living.discard(by)
            self._put(self._other(by), "lost", "closed")
        self._forget()

    def died(self, name: str, *, silently: bool) -> None:
        """An end's process is gone; ``silently`` when its machine went too and resets only what it is sent later."""
        if name not in self.living:
            return
        self.living.discard(name)
        if not silently:
            self._put(self._other(name), "lost", "reset")
        else:
            self.network.loop.at(KEEPALIVE_S, self.keepalive)
        self._forget()

    def keepalive(self) -> None:
        """The client looks whether the other end still answers."""
        dead = self.server not in self.living
        cut = {(self.client, self.server), (self.server, self.client)} & self.network.cut
        if self.client in self.living and (dead or cut):
            self._arrive(self.client, "lost", "keepalive")

    def flow(self) -> None:
        """A way was opened."""
        for to in (self.client, self.server):
            if (self._other(to), to) not in self.network.cut:
                waiting, self._waiting[to] = self._waiting[to], []
                for kind, message in waiting:
                    self._put(to, kind, message)

    def _other(self, name: str) -> str:
        return self.server if name == self.client else self.client

    def _put(self, to: str, kind: str, message: Any) -> None:
        network = self.network
        network.messages += 1
        if (self._other(to), to) in network.cut or self._waiting[to]:
            self._waiting[to].append((kind, message))
            return
        at = max(network.loop.now + network.delay(), self._last[to])
        self._last[to] = at
        network.loop.at(at - network.loop.now, self._arrive, to, kind, message)

    def _arrive(self, to: str, kind: str, message: Any) -> None:
        if to not in self.living:
            other = self._other(to)
            if kind == "message" and other in self.living:
                self._put(other, "lost", "reset")
            return
        if kind == "lost":
            self.living.discard(to)
            self._forget()
            (self.on_client_lost if to == self.client else self.on_server_lost)(message)
        else:
            (self.on_client if to == self.client else self.on_server)(message)

    def _forget(self) -> None:
        if not self.living:
            self.network.connections.pop(self, None)
