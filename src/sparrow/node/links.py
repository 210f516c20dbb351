"""Connections between replication ports: made here with a hello, answered here, then given to the core."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events
from sparrow.base.errors import (
    ConfigError,
    Refused,
    RemoteProtocolError,
    SparrowError,
    StaleEpoch,
    TimedOut,
    Unavailable,
)
from sparrow.formats.hello import (
    HELLO,
    HELLO_ANSWER,
    Hello,
    HelloAnswer,
    HelloCode,
    LinkKind,
    common_version,
    decode_answer,
    decode_hello,
    encode_answer,
    encode_hello,
)
from sparrow.runtime.config import join_address, split_address

#: A connection that has not said who it is by then is closed.
HELLO_TIMEOUT_S: Final = 2.0
#: Connections that may be saying hello at one time; more wait in the kernel's queue.
HELLOS_MAX: Final = 64
BACKLOG: Final = 128

Judge = Callable[[Hello], Awaitable[HelloAnswer]]
#: Takes the descriptor over, also when it raises.
Adopt = Callable[[Hello, int], Awaitable[None]]


class TcpLinks:
    """Outgoing links over TCP."""

    async def connect(self, addr: str, hello: Hello, *, timeout_s: float) -> int:
        """Connect, say hello, read the answer; the descriptor is the caller's."""
        loop = asyncio.get_running_loop()
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(timeout_s):
                host, port = split_address(addr)
                infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                family, kind, protocol, _name, address = infos[0]
                sock = socket.socket(family, kind, protocol)
                prepare(sock)
                await loop.sock_connect(sock, address)
                await loop.sock_sendall(sock, encode_hello(hello))
                answer = decode_answer(await read_exactly(sock, HELLO_ANSWER.size))
            _check(answer, hello, addr)
            return os.dup(sock.fileno())
        except TimeoutError:
            raise TimedOut(f"No answer to our hello from {addr} in {timeout_s} s.") from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"Cannot reach {addr}: {error}.") from None
        finally:
            if sock is not None:
                sock.close()


class LinkListener:
    """The replication port: reads a hello, asks ``judge``, answers, and gives the descriptor to ``adopt``.

    Args:
        sock: listening, non-blocking; closed by :meth:`close`.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        judge: Judge,
        adopt: Adopt,
        log: FilteringBoundLogger,
        hello_timeout_s: float = HELLO_TIMEOUT_S,
    ) -> None:
        self._socket = sock
        self._hello_timeout_s = hello_timeout_s
        self._judge = judge
        self._adopt = adopt
        self._log = log
        self._greeting: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(HELLOS_MAX)

    async def serve(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            sock, address = await loop.sock_accept(self._socket)
            task = loop.create_task(self._greet(sock, str(address)))
            self._greeting.add(task)
            task.add_done_callback(self._greeted)

    async def close(self) -> None:
        for task in self._greeting:
            task.cancel()
        self._socket.close()

    def _greeted(self, task: asyncio.Task[None]) -> None:
        self._greeting.discard(task)
        self._room.release()

    async def _greet(self, sock: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            prepare(sock)
            async with asyncio.timeout(self._hello_timeout_s):
                hello = decode_hello(await read_exactly(sock, HELLO.size))
                version = common_version(hello)
                if version is None:
                    answer = HelloAnswer(code=HelloCode.VERSION)
                else:
                    answer = await self._judge(hello)
                if answer.code is HelloCode.ACCEPTED:
                    assert version is not None
                    answer = HelloAnswer(code=HelloCode.ACCEPTED, version=version)
                await loop.sock_sendall(sock, encode_answer(answer))
            if answer.code is not HelloCode.ACCEPTED:
                self._log.warning(
                    events.LINK_REFUSED,
                    peer=hello.from_node,
                    volume=hello.volume_id,
                    cause=answer.code.name.lower(),
                )
                return
            try:
                await self._adopt(hello, os.dup(sock.fileno()))
            except SparrowError as error:
                self._log.warning(
                    events.LINK_REFUSED,
                    peer=hello.from_node,
                    volume=hello.volume_id,
                    cause=str(error),
                )
        except TimeoutError:
            self._log.warning(events.LINK_REFUSED, peer=address, cause="no hello in time")
        except (RemoteProtocolError, OSError) as error:
            self._log.warning(events.LINK_REFUSED, peer=address, cause=str(error))
        finally:
            sock.close()


def bind(addr: str) -> tuple[socket.socket, str]:
    """A non-blocking listening socket on ``host:port``, and the address with its real port. Raises: ConfigError."""
    try:
        host, port = split_address(addr)
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot listen on {addr}: {error}.",
            hint="Another process may have the port; stop it or choose another one.",
        ) from None
    return sock, join_address(host, sock.getsockname()[1])


def prepare(sock: socket.socket) -> None:
    """Small frames leave at once, and nothing here ever blocks."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read this many bytes and not one more: what follows belongs to the core.

    Raises: RemoteProtocolError: the connection ended first.
    """
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        if not part:
            raise RemoteProtocolError(f"The connection ended after {len(data)} of {size} bytes.")
        data += part
    return data


def _check(answer: HelloAnswer, hello: Hello, addr: str) -> None:
    match answer.code:
        case HelloCode.ACCEPTED:
            return
        case HelloCode.STALE_TERM:
            raise StaleEpoch(f"{hello.to_node} promised epoch {answer.promised_epoch}.")
        case HelloCode.NOT_NOW | HelloCode.NO_SUCH_VOLUME:
            raise Unavailable(f"{hello.to_node} at {addr} says {answer.code.name.lower()}.")
        case _:
            kind = LinkKind(hello.kind).name.lower()
            raise Refused(f"{addr} refused our {kind} link: {answer.code.name.lower()}.")
