"""The core's iSCSI sessions without login, volume or disk: a test bed thread, and an initiator that may misbehave.

``Bed`` owns the reactor and its thread; ``Peer`` speaks raw PDUs over one half of a socket pair and checks only the
numbering, so that a test can send what no initiator would.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from sparrow.dataplane.ring import create_ring
from tests.support.crc import crc32c

NO_TAG: Final = 0xFFFFFFFF
NOP_OUT, COMMAND, MANAGE, LOGIN, TEXT, DATA_OUT, LOGOUT, SNACK = 0, 1, 2, 3, 4, 5, 6, 0x10
NOP_IN, RESPONSE, MANAGED, TEXT_RESPONSE, DATA_IN = 0x20, 0x21, 0x22, 0x24, 0x25
LOGGED_OUT, R2T, REJECT = 0x26, 0x31, 0x3F
IMMEDIATE, FINAL, READS, WRITES = 0x40, 0x80, 0x40, 0x20

CLOSED, LOGOUT_CAUSE, PROTOCOL, DIGEST, SILENT, ASKED, VOLUME = range(1, 8)
HOLD_NOT, HOLD_FREE, HOLD_LOGGED, HOLD_READING = range(4)
#: For what must come, however busy the machine is.
WAIT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One PDU of the target."""

    bhs: bytes
    data: bytes

    @property
    def opcode(self) -> int:
        return self.bhs[0] & 0x3F

    @property
    def flags(self) -> int:
        return self.bhs[1]

    @property
    def response(self) -> int:
        return self.bhs[2]

    @property
    def status(self) -> int:
        return self.bhs[3]

    def word(self, at: int) -> int:
        number: int = struct.unpack_from(">I", self.bhs, at)[0]
        return number

    @property
    def itt(self) -> int:
        return self.word(16)

    @property
    def sense(self) -> tuple[int, int, int]:
        """Key, ASC, ASCQ."""
        size = int.from_bytes(self.data[:2], "big")
        assert len(self.data) == 2 + size
        assert self.data[2] & 0x7F == 0x70, "VALID and the current format"
        return self.data[4], self.data[14], self.data[15]


@dataclass(slots=True)
class Result:
    """How one command ended."""

    status: int
    data: bytes
    overflow: int
    underflow: int
    sense: tuple[int, int, int]
    pdus: list[Answer]


class Bed:
    """A running reactor with a volume in memory."""

    def __init__(self, *, pool_pages: int = 2048, pages: int = 1024, block_size: int = 512) -> None:
        # Imported here: a missing build is then a skip with its reason.
        from sparrow._native.front.testbed import Testbed

        self._ring = create_ring(256)
        self.core: Any = Testbed(
            self._ring.address, pool_pages=pool_pages, pages=pages, block_size=block_size
        )
        self.block_size = block_size
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="front-bed", daemon=True)
        self._thread.start()
        self._events: list[tuple[Any, ...]] = []
        self._peers: list[Any] = []
        self._next_key = 1
        self.pages_at_start = self.free_pages()

    def _run(self) -> None:
        try:
            self.core.run()
        except BaseException as error:
            self.failed = error
            raise

    def connect(self, **parameters: Any) -> Peer:
        """A session in full-feature phase and its initiator."""
        ours, theirs = socket.socketpair()
        ours.settimeout(WAIT_S)
        theirs.setblocking(False)
        key = self.take_key()
        self.core.adopt(theirs.detach(), key=key, **parameters)
        peer = Peer(self, ours, key, parameters)
        self.watch(peer)
        return peer

    def take_key(self) -> int:
        """Names a connection."""
        key, self._next_key = self._next_key, self._next_key + 1
        return key

    def watch(self, peer: Any) -> None:
        """Close the socket of this one in the end."""
        self._peers.append(peer)

    def wait(self, kind: str, **timing: float) -> tuple[Any, ...]:
        """Take the next event of a kind; others stay."""
        deadline = time.monotonic() + timing.get("timeout_s", WAIT_S)
        while True:
            self._events += self.core.events()
            for event in self._events:
                if event[0] == kind:
                    self._events.remove(event)
                    return event
            left = deadline - time.monotonic()
            assert left > 0, f"no event {kind}; there are {self._events}"
            select.select([self.core], [], [], left)
            # The eventfd stays readable: it is only a hint here.
            if not self._events:
                time.sleep(0.0005)

    def forget(self) -> None:
        """Let go of events nobody waits for."""
        self.core.events()
        self._events.clear()

    def counts(self) -> tuple[int, int, int]:
        """(free pages, sessions, requests so far) once all mail before is done."""
        token = self.core.ask_counts()
        event = self.wait("counts")
        assert event[1] == token
        assert event[3] == event[5], "the volume counts the same sessions"
        return event[2], event[3], event[4]

    def free_pages(self) -> int:
        return self.counts()[0]

    def wait_requests(self, count: int) -> None:
        """Until the volume was given so many."""
        deadline = time.monotonic() + WAIT_S
        while self.counts()[2] < count:
            assert time.monotonic() < deadline, "the volume is not asked"
            # Nothing is told of a request that is given to the volume.
            time.sleep(0.001)

    def outlives_a_turn(self) -> bool:
        """A connection that was told to end is there after the turn in which it would have gone, had it not to wait.

        It ends at the end of the turn in which it is told to; the second look comes in a later one.
        """
        self.counts()
        return self.counts()[1] == 1

    def settle(self) -> None:
        """Every session is gone and nothing was leaked."""
        for peer in self._peers:
            peer.socket.close()
        self.core.hold(HOLD_NOT)
        self.core.release()
        self.core.leave_pages(1 << 30)
        deadline = time.monotonic() + WAIT_S
        while self.counts()[1]:
            assert time.monotonic() < deadline, "sessions do not end"
            time.sleep(0.001)
        assert self.free_pages() == self.pages_at_start, "pages leaked"

    def close(self) -> None:
        """Stop; fails when anything leaked."""
        try:
            self.settle()
        finally:
            self.core.stop()
            self._thread.join(WAIT_S)
            assert not self._thread.is_alive()
            self.core.close()
            self._ring.close()
        assert self.failed is None


