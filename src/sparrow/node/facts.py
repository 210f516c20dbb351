"""What a heartbeat says of one replica, from what the core and the node know of it. Evidence, never authority."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import is_
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.authority.evidence import PEER_HEARD_S
from sparrow.authority.types import NO_UUID, FrontendTarget, Line, ReplicaState, RoleClaim, SlotFact
from sparrow.base import events as names
from sparrow.base.constants import PEER_SILENCE_S
from sparrow.base.errors import Unavailable
from sparrow.base.ids import Epoch, VolumeId
from sparrow.frontends.iscsi.naming import target_name
from sparrow.frontends.nvme.identify import NSID
from sparrow.frontends.nvme.naming import subsystem_nqn
from sparrow.node.outside import Identity
from sparrow.node.primacy import Primacy
from sparrow.node.replicas import Broken, Replicas
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane, VolumeStatus

#: A core that takes longer to answer stands still.
STATUS_S: Final = 1.0
#: Below the first the primary is heard, from the last on it is silent (authority/evidence.py).
_SILENCE_STEPS_MS: Final = (round(PEER_HEARD_S * 1000), round(PEER_SILENCE_S * 1000))


@dataclass(frozen=True, slots=True)
class _Made:
    """A fact, and everything it was made of."""

    fact: SlotFact
    volume: Volume
    status: VolumeStatus
    primacy: Primacy | None
    line: Line | None
    withdrawn: bool
    disk_failed: bool
    size_bytes: int

    def stands(self, volume: Volume, status: VolumeStatus) -> bool:
        """Whether it would be made the same now. Statuses and lines that did not change are the same objects."""
        return (
            status is self.status
            and volume is self.volume
            and volume.known_line is self.line
            and volume.primacy is self.primacy
            and volume.size_bytes == self.size_bytes
            and volume.disk_failed == self.disk_failed
            and volume.withdrawn == self.withdrawn
            and (self.primacy is None or volume.progress.resting)
        )


@dataclass(slots=True)
class _Looked:
    """What the last look was at, and who has to be looked at again whatever the core says: theirs changes with time."""

    statuses: dict[VolumeId, VolumeStatus]
    stirs: int
    unsettled: set[VolumeId]


class SlotReports:
    """The slots of one heartbeat after another.

    A node with many volumes looks only at those that have news: another status than the one looked at, or one that was
    not settled then (``Volume.settled``: looking again could change something). What happens outside the core may
    touch any of them, so after that (``Replicas.stirs``) all are looked at.
    """

    def __init__(
        self,
        replicas: Replicas,
        dataplane: DataPlane,
        me: Identity,
        log: FilteringBoundLogger,
    ) -> None:
        self._replicas = replicas
        self._dataplane = dataplane
        self._me = me
        self._log = log
        #: Told last; the same object for as long as every fact in it is.
        self._told: tuple[SlotFact, ...] = ()
        self._slots: dict[VolumeId, SlotFact] = {}
        self._made: dict[VolumeId, _Made] = {}
        #: None: nothing that was seen before counts.
        self._looked: _Looked | None = None
        #: The last look found what the one before it had found.
        self.resting = False

    async def take(self) -> tuple[SlotFact, ...]:
        """Every replica as it is now; volumes learn on the way what the core says of them."""
        self.resting = False
        try:
            async with asyncio.timeout(STATUS_S):
                statuses = await self._dataplane.statuses()
        except (TimeoutError, Unavailable):
            # The core stands still; this process does not, so others can be asked to take over in good order.
            self._log.warning(names.CORE_STALLED)
            self._looked = None
            self._told = tuple(replace(told, withdrawn=True) for told in self._told)
            return self._told
        looked, stirs = self._looked, self._replicas.stirs
        if (
            looked is None
            or looked.stirs != stirs
            or looked.statuses.keys() != statuses.keys()
            or self._replicas.leaving
        ):
            self._look_at_all(statuses, stirs)
        elif looked.statuses is statuses and not looked.unsettled:
            # Nothing was told by the core, nothing happened here, and nothing was on its way: as it is for hours.
            self.resting = True
        else:
            self._look_at_news(looked, statuses)
        return self._told

    def _look_at_all(self, statuses: dict[VolumeId, VolumeStatus], stirs: int) -> None:
        looked = self._looked = _Looked(statuses, stirs, set())
        self._slots = {}
        for volume in self._replicas:
            status = statuses.get(volume.volume_id)
            if status is not None:  # else it is being opened, or closed
                self._look(volume, status, looked)
        for gone in self._made.keys() - self._slots.keys():
            del self._made[gone]
        for broken in self._replicas.broken.values():
            self._slots[broken.volume_id] = unreadable_fact(broken, self._me)
        # A replica that is being deleted is here until its files are gone; it will not serve again.
        leaving = (
            replace(slot, ready_for_primary=False, role_claim=RoleClaim.NONE, gate_open=False)
            for slot in self._told
            if slot.volume_id in self._replicas.leaving and slot.volume_id not in self._slots
        )
        self._tell((*self._slots.values(), *leaving))

    def _look_at_news(self, looked: _Looked, statuses: dict[VolumeId, VolumeStatus]) -> None:
        before, looked.statuses = looked.statuses, statuses
        again, looked.unsettled = looked.unsettled, set()
        for volume_id, status in statuses.items():
            if status is before[volume_id] and volume_id not in again:
                continue
            volume = self._replicas.find(volume_id)
            if (
                volume is not None
            ):  # else it is not among the replicas yet; that it is will be noted as a stir
                self._look(volume, status, looked)
        self._tell(tuple(self._slots.values()))

    def _look(self, volume: Volume, status: VolumeStatus, looked: _Looked) -> None:
        volume.observe(status)
        self._slots[volume.volume_id] = self._fact(volume, status)
        if not volume.settled:
            looked.unsettled.add(volume.volume_id)

    def _tell(self, slots: tuple[SlotFact, ...]) -> None:
        if len(slots) != len(self._told) or not all(map(is_, slots, self._told)):
            self._told = slots

    def _fact(self, volume: Volume, status: VolumeStatus) -> SlotFact:
        """The fact it had, when core and volume say what they said last time."""
        made = self._made.get(volume.volume_id)
        if made is None or not made.stands(volume, status):
            fact = slot_fact(volume, status, self._me)
            made = self._made[volume.volume_id] = _Made(
                # Much of a status, sessions and counts of reads, is in no fact.
                made.fact if made is not None and made.fact == fact else fact,
                volume,
                status,
                volume.primacy,
                volume.known_line,
                volume.withdrawn,
                volume.disk_failed,
                volume.size_bytes,
            )
        return made.fact


@lru_cache(maxsize=4096)
def unreadable_fact(broken: Broken, me: Identity) -> SlotFact:
    """What is told of files that cannot be opened: that they are there, that nobody may count on them, and how lost."""
    return SlotFact(
        volume_id=broken.volume_id,
        replica_id=broken.replica_id,
        uuid=NO_UUID,
        data_addr=me.data_addr,
        ctrl_addr=me.ctrl_addr,
        ready_for_primary=False,
        disk_failed=broken.lost,
        state=ReplicaState.CONDEMNED,
    )


def slot_fact(volume: Volume, status: VolumeStatus, me: Identity) -> SlotFact:
    """The facts of one replica at the moment ``status`` was taken."""
    log = status.log
    serving = status.gate_open
    claim = RoleClaim.PRIMARY if serving else RoleClaim.NONE
    if volume.primacy is not None and not serving:
        claim = RoleClaim.CANDIDATE
    return SlotFact(
        volume_id=volume.volume_id,
        replica_id=volume.replica_id,
        uuid=log.uuid,
        data_addr=me.data_addr,
        ctrl_addr=me.ctrl_addr,
        ready_for_primary=could_open(volume, status),
        withdrawn=volume.withdrawn,
        disk_failed=volume.disk_failed or status.disk_failed,
        suspect=log.suspect or log.must_reach_lsn > log.last_lsn,
        state=log.state,
        lineage=volume.known_line.lineage if volume.known_line is not None else None,
        role_claim=claim,
        gate_open=serving,
        term=status.term if status.term.epoch > Epoch(0) else None,
        last_term=log.last_term if log.last_term.epoch > Epoch(0) else None,
        last_lsn=log.last_lsn,
        durable_lsn=log.durable_lsn,
        commit_lsn=log.commit_lsn,
        applied_lsn=log.applied_lsn,
        peers=() if volume.primacy is None else volume.peers_seen(status),
        primary_silent_ms=None if volume.primacy is not None else told_silence_ms(status),
        frontends=frontends_of(volume, me),
        size_bytes=volume.size_bytes,
    )


def frontends_of(volume: Volume, me: Identity) -> tuple[FrontendTarget, ...]:
    """Where initiators reach a volume on this node; iSCSI first."""
    return _frontends(volume.volume_id, me)


@lru_cache(maxsize=4096)
def _frontends(volume_id: VolumeId, me: Identity) -> tuple[FrontendTarget, ...]:
    name = target_name(volume_id)
    found = [
        FrontendTarget(protocol="iscsi", addr=addr, name=name)
        for addr in me.iscsi_portals or (me.iscsi_addr,)
    ]
    if me.nvme_addr:
        nqn = subsystem_nqn(volume_id)
        found.append(FrontendTarget(protocol="nvme", addr=me.nvme_addr, name=nqn, lun=NSID))
    if me.nbd_addr:
        scheme = "nbds" if me.nbd_tls else "nbd"
        found.append(FrontendTarget(protocol=scheme, addr=me.nbd_addr, name=volume_id))
    return tuple(found)


def told_silence_ms(status: VolumeStatus) -> int | None:
    """How long nothing was heard from the primary, in the few steps that evidence tells apart.

    Rounded up within a step: said again, or left unsaid because nothing changed, it stays true. Exact milliseconds
    would make every follower's slot a changed one in every heartbeat.
    """
    silent = status.primary_silent_ms
    if silent is None:
        return None
    return next((step - 1 for step in _SILENCE_STEPS_MS if silent < step), _SILENCE_STEPS_MS[-1])


def could_open(volume: Volume, status: VolumeStatus) -> bool:
    """Whether this replica could open its volume under a new line: disk fine, log whole, meant by the line."""
    log = status.log
    failed = volume.disk_failed or status.disk_failed or volume.hung
    fine = log.state is ReplicaState.CLEAN and not failed
    whole = log.must_reach_lsn <= log.last_lsn
    meant = volume.known_line is None or volume.known_line.retired or volume.is_member
    return fine and whole and meant
