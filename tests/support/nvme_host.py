"""A small NVMe/TCP host of our own: initialization, Connect, the admin commands that a test asks for, I/O queues.

It shares nothing with the product but the standard: numbers stand here as the specifications have them.
"""

from __future__ import annotations

import select
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

from tests.support.nvme_auth import HostSide, auth_entry
from tests.support.nvme_bed import IN_CAPSULE, TRANSPORT, WAIT_S, Host
from tests.support.nvme_machine import (
    admin_entry,
    connect_data,
    connect_entry,
    icreq,
    property_entry,
)
from tests.support.nvme_pdus import CAPSULE_RESP, Pdu

HOST_NQN: Final = "nqn.2014-08.org.nvmexpress:uuid:5a770000-0000-4000-8000-000000000001"
HOST_ID: Final = bytes(range(16))
DISCOVERY: Final = "nqn.2014-08.org.nvmexpress.discovery"
CAP, VS, CC, CSTS = 0x00, 0x08, 0x14, 0x1C
#: Enabled, entries of 64 and 16 bytes.
CC_ENABLE: Final = 1 | 6 << 16 | 4 << 20
NS_CHANGED, ANA_CHANGED, DISCOVERY_CHANGED = 0x040002, 0x0C0302, 0x70F002
OPTIMIZED, INACCESSIBLE, CHANGE = 1, 3, 0xF


#: Sockets made here: a test that fails half-way leaves them to :func:`close_all`.
OPENED: Final[list[socket.socket]] = []


def close_all() -> None:
    """Close every connection made since the last call."""
    while OPENED:
        OPENED.pop().close()


class Refused(Exception):
    """A command ended with this status (SCT << 8 | SC, and DNR)."""

    def __init__(self, status: int, result: int) -> None:
        super().__init__(f"status {status:#x}, result {result:#x}")
        self.status = status
        self.result = result


@dataclass(frozen=True, slots=True)
class AnaGroup:
    group: int
    state: int
    nsids: tuple[int, ...]


