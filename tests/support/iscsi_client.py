"""A small iSCSI initiator for tests, written apart from the product: standard library only, none of its codecs.

It keeps many commands in flight on one connection, does R2T and unsolicited data in every combination, and holds the
target to the standard: StatSN without gaps, Data-In in order, segments no longer than declared. What it cannot
explain is a ``ProtocolViolation``.

    client = IscsiClient("127.0.0.1", 3260, "iqn.2026-01.io.sparrow:demo", timeout_s=5)
    client.write(0, bytes(4096))
    tag = client.submit_write(8, bytes(4096))
    for completion in client.poll(1.0): ...

What the target says of the session's own beginning (UNIT ATTENTION 29h) is kept in ``greeting``, and the command that
brought it is sent again, as initiators do.

A write is acknowledged when its completion has no error. After a ``ConnectionError`` the commands in ``pending`` have
an unknown outcome: they may or may not have happened.

Source: RFC 7143; SPC-4; SBC-3.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from tests.support.iscsi_pdus import (
    ASYNC,
    BHS_BYTES,
    DATA_IN,
    DATA_OUT,
    FINAL,
    GREETINGS,
    IMMEDIATE,
    LOGIN,
    LOGIN_RESPONSE,
    LOGOUT,
    LOGOUT_RESPONSE,
    NO_TAG,
    NOP_IN,
    NOP_OUT,
    R2T,
    REJECT,
    SCSI_COMMAND,
    SCSI_RESPONSE,
    SEGMENT_BYTES_MAX,
    Command,
    Completion,
    LoginError,
    ProtocolViolation,
    ScsiError,
    distance,
    read_sense,
)

_tsih_free_isids = itertools.count(1)


class IscsiClient:
    """One session with one connection; not for use by several threads."""

    def __init__(
        self,
        host: str,
        port: int,
        target: str,
        *,
        timeout_s: float,
        initiator: str = "iqn.2026-01.io.sparrow.test:client",
        initial_r2t: bool = False,
        immediate_data: bool = True,
        first_burst_bytes: int = 65536,
        burst_bytes: int = 262144,
        security_stage: bool = False,
        isid: bytes | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.target = target
        self.initiator = initiator
        # Each client is its own session unless a test wants one replaced.
        self.isid = isid or b"\x80" + next(_tsih_free_isids).to_bytes(5, "big")
        self.tsih = 0
        self.block_bytes = 512
        self.answers: dict[str, str] = {}
        #: ASC and ASCQ of the unit attention the session began with.
        self.greeting: tuple[int, int] | None = None
        self.logout_requested = False
        self._security_stage = security_stage
        self._wish = {
            "HeaderDigest": "None",
            "DataDigest": "None",
            "InitialR2T": "Yes" if initial_r2t else "No",
            "ImmediateData": "Yes" if immediate_data else "No",
            "MaxBurstLength": str(burst_bytes),
            "FirstBurstLength": str(first_burst_bytes),
            "MaxOutstandingR2T": "1",
            "MaxConnections": "1",
            "ErrorRecoveryLevel": "0",
            "MaxRecvDataSegmentLength": str(SEGMENT_BYTES_MAX),
        }
        self._commands: dict[int, Command] = {}
        self._done: deque[Completion] = deque()
        self._out = bytearray()
        self._in = bytearray()
        self._cmd_sn = 1
        self._max_cmd_sn = 1
        self._exp_stat_sn: int | None = None
        self._next_tag = 1
        self._failed: ConnectionError | None = None
        self._ping: dict[int, bytes] = {}
        self._logged_out = False
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setblocking(False)
            self._log_in()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Commands that wait for their end

    def read(self, lba: int, blocks: int) -> bytes:
        """Blocks from lba on. Raises ScsiError, ConnectionError."""
        return self._finish(self.submit_read(lba, blocks)).data

    def write(self, lba: int, data: bytes) -> None:
        """Write whole blocks; returns when they are acknowledged. Raises ScsiError, ConnectionError."""
        self._finish(self.submit_write(lba, data))

    def synchronize_cache(self) -> None:
        """SYNCHRONIZE CACHE (16) over the whole unit."""
        self._finish(self.submit(bytes([0x91]) + bytes(15), kind="sync"))

    def test_unit_ready(self) -> None:
        """Raises ScsiError while the unit is not ready."""
        self._finish(self.submit(bytes(6), kind="tur"))

    def inquiry(self, page: int | None = None) -> bytes:
        """Standard data, or one VPD page."""
        cdb = struct.pack(">BBBHB", 0x12, 0 if page is None else 1, page or 0, 0x1000, 0)
        return self.command_in(cdb, 0x1000)

    def read_capacity(self) -> tuple[int, int]:
        """(blocks, bytes per block) by READ CAPACITY (16); the block size is remembered for submit_read."""
        data = self.command_in(struct.pack(">BBQIBB", 0x9E, 0x10, 0, 32, 0, 0), 32)
        last, self.block_bytes = struct.unpack_from(">QI", data)
        return last + 1, self.block_bytes

    def command_in(self, cdb: bytes, expected_bytes: int) -> bytes:
        """Any command that only returns data; less than expected is no error."""
        return self._finish(self.submit(cdb, expected_in=expected_bytes)).data

    def ping(self, data: bytes = b"ping") -> bytes:
        """NOP-Out and its echo."""
        self._check()
        tag = self._take_tag()
        bhs = struct.pack(
            ">BB14xIIII16x", NOP_OUT | IMMEDIATE, FINAL, tag, NO_TAG, self._cmd_sn, self._acked()
        )
        self._queue(bhs, data)
        self._wait(lambda: tag in self._ping)
        return self._ping.pop(tag)

    def logout(self) -> None:
        """Close the session in order; what is in flight is lost."""
        self._check()
        bhs = struct.pack(
            ">BB14xI4xII16x",
            LOGOUT | IMMEDIATE,
            FINAL,
            self._take_tag(),
            self._cmd_sn,
            self._acked(),
        )
        self._queue(bhs)
        self._wait(lambda: self._logged_out)
        self.close()

    def close(self) -> None:
        """Drop the connection without a word."""
        self._socket.close()
        self._failed = self._failed or ConnectionError("closed by us")

    # Commands in flight

    def submit_read(self, lba: int, blocks: int) -> int:
        """Start a READ (16); gives its tag."""
        cdb = struct.pack(">BBQIBB", 0x88, 0, lba, blocks, 0, 0)
        return self.submit(cdb, kind="read", lba=lba, expected_in=blocks * self.block_bytes)

    def submit_write(self, lba: int, data: bytes) -> int:
        """Start a WRITE (16); gives its tag."""
        assert len(data) % self.block_bytes == 0
        cdb = struct.pack(">BBQIBB", 0x8A, 0, lba, len(data) // self.block_bytes, 0, 0)
        return self.submit(cdb, kind="write", lba=lba, data_out=data)

    def submit(
        self,
        cdb: bytes,
        *,
        kind: str = "other",
        lba: int = 0,
        data_out: bytes = b"",
        expected_in: int = 0,
        lun: int = 0,
    ) -> int:
        """Start any command; waits only while the command window is closed.

        Raises:
            ConnectionError: the command was not sent.
        """
        assert not (data_out and expected_in)
        self._check()
        self._wait(lambda: distance(self._cmd_sn, self._max_cmd_sn) >= 0)
        tag = self._take_tag()
        self._issue(
            Command(
                tag=tag,
                cdb=cdb,
                lun=lun,
                kind=kind,
                lba=lba,
                data_out=data_out,
                expected_in=expected_in,
            )
        )
        # Once a command may have left, its tag must reach the caller; the break is told by the next call.
        with contextlib.suppress(ConnectionError):
            self._pump(0)
        return tag

    def _issue(self, command: Command) -> None:
        """Put it on the wire, with what goes unasked."""
        data_out, expected_in = command.data_out, command.expected_in
        immediate, unsolicited = self._unasked_bytes(len(data_out))
        flags = 0x01 | (0x40 if expected_in else 0) | (0x20 if data_out else 0)
        flags |= 0 if unsolicited > immediate else FINAL
        bhs = struct.pack(
            ">BB6xQIIII16s",
            SCSI_COMMAND,
            flags,
            command.lun,
            command.tag,
            len(data_out) or expected_in,
            self._cmd_sn,
            self._acked(),
            command.cdb,
        )
        self._cmd_sn = (self._cmd_sn + 1) & 0xFFFFFFFF
        self._commands[command.tag] = command
        self._queue(bhs, data_out[:immediate])
        if unsolicited > immediate:
            self._queue_data_out(command.tag, NO_TAG, immediate, unsolicited)

    def poll(self, timeout_s: float) -> list[Completion]:
        """Completions so far, waiting at most this long for the first.

        Raises:
            ConnectionError: the connection is gone; raised once every completion before it was given out.
        """
        with contextlib.suppress(ConnectionError):
            deadline = time.monotonic() + timeout_s
            while self._pump(0) or not self._done:
                left = deadline - time.monotonic()
                if self._done or left <= 0 or self._failed:
                    break
                self._pump(left)
        done = list(self._done)
        self._done.clear()
        if not done:
            self._check()
        return done

    @property
    def pending(self) -> frozenset[int]:
        """Tags without a completion; after a ConnectionError their outcome is unknown."""
        return frozenset(self._commands)

    @property
    def closed(self) -> bool:
        """Whether the session is over, by whoever ended it."""
        return self._failed is not None

    # Login

    def _log_in(self) -> None:
        who = {"InitiatorName": self.initiator, "TargetName": self.target, "SessionType": "Normal"}
        if self._security_stage:
            self._login_step(0, 1, who | {"AuthMethod": "None"})
            who = {}
        self._login_step(1, 3, who | self._wish)
        self.tsih = struct.unpack_from(">H", self._login_header, 14)[0]
        if not self.tsih:
            raise ProtocolViolation("the session has no TSIH")

    def _login_step(self, stage: int, following: int, keys: dict[str, str]) -> None:
        text = b"".join(f"{key}={value}".encode() + b"\0" for key, value in keys.items())
        bhs = struct.pack(
            ">BBBB4x6sHIHHII16x",
            LOGIN | IMMEDIATE,
            0x80 | stage << 2 | following,
            0,
            0,
            self.isid,
            0,
            1,
            0,
            0,
            self._cmd_sn,
            self._acked(),
        )
        self._queue(bhs, text)
        pdu = self._next_login_response()
        flags, status_class, detail = pdu[0][1], pdu[0][36], pdu[0][37]
        if status_class:
            raise LoginError(status_class, detail)
        self._login_header = pdu[0]
        for pair in filter(None, pdu[1].split(b"\0")):
            key, _, value = pair.decode().partition("=")
            self.answers[key] = value
        if flags & 0x80 == 0 or flags & 3 != following:
            raise ProtocolViolation(f"the target does not go on to stage {following}")

    def _next_login_response(self) -> tuple[bytes, bytes]:
        deadline = time.monotonic() + self.timeout_s
        while (pdu := self._take_pdu()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectionError("no answer to the login")
            self._exchange(left)
        if pdu[0][0] & 0x3F != LOGIN_RESPONSE:
            raise ProtocolViolation(f"opcode {pdu[0][0]:#x} during login")
        self._follow(pdu[0])
        return pdu

    def _number(self, key: str, default: int) -> int:
        return int(self.answers.get(key, default))

    def _unasked_bytes(self, total: int) -> tuple[int, int]:
        """(bytes in the command, bytes before the first R2T)."""
        segment = self._number("MaxRecvDataSegmentLength", 8192)
        burst = min(total, self._number("FirstBurstLength", 65536))
        immediate = min(burst, segment) if self.answers.get("ImmediateData") == "Yes" else 0
        return immediate, burst if self.answers.get("InitialR2T") == "No" else immediate

    # The connection

    def _check(self) -> None:
        if self._failed:
            raise self._failed

    def _finish(self, tag: int) -> Completion:
        def ended() -> bool:
            return any(completion.tag == tag for completion in self._done)

        self._wait(ended)
        completion = next(completion for completion in self._done if completion.tag == tag)
        self._done.remove(completion)
        if completion.error:
            raise completion.error
        return completion

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.timeout_s
        while not condition():
            self._check()
            left = deadline - time.monotonic()
            if left <= 0:
                self._failed = ConnectionError(f"no answer within {self.timeout_s} s")
                self._socket.close()
                raise self._failed
            try:
                self._pump(left)
            except ConnectionError:
                # What arrived before the end still counts.
                if condition():
                    return
                raise

    def _pump(self, timeout_s: float) -> bool:
        """Move bytes both ways, then act on every whole PDU; gives whether any came."""
        self._check()
        moved = False
        try:
            self._exchange(timeout_s)
            while (pdu := self._take_pdu()) is not None:
                self._handle(*pdu)
                moved = True
        except ConnectionError as error:
            self._failed = error
            self._socket.close()
            # Whole PDUs read before the end are facts: an acknowledged write is acknowledged.
            if not isinstance(error, ProtocolViolation):
                while (pdu := self._take_pdu()) is not None:
                    self._handle(*pdu)
            raise
        except OSError as error:
            self._failed = ConnectionError(str(error))
            self._socket.close()
            raise self._failed from error
        return moved

    def _exchange(self, timeout_s: float) -> None:
        """Wait until the socket can do something, then send and receive what goes."""
        readable, writable, _ = select.select(
            [self._socket], [self._socket] if self._out else [], [], timeout_s
        )
        if writable:
            del self._out[: self._socket.send(memoryview(self._out)[:1048576].tobytes())]
        if readable:
            data = self._socket.recv(1048576)
            if not data:
                raise ConnectionError("the target closed the connection")
            self._in += data

    def _take_pdu(self) -> tuple[bytes, bytes] | None:
        if len(self._in) < BHS_BYTES:
            return None
        size = int.from_bytes(self._in[5:8], "big")
        if self._in[4]:
            raise ProtocolViolation("additional header from a target")
        if size > SEGMENT_BYTES_MAX:
            raise ProtocolViolation(f"data segment of {size} bytes, {SEGMENT_BYTES_MAX} declared")
        end = BHS_BYTES + size + -size % 4
        if len(self._in) < end:
            return None
        pdu = bytes(self._in[:BHS_BYTES]), bytes(self._in[BHS_BYTES : BHS_BYTES + size])
        del self._in[:end]
        return pdu

    def _queue(self, bhs: bytes, data: bytes = b"") -> None:
        assert len(bhs) == BHS_BYTES
        self._out += bhs[:5] + len(data).to_bytes(3, "big") + bhs[8:]
        self._out += data + bytes(-len(data) % 4)

    def _queue_data_out(self, tag: int, transfer_tag: int, start: int, end: int) -> None:
        """One sequence of Data-Out PDUs, the last with F."""
        data = self._commands[tag].data_out
        segment = self._number("MaxRecvDataSegmentLength", 8192)
        for number, offset in enumerate(range(start, end, segment)):
            piece = data[offset : min(offset + segment, end)]
            last = offset + len(piece) == end
            bhs = struct.pack(
                ">BB14xII4xI4xII4x",
                DATA_OUT,
                FINAL if last else 0,
                tag,
                transfer_tag,
                self._acked(),
                number,
                offset,
            )
            self._queue(bhs, piece)

    def _take_tag(self) -> int:
        tag = self._next_tag
        self._next_tag = tag % 0x7FFFFFFF + 1
        return tag

    def _acked(self) -> int:
        return self._exp_stat_sn or 0

    # What the target says

    def _handle(self, bhs: bytes, data: bytes) -> None:
        opcode = bhs[0] & 0x3F
        tag, transfer_tag = struct.unpack_from(">II", bhs, 16)
        if opcode == SCSI_RESPONSE:
            self._follow(bhs)
            self._end(self._command(tag), bhs[3], data)
        elif opcode == DATA_IN:
            self._take_data(self._command(tag), bhs, data)
        elif opcode == R2T:
            self._follow(bhs, status=False)
            self._serve_r2t(self._command(tag), bhs, transfer_tag)
        elif opcode == NOP_IN:
            self._follow(bhs, status=tag != NO_TAG)
            if tag != NO_TAG:
                self._ping[tag] = data
            elif transfer_tag != NO_TAG:
                reply = struct.pack(
                    ">BB6xQIIII16x",
                    NOP_OUT | IMMEDIATE,
                    FINAL,
                    struct.unpack_from(">Q", bhs, 8)[0],
                    NO_TAG,
                    transfer_tag,
                    self._cmd_sn,
                    self._acked(),
                )
                self._queue(reply)
        elif opcode == LOGOUT_RESPONSE:
            self._follow(bhs)
            self._logged_out = True
        elif opcode == ASYNC:
            self._follow(bhs)
            if bhs[36] == 1:
                self.logout_requested = True
            elif bhs[36] in (2, 3):
                raise ConnectionError("the target drops the connection")
        elif opcode == REJECT:
            self._follow(bhs)
            raise ProtocolViolation(f"the target rejects a PDU, reason {bhs[2]:#x}")
        else:
            raise ProtocolViolation(f"opcode {opcode:#x} from a target")

    def _follow(self, bhs: bytes, *, status: bool = True) -> None:
        """Keep the sequence numbers of one PDU; a status takes a StatSN, and none may be skipped."""
        stat_sn, exp_cmd_sn, max_cmd_sn = struct.unpack_from(">III", bhs, 24)
        if status:
            if self._exp_stat_sn is not None and stat_sn != self._exp_stat_sn:
                raise ProtocolViolation(f"StatSN {stat_sn} where {self._exp_stat_sn} is due")
            self._exp_stat_sn = (stat_sn + 1) & 0xFFFFFFFF
        if distance(exp_cmd_sn, max_cmd_sn) < -1:
            raise ProtocolViolation("MaxCmdSN below ExpCmdSN - 1")
        if distance(self._cmd_sn, exp_cmd_sn) > 0:
            raise ProtocolViolation("ExpCmdSN beyond what was sent")
        if distance(self._max_cmd_sn, max_cmd_sn) > 0:
            self._max_cmd_sn = max_cmd_sn

    def _command(self, tag: int) -> Command:
        command = self._commands.get(tag)
        if command is None:
            raise ProtocolViolation(f"answer to a command that is not in flight: {tag:#x}")
        return command

    def _take_data(self, command: Command, bhs: bytes, data: bytes) -> None:
        data_sn, offset = struct.unpack_from(">II", bhs, 36)
        with_status = bool(bhs[1] & 0x01)
        self._follow(bhs, status=with_status)
        if data_sn != command.data_sn or offset != len(command.data_in):
            raise ProtocolViolation("Data-In out of order")
        if offset + len(data) > command.expected_in:
            raise ProtocolViolation("more Data-In than expected")
        command.data_sn += 1
        command.data_in += data
        if with_status:
            self._end(command, bhs[3], b"")

    def _serve_r2t(self, command: Command, bhs: bytes, transfer_tag: int) -> None:
        r2t_sn, offset, size = struct.unpack_from(">III", bhs, 36)
        if transfer_tag == NO_TAG or r2t_sn != command.r2t_sn:
            raise ProtocolViolation("R2T without a transfer tag or out of order")
        if not 0 < size <= self._number("MaxBurstLength", 262144):
            raise ProtocolViolation(f"R2T for {size} bytes")
        if offset + size > len(command.data_out):
            raise ProtocolViolation("R2T beyond the data of the command")
        command.r2t_sn += 1
        self._queue_data_out(command.tag, transfer_tag, offset, offset + size)

    def _end(self, command: Command, status: int, data: bytes) -> None:
        error = None
        if status:
            error = ScsiError(status, *read_sense(data))
            if self.greeting is None and (error.key, error.asc, error.ascq) in GREETINGS:
                self.greeting = (error.asc, error.ascq)
                # Its answer has made room for one more in the command window.
                self._issue(replace(command, r2t_sn=0))
                return
        elif command.kind == "read" and len(command.data_in) != command.expected_in:
            raise ProtocolViolation("a read ended GOOD with too little data")
        del self._commands[command.tag]
        self._done.append(
            Completion(
                tag=command.tag,
                kind=command.kind,
                lba=command.lba,
                data=bytes(command.data_in) if not error else b"",
                error=error,
                at_s=time.monotonic(),
            )
        )