class Peer:
    """An initiator after its login."""

    def __init__(self, bed: Bed, sock: socket.socket, key: int, parameters: dict[str, Any]) -> None:
        self.bed = bed
        self.socket = sock
        self.key = key
        self.header_digest = parameters.get("header_digest", False)
        self.data_digest = parameters.get("data_digest", False)
        self.first_burst = parameters.get("first_burst", 65536)
        self.cmd_sn = parameters.get("exp_cmd_sn", 1)
        self.exp_stat_sn = parameters.get("stat_sn", 1)
        self.max_cmd_sn = self.cmd_sn
        self.trickle = False
        self._next_itt = 1
        self._in = bytearray()

    # sending

    def frame(self, bhs: bytes, data: bytes = b"", *, ahs: bytes = b"") -> bytes:
        head = bhs[:4] + bytes([len(ahs) // 4]) + len(data).to_bytes(3, "big") + bhs[8:] + ahs
        if self.header_digest:
            head += crc32c(head).to_bytes(4, "little")
        body = data + bytes(-len(data) % 4)
        if self.data_digest and data:
            body += crc32c(body).to_bytes(4, "little")
        return head + body

    def send(self, bhs: bytes, data: bytes = b"", *, ahs: bytes = b"") -> None:
        self.send_raw(self.frame(bhs, data, ahs=ahs))

    def send_raw(self, wire: bytes) -> None:
        if not self.trickle:
            self.socket.sendall(wire)
            return
        for at in range(len(wire)):
            self.socket.sendall(wire[at : at + 1])

    def take_itt(self) -> int:
        self._next_itt += 1
        return self._next_itt

    def request(
        self,
        opcode: int,
        *,
        flags: int = FINAL,
        lun: int = 0,
        itt: int | None = None,
        word20: int = NO_TAG,
        specific: bytes = b"",
        data: bytes = b"",
        immediate: bool = False,
        cmd_sn: int | None = None,
        ahs: bytes = b"",
    ) -> int:
        """Any request that has a CmdSN; gives its tag."""
        itt = self.take_itt() if itt is None else itt
        bhs = struct.pack(
            ">BB2x4xQIIII16s",
            opcode | (IMMEDIATE if immediate else 0),
            flags,
            lun,
            itt,
            word20,
            self.cmd_sn if cmd_sn is None else cmd_sn,
            self.exp_stat_sn,
            specific,
        )
        if not immediate and cmd_sn is None:
            self.cmd_sn = (self.cmd_sn + 1) & 0xFFFFFFFF
        self.send(bhs, data, ahs=ahs)
        return itt

    def manage(self, function: int, *, task: int = NO_TAG, lun: int = 0) -> int:
        """A task management request."""
        return self.request(MANAGE, flags=FINAL | function, lun=lun, word20=task, immediate=True)

    def command(
        self,
        cdb: bytes,
        *,
        expected: int = 0,
        flags: int | None = None,
        data: bytes = b"",
        **more: Any,
    ) -> int:
        """A SCSI Command; with data it writes, with an expected length it reads."""
        if flags is None:
            flags = FINAL | (WRITES if data else READS if expected else 0)
        return self.request(
            COMMAND,
            flags=flags | 1,
            word20=expected or len(data),
            specific=cdb,
            data=data,
            **more,
        )

    def data_out(
        self,
        itt: int,
        ttt: int,
        offset: int,
        data: bytes,
        *,
        final: bool = True,
        data_sn: int = 0,
    ) -> None:
        bhs = struct.pack(
            ">BB14xII4xI4xII4x",
            DATA_OUT,
            FINAL if final else 0,
            itt,
            ttt,
            self.exp_stat_sn,
            data_sn,
            offset,
        )
        self.send(bhs, data)

    # receiving

    def _take(self, count: int) -> bytes:
        while len(self._in) < count:
            data = self.socket.recv(1 << 20)
            if not data:
                raise ConnectionError("closed by the target")
            self._in += data
        taken = bytes(self._in[:count])
        del self._in[:count]
        return taken

    def receive(self) -> Answer:
        """The next PDU, its digests and numbers checked."""
        bhs = self._take(48)
        assert bhs[4] == 0
        if self.header_digest:
            assert int.from_bytes(self._take(4), "little") == crc32c(bhs)
        size = int.from_bytes(bhs[5:8], "big")
        padded = self._take(size + -size % 4)
        assert not any(padded[size:]), "padding is zero"
        if self.data_digest and size:
            assert int.from_bytes(self._take(4), "little") == crc32c(padded)
        answer = Answer(bhs, padded[:size])
        has_status = answer.opcode not in (R2T, DATA_IN) or (
            answer.opcode == DATA_IN and answer.flags & 1
        )
        if answer.opcode == NOP_IN and answer.itt == NO_TAG:
            assert answer.word(24) == self.exp_stat_sn
        elif has_status:
            assert answer.word(24) == self.exp_stat_sn, "StatSN goes up by one"
            self.exp_stat_sn = (self.exp_stat_sn + 1) & 0xFFFFFFFF
        ahead = (answer.word(32) - self.max_cmd_sn) & 0xFFFFFFFF
        assert ahead < 1 << 31 or answer.word(32) == self.cmd_sn - 1, "MaxCmdSN never goes back"
        self.max_cmd_sn = answer.word(32)
        return answer

    def pong(self, pdu: Answer) -> bool:
        """Answer a ping, which comes to whoever was silent for long; False when it is something else."""
        if (pdu.opcode, pdu.itt) != (NOP_IN, NO_TAG):
            return False
        self.request(NOP_OUT, itt=NO_TAG, word20=pdu.word(20), immediate=True)
        return True

    def finish(self, itt: int, data_out: bytes = b"", *, segment: int = 65536) -> Result:
        """Receive until the command ends; serves its R2Ts."""
        result = Result(-1, b"", 0, 0, (0, 0, 0), [])
        while result.status < 0:
            pdu = self.receive()
            if self.pong(pdu):
                continue
            assert pdu.itt == itt, f"{pdu.opcode:#x} for {pdu.itt}"
            result.pdus.append(pdu)
            if pdu.opcode == R2T:
                offset, size = pdu.word(40), pdu.word(44)
                for number, at in enumerate(range(offset, offset + size, segment)):
                    end = min(at + segment, offset + size)
                    self.data_out(
                        itt,
                        pdu.word(20),
                        at,
                        data_out[at:end],
                        final=end == offset + size,
                        data_sn=number,
                    )
                continue
            if pdu.opcode == DATA_IN:
                assert pdu.word(40) == len(result.data)
                result.data += pdu.data
            if pdu.opcode == RESPONSE or pdu.flags & 1:
                result.status = pdu.status
                result.overflow = pdu.word(44) if pdu.flags & 4 else 0
                result.underflow = pdu.word(44) if pdu.flags & 2 else 0
            if pdu.opcode == RESPONSE and pdu.data:
                result.sense = pdu.sense
        return result

    def at_end(self) -> bool:
        """Has the target closed the connection? Waits for it."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        return True

    # whole commands

    def read(self, lba: int, blocks: int) -> Result:
        length = blocks * self.bed.block_size
        return self.finish(self.command(read_16(lba, blocks), expected=length))

    def unmap(self, *ranges: tuple[int, int]) -> Result:
        cdb, listed = unmap(*ranges)
        return self.finish(self.command(cdb, data=listed))

    def write(self, lba: int, data: bytes, *, immediate: int | None = None) -> Result:
        """Immediate data as far as the first burst goes, the rest by R2T."""
        first = min(len(data), self.first_burst) if immediate is None else immediate
        itt = self.request(
            COMMAND,
            flags=FINAL | WRITES | 1,
            word20=len(data),
            specific=write_16(lba, len(data) // self.bed.block_size),
            data=data[:first],
        )
        return self.finish(itt, data)


def read_16(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBQIBB", 0x88, 0, lba, blocks, 0, 0)


def write_16(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBQIBB", 0x8A, 0, lba, blocks, 0, 0)


def unmap(*ranges: tuple[int, int]) -> tuple[bytes, bytes]:
    """CDB and parameter list; ranges are (lba, blocks)."""
    body = b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in ranges)
    listed = struct.pack(">HH4x", len(body) + 6, len(body)) + body
    return struct.pack(">BB5xHB", 0x42, 0, len(listed), 0), listed


def write_same_16(lba: int, blocks: int, *, flags: int = 0) -> bytes:
    """``flags`` 8 UNMAP, 1 NDOB."""
    return struct.pack(">BBQIBB", 0x93, flags, lba, blocks, 0, 0)


def compare_and_write(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBQ3xBBB", 0x89, 0, lba, blocks, 0, 0)


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes that differ from page to page and inside a page."""
    return b"".join(((seed << 40) + at).to_bytes(8, "little") for at in range(0, length, 8))[
        :length
    ]
