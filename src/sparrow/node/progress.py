"""How far a primary is with each of its peers, for people: kind, share, rate, bytes shipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sparrow.authority.types import PeerProgress
from sparrow.base.ids import ReplicaId
from sparrow.ports.dataplane import PeerPhase, PeerStatus, VolumeStatus

#: A rate is taken over at least so long; looks come every half second, and more often when something happens.
SAMPLE_S: Final = 1.0


@dataclass(slots=True)
class _Sample:
    at: float
    shipped: int
    rate: int = 0
    #: Where a catch-up began: LSN acknowledged then.
    began_lsn: int = 0
    catching_up: bool = False
    #: The rate is not what it will be if nothing more is shipped.
    moving: bool = False


class Progress:
    """Remembers what is needed for rates. ``replica_of`` names the peer of a slot, None when it has none."""

    def __init__(self, replica_of: Callable[[int], ReplicaId | None]) -> None:
        self._replica_of = replica_of
        self._samples: dict[ReplicaId, _Sample] = {}

    def peers(
        self, status: VolumeStatus, in_sync: frozenset[ReplicaId], now: float
    ) -> tuple[PeerProgress, ...]:
        """All peers with a link or a past, by replica id. ``now`` in seconds, never going back."""
        found = []
        for peer in status.peers:
            replica = self._replica_of(peer.slot)
            if replica is not None:
                found.append(self._progress(replica, peer, status, replica in in_sync, now))
        return tuple(sorted(found, key=lambda one: one.replica_id))

    @property
    def resting(self) -> bool:
        """Whether the same status would give the same progress at any later time."""
        return not any(sample.moving for sample in self._samples.values())

    def _progress(
        self, replica: ReplicaId, peer: PeerStatus, status: VolumeStatus, in_sync: bool, now: float
    ) -> PeerProgress:
        shipped = peer.log_bytes + peer.base_bytes
        sample = self._samples.setdefault(replica, _Sample(at=now, shipped=shipped))
        if now - sample.at >= SAMPLE_S:
            sample.rate = max(0, round((shipped - sample.shipped) / (now - sample.at)))
            sample.at, sample.shipped = now, shipped
        sample.moving = sample.rate != 0 or shipped != sample.shipped
        catching_up = (
            peer.phase is PeerPhase.SHIPPING
            and not in_sync
            and peer.acked_lsn < status.log.last_lsn
        )
        if catching_up and not sample.catching_up:
            sample.began_lsn = peer.acked_lsn
        sample.catching_up = catching_up
        kind, done, total = "", 0, 0
        if peer.phase is PeerPhase.REBUILDING and peer.rebuild_kind is not None:
            kind = peer.rebuild_kind.name.lower()
            done, total = peer.base_pages_done, peer.base_pages_total
        elif catching_up:
            kind = "catch_up"
            done = peer.acked_lsn - sample.began_lsn
            total = status.log.last_lsn - sample.began_lsn
        return PeerProgress(
            replica_id=replica,
            kind=kind,
            done=done,
            total=total,
            rate=sample.rate,
            log_bytes=peer.log_bytes,
            base_bytes=peer.base_bytes,
        )
