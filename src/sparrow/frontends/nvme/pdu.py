"""Framing of NVMe/TCP: bytes to PDUs and back, digests checked and made.

Order of the checks: type, header length, flags, total length, data offset, then the digest; what is wrong is named in
the termination PDU of the error. The core does the same for I/O queues (``_native/front/nvme/recv.pyx``).

Source: NVMe/TCP 1.0, 3.3.1, 3.5.4 and 3.6.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from sparrow.formats import nvme_tcp as wire
from sparrow.formats.crc32c import crc32c
from sparrow.formats.layout import Layout
from sparrow.frontends.nvme.errors import FatalError, HostTerminated, fatal

HDGST: Final = int(wire.NVME_FLAG_HDGST)
DDGST: Final = int(wire.NVME_FLAG_DDGST)
LAST: Final = int(wire.NVME_FLAG_LAST)
DIGEST_BYTES: Final = 4
#: What a host may send, with the header each has.
HEADERS: Final[dict[int, Layout]] = {
    int(wire.NVME_ICREQ): wire.NVME_IC_REQUEST,
    int(wire.NVME_H2C_TERM): wire.NVME_TERM,
    int(wire.NVME_CAPSULE_CMD): wire.NVME_CAPSULE_COMMAND,
    int(wire.NVME_H2C_DATA): wire.NVME_DATA,
}
_COMMON: Final = struct.Struct("<BBBBI")


@dataclass(frozen=True, slots=True)
class Pdu:
    """One PDU of a host; ``sound`` is False when its data digest was wrong."""

    kind: int
    flags: int
    header: bytes
    data: bytes
    sound: bool = True


class PduReader:
    """Cuts a stream of bytes into PDUs. ``header_digest`` and ``data_digest`` are set once they were negotiated."""

    def __init__(self) -> None:
        self.header_digest = False
        self.data_digest = False
        #: True until the ICReq was read.
        self.initial = True
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def residual(self) -> bytes:
        """What was fed and not yet read."""
        return bytes(self._buffer)

    def next_pdu(self) -> Pdu | None:
        """The next PDU, or None when more bytes are needed.

        Raises:
            NvmeError: send its ``reply``, then close the connection.
        """
        if len(self._buffer) < _COMMON.size:
            return None
        kind, flags, hlen, pdo, plen = _COMMON.unpack_from(self._buffer)
        self._check(kind, flags, hlen, pdo, plen)
        if len(self._buffer) < plen:
            return None
        raw = bytes(self._buffer[:plen])
        header = raw[:hlen]
        if flags & HDGST:
            told = int.from_bytes(raw[hlen : hlen + DIGEST_BYTES], "little")
            if told != crc32c(header):
                raise fatal(
                    FatalError.HEADER_DIGEST, "A header digest is wrong.", info=told, header=header
                )
        del self._buffer[:plen]
        self.initial = False
        data = raw[pdo:] if self._data_begins(hlen, plen) else b""
        sound = True
        if flags & DDGST:
            told = int.from_bytes(data[-DIGEST_BYTES:], "little")
            data = data[:-DIGEST_BYTES]
            sound = told == crc32c(data)
        if kind == wire.NVME_H2C_TERM:
            term = wire.NVME_TERM.unpack(header)
            raise HostTerminated(f"The host ended the connection with status {term.number('fes')}.")
        return Pdu(kind=kind, flags=flags, header=header, data=data, sound=sound)

    def _data_begins(self, hlen: int, plen: int) -> bool:
        return plen > hlen + (DIGEST_BYTES if self.header_digest else 0)

    def _check(self, kind: int, flags: int, hlen: int, pdo: int, plen: int) -> None:
        header = bytes(self._buffer[: _COMMON.size])
        if kind not in HEADERS:
            raise fatal(FatalError.HEADER, f"There is no PDU type {kind:#x}.", header=header)
        if (kind == wire.NVME_ICREQ) != self.initial and kind != wire.NVME_H2C_TERM:
            raise fatal(
                FatalError.SEQUENCE, f"PDU type {kind:#x} is out of sequence.", header=header
            )
        if hlen != HEADERS[kind].size:
            raise fatal(FatalError.HEADER, f"HLEN is {hlen}.", info=2, header=header)
        if kind in (wire.NVME_ICREQ, wire.NVME_H2C_TERM):
            most = hlen if kind == wire.NVME_ICREQ else hlen + int(wire.NVME_TERM_HEADER_MAX)
            if not hlen <= plen <= most:
                raise fatal(FatalError.HEADER, f"PLEN is {plen}.", info=4, header=header)
            return
        with_data = kind == wire.NVME_H2C_DATA or self._data_begins(hlen, plen)
        if bool(flags & HDGST) != self.header_digest or bool(flags & DDGST) != (
            self.data_digest and with_data
        ):
            raise fatal(FatalError.HEADER, f"The flags are {flags:#x}.", info=1, header=header)
        self._check_data(kind, with_data=with_data, hlen=hlen, pdo=pdo, plen=plen)

    def _check_data(self, kind: int, *, with_data: bool, hlen: int, pdo: int, plen: int) -> None:
        header = bytes(self._buffer[: _COMMON.size])
        begin = hlen + (DIGEST_BYTES if self.header_digest else 0)
        if not with_data:
            if plen != begin:
                raise fatal(FatalError.HEADER, f"PLEN is {plen}.", info=4, header=header)
            return
        if pdo < begin or pdo % 4 != 0:
            raise fatal(FatalError.HEADER, f"PDO is {pdo}.", info=3, header=header)
        data_bytes = plen - pdo - (DIGEST_BYTES if self.data_digest else 0)
        if data_bytes <= 0:
            raise fatal(FatalError.HEADER, f"PLEN is {plen}.", info=4, header=header)
        if kind == wire.NVME_CAPSULE_CMD and data_bytes > wire.NVME_CAPSULE_DATA_MAX:
            raise fatal(FatalError.HEADER, f"PLEN is {plen}.", info=4, header=header)
        if kind == wire.NVME_H2C_DATA and data_bytes > wire.NVME_H2C_DATA_MAX:
            raise fatal(FatalError.LIMIT, f"{data_bytes} bytes of data in one PDU.", header=header)


@dataclass(slots=True)
class PduWriter:
    """Frames PDUs for a host as was negotiated; ``data_align`` is where data may begin, bytes."""

    header_digest: bool = False
    data_digest: bool = False
    data_align: int = 4

    def frame(self, kind: int, body: bytes, data: bytes = b"", *, flags: int = 0) -> bytes:
        """A PDU whose header goes on with ``body`` behind the common 8 bytes."""
        hlen = _COMMON.size + len(body)
        end = hlen + (DIGEST_BYTES if self.header_digest else 0)
        pdo = -(-end // self.data_align) * self.data_align if data else 0
        plen = (pdo or end) + len(data)
        if self.header_digest:
            flags |= HDGST
        if data and self.data_digest:
            flags |= DDGST
            plen += DIGEST_BYTES
        out = bytearray(_COMMON.pack(kind, flags, hlen, pdo, plen) + body)
        if self.header_digest:
            out += crc32c(bytes(out)).to_bytes(4, "little")
        if data:
            out += bytes(pdo - len(out)) + data
            if self.data_digest:
                out += crc32c(data).to_bytes(4, "little")
        return bytes(out)
