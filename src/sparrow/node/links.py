"""Connections between replication ports: both ends prove themselves here, then the core gets the connection.

The conversation and why it keeps strangers out: ``formats.hello``. Here is who says what when; nothing behind the
hello is read before the proof is checked, and no frame before the answer is.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol

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
    Unproven,
)
from sparrow.formats.hello import (
    BEFORE_PROOF,
    CHALLENGE,
    HELLO,
    HELLO_ANSWER,
    NONCE_BYTES,
    PROOF,
    WITHOUT_MAC,
    ClusterKey,
    Hello,
    HelloAnswer,
    HelloCode,
    LinkKind,
    answer_proves,
    common_feature_level,
    common_version,
    decode_answer,
    decode_hello,
    encode_answer,
    encode_challenge,
    encode_hello,
    encode_proof,
    is_answer,
    proves,
)
from sparrow.node.troubles import Note, ignore
from sparrow.runtime.config import join_address, split_address

#: A connection that has not said who it is by then is closed.
HELLO_TIMEOUT_S: Final = 2.0
#: Connections that may be saying hello at one time; more wait in the kernel's queue.
HELLOS_MAX: Final = 64
BACKLOG: Final = 128
#: Bytes that are not acknowledged, or probes of an idle connection that are not, end it after about this long.
#: The core finds dead links of volumes sooner; this is for what it does not watch.
DEAD_AFTER_S: Final = 10
PROBE_EVERY_S: Final = 5

Judge = Callable[[Hello], Awaitable[HelloAnswer]]
#: Takes the descriptor over, also when it raises.
Adopt = Callable[[Hello, int], Awaitable[None]]


class Keys(Protocol):
    """The cluster's keys as they are now."""

    def own(self) -> ClusterKey: ...
    def find(self, key_id: bytes) -> ClusterKey | None: ...


class TcpLinks:
    """Outgoing links over TCP."""

    def __init__(self, keys: Keys, *, note: Note = ignore) -> None:
        self._keys = keys
        self._note = note

    async def connect(self, addr: str, hello: Hello, *, timeout_s: float) -> int:
        """Connect, say hello, prove ourselves, have the peer prove itself; the descriptor is the caller's."""
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
                answer = await self._introduce(sock, hello, addr)
            _check(answer, hello, addr)
            return os.dup(sock.fileno())
        except Unproven as error:
            self._note(addr, error.sentence())
            raise
        except TimeoutError:
            raise TimedOut(f"No answer to our hello from {addr} in {timeout_s} s.") from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"Cannot reach {addr}: {error}.") from None
        finally:
            if sock is not None:
                sock.close()

    async def _introduce(self, sock: socket.socket, hello: Hello, addr: str) -> HelloAnswer:
        """The conversation; the answer is proved, or one of ``WITHOUT_MAC``. Raises: Unproven, RemoteProtocolError."""
        loop = asyncio.get_running_loop()
        key = self._keys.own()
        nonce = secrets.token_bytes(NONCE_BYTES)
        said = encode_hello(replace(hello, key_id=key.key_id, nonce=nonce))
        await loop.sock_sendall(sock, said)
        assert CHALLENGE.size == HELLO_ANSWER.size
        heard = await read_exactly(sock, CHALLENGE.size)
        if is_answer(heard):
            answer = decode_answer(heard)
            if answer.code not in BEFORE_PROOF:
                raise Unproven(f"What answers at {addr} asks for no proof and gives none.")
            return answer
        proof = encode_proof(key, said, heard)
        await loop.sock_sendall(sock, proof)
        last = await read_exactly(sock, HELLO_ANSWER.size)
        answer = decode_answer(last)
        if answer.code not in WITHOUT_MAC and not answer_proves(key, last, said, heard, proof):
            raise Unproven(
                f"What answers at {addr} does not know the cluster key {key.key_id.hex()}.",
                hint="It may be a node of another cluster, or have a key file of its own.",
            )
        return answer


