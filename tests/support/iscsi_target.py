"""An iSCSI target in memory, for tests: the product's login, discovery and cold commands over a byte array.

It stands in for the native core's full-feature phase so that the conversation can be tried with real initiators and
the test client before and without the core. One thread per connection, no durability, nothing fast.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Final

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import RemoteProtocolError
from sparrow.base.ids import VolumeId
from sparrow.formats.reservations import ReservationTable
from sparrow.frontends.iscsi import sequence
from sparrow.frontends.iscsi.directory import Portal, TargetDirectory, TargetEntry
from sparrow.frontends.iscsi.discovery_session import DiscoverySession
from sparrow.frontends.iscsi.login import LoginAccepted, LoginMachine
from sparrow.frontends.iscsi.naming import target_name
from sparrow.frontends.iscsi.negotiation import OperationalOffer
from sparrow.frontends.iscsi.pdu import FINAL, RESERVED_TAG, Opcode, Pdu, PduReader, frame
from sparrow.frontends.iscsi.requests import LogoutRequest, NopOut
from sparrow.frontends.iscsi.responses import LogoutOutcome, LogoutResponse, NopIn
from sparrow.frontends.iscsi.session import NegotiatedSession, SessionType
from sparrow.frontends.scsi import cold
from sparrow.frontends.scsi.persistent import Asker, nexus_of
from sparrow.frontends.scsi.sense import LBA_OUT_OF_RANGE, MEDIUM_SENSE, ScsiAnswer
from sparrow.frontends.scsi.unit import LogicalUnit

#: For its threads to see that their sockets are shut.
END_S: Final = 30.0
_READS: Final = {0x08, 0x28, 0x88}
_WRITES: Final = {0x0A, 0x2A, 0x8A}
_SYNCS: Final = {0x35, 0x91}


@dataclass(slots=True, kw_only=True)
class _Write:
    pdu: Pdu
    at: int
    data: bytearray
    received: int = 0
    r2t_sn: int = 0
    burst_end: int = 0


class Violation(Exception):
    """The initiator broke the negotiated rules; the connection is dropped."""


class MemorySession:
    """Full-feature phase of one normal session: bytes in, bytes out."""

    def __init__(self, session: NegotiatedSession, owner: MemoryTarget) -> None:
        self._owner = owner
        self._session = session
        self._parameters = session.parameters
        self._reader = PduReader(
            segment_bytes_max=session.parameters.target_segment_bytes_max, ahs_bytes_max=0
        )
        self._reader.feed(session.residual)
        self._stat_sn = session.stat_sn
        self._exp_cmd_sn = session.exp_cmd_sn
        self._window = sequence.distance(session.exp_cmd_sn, session.max_cmd_sn)
        self._writes: dict[int, _Write] = {}
        self._out = bytearray()
        self.closed = False

    def feed(self, data: bytes) -> bytes:
        self._reader.feed(data)
        while not self.closed and (pdu := self._reader.next_pdu()) is not None:
            self._handle(pdu)
        out, self._out = bytes(self._out), bytearray()
        return out

    def _handle(self, pdu: Pdu) -> None:
        if not pdu.immediate and pdu.opcode != Opcode.DATA_OUT:
            if struct.unpack_from(">I", pdu.bhs, 24)[0] != self._exp_cmd_sn:
                raise Violation("command out of order")
            self._exp_cmd_sn = sequence.advance(self._exp_cmd_sn)
        match pdu.opcode:
            case Opcode.SCSI_COMMAND:
                self._command(pdu)
            case Opcode.DATA_OUT:
                self._data_out(pdu)
            case Opcode.NOP_OUT:
                nop = NopOut.decode(pdu)
                if nop.wants_answer:
                    self._out += NopIn(
                        task_tag=nop.task_tag, ping=nop.ping, **self._numbers()
                    ).encode()
            case Opcode.LOGOUT_REQUEST:
                logout = LogoutRequest.decode(pdu)
                self._out += LogoutResponse(
                    outcome=LogoutOutcome.CLOSED, task_tag=logout.task_tag, **self._numbers()
                ).encode()
                self.closed = True
            case Opcode.TASK_MANAGEMENT_REQUEST:
                numbers = self._numbers()
                self._out += frame(
                    struct.pack(">BB14xI4xIII12x", 0x22, FINAL, pdu.task_tag, *numbers.values())
                )
            case _:
                raise Violation(f"opcode {pdu.opcode:#x} in the full-feature phase")

    def _command(self, pdu: Pdu) -> None:
        cdb = pdu.bhs[32:48]
        opcode = cdb[0]
        lun, expected = struct.unpack_from(">Q4xI", pdu.bhs, 8)
        unit = self._owner.unit
        blocked = MEDIUM_SENSE[unit.state][opcode in _WRITES]
        if opcode in _READS | _WRITES | _SYNCS and blocked:
            self._status(pdu, cold.check_condition(blocked), expected)
        elif opcode in _READS | _WRITES:
            start, size = _extent(cdb, unit)
            if start + size > unit.size_bytes:
                self._status(pdu, cold.check_condition(LBA_OUT_OF_RANGE), expected)
            elif opcode in _READS:
                with self._owner.lock:
                    data = bytes(self._owner.disk[start : start + size])
                self._data_in(pdu, data[:expected], len(data), expected)
            else:
                self._write(pdu, start, min(size, expected))
        elif opcode in _SYNCS:
            self._status(pdu, ScsiAnswer(), expected)
        else:
            answer = self._cold(cdb, pdu.data, lun)
            if answer.data_in:
                self._data_in(pdu, answer.data_in[:expected], len(answer.data_in), expected)
            else:
                self._status(pdu, answer, expected)

    def _cold(self, cdb: bytes, data: bytes, lun: int) -> ScsiAnswer:
        unit, owner = self._owner.unit, self._owner
        nexus = nexus_of(self._session.initiator_name, self._session.isid)
        asker = Asker(nexus=nexus, port=unit.relative_port)
        with owner.lock:
            reserved = cold.Reserved(table=owner.reservations, asker=asker)
            if cold.changes_reservations(cdb):
                answer, change = cold.change_reservations(cdb, data, unit, reserved, lun=lun)
                owner.reservations = change.table or owner.reservations
                return answer
        return cold.execute(cdb, data, unit, lun=lun, states=_mapped(cdb, unit), reserved=reserved)

    # Writes

    def _write(self, pdu: Pdu, at: int, size: int) -> None:
        limits = self._parameters
        if pdu.data and not limits.immediate_data:
            raise Violation("immediate data although none was agreed on")
        if len(pdu.data) > min(size, limits.first_burst_bytes_max):
            raise Violation("more immediate data than agreed on")
        write = _Write(pdu=pdu, at=at, data=bytearray(size), received=len(pdu.data))
        write.data[: len(pdu.data)] = pdu.data
        self._writes[pdu.task_tag] = write
        if pdu.bhs[1] & FINAL:
            self._go_on(write)
        elif limits.initial_r2t:
            raise Violation("unsolicited data although InitialR2T was agreed on")
        else:
            write.burst_end = min(size, limits.first_burst_bytes_max)

    def _data_out(self, pdu: Pdu) -> None:
        write = self._writes[pdu.task_tag]
        _data_sn, offset = struct.unpack_from(">II", pdu.bhs, 36)
        if offset != write.received or offset + len(pdu.data) > write.burst_end:
            raise Violation("Data-Out outside what was asked for")
        write.data[offset : offset + len(pdu.data)] = pdu.data
        write.received += len(pdu.data)
        if pdu.bhs[1] & FINAL:
            self._go_on(write)

    def _go_on(self, write: _Write) -> None:
        """Ask for the next burst, or finish."""
        left = len(write.data) - write.received
        if not left:
            del self._writes[write.pdu.task_tag]
            with self._owner.lock:
                self._owner.disk[write.at : write.at + len(write.data)] = write.data
            self._status(write.pdu, ScsiAnswer(), len(write.data))
            return
        size = min(left, self._parameters.burst_bytes_max)
        write.burst_end = write.received + size
        numbers = self._numbers(takes_status=False)
        self._out += frame(
            struct.pack(
                ">BB14xIIIIIIII",
                Opcode.R2T,
                FINAL,
                write.pdu.task_tag,
                7,
                *numbers.values(),
                write.r2t_sn,
                write.received,
                size,
            )
        )
        write.r2t_sn += 1

    # Answers

    def _data_in(self, pdu: Pdu, data: bytes, whole: int, expected: int) -> None:
        """Data-In PDUs, the last with the status."""
        segment = self._parameters.initiator_segment_bytes_max
        pieces = [data[at : at + segment] for at in range(0, len(data), segment)] or [b""]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            residual_flags, residual = _residual(whole, expected) if last else (0, 0)
            flags = (FINAL | 0x01 | residual_flags) if last else 0
            numbers = self._numbers(takes_status=last)
            self._out += frame(
                struct.pack(
                    ">BBBB12xIIIIIIII",
                    Opcode.DATA_IN,
                    flags,
                    0,
                    0,
                    pdu.task_tag,
                    RESERVED_TAG,
                    *numbers.values(),
                    number,
                    number * segment,
                    residual,
                ),
                piece,
            )

    def _status(self, pdu: Pdu, answer: ScsiAnswer, expected: int) -> None:
        read = bool(pdu.bhs[1] & 0x40)
        residual_flags, residual = _residual(0, expected) if read else (0, 0)
        sense = struct.pack(">H", len(answer.sense)) + answer.sense if answer.sense else b""
        numbers = self._numbers()
        self._out += frame(
            struct.pack(
                ">BBBB12xI4xIIII4xI",
                Opcode.SCSI_RESPONSE,
                FINAL | residual_flags,
                0,
                answer.status,
                pdu.task_tag,
                *numbers.values(),
                0,
                residual,
            ),
            sense,
        )

    def _numbers(self, *, takes_status: bool = True) -> dict[str, int]:
        stat_sn = self._stat_sn
        if takes_status:
            self._stat_sn = sequence.advance(stat_sn)
        return {
            "stat_sn": stat_sn,
            "exp_cmd_sn": self._exp_cmd_sn,
            "max_cmd_sn": sequence.advance(self._exp_cmd_sn, self._window),
        }


@dataclass(slots=True, kw_only=True)
class MemoryTarget:
    """One volume on one listening socket; ``close`` ends every connection."""

    unit: LogicalUnit
    offer: OperationalOffer = field(default_factory=OperationalOffer)
    disk: bytearray = field(init=False)
    reservations: ReservationTable = field(default_factory=ReservationTable)
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0
    #: What ended connections that did not log out.
    failures: list[Exception] = field(default_factory=list)
    _listener: socket.socket = field(init=False)
    _connections: list[socket.socket] = field(default_factory=list)
    _dropped: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _tsih: int = 0

    def __post_init__(self) -> None:
        self.disk = bytearray(self.unit.size_bytes)
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)

    @property
    def name(self) -> str:
        return target_name(self.unit.volume_id)

    def directory(self) -> TargetDirectory:
        return TargetDirectory(
            (
                TargetEntry(
                    name=self.name,
                    volume_id=VolumeId(self.unit.volume_id),
                    group_tag=self.unit.port_group,
                    portals=(
                        Portal(host="127.0.0.1", port=self.port, group_tag=self.unit.port_group),
                    ),
                ),
            )
        )

    def drop_connections(self) -> None:
        """End every connection in the middle of whatever it does."""
        for connection in self._connections:
            self._dropped.append(connection)
            # One that ended by itself is closed already.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(END_S)
        self.drop_connections()
        for thread in self._threads:
            thread.join(END_S)
            assert not thread.is_alive()

    def _start(self, function: object, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._tsih += 1
            self._start(self._serve, connection, self._tsih)

    def _serve(self, connection: socket.socket, tsih: int) -> None:
        with connection:
            try:
                self._talk(connection, tsih)
            except RemoteProtocolError as error:
                self.failures.append(error)
                connection.sendall(getattr(error, "reply", b""))
            except (Violation, OSError) as error:
                if connection not in self._dropped:
                    self.failures.append(error)

    def _talk(self, connection: socket.socket, tsih: int) -> None:
        directory = self.directory()
        login = LoginMachine(directory=directory, tsih=tsih, offer=self.offer)
        while True:
            data = connection.recv(65536)
            if not data:
                return
            outcome = login.feed(data)
            connection.sendall(outcome.send)
            if isinstance(outcome, LoginAccepted):
                break
        session: MemorySession | DiscoverySession
        if outcome.session.session_type is SessionType.DISCOVERY:
            session = DiscoverySession(outcome.session, directory)
        else:
            session = MemorySession(outcome.session, self)
        data = b""
        while True:
            answer = session.feed(data)
            connection.sendall(answer if isinstance(answer, bytes) else answer.send)
            if session.closed:
                return
            data = connection.recv(262144)
            if not data:
                return


def _mapped(cdb: bytes, unit: LogicalUnit) -> tuple[tuple[int, bool], ...]:
    """For GET LBA STATUS: every page from the one asked for counts as mapped, for the bytes are there."""
    first = int.from_bytes(cdb[2:10], "big") * unit.block_bytes // PAGE_BYTES
    return ((max(1, unit.size_bytes // PAGE_BYTES - first), True),)


def _extent(cdb: bytes, unit: LogicalUnit) -> tuple[int, int]:
    """(offset, size) in bytes of a READ or WRITE."""
    if cdb[0] in (0x08, 0x0A):
        lba, blocks = int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256
    elif cdb[0] in (0x28, 0x2A):
        lba, blocks = struct.unpack_from(">IxH", cdb, 2)
    else:
        lba, blocks = struct.unpack_from(">QI", cdb, 2)
    return lba * unit.block_bytes, blocks * unit.block_bytes


def _residual(actual: int, expected: int) -> tuple[int, int]:
    """Flags and count of the difference between what was moved and what was announced."""
    if actual > expected:
        return 0x04, actual - expected
    return (0x02, expected - actual) if actual < expected else (0, 0)
