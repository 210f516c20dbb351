"""The Connect command. Source: NVMe base 2.0, 6.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sparrow.formats import nvme as entries
from sparrow.frontends.nvme.connection import QUEUE_ENTRIES_MAX, Command
from sparrow.frontends.nvme.naming import is_legal_nqn
from sparrow.frontends.nvme.status import CommandRefused, Status

#: A host that takes any controller says this.
CNTLID_DYNAMIC: Final = 0xFFFF
NO_FLOW_CONTROL: Final = 0x04
_IN_DATA: Final = 1 << 16
#: ATR of the answer: authenticate on this queue, or it is of no use. Source: NVMe base 2.0, 6.3, figure 386.
AUTHENTICATION: Final = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRequest:
    """A host wants a queue. ``entries`` is the size of the queue, ``kato_ms`` 0 for no keep alive timer."""

    qid: int
    entries: int
    flow_control: bool
    kato_ms: int
    host_id: bytes
    host_nqn: str
    subsystem_nqn: str
    cntlid: int


def wrong_parameter(offset: int, *, in_data: bool) -> CommandRefused:
    """Connect Invalid Parameters: the completion tells which one, in the entry or in the data."""
    return CommandRefused(Status.CONNECT_PARAMETERS, result=offset | (_IN_DATA if in_data else 0))


def decode_connect(command: Command) -> ConnectRequest:
    """Read the first command of a queue.

    Raises:
        CommandRefused: it is not Connect, or a field of it is wrong.
    """
    if not command.is_fabrics or command.fctype != entries.NVME_FABRICS_CONNECT:
        raise CommandRefused(Status.SEQUENCE)
    entry = entries.NVME_CONNECT.unpack(command.sqe)
    if entry.number("recfmt") != 0:
        raise CommandRefused(Status.CONNECT_FORMAT)
    if not 1 <= entry.number("sqsize") < QUEUE_ENTRIES_MAX:
        raise wrong_parameter(44, in_data=False)
    if len(command.data) != entries.NVME_CONNECT_DATA.size:
        raise CommandRefused(Status.SGL_LENGTH)
    data = entries.NVME_CONNECT_DATA.unpack(command.data)
    host_nqn = _name(data.blob("hostnqn"))
    subsystem = _name(data.blob("subnqn"))
    if subsystem is None:
        raise wrong_parameter(256, in_data=True)
    if host_nqn is None or not is_legal_nqn(host_nqn):
        raise wrong_parameter(512, in_data=True)
    return ConnectRequest(
        qid=entry.number("qid"),
        entries=entry.number("sqsize") + 1,
        flow_control=not entry.number("cattr") & NO_FLOW_CONTROL,
        kato_ms=entry.number("kato"),
        host_id=data.blob("hostid"),
        host_nqn=host_nqn,
        subsystem_nqn=subsystem,
        cntlid=data.number("cntlid"),
    )


def _name(field: bytes) -> str | None:
    """A NUL-terminated UTF-8 string, or None."""
    text, end, _ = field.partition(b"\0")
    if not end or not text:
        return None
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None
