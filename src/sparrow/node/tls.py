"""TLS for connections whose blocks the core moves: the handshake, and a relay between TLS and the core's plain bytes.

The core reads and writes plain bytes on a descriptor. Where the kernel does TLS on a socket itself, that socket would
do; but Python's ssl offers it from 3.12 on only, and a kernel without its ``tls`` module not at all. So the bytes go
through a pair of sockets: TLS on the one side, the core on the other, for one copy more each way. One thread moves the
bytes of all relays, apart from the node's event loop, which heartbeats and openings need.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sparrow.base.errors import ConfigError, RemoteProtocolError

READ_BYTES: Final = 262144


class TlsServer:
    """The certificate of this node, and whose certificates clients must show.

    Args:
        authority: certificates that sign clients'; None asks clients for none.
    Raises:
        ConfigError: a file is missing or is not what it should be.
    """

    def __init__(self, certificate: Path, key: Path, authority: Path | None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(certificate, key)
            if authority is not None:
                context.load_verify_locations(authority)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"The certificate, its key or the clients' authority cannot be used: {error}.",
                hint="All three are PEM files that this process must be able to read.",
            ) from None
        self._context = context

    async def accept(self, sock: socket.socket) -> TlsChannel:
        """The handshake, as the server. Raises: RemoteProtocolError."""
        channel = TlsChannel(self._context, sock)
        await channel.handshake()
        return channel


class TlsChannel:
    """Bytes inside TLS over a non-blocking socket. One reader and one writer at a time."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        self.socket = sock
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._sending = asyncio.Lock()

    @property
    def subject(self) -> str:
        """Common name of the client's certificate; empty when it showed none."""
        shown: Mapping[str, Any] = self._tls.getpeercert() or {}
        names = [
            value
            for part in shown.get("subject", ())
            for name, value in part
            if name == "commonName"
        ]
        return str(names[0]) if names else ""

    async def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
                continue
            except ssl.SSLError as error:
                with contextlib.suppress(OSError):
                    # The alert says why.
                    await self._flush()
                raise RemoteProtocolError(f"The TLS handshake failed: {error}.") from None
            await self._flush()
            return

    async def receive(self) -> bytes:
        """Empty at the end of the stream. Raises: RemoteProtocolError.

        It does not wait for what is being sent: a client may send all its requests before it reads an answer, and one
        whose requests are not taken may not read. Whoever sends takes along what TLS has to say meanwhile.
        """
        while True:
            try:
                return self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                if self._out.pending and not self._sending.locked():
                    # A key update asks for an answer.
                    await self._flush()
                if not await self._fill():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise RemoteProtocolError(f"TLS is broken: {error}.") from None

    async def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            # One record at a time may be all it takes.
            left = left[self._tls.write(left) :]
        await self._flush()

    async def finish(self) -> None:
        """Say that nothing follows."""
        with contextlib.suppress(ssl.SSLError, OSError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            await self._flush()

    async def _flush(self) -> None:
        async with self._sending:
            while data := self._out.read():
                await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def _fill(self) -> bool:
        data = await asyncio.get_running_loop().sock_recv(self.socket, READ_BYTES)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        return bool(data)


class TlsRelays:
    """All relays of a node, in one thread with a loop of its own. Made with the first one."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._relays: set[asyncio.Task[None]] = set()

    def start(self, channel: TlsChannel, fd: int) -> int:
        """Relay between a channel whose handshake is over and the descriptor that is returned, both ways, to its end.

        Args:
            fd: the channel's socket once more, the relay's own.
        """
        ours, cores = socket.socketpair()
        ours.setblocking(False)
        cores.setblocking(False)
        wire = socket.socket(fileno=fd)
        wire.setblocking(False)
        channel.socket = wire
        loop = self._started()
        loop.call_soon_threadsafe(self._begin, channel, ours)
        return cores.detach()

    def close(self) -> None:
        """End every relay and the thread."""
        if self._loop is None or self._thread is None:
            return
        loop = self._loop

        async def end() -> None:
            # Relays and what they are made of: nothing of this loop outlives it.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            loop.stop()

        asyncio.run_coroutine_threadsafe(end(), loop)
        self._thread.join()
        loop.close()
        self._loop = self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="tls relays", daemon=True
            )
            self._thread.start()
        return self._loop

    def _begin(self, channel: TlsChannel, plain: socket.socket) -> None:
        assert self._loop is not None
        task = self._loop.create_task(_relay(channel, plain))
        self._relays.add(task)

        def over(task: asyncio.Task[None]) -> None:
            # Here, because a task may be cancelled before it began, and again while it ends.
            plain.close()
            channel.socket.close()
            self._relays.discard(task)

        task.add_done_callback(over)


async def _relay(channel: TlsChannel, plain: socket.socket) -> None:
    """When either side ends, the other one is ended too, after what was on its way to the client."""
    inward = asyncio.ensure_future(_inward(channel, plain))
    outward = asyncio.ensure_future(_outward(channel, plain))
    try:
        await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
        with contextlib.suppress(OSError):
            plain.shutdown(socket.SHUT_WR)
        # The core closes in its own time once nothing more comes in: what it still says is passed on.
        await outward
        await channel.finish()
    except (RemoteProtocolError, OSError):
        pass
    finally:
        for task in (inward, outward):
            task.cancel()
        await asyncio.gather(inward, outward, return_exceptions=True)


async def _inward(channel: TlsChannel, plain: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await channel.receive():
        await loop.sock_sendall(plain, data)


async def _outward(channel: TlsChannel, plain: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(plain, READ_BYTES):
        await channel.send(data)
