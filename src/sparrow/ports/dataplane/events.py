"""Facts that the core reports by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, LinkId, Lsn, VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOpened:
    volume_id: VolumeId
    term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class GateClosed:
    """``cause``: fenced, grant, command, superseded, disk. ``lateness_us`` is how late the fence timer was."""

    volume_id: VolumeId
    term: Term
    cause: str
    deadline_ns: int
    lateness_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLost:
    """The link to a peer is gone: cause says why (closed, protocol, recycled, io, silent). Not told of one dropped."""

    volume_id: VolumeId
    slot: int
    link: LinkId
    term: Term
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRebuilt:
    """Base and live lane met: the peer holds everything up to ``lsn``."""

    volume_id: VolumeId
    slot: int
    link: LinkId
    term: Term
    lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryLost:
    """A follower's link from its primary ended. ``base_bytes``: what a rebuild had installed over it."""

    volume_id: VolumeId
    term: Term
    cause: str
    base_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewerEpochSeen:
    """A peer refused us because it promised a newer epoch."""

    volume_id: VolumeId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFailed:
    """A write or flush failed: the replica is condemned and stops. ``file`` is wal, extents, sums or superblock.

    ``frozen``: it is the last in-sync copy and only its extents or sums failed: it goes on serving reads.
    """

    volume_id: VolumeId
    file: str
    errno: int
    frozen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFull:
    """The pool has no room for a page that was never written; ``full`` false when room is back."""

    volume_id: VolumeId
    full: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeResized:
    """A resize committed: clients may use so many bytes now, and were told to look."""

    volume_id: VolumeId
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationsChanged:
    """A table of reservations committed: each one, in the order of their LSNs, on every replica that logs them.

    What was there when a replica was opened is told first, with the first commit after that.
    """

    volume_id: VolumeId
    lsn: Lsn
    #: As ``formats.reservations`` has it.
    table: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDamaged:
    """A page failed its checksum; reads of it wait (bounded) for a repair."""

    volume_id: VolumeId
    page: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsDamaged:
    """A block of checksums is damaged or unreadable; what needs it waits (bounded) for :meth:`DataPlane.mend_sums`."""

    volume_id: VolumeId
    block: int
    #: Of the read, 0 when it was read and is not whole.
    errno: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDamaged:
    """A batch in the log on disk is not what was written there; peers that need it wait for :meth:`mend_batch`."""

    volume_id: VolumeId
    first_lsn: Lsn
    last_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Upcall:
    """A command the core does not execute. Answer with :meth:`DataPlane.answer`.

    Of an iSCSI session; or one of reservations of an NVMe queue, whose status is SCT << 8 | SC, and DNR.
    """

    volume_id: VolumeId
    session_key: int
    tag: int
    #: The 48-byte basic header segment, or as much of the submission queue entry; and the data that came with it.
    header: bytes
    data: bytes
    #: When the command came: the gate was open; another replica, the primary, held a grant of this one.
    gate_open: bool = False
    primary_lives: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded:
    volume_id: VolumeId
    session_key: int
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLinkLost:
    node_key: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreLeaked:
    """The last event of a stop, when something was not put back: a bug, harmless only because the process ends."""

    held: Mapping[str, int]


CoreEvent = (
    GateOpened
    | GateClosed
    | PeerLost
    | PeerRebuilt
    | PrimaryLost
    | NewerEpochSeen
    | DiskFailed
    | PoolFull
    | VolumeResized
    | ReservationsChanged
    | PageDamaged
    | SumsDamaged
    | BatchDamaged
    | Upcall
    | SessionEnded
    | GrantLinkLost
    | CoreLeaked
)
