"""The NBD portal of a node: negotiation in Python, then the connection goes to the core.

Unauthenticated bytes meet only the sans-IO machine of ``frontends.nbd``, and TLS. A negotiation is bounded in time, and
so is the number of connections. Only a replica whose gate is open is chosen; the others say who is, in the protocol's
own error. The gate counts again in the core, with every request: what is asked here may be old by then.

Who may use a volume is asked of its access list, which knows a client by the name in its certificate; a client without
one has no name. What a client may not use it is not told of.

A connection ends when its replica stops to serve for good, and when the list does not let it in any more. NBD has no
failover of its own: a client that wants to go on connects to the new primary itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from sparrow.authority.types import AckPolicy, Line
from sparrow.base import events as names
from sparrow.base.access import Frontend
from sparrow.base.errors import ConfigError, NotFound, Refused, SparrowError
from sparrow.base.ids import VolumeId
from sparrow.frontends.access import Admitted, Asker
from sparrow.frontends.nbd.exports import Export, Refusal, TlsPolicy
from sparrow.frontends.nbd.negotiation import (
    ALLOCATION_ID,
    Chosen,
    Ended,
    Negotiation,
    TlsWanted,
)
from sparrow.node.access import AccessBook, is_loopback
from sparrow.node.links import BACKLOG
from sparrow.node.replicas import Replicas
from sparrow.node.tls import TlsChannel, TlsRelays, TlsServer
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane, NbdParameters

NEGOTIATION_TIMEOUT_S: Final = 10.0
#: Connections that negotiate at one time; more wait in the kernel's queue.
NEGOTIATIONS_MAX: Final = 64
#: Connections in transmission phase; one beyond is closed.
CLIENTS_MAX: Final = 256
READ_BYTES: Final = 65536
#: Keys of NBD connections, apart from those of iSCSI sessions, which count from 1.
FIRST_KEY: Final = 1 << 56
#: Causes of a gate that does not open again in its term.
FOR_GOOD: Final = frozenset({"fenced", "superseded", "disk"})
#: Silence after which the kernel asks a peer whether it is there, between two questions, and how many.
KEEPALIVE_S, KEEPALIVE_AGAIN_S, KEEPALIVE_TRIES = 30, 10, 3


class Channel(Protocol):
    """Bytes to and from a client, in plain or inside TLS."""

    async def receive(self) -> bytes: ...
    async def send(self, data: bytes) -> None: ...


class PlainChannel:
    """A socket as it is."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._socket, READ_BYTES)

    async def send(self, data: bytes) -> None:
        if data:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)


@dataclass(frozen=True, slots=True, kw_only=True)
class LivingClient:
    """A connection the core moves now."""

    key: int
    volume_id: VolumeId
    peer: str
    asker: Asker


class NbdExports:
    """The replicas of this node that a client may use, as they are when it asks; ``asker`` is who it is by then."""

    def __init__(self, replicas: Replicas, access: AccessBook, asker: Asker) -> None:
        self._replicas = replicas
        self._access = access
        self.asker = asker

    def find(self, name: str) -> Export | None:
        volume = self._replicas.find(VolumeId(name))
        line = None if volume is None else volume.known_line
        if volume is None or line is None or line.retired:
            return None
        if not admits(self._access, volume.volume_id, self.asker):
            return None
        return export_of(volume, line)

    def listed(self) -> tuple[Export, ...]:
        found = [self.find(volume.volume_id) for volume in self._replicas]
        return tuple(export for export in found if export is not None)


