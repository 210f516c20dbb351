"""What a conversation came to before the core takes its blocks over: iSCSI, NVMe/TCP and NBD."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParameters:
    """An iSCSI session in full-feature phase, ready to be moved by the core.

    Counts in bytes; sequence numbers as RFC 7143 has them. ``pending`` is what was read beyond the last login PDU.
    ``reinstated`` when it took the place of an older session of its nexus: its first command says so.
    """

    session_key: int
    tsih: int
    cid: int
    exp_cmd_sn: int
    stat_sn: int
    initiator_recv_bytes_max: int
    target_recv_bytes_max: int
    max_burst_bytes: int
    first_burst_bytes: int
    max_outstanding_r2t: int
    initial_r2t: bool
    immediate_data: bool
    header_digest: bool
    data_digest: bool
    reinstated: bool
    pending: bytes
    #: Whose session it is, as ``formats.reservations`` has it (``ReservationNexus.record``); empty for nobody who could
    #: register.
    nexus: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueParameters:
    """An NVMe/TCP I/O queue whose Connect was answered, ready to be moved by the core.

    ``entries`` of the queue; ``sq_head`` commands completed so far, modulo that; ``data_align`` where data for the host
    may begin, bytes; ``pending`` what was read beyond the Connect. ``session_key`` is unique over all protocols.
    """

    session_key: int
    entries: int
    sq_head: int
    data_align: int
    flow_control: bool
    header_digest: bool
    data_digest: bool
    pending: bytes
    #: Whose queue it is, likewise.
    nexus: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class NbdParameters:
    """An NBD connection in transmission phase, ready to be moved by the core.

    ``context`` is the id under which base:allocation was selected, None when it was not. ``pending`` is what was read
    beyond the negotiation. Keys are of one space with those of iSCSI sessions.
    """

    session_key: int
    structured: bool
    context: int | None
    pending: bytes
