"""The core's events, from mail to values: one small function per kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, LinkId, Lsn, VolumeId
from sparrow.ports.dataplane import (
    BatchDamaged,
    CoreEvent,
    DiskFailed,
    GateClosed,
    GateOpened,
    NewerEpochSeen,
    PageDamaged,
    PeerLost,
    PeerRebuilt,
    PoolFull,
    PrimaryLost,
    ReservationsChanged,
    SumsDamaged,
    Upcall,
    VolumeResized,
)

GATE_CAUSES: Final = {1: "fenced", 2: "grant", 3: "command", 4: "superseded", 5: "disk"}
GATE_NUMBERS: Final = {text: number for number, text in GATE_CAUSES.items()}
PEER_CAUSES: Final = {
    1: "closed",
    2: "protocol",
    3: "recycled",
    4: "dropped",
    5: "io",
    6: "silent",
}
LINK_CAUSES: Final = {1: "closed", 2: "protocol", 3: "damaged", 4: "silent"}
FILE_NAMES: Final = {1: "wal", 2: "extents", 3: "sums", 4: "superblock", 5: "absences"}
SESSION_CAUSES: Final = {
    1: "closed",
    2: "logout",
    3: "protocol",
    4: "digest",
    5: "silent",
    6: "command",
    7: "volume",
    8: "memory",
    9: "path",
}


class Mail(NamedTuple):
    """What :meth:`Core.drain` gives, field by field (``_native/mailbox.pxd``)."""

    kind: int
    volume: int
    token: int
    rc: int
    a: int
    b: int
    c: int
    d: int
    flags: int
    payload: bytes


def _term(epoch: int, start: int) -> Term:
    return Term(epoch=Epoch(epoch), start=start)


def _gate_closed(volume_id: VolumeId, mail: Mail) -> CoreEvent:
    return GateClosed(
        volume_id=volume_id,
        term=_term(mail.a, mail.b),
        cause=GATE_CAUSES[mail.flags],
        deadline_ns=mail.c,
        lateness_us=mail.d,
    )


def _peer_lost(volume_id: VolumeId, link: LinkId, mail: Mail) -> CoreEvent:
    return PeerLost(
        volume_id=volume_id,
        slot=mail.a,
        link=link,
        term=_term(mail.b, mail.c),
        cause=PEER_CAUSES[mail.d],
    )


def _peer_rebuilt(volume_id: VolumeId, link: LinkId, mail: Mail) -> CoreEvent:
    return PeerRebuilt(
        volume_id=volume_id,
        slot=mail.a,
        link=link,
        term=_term(mail.b, mail.c),
        lsn=Lsn(mail.d),
    )


def _primary_lost(volume_id: VolumeId, mail: Mail) -> CoreEvent:
    return PrimaryLost(
        volume_id=volume_id,
        term=_term(mail.a, mail.b),
        cause=LINK_CAUSES.get(mail.c, str(mail.c)),
        base_bytes=mail.d,
    )


def _upcall(volume_id: VolumeId, mail: Mail) -> CoreEvent:
    return Upcall(
        volume_id=volume_id,
        session_key=mail.a,
        tag=mail.b,
        gate_open=bool(mail.c),
        primary_lives=bool(mail.d),
        header=mail.payload[:48],
        data=mail.payload[48:],
    )


#: Events about the link to a peer, whose slot is ``mail.a``.
PEER_EVENTS: Final[dict[str, Callable[[VolumeId, LinkId, Mail], CoreEvent]]] = {
    "peer_lost": _peer_lost,
    "peer_rebuilt": _peer_rebuilt,
}
#: Events that name a volume; keys are those of ``sparrow._native.core.EVENTS``.
VOLUME_EVENTS: Final[dict[str, Callable[[VolumeId, Mail], CoreEvent]]] = {
    "gate_opened": lambda v, mail: GateOpened(volume_id=v, term=_term(mail.a, mail.b)),
    "gate_closed": _gate_closed,
    "primary_lost": _primary_lost,
    "newer_epoch": lambda v, mail: NewerEpochSeen(volume_id=v, epoch=Epoch(mail.a)),
    "disk_failed": lambda v, mail: DiskFailed(
        volume_id=v, file=FILE_NAMES[mail.a], errno=mail.b, frozen=bool(mail.c)
    ),
    "pool_full": lambda v, mail: PoolFull(volume_id=v, full=bool(mail.a)),
    "resized": lambda v, mail: VolumeResized(volume_id=v, size_bytes=mail.a),
    "reservations": lambda v, mail: ReservationsChanged(
        volume_id=v, lsn=Lsn(mail.a), table=mail.payload
    ),
    "page_damaged": lambda v, mail: PageDamaged(volume_id=v, page=mail.a),
    "sums_damaged": lambda v, mail: SumsDamaged(volume_id=v, block=mail.a, errno=mail.b),
    "batch_damaged": lambda v, mail: BatchDamaged(
        volume_id=v, first_lsn=Lsn(mail.a), last_lsn=Lsn(mail.b)
    ),
    "upcall": _upcall,
}
