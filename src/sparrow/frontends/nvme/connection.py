"""One NVMe/TCP connection as the conversation sees it: initialization, then commands in and completions out.

    feed -> next_command -> complete ... -> take_output

Data for a command comes in its capsule or, where the host asks for that, by H2CData PDUs after an R2T.

Source: NVMe/TCP 1.0, 3.1 (initialization), 3.4.1 (data), 3.6.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from sparrow.formats import nvme as entries
from sparrow.formats import nvme_tcp as wire
from sparrow.formats.layout import Record
from sparrow.frontends.nvme.errors import FatalError, fatal
from sparrow.frontends.nvme.pdu import LAST, Pdu, PduReader, PduWriter
from sparrow.frontends.nvme.status import DNR, CommandRefused, Status

#: Entries of an admin queue at most, and of an I/O queue: what property CAP says.
QUEUE_ENTRIES_MAX: Final = 128
#: Data of one admin command from the host; what does not fit a capsule has no use here.
COMMAND_DATA_MAX: Final = int(wire.NVME_CAPSULE_DATA_MAX)
HPDA_MAX: Final = 31
_SGL_ALL: Final = 0xC0
_SGL_ONLY: Final = 0x40


@dataclass(frozen=True, slots=True)
class Command:
    """One command with all of its data."""

    sqe: bytes
    entry: Record
    data: bytes

    @property
    def opcode(self) -> int:
        return self.entry.number("opcode")

    @property
    def cid(self) -> int:
        return self.entry.number("cid")

    @property
    def fctype(self) -> int:
        return self.sqe[4]

    @property
    def is_fabrics(self) -> bool:
        return self.opcode == entries.NVME_FABRICS

    @property
    def sgl_length(self) -> int:
        """Bytes the host sends, or has room for."""
        return self.entry.number("sgl_length")

    @property
    def sends(self) -> bool:
        """Whether data goes from host to controller; bits 0 and 1 of opcode or fctype say so."""
        return (self.fctype if self.is_fabrics else self.opcode) & 3 == 1


@dataclass(slots=True)
class _Collecting:
    """A command whose data is asked for."""

    sqe: bytes
    entry: Record
    length: int
    data: bytearray
    spoiled: bool = False


class Connection:
    """The controller's side of one connection. ``sq_entries`` and ``flow_control`` are set by Connect."""

    def __init__(self) -> None:
        self._reader = PduReader()
        self._writer = PduWriter()
        self._out = bytearray()
        self._collecting: dict[int, _Collecting] = {}
        self._next_tag = 1
        self._under_way: set[int] = set()
        self._sq_head = 0
        self.sq_entries = QUEUE_ENTRIES_MAX
        self.flow_control = True

    # ------------------------------------------------------------ what was agreed

    @property
    def header_digest(self) -> bool:
        return self._reader.header_digest

    @property
    def data_digest(self) -> bool:
        return self._reader.data_digest

    @property
    def data_align(self) -> int:
        """Where data for the host may begin, bytes."""
        return self._writer.data_align

    @property
    def sq_head(self) -> int:
        """Commands completed, modulo the entries of the queue."""
        return self._sq_head

    @property
    def residual(self) -> bytes:
        """Bytes fed and not looked at: for whoever goes on with the connection."""
        return self._reader.residual

    # ------------------------------------------------------------ in

    def feed(self, data: bytes) -> None:
        """Take bytes from the host; :meth:`next_command` looks at them."""
        self._reader.feed(data)

    def next_command(self) -> Command | None:
        """The next command that is whole; None when more bytes are needed.

        Commands that are refused for what their entry says are completed here. Stops behind the command it gives, so
        that bytes after it can go to whoever goes on.

        Raises:
            NvmeError: send its ``reply`` after what :meth:`take_output` has, then close the connection.
        """
        while (pdu := self._reader.next_pdu()) is not None:
            if pdu.kind == wire.NVME_ICREQ:
                self._initialize(pdu)
                continue
            command = (
                self._capsule(pdu) if pdu.kind == wire.NVME_CAPSULE_CMD else self._more_data(pdu)
            )
            if command is not None:
                return command
        return None

    def _initialize(self, pdu: Pdu) -> None:
        request = wire.NVME_IC_REQUEST.unpack(pdu.header)
        if request.number("pfv") != 0:
            raise fatal(
                FatalError.UNSUPPORTED, "Only PDU format version 0.", info=8, header=pdu.header
            )
        if request.number("hpda") > HPDA_MAX:
            raise fatal(FatalError.HEADER, "HPDA is beyond 31.", info=10, header=pdu.header)
        digests = request.number("dgst") & 3
        response = struct.pack("<HBBI112x", 0, 0, digests, int(wire.NVME_H2C_DATA_MAX))
        # Its own digests come into force behind it.
        self._out += self._writer.frame(int(wire.NVME_ICRESP), response)
        for side in (self._reader, self._writer):
            side.header_digest = bool(digests & 1)
            side.data_digest = bool(digests & 2)
        self._writer.data_align = 4 * (request.number("hpda") + 1)

    def _capsule(self, pdu: Pdu) -> Command | None:
        sqe = wire.NVME_CAPSULE_COMMAND.unpack(pdu.header).blob("sqe")
        command = Command(sqe, entries.NVME_SQE.unpack(sqe), b"")
        if len(self._under_way) >= self.sq_entries:
            raise fatal(
                FatalError.SEQUENCE, "More commands than the queue has entries.", header=pdu.header
            )
        if command.cid in self._under_way:
            self._complete(command.cid, int(Status.ID_CONFLICT) | DNR)
            return None
        self._under_way.add(command.cid)
        try:
            length = _data_length(command, len(pdu.data))
        except CommandRefused as refusal:
            self.complete(command.cid, refusal.status, refusal.result)
            return None
        if not pdu.sound:
            self.complete(command.cid, Status.TRANSIENT_TRANSPORT)
            return None
        if length <= len(pdu.data):
            return Command(sqe, command.entry, pdu.data[:length])
        tag, self._next_tag = self._next_tag, self._next_tag % 0xFFFF + 1
        self._collecting[tag] = _Collecting(sqe, command.entry, length, bytearray())
        body = struct.pack("<HHII4x", command.cid, tag, 0, length)
        self._out += self._writer.frame(int(wire.NVME_R2T), body)
        return None

    def _more_data(self, pdu: Pdu) -> Command | None:
        head = wire.NVME_DATA.unpack(pdu.header)
        tag = head.number("ttag")
        waiting = self._collecting.get(tag)
        if head.number("datal") != len(pdu.data):
            raise fatal(FatalError.HEADER, "DATAL is not what came.", info=16, header=pdu.header)
        if waiting is None or waiting.entry.number("cid") != head.number("cccid"):
            raise fatal(FatalError.SEQUENCE, "Data nobody asked for.", header=pdu.header)
        if head.number("datao") != len(waiting.data):
            raise fatal(FatalError.HEADER, "Data out of order.", info=12, header=pdu.header)
        if len(waiting.data) + len(pdu.data) > waiting.length:
            raise fatal(FatalError.OUT_OF_RANGE, "More data than asked for.", header=pdu.header)
        waiting.data += pdu.data
        waiting.spoiled |= not pdu.sound
        whole = len(waiting.data) == waiting.length
        if bool(pdu.flags & LAST) != whole:
            raise fatal(
                FatalError.HEADER, "LAST_PDU is in the wrong place.", info=1, header=pdu.header
            )
        if not whole:
            return None
        del self._collecting[tag]
        if waiting.spoiled:
            self.complete(waiting.entry.number("cid"), Status.TRANSIENT_TRANSPORT)
            return None
        return Command(waiting.sqe, waiting.entry, bytes(waiting.data))

    # ------------------------------------------------------------ out

    def complete(self, cid: int, status: int, result: int = 0, data: bytes = b"") -> None:
        """Answer a command: its data, if any, then its completion."""
        assert cid in self._under_way, "answered twice"
        self._under_way.remove(cid)
        if data and status == Status.SUCCESS:
            body = struct.pack("<HxxII4x", cid, 0, len(data))
            self._out += self._writer.frame(int(wire.NVME_C2H_DATA), body, data, flags=LAST)
        self._complete(cid, status, result)

    def _complete(self, cid: int, status: int, result: int = 0) -> None:
        self._sq_head = (self._sq_head + 1) % self.sq_entries
        cqe = entries.NVME_CQE.pack(
            {
                "result": result,
                "sqhd": self._sq_head if self.flow_control else 0,
                "sqid": 0,
                "cid": cid,
                "status": status << 1,
            }
        )
        self._out += self._writer.frame(int(wire.NVME_CAPSULE_RESP), cqe)

    def take_output(self) -> bytes:
        """What is to be sent now."""
        out = bytes(self._out)
        self._out.clear()
        return out


def _data_length(command: Command, in_capsule: int) -> int:
    """Bytes the host is to send for a command.

    Raises:
        CommandRefused: what the entry says of its data makes no sense.
    """
    if command.entry.number("flags") & _SGL_ALL != _SGL_ONLY:
        raise CommandRefused(Status.INVALID_FIELD)
    if not command.sends or command.sgl_length == 0:
        return 0
    kind = command.entry.number("sgl_type")
    if kind == entries.NVME_SGL_CAPSULE:
        if command.entry.number("sgl_address") != 0:
            raise CommandRefused(Status.SGL_OFFSET)
        if command.sgl_length > in_capsule:
            raise CommandRefused(Status.SGL_LENGTH)
    elif kind != entries.NVME_SGL_TRANSPORT or in_capsule:
        raise CommandRefused(Status.SGL_TYPE)
    if command.sgl_length > COMMAND_DATA_MAX:
        raise CommandRefused(Status.SGL_LENGTH)
    return command.sgl_length
