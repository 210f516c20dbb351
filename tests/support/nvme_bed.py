"""The core's NVMe/TCP queues without Connect, volume or disk, and a host that may misbehave.

``Host`` speaks raw PDUs over one half of a socket pair, so that a test can send what no host would.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.support.crc import crc32c
from tests.support.nvme_pdus import C2H_TERM, Pdu

if TYPE_CHECKING:
    from tests.support.front_bed import Bed

ICREQ, ICRESP, H2C_TERM = 0, 1, 2
CAPSULE_CMD, H2C_DATA, C2H_DATA, R2T = 4, 6, 7, 9
HDGST, DDGST, LAST, SUCCESS = 1, 2, 4, 8
FLUSH, WRITE, READ, COMPARE, WRITE_ZEROES, DATASET, VERIFY, FABRICS = 0, 1, 2, 5, 8, 9, 12, 0x7F
IN_CAPSULE, TRANSPORT = 0x01, 0x5A
SGL: Final = 0x40
FUSE_FIRST, FUSE_SECOND = SGL | 1, SGL | 2
DNR: Final = 0x4000
DISCONNECT: Final = 8
# Status codes.
OPCODE, FIELD, CONFLICT, FUSED_FAILED, FUSED_MISSING, NAMESPACE = 1, 2, 3, 9, 10, 11
SGL_LENGTH, SGL_TYPE, SGL_OFFSET, ATOMIC, INTERRUPTED = 0x0F, 0x11, 0x16, 0x14, 0x21
TRANSIENT, INACCESSIBLE, TRANSITION = 0x22, 0x302, 0x303
#: For what must come, however busy the machine is.
WAIT_S: Final = 30.0


@dataclass(slots=True)
class Result:
    """How one command ended."""

    status: int = -1
    data: bytes = b""
    pdus: list[Pdu] = field(default_factory=list)


def common(kind: int, flags: int, hlen: int, pdo: int, plen: int) -> bytes:
    """The header that every PDU begins with."""
    return struct.pack("<BBBBI", kind, flags, hlen, pdo, plen)


def sqe(
    opcode: int,
    cid: int,
    *,
    lba: int = 0,
    blocks: int = 1,
    length: int = 0,
    sgl: int = TRANSPORT,
    address: int = 0,
    nsid: int = 1,
    flags: int = SGL,
    control: int = 0,
) -> bytes:
    """A submission queue entry of a Read, a Write or one like them."""
    return struct.pack(
        "<BBHI8xQQI3xBQHHIII",
        opcode, flags, cid, nsid, 0, address, length, sgl, lba, blocks - 1, control, 0, 0, 0,
    )  # fmt: skip


def dataset(
    cid: int, ranges: list[tuple[int, int]], *, length: int = 0, ad: int = 4
) -> tuple[bytes, bytes]:
    """Dataset Management: its entry and its list of (lba, blocks)."""
    rows = b"".join(struct.pack("<IIQ", 0, blocks, lba) for lba, blocks in ranges)
    rows += bytes(max(0, length - len(rows)))
    entry = struct.pack(
        "<BBHI8xQQI3xBIIIIII",
        DATASET, SGL, cid, 1, 0, 0, len(rows), IN_CAPSULE, len(ranges) - 1, ad, 0, 0, 0, 0,
    )  # fmt: skip
    return entry, rows


class Host:
    """A host after its Connect."""

    def __init__(
        self,
        sock: socket.socket,
        parameters: dict[str, Any],
        *,
        block_size: int = 512,
        key: int = 0,
    ) -> None:
        self.socket = sock
        self.block_size = block_size
        self.key = key
        self.header_digest: bool = parameters.get("header_digest", False)
        self.data_digest: bool = parameters.get("data_digest", False)
        self.trickle = False
        self.chunk = 131072
        self._next_cid = 1
        self._in = bytearray()

    @classmethod
    def connect(cls, bed: Bed, **parameters: Any) -> Host:
        ours, theirs = socket.socketpair()
        ours.settimeout(WAIT_S)
        theirs.setblocking(False)
        key = bed.take_key()
        bed.core.adopt_queue(theirs.detach(), key=key, **parameters)
        host = cls(ours, parameters, block_size=bed.block_size, key=key)
        bed.watch(host)
        return host

    # sending

    def send(self, data: bytes) -> None:
        step = 1 if self.trickle else len(data) or 1
        for at in range(0, len(data), step):
            self.socket.sendall(data[at : at + step])

    def pdu(
        self, kind: int, head: bytes, data: bytes = b"", *, flags: int = 0, pad: int = 0
    ) -> bytes:
        """Frame a PDU whose header goes on with ``head`` behind the common 8 bytes."""
        hlen = 8 + len(head)
        pdo = (hlen + (4 if self.header_digest else 0) + pad) if data else 0
        plen = (pdo or hlen + (4 if self.header_digest else 0)) + len(data)
        if self.header_digest:
            flags |= HDGST
        if self.data_digest and data:
            flags |= DDGST
            plen += 4
        out = struct.pack("<BBBBI", kind, flags, hlen, pdo, plen) + head
        if self.header_digest:
            out += struct.pack("<I", crc32c(out))
        if data:
            out += bytes(pdo - len(out)) + data
            if self.data_digest:
                out += struct.pack("<I", crc32c(data))
        return out

    def capsule(self, entry: bytes, data: bytes = b"", **frame: int) -> None:
        self.send(self.pdu(CAPSULE_CMD, entry, data, **frame))

    def take_cid(self) -> int:
        cid, self._next_cid = self._next_cid, self._next_cid % 60000 + 1
        return cid

    def start(self, opcode: int, **fields: int) -> int:
        """Send a command without data in its capsule; returns its identifier."""
        cid = self.take_cid()
        self.capsule(sqe(opcode, cid, **fields))
        return cid

    # receiving

    def read_exactly(self, length: int) -> bytes:
        while len(self._in) < length:
            more = self.socket.recv(1 << 20)
            if not more:
                raise ConnectionError("closed")
            self._in += more
        out = bytes(self._in[:length])
        del self._in[:length]
        return out

    def receive(self) -> Pdu:
        """The next PDU, its framing and digests checked."""
        common = self.read_exactly(8)
        kind, flags, hlen, pdo, plen = struct.unpack("<BBBBI", common)
        head = common + self.read_exactly(hlen - 8)
        rest = self.read_exactly(plen - hlen)
        if kind == C2H_TERM:
            return Pdu(head, rest)
        at = 0
        if self.header_digest:
            assert flags & HDGST
            assert struct.unpack_from("<I", rest)[0] == crc32c(head)
            at = 4
        if not pdo:
            assert plen == hlen + at
            return Pdu(head, b"")
        data = rest[pdo - hlen :]
        if self.data_digest:
            assert flags & DDGST
            assert struct.unpack("<I", data[-4:])[0] == crc32c(data[:-4])
            data = data[:-4]
        return Pdu(head, data)

    def closed(self) -> bool:
        """Nothing more comes."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def send_data(self, r2t: Pdu, data: bytes) -> None:
        """Answer an R2T with data PDUs of ``chunk`` bytes at most."""
        cid, ttag, offset, length = struct.unpack_from("<HHII", r2t.head, 8)
        for at in range(offset, offset + length, self.chunk):
            part = data[at : min(at + self.chunk, offset + length)]
            last = LAST if at + len(part) == offset + length else 0
            head = struct.pack("<HHII4x", cid, ttag, at, len(part))
            self.send(self.pdu(H2C_DATA, head, part, flags=last))

    def finish(self, cid: int, data: bytes = b"") -> Result:
        """Serve one command to its end; nothing else may be under way."""
        result = Result()
        while True:
            pdu = self.receive()
            result.pdus.append(pdu)
            assert pdu.cid == cid
            if pdu.kind == R2T:
                self.send_data(pdu, data)
            elif pdu.kind == C2H_DATA:
                result.data += pdu.data
                if pdu.flags & SUCCESS:
                    result.status = 0
                    return result
            else:
                result.status = pdu.status
                return result

    # whole commands

    def read(self, lba: int, blocks: int) -> Result:
        length = blocks * self.block_size
        return self.finish(self.start(READ, lba=lba, blocks=blocks, length=length))

    def with_data(self, opcode: int, lba: int, data: bytes, *, in_capsule: bool = False) -> Result:
        """Write or Compare."""
        blocks = len(data) // self.block_size
        cid = self.take_cid()
        sgl = IN_CAPSULE if in_capsule else TRANSPORT
        entry = sqe(opcode, cid, lba=lba, blocks=blocks, length=len(data), sgl=sgl)
        self.capsule(entry, data if in_capsule else b"")
        return self.finish(cid, data)

    def write_start(self, lba: int, data: bytes) -> int:
        """Send a Write with its data in the capsule; returns its identifier."""
        cid = self.take_cid()
        entry = sqe(
            WRITE,
            cid,
            lba=lba,
            blocks=len(data) // self.block_size,
            length=len(data),
            sgl=IN_CAPSULE,
        )
        self.capsule(entry, data)
        return cid

    def write(self, lba: int, data: bytes, *, in_capsule: bool = False) -> Result:
        return self.with_data(WRITE, lba, data, in_capsule=in_capsule)