class NbdPortal:
    """Accepts clients on listening, non-blocking sockets.

    Args:
        sockets: TCP, Unix or both; an empty tuple is a portal that is switched off.
        tls: None without TLS.
        policy: off, allowed or required, for TCP; over a Unix socket TLS may be used where there is some, and need not.
    """

    def __init__(
        self,
        sockets: tuple[socket.socket, ...],
        *,
        replicas: Replicas,
        access: AccessBook,
        dataplane: DataPlane,
        log: FilteringBoundLogger,
        tls: TlsServer | None = None,
        policy: str = TlsPolicy.OFF,
    ) -> None:
        self._policy = TlsPolicy(policy)
        assert (tls is None) == (self._policy is TlsPolicy.OFF)
        self._sockets = sockets
        self._replicas = replicas
        self._access = access
        access.watch(self.recheck)
        self._dataplane = dataplane
        self._log = log
        self._tls = tls
        self._relays = TlsRelays()
        self._talking: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(NEGOTIATIONS_MAX)
        self._clients: dict[int, LivingClient] = {}
        self._next_key = FIRST_KEY

    async def serve(self) -> None:
        """Accept until cancelled."""
        if not self._sockets:
            await asyncio.Event().wait()
        await asyncio.gather(*(self._accept(sock) for sock in self._sockets))

    async def close(self) -> None:
        for task in self._talking | self._ending:
            task.cancel()
        for sock in self._sockets:
            _unbind(sock)
        self._relays.close()

    def client(self, key: int) -> LivingClient | None:
        return self._clients.get(key)

    def ended(self, key: int, cause: str) -> None:
        """The core says that a connection is gone; keys of others are not ours to know."""
        living = self._clients.pop(key, None)
        if living is not None:
            self._log.info(
                names.SESSION_ENDED,
                volume=living.volume_id,
                session=key,
                peer=living.peer,
                cause=cause,
            )

    def gate_closed(self, volume_id: VolumeId, cause: str) -> None:
        """A replica stopped serving. What was under way has its answer; who is silent must learn it too."""
        if cause not in FOR_GOOD:
            return
        for living in list(self._clients.values()):
            if living.volume_id == volume_id:
                self._soon(self._dataplane.end_session(living.key))

    def recheck(self, volume_id: VolumeId) -> None:
        """The access list is another: end the connections that it would not let in."""
        for living in list(self._clients.values()):
            if living.volume_id == volume_id and not admits(self._access, volume_id, living.asker):
                self._log.warning(
                    names.SESSION_REFUSED,
                    volume=volume_id,
                    session=living.key,
                    peer=living.peer,
                    protocol="nbd",
                    initiator=living.asker.name,
                    cause="the access list does not allow it any more",
                )
                self._soon(self._dataplane.end_session(living.key))

    # ------------------------------------------------------------ one connection

    def _soon(self, work: Awaitable[None]) -> None:
        async def end() -> None:
            with contextlib.suppress(SparrowError):
                await work

        task = asyncio.get_running_loop().create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        local = listening.family is socket.AF_UNIX
        while True:
            await self._room.acquire()
            sock, address = await loop.sock_accept(listening)
            peer = "unix" if local else f"{address[0]}:{address[1]}"
            task = loop.create_task(self._talk(sock, peer, local=local))
            self._talking.add(task)
            task.add_done_callback(self._talked)

    def _talked(self, task: asyncio.Task[None]) -> None:
        self._talking.discard(task)
        self._room.release()

    async def _talk(self, sock: socket.socket, peer: str, *, local: bool) -> None:
        try:
            _prepare(sock, local=local)
            async with asyncio.timeout(NEGOTIATION_TIMEOUT_S):
                if len(self._clients) < CLIENTS_MAX:
                    await self._negotiate(sock, peer, local=local)
                else:
                    self._refused(peer, "there are as many clients as one node serves")
        except TimeoutError:
            self._refused(peer, "no progress in time")
        except (SparrowError, OSError) as error:
            self._refused(peer, str(error))
        finally:
            sock.close()

    def _refused(self, peer: str, cause: str) -> None:
        self._log.info(names.SESSION_REFUSED, peer=peer, protocol="nbd", cause=cause)

    async def _negotiate(self, sock: socket.socket, peer: str, *, local: bool) -> None:
        policy = self._policy
        if local and policy is TlsPolicy.REQUIRED:
            policy = TlsPolicy.ALLOWED
        loopback = local or is_loopback(sock.getsockname()[0])
        asker = Asker(protocol=Frontend.NBD, name="", loopback=loopback)
        exports = NbdExports(self._replicas, self._access, asker)
        machine = Negotiation(exports=exports, tls=policy)
        channel: Channel = PlainChannel(sock)
        secured: TlsChannel | None = None
        await channel.send(machine.greeting())
        while True:
            data = await channel.receive()
            if not data:
                return
            outcome = machine.feed(data)
            if isinstance(outcome, Chosen):
                await self._hand_over(sock, secured, outcome, peer, exports.asker)
                return
            await channel.send(outcome.send)
            if isinstance(outcome, Ended):
                return
            if isinstance(outcome, TlsWanted):
                assert self._tls is not None, "STARTTLS is refused without TLS"
                channel = secured = await self._tls.accept(sock)
                machine.secured()
                exports.asker = replace(asker, name=secured.subject)

    async def _hand_over(
        self,
        sock: socket.socket,
        secured: TlsChannel | None,
        chosen: Chosen,
        peer: str,
        asker: Asker,
    ) -> None:
        """Tell the client that it is in, give the connection to the core: its socket, or one end of a relay's."""
        volume_id = chosen.export.volume_id
        await (PlainChannel(sock) if secured is None else secured).send(chosen.send)
        if self._replicas.find(volume_id) is None:
            raise NotFound(f"{volume_id} was removed meanwhile.")
        key = self._next_key
        self._next_key += 1
        if not admits(self._access, volume_id, asker):
            raise Refused(f"{volume_id}: the access list was changed meanwhile.")
        self._clients[key] = LivingClient(key=key, volume_id=volume_id, peer=peer, asker=asker)
        self._log.info(
            names.SESSION_STARTED,
            volume=volume_id,
            session=key,
            peer=peer,
            protocol="nbd",
            initiator=asker.name,
        )
        parameters = NbdParameters(
            session_key=key,
            structured=chosen.structured,
            context=ALLOCATION_ID if chosen.allocation else None,
            pending=chosen.residual,
        )
        fd = os.dup(sock.fileno())
        if secured is not None:
            fd = self._relays.start(secured, fd)
        try:
            await self._dataplane.adopt_nbd(volume_id, fd, parameters)
        except SparrowError:
            self.ended(key, "not adopted")
            raise