class LinkListener:
    """The replication port: has a peer prove itself, asks ``judge``, answers, gives the descriptor to ``adopt``.

    Args:
        sock: listening, non-blocking; closed by :meth:`close`.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        keys: Keys,
        judge: Judge,
        adopt: Adopt,
        log: FilteringBoundLogger,
        note: Note = ignore,
        hello_timeout_s: float = HELLO_TIMEOUT_S,
    ) -> None:
        self._socket = sock
        self._hello_timeout_s = hello_timeout_s
        self._keys = keys
        self._judge = judge
        self._adopt = adopt
        self._log = log
        self._note = note
        self._greeting: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(HELLOS_MAX)

    async def serve(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            sock, address = await loop.sock_accept(self._socket)
            task = loop.create_task(self._greet(sock, join_address(address[0], address[1])))
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
        try:
            prepare(sock)
            async with asyncio.timeout(self._hello_timeout_s):
                hello, answer = await self._introduce(sock)
            if answer.code is not HelloCode.ACCEPTED:
                self._log.warning(
                    events.LINK_REFUSED,
                    peer=hello.from_node,
                    address=address,
                    volume=hello.volume_id,
                    cause=answer.code.name.lower(),
                    hint=_advice(answer, hello),
                )
                if answer.code in {HelloCode.UNKNOWN_KEY, HelloCode.WRONG_PROOF}:
                    who = f"{hello.from_node} at {address.rpartition(':')[0]}"
                    self._note(
                        hello.from_node,
                        f"{who} connects with another cluster key. {_advice(answer, hello)}",
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

    async def _introduce(self, sock: socket.socket) -> tuple[Hello, HelloAnswer]:
        """The conversation, to its last record. Raises: RemoteProtocolError."""
        loop = asyncio.get_running_loop()
        said = await read_exactly(sock, HELLO.size)
        hello = decode_hello(said)
        key = self._keys.find(hello.key_id)
        version, level = common_version(hello), common_feature_level(hello)
        code = HelloCode.ACCEPTED
        if version is None:
            code = HelloCode.VERSION
        elif level is None:
            code = HelloCode.FEATURE_LEVEL
        elif key is None:
            code = HelloCode.UNKNOWN_KEY
        if version is None or level is None or key is None:
            answer = HelloAnswer(code=code)
            await loop.sock_sendall(sock, encode_answer(answer))
            return hello, answer
        challenge = encode_challenge(secrets.token_bytes(NONCE_BYTES))
        await loop.sock_sendall(sock, challenge)
        proof = await read_exactly(sock, PROOF.size)
        if not proves(key, proof, said, challenge):
            answer = HelloAnswer(code=HelloCode.WRONG_PROOF)
            await loop.sock_sendall(sock, encode_answer(answer))
            return hello, answer
        answer = await self._judge(hello)
        if answer.code is HelloCode.ACCEPTED:
            answer = replace(answer, version=version, feature_level=level)
        await loop.sock_sendall(sock, encode_answer(answer, key, said, challenge, proof))
        return hello, answer


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
    """Small frames leave at once, nothing here ever blocks, and the kernel finds out when the other end is gone."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_AFTER_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000)


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
        case HelloCode.UNKNOWN_KEY | HelloCode.WRONG_PROOF:
            raise Unproven(
                f"{hello.to_node} at {addr} does not know the cluster key we prove with.",
                hint=_advice(answer, hello),
            )
        case _:
            kind = LinkKind(hello.kind).name.lower()
            raise Refused(
                f"{addr} refused our {kind} link: {answer.code.name.lower()}.",
                hint=_advice(answer, hello),
            )


def _advice(answer: HelloAnswer, hello: Hello) -> str:
    """What a person should look at; empty where the code says it all."""
    match answer.code:
        case HelloCode.VERSION:
            return (
                f"{hello.from_node} speaks versions {hello.version_min} to {hello.version_max}, {hello.to_node} "
                f"{answer.version_min} to {answer.version_max}: upgrade the older one."
            )
        case HelloCode.FEATURE_LEVEL:
            return (
                f"{hello.from_node} has feature levels {hello.feature_min} to {hello.feature_max}, {hello.to_node} "
                f"{answer.feature_min} to {answer.feature_max}: upgrade the older one."
            )
        case HelloCode.UNKNOWN_KEY | HelloCode.WRONG_PROOF:
            return f"Give {hello.from_node} and {hello.to_node} the same cluster key file."
        case _:
            return ""
