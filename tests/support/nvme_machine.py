"""A host in front of the sans-IO connection of ``frontends.nvme``: entries, framing, answers taken apart."""

from __future__ import annotations

import struct

from sparrow.frontends.nvme.connection import Command, Connection
from tests.support.crc import crc32c
from tests.support.nvme_pdus import Pdu

ICREQ, CAPSULE_CMD, H2C_DATA, C2H_DATA, R2T = 0, 4, 6, 7, 9
HDGST, DDGST, LAST = 1, 2, 4
IN_CAPSULE, TRANSPORT, SGL = 0x01, 0x5A, 0x40


def icreq(*, hpda: int = 0, digests: int = 0, maxr2t: int = 0, pfv: int = 0) -> bytes:
    return struct.pack("<BBBBIHBBI112x", ICREQ, 0, 128, 0, 128, pfv, hpda, digests, maxr2t)


def connect_entry(
    cid: int,
    *,
    qid: int,
    sqsize: int,
    kato: int,
    cattr: int = 0,
    length: int = 1024,
    sgl: int = IN_CAPSULE,
    address: int = 0,
    recfmt: int = 0,
    fctype: int = 1,
) -> bytes:
    return struct.pack(
        "<BBHB19xQI3xBHHHBxI12x",
        0x7F, SGL, cid, fctype, address, length, sgl, recfmt, qid, sqsize, cattr, kato,
    )  # fmt: skip


def connect_data(
    subnqn: str,
    *,
    cntlid: int,
    hostnqn: str = "nqn.2014-08.org.nvmexpress:uuid:5a770000-0000-4000-8000-000000000001",
    hostid: bytes = bytes(range(16)),
) -> bytes:
    return struct.pack("<16sH238x256s256s256x", hostid, cntlid, subnqn.encode(), hostnqn.encode())


def admin_entry(
    opcode: int,
    cid: int,
    *,
    nsid: int = 0,
    cdw10: int = 0,
    cdw11: int = 0,
    cdw12: int = 0,
    cdw13: int = 0,
    length: int = 0,
    sgl: int = TRANSPORT,
    flags: int = SGL,
) -> bytes:
    return struct.pack(
        "<BBHI8xQQI3xBIIIIII",
        opcode, flags, cid, nsid, 0, 0, length, sgl, cdw10, cdw11, cdw12, cdw13, 0, 0,
    )  # fmt: skip


def property_entry(
    cid: int, fctype: int, offset: int, *, eight: bool = False, value: int = 0
) -> bytes:
    return struct.pack(
        "<BBHB19x16xB3xIQ8x", 0x7F, SGL, cid, fctype, 1 if eight else 0, offset, value
    )


def pdu(kind: int, head: bytes, data: bytes = b"", *, flags: int = 0, digests: int = 0) -> bytes:
    """Frame a PDU whose header goes on with ``head`` behind the common 8 bytes."""
    hlen = 8 + len(head)
    end = hlen + (4 if digests & 1 else 0)
    plen = end + len(data) + (4 if data and digests & 2 else 0)
    flags |= (HDGST if digests & 1 else 0) | (DDGST if data and digests & 2 else 0)
    out = struct.pack("<BBBBI", kind, flags, hlen, end if data else 0, plen) + head
    if digests & 1:
        out += struct.pack("<I", crc32c(out))
    out += data
    if data and digests & 2:
        out += struct.pack("<I", crc32c(data))
    return out


class MachineHost:
    """An initialized connection; commands the machine gives are in ``commands``."""

    def __init__(self, *, digests: int = 0, hpda: int = 0, trickle: bool = False) -> None:
        self.machine = Connection()
        self.digests = digests
        self.trickle = trickle
        self.commands: list[Command] = []
        self._in = bytearray()
        self.feed(icreq(digests=digests, hpda=hpda))
        answer = self._take(128)
        assert answer[0] == 1
        assert answer[11] == digests

    def feed(self, data: bytes) -> None:
        for part in (data[i : i + 1] for i in range(len(data))) if self.trickle else (data,):
            self.machine.feed(part)
            while (command := self.machine.next_command()) is not None:
                self.commands.append(command)

    def pdu(self, kind: int, head: bytes, data: bytes = b"", *, flags: int = 0) -> bytes:
        return pdu(kind, head, data, flags=flags, digests=self.digests)

    def send(self, entry: bytes, data: bytes = b"") -> None:
        self.feed(self.pdu(CAPSULE_CMD, entry, data))

    def receive(self) -> Pdu:
        """The next PDU of the machine, its digests checked."""
        common = self._take(8)
        _kind, flags, hlen, pdo, plen = struct.unpack("<BBBBI", common)
        head = common + self._take(hlen - 8)
        rest = self._take(plen - hlen)
        assert bool(flags & HDGST) == bool(self.digests & 1)
        if flags & HDGST:
            assert struct.unpack_from("<I", rest)[0] == crc32c(head)
        data = rest[pdo - hlen :] if pdo else b""
        if flags & DDGST:
            assert struct.unpack("<I", data[-4:])[0] == crc32c(data[:-4])
            data = data[:-4]
        return Pdu(head, data)

    def _take(self, length: int) -> bytes:
        self._in += self.machine.take_output()
        assert len(self._in) >= length, "the machine has not said so much"
        out = bytes(self._in[:length])
        del self._in[:length]
        return out
