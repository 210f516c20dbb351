"""A client in the transmission phase of NBD over one half of a socket pair, which may send what no client would."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import Any, Final, Self

from tests.support.front_bed import WAIT_S, Bed
from tests.support.nbd_peer import choice, client_flags, option

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST = 1, 2, 4, 8, 16
EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 5, 12, 22, 28, 75, 95, 108
CLOSED, DISCONNECTED, PROTOCOL, SILENT, ASKED, VOLUME, PATH = 1, 2, 3, 5, 6, 7, 9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_MAGIC: Final = 0x67446698
CHUNK_MAGIC: Final = 0x668E33EF
DONE, HOLE_ZERO = 1, 3
PAGE = 4096
MIB = 1 << 20
#: Of the volume in memory.
SIZE = 1024 * PAGE


@dataclass
class Reply:
    """All that came for one request."""

    error: int = 0
    message: str = ""
    #: Of a READ: (offset, data) in the order they came.
    chunks: list[tuple[int, bytes]] = field(default_factory=list)
    extents: list[tuple[int, int]] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        """Chunks put together; they must follow each other."""
        at = min((offset for offset, _ in self.chunks), default=0)
        whole = b""
        for offset, data in sorted(self.chunks):
            assert offset == at + len(whole), "chunks overlap or leave a gap"
            whole += data
        return whole


class Conversation:
    """A client in transmission phase on a connected socket.

    Cookies count up; replies are collected by cookie, in whatever order they come.
    """

    def __init__(self, sock: socket.socket, *, structured: bool) -> None:
        self.socket = sock
        self.structured = structured
        self.trickle = False
        self.order: list[int] = []
        self._next = 1
        self._reads: dict[int, tuple[int, int]] = {}
        self._open: dict[int, Reply] = {}
        self._done: dict[int, Reply] = {}

    def frame(
        self,
        kind: int,
        offset: int = 0,
        length: int = 0,
        *,
        flags: int = 0,
        cookie: int = 0,
        data: bytes = b"",
    ) -> bytes:
        return (
            struct.pack(">IHHQQI", REQUEST_MAGIC, flags, kind, cookie, offset, length or len(data))
            + data
        )

    def send_raw(self, wire: bytes) -> None:
        step = 1 if self.trickle else len(wire)
        for at in range(0, len(wire), step or 1):
            self.socket.sendall(wire[at : at + step])

    def start(
        self, kind: int, offset: int = 0, length: int = 0, *, flags: int = 0, data: bytes = b""
    ) -> int:
        """Send a request; gives its cookie."""
        cookie, self._next = self._next, self._next + 1
        if kind == READ:
            self._reads[cookie] = (offset, length)
        self._open[cookie] = Reply()
        self.send_raw(self.frame(kind, offset, length, flags=flags, cookie=cookie, data=data))
        return cookie

    def expect(self, cookie: int) -> None:
        """A request with this cookie is sent by hand."""
        self._open[cookie] = Reply()

    def _take(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            part = self.socket.recv(count - len(taken))
            if not part:
                raise ConnectionError("closed by the server")
            taken += part
        return taken

    def _receive(self) -> None:
        (magic,) = struct.unpack(">I", self._take(4))
        if magic == SIMPLE_MAGIC:
            error, cookie = struct.unpack(">IQ", self._take(12))
            reply = self._open.pop(cookie)
            reply.error = error
            if cookie in self._reads:
                assert not self.structured, (
                    "a READ gets a structured reply where that was agreed on"
                )
                offset, length = self._reads[cookie]
                if error == 0 and length:
                    reply.chunks.append((offset, self._take(length)))
            self._finish(cookie, reply)
            return
        assert magic == CHUNK_MAGIC
        assert self.structured
        flags, kind, cookie, length = struct.unpack(">HHQI", self._take(16))
        reply = self._open[cookie]
        payload = self._take(length)
        if kind == 1:
            (offset,) = struct.unpack(">Q", payload[:8])
            first, asked = self._reads[cookie]
            assert first <= offset
            assert offset + length - 8 <= first + asked
            assert length > 8
            reply.chunks.append((offset, payload[8:]))
        elif kind == 5:
            reply.contexts.append(struct.unpack(">I", payload[:4])[0])
            for at in range(4, length, 8):
                reply.extents.append(struct.unpack(">II", payload[at : at + 8]))
        elif kind == 0x8001:
            reply.error, size = struct.unpack(">IH", payload[:6])
            reply.message = payload[6:].decode()
            assert len(payload) == 6 + size
            assert reply.error
        else:
            assert (kind, flags, length) == (0, DONE, 0)
        if flags & DONE:
            del self._open[cookie]
            self._finish(cookie, reply)

    def _finish(self, cookie: int, reply: Reply) -> None:
        self._done[cookie] = reply
        self.order.append(cookie)

    def reply(self, cookie: int) -> Reply:
        while cookie not in self._done:
            self._receive()
        return self._done.pop(cookie)

    def ask(
        self, kind: int, offset: int = 0, length: int = 0, *, flags: int = 0, data: bytes = b""
    ) -> Reply:
        return self.reply(self.start(kind, offset, length, flags=flags, data=data))

    def good(
        self, kind: int, offset: int = 0, length: int = 0, *, flags: int = 0, data: bytes = b""
    ) -> Reply:
        reply = self.ask(kind, offset, length, flags=flags, data=data)
        assert reply.error == 0, reply
        return reply

    def closed(self) -> bool:
        """The server closes, and says nothing more."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


class NbdPeer(Conversation):
    """A client of the test bed, past its negotiation."""

    def __init__(self, bed: Bed, **parameters: Any) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(WAIT_S)
        theirs.setblocking(False)
        super().__init__(ours, structured=parameters.get("structured", True))
        self.key = bed.take_key()
        bed.core.adopt_nbd(theirs.detach(), key=self.key, **parameters)
        bed.watch(self)
        self.bed = bed

    def ended(self) -> int:
        """Why the core says it ended."""
        while True:
            event = self.bed.wait("ended")
            if event[1] == self.key:
                cause: int = event[2]
                return cause


class NbdClient(Conversation):
    """Connects, negotiates structured replies and chooses an export. Raises: ConnectionError when it is refused."""

    def __init__(self, address: str, name: str, *, timeout_s: float = WAIT_S) -> None:
        host, _, port = address.rpartition(":")
        super().__init__(
            socket.create_connection((host, int(port)), timeout=timeout_s), structured=True
        )
        try:
            assert self._take(18) == b"NBDMAGICIHAVEOPT\0\3"
            self.send_raw(client_flags() + option(8) + option(7, choice(name)))
            kind = asked = 0
            while (asked, kind) != (7, 1):
                _magic, asked, kind, length = struct.unpack(">QIII", self._take(20))
                data = self._take(length)
                _expect_no_error(kind, data)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def _expect_no_error(kind: int, data: bytes) -> None:
    if kind & 1 << 31:
        raise ConnectionError(data.decode())