class Queue(Host):
    """One connection: initialized, and connected to a queue."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        digests: int = 0,
        hpda: int = 0,
        block_size: int = 512,
        timeout_s: float = WAIT_S,
    ) -> None:
        sock = socket.create_connection(address, timeout=timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock, {}, block_size=block_size)
        OPENED.append(sock)
        self.results: dict[int, int] = {}
        self.early: list[Pdu] = []
        #: Dword 0 of the answer to Connect.
        self.connect_result = 0
        try:
            sock.sendall(icreq(hpda=hpda, digests=digests))
            answer = self.read_exactly(128)
            assert answer[0] == 1, "ICResp"
            self.chunk = min(self.chunk, struct.unpack_from("<I", answer, 12)[0])
            agreed = answer[11]
        except BaseException:
            sock.close()
            raise
        self.header_digest, self.data_digest = bool(agreed & 1), bool(agreed & 2)

    def close(self) -> None:
        self.socket.close()

    def command(self, entry: bytes, data: bytes = b"") -> tuple[int, bytes]:
        """Send one command with its data in the capsule; its result and data. Raises: Refused."""
        cid = int.from_bytes(entry[2:4], "little")
        self.capsule(entry, data)
        return self.answer(cid)

    def answer(self, cid: int, data: bytes = b"") -> tuple[int, bytes]:
        """Wait for the end of one command; what ends meanwhile is kept in ``early``."""
        got = b""
        while True:
            pdu = next((one for one in self.early if one.cid == cid), None)
            if pdu is not None:
                self.early.remove(pdu)
            else:
                pdu = self.receive()
            if pdu.cid != cid:
                self.early.append(pdu)
            elif pdu.kind == 9:
                self.send_data(pdu, data)
            elif pdu.kind != CAPSULE_RESP:
                got += pdu.data
            else:
                result = int.from_bytes(pdu.head[8:16], "little")
                if pdu.status:
                    raise Refused(pdu.status, result)
                return result, got

    def answered(self) -> bool:
        """Whether something came that nobody has received yet."""
        return bool(self._in or self.early or select.select([self.socket], [], [], 0)[0])

    def connect(
        self,
        subnqn: str,
        *,
        qid: int = 0,
        sqsize: int = 31,
        kato: int = 0,
        cntlid: int = 0xFFFF,
        **who: Any,
    ) -> int:
        """Connect to a queue; the controller identifier. Raises: Refused."""
        entry = connect_entry(self.take_cid(), qid=qid, sqsize=sqsize, kato=kato)
        result, _ = self.command(entry, connect_data(subnqn, cntlid=cntlid, **who))
        self.connect_result = result
        return result & 0xFFFF

    def finish_flush(self) -> None:
        """A command that an I/O queue takes. Raises: Refused."""
        self.answer(self.start(0x00))

    def authenticate(self, key: bytes, subnqn: str, **how: Any) -> HostSide:
        """DH-HMAC-CHAP as a host; raises Refused, or Unproven when it fails."""
        side = HostSide(key, HOST_NQN, subnqn, **how)
        self.command(auth_entry(self.take_cid(), 5, len(side.negotiate())), side.negotiate())
        _, challenge = self.command(auth_entry(self.take_cid(), 6, 4096))
        reply = side.reply(challenge)
        self.command(auth_entry(self.take_cid(), 5, len(reply)), reply)
        _, outcome = self.command(auth_entry(self.take_cid(), 6, 4096))
        last = side.finish(outcome)
        if last:
            self.command(auth_entry(self.take_cid(), 5, len(last)), last)
        return side


class Admin(Queue):
    """An admin queue."""

    def admin(
        self,
        opcode: int,
        *,
        nsid: int = 0,
        cdw10: int = 0,
        cdw11: int = 0,
        cdw12: int = 0,
        length: int = 0,
        data: bytes = b"",
    ) -> tuple[int, bytes]:
        return self.command(self.entry(
            opcode, nsid=nsid, cdw10=cdw10, cdw11=cdw11, cdw12=cdw12,
            length=len(data) or length, sgl=IN_CAPSULE if data else TRANSPORT,
        ), data)  # fmt: skip

    def entry(
        self,
        opcode: int,
        *,
        nsid: int = 0,
        cdw10: int = 0,
        cdw11: int = 0,
        cdw12: int = 0,
        length: int = 0,
        sgl: int = TRANSPORT,
    ) -> bytes:
        return admin_entry(
            opcode, self.take_cid(), nsid=nsid, cdw10=cdw10, cdw11=cdw11, cdw12=cdw12,
            length=length, sgl=sgl,
        )  # fmt: skip

    def property_get(self, offset: int, *, eight: bool = False) -> int:
        return self.command(property_entry(self.take_cid(), 4, offset, eight=eight))[0]

    def property_set(self, offset: int, value: int) -> None:
        self.command(property_entry(self.take_cid(), 0, offset, value=value))

    def enable(self) -> None:
        self.property_set(CC, CC_ENABLE)
        assert self.property_get(CSTS) == 1

    def identify(self, cns: int, *, nsid: int = 0, csi: int = 0) -> bytes:
        return self.admin(0x06, nsid=nsid, cdw10=cns, cdw11=csi << 24, length=4096)[1]

    def log_page(self, page: int, length: int, *, offset: int = 0, retain: bool = False) -> bytes:
        count = length // 4 - 1
        cdw10 = page | (0x8000 if retain else 0) | (count & 0xFFFF) << 16
        return self.admin(0x02, cdw10=cdw10, cdw11=count >> 16, cdw12=offset, length=length)[1]

    def set_queues(self, count: int) -> int:
        """How many I/O queues are granted."""
        asked = count - 1 | count - 1 << 16
        return (self.admin(0x09, cdw10=0x07, cdw11=asked)[0] & 0xFFFF) + 1

    def ana(self) -> list[AnaGroup]:
        log = self.log_page(0x0C, 256)
        (groups,) = struct.unpack_from("<H", log, 8)
        at, found = 16, []
        for _ in range(groups):
            group, count, _changes, state = struct.unpack_from("<IIQB", log, at)
            nsids = struct.unpack_from(f"<{count}I", log, at + 32)
            found.append(AnaGroup(group, state, nsids))
            at += 32 + 4 * count
        return found

    def ask_events(self, config: int) -> int:
        """Switch events on and leave one request; its command identifier."""
        self.admin(0x09, cdw10=0x0B, cdw11=config)
        return self.ask_event()

    def ask_event(self) -> int:
        entry = self.entry(0x0C)
        self.capsule(entry)
        return int.from_bytes(entry[2:4], "little")

    def keep_alive(self) -> None:
        self.admin(0x18)

    def abort(self, qid: int, cid: int) -> bool:
        """Ask for a command back; whether it was aborted at once."""
        return not self.admin(0x08, cdw10=qid | cid << 16)[0] & 1


def attach(
    address: tuple[str, int],
    subnqn: str,
    *,
    queues: int = 1,
    kato: int = 0,
    digests: int = 0,
    block_size: int = 512,
    sqsize: int = 127,
    **who: Any,
) -> tuple[Admin, list[Queue]]:
    """What ``nvme connect`` does: an enabled controller and its I/O queues."""
    admin = Admin(address, digests=digests)
    cntlid = admin.connect(subnqn, kato=kato, **who)
    admin.enable()
    granted = admin.set_queues(queues)
    io = []
    for qid in range(1, granted + 1):
        queue = Queue(address, digests=digests, block_size=block_size)
        queue.connect(subnqn, qid=qid, sqsize=sqsize, cntlid=cntlid, **who)
        io.append(queue)
    return admin, io