def admits(access: AccessBook, volume_id: VolumeId, asker: Asker) -> bool:
    """Whether the volume's list lets this client in. One that a secret is asked of cannot prove it over NBD."""
    decision = access.decide(volume_id, asker)
    return isinstance(decision, Admitted) and decision.secret is None


def export_of(volume: Volume, line: Line) -> Export:
    """One replica as it is now, and why it cannot be chosen if it cannot."""
    refusal: Refusal | None = None
    explanation = ""
    if volume.primacy is None or not volume.gate_open:
        refusal = Refusal.NOT_HERE
        explanation = _why_not(volume, line)
    return Export(
        name=volume.volume_id,
        volume_id=volume.volume_id,
        size_bytes=volume.size_bytes,
        description="primary" if refusal is None else f"not served here: {explanation}",
        # With ack=local another replica may take over without what only this one has.
        shared=line.ack is not AckPolicy.LOCAL,
        refusal=refusal,
        explanation=explanation,
    )


def _why_not(volume: Volume, line: Line) -> str:
    if volume.primacy is not None:
        return f"{volume.volume_id} is being opened here, or waits for its replicas; try again in a moment."
    member = line.member(line.primary)
    if member is None or line.primary == volume.replica_id:
        return f"{volume.volume_id} has no primary at the moment; try again in a moment."
    return f"This is a standby of {volume.volume_id}; its primary is on node {member.node_id}, connect there."


def bind_unix(path: str) -> socket.socket:
    """A non-blocking listening Unix socket that only this user and root may connect to. Raises: ConfigError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with contextlib.suppress(FileNotFoundError):
            # One that is left over from a process that died; what somebody listens on is not taken.
            _check_stale(path)
        mask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"Cannot listen on {path}: {error}.",
            hint="The directory must be there, and no other process may listen on it.",
        ) from None
    return sock


def _unbind(sock: socket.socket) -> None:
    path = sock.getsockname() if sock.family is socket.AF_UNIX else ""
    sock.close()
    if path:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def _check_stale(path: str) -> None:
    if not Path(path).is_socket():
        if Path(path).exists():
            raise OSError("there is a file that is no socket")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError("another process listens on it")


def _prepare(sock: socket.socket, *, local: bool) -> None:
    """Nothing here ever blocks, small frames leave at once, and the kernel finds out about peers that are gone."""
    sock.setblocking(False)
    if local:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_AGAIN_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_TRIES)
