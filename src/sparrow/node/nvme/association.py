"""One admin queue on its socket: commands to the controller, its answers back, its timer, what happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sparrow.base.errors import TimedOut
from sparrow.frontends.nvme.admin import Completion, Controller
from sparrow.frontends.nvme.connection import Command, Connection
from sparrow.frontends.nvme.events import AsyncEvent

READ_BYTES: Final = 65536
SEND_TIMEOUT_S: Final = 5.0


class Association:
    """Runs until the host goes, breaks the protocol, stays silent for too long, or :meth:`end` is called."""

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        controller: Controller[Any],
        *,
        picture: Callable[[Command], Awaitable[Any]],
        on_reset: Callable[[], Awaitable[None]],
    ) -> None:
        self._socket = sock
        self._connection = connection
        self._controller = controller
        self._picture = picture
        self._on_reset = on_reset
        self._events: list[AsyncEvent] = []
        self._wake = asyncio.Event()
        self._ending = ""

    @property
    def ending(self) -> bool:
        """No new I/O queue is wanted."""
        return bool(self._ending)

    def tell(self, event: AsyncEvent) -> None:
        """Something changed: the host hears of it when it has asked to."""
        self._events.append(event)
        self._wake.set()

    def end(self, cause: str) -> None:
        """Hang up soon."""
        self._ending = self._ending or cause
        self._wake.set()

    async def run(self) -> str:
        """Serve; returns why it ended.

        Raises:
            NvmeError: send its ``reply``, then close.
            TimedOut: the host takes nothing from its socket.
        """
        loop = asyncio.get_running_loop()
        receiving: asyncio.Task[bytes] | None = None
        try:
            while True:
                await self._work()
                if self._ending:
                    return self._ending
                if receiving is None:
                    receiving = loop.create_task(loop.sock_recv(self._socket, READ_BYTES))
                await self._pause(receiving)
                # What came in is looked at before the clock: a process that was busy must not take it for silence.
                if receiving.done():
                    data = receiving.result()
                    receiving = None
                    if not data:
                        return "closed"
                    self._connection.feed(data)
                    continue
                expires = self._controller.expires()
                if expires is not None and loop.time() >= expires:
                    return "keep alive timeout"
        finally:
            if receiving is not None:
                receiving.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await receiving

    async def _pause(self, receiving: asyncio.Task[bytes]) -> None:
        """Until bytes are here, something happened, or the timer ends."""
        loop = asyncio.get_running_loop()
        expires = self._controller.expires()
        left = None if expires is None else max(0.0, expires - loop.time())
        waking = loop.create_task(self._wake.wait())
        try:
            await asyncio.wait(
                (receiving, waking), timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waking.cancel()

    async def _work(self) -> None:
        """Carry out every command that is here, tell what happened, send it."""
        now = asyncio.get_running_loop().time
        self._wake.clear()
        events, self._events = self._events, []
        for event in events:
            self._answer(self._controller.happened(event))
        while (command := self._connection.next_command()) is not None:
            resets = self._controller.resets
            picture = await self._picture(command)
            done = self._controller.execute(command, picture, now())
            if self._controller.resets != resets:
                # The I/O queues are gone before the host hears that the controller was disabled.
                await self._on_reset()
            self._answer(done)
        await send(self._socket, self._connection.take_output())

    def _answer(self, done: tuple[Completion, ...]) -> None:
        for one in done:
            self._connection.complete(one.cid, one.status, one.result, one.data)


async def send(sock: socket.socket, data: bytes) -> None:
    """Send all of it. Raises: TimedOut (the peer takes nothing), OSError."""
    if not data:
        return
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await asyncio.get_running_loop().sock_sendall(sock, data)
    except TimeoutError:
        raise TimedOut("The host takes nothing from its socket.") from None


async def say_last(sock: socket.socket, data: bytes) -> None:
    """The last words before a close, and a moment for the host to read them: unread bytes of its would undo them."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimedOut, OSError, TimeoutError):
        await send(sock, data)
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(1.0):
            while await loop.sock_recv(sock, READ_BYTES):
                pass
