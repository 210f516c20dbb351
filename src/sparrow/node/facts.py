"""What a heartbeat says of one replica, from what the core and the node know of it. Evidence, never authority."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.authority.evidence import PEER_HEARD_S
from sparrow.authority.types import FrontendTarget, Line, ReplicaState, RoleClaim, SlotFact
from sparrow.base import events as names
from sparrow.base.constants import PEER_SILENCE_S
from sparrow.base.errors import Unavailable
from sparrow.base.ids import Epoch, VolumeId
from sparrow.frontends.iscsi.naming import target_name
from sparrow.frontends.nvme.identify import NSID
from sparrow.frontends.nvme.naming import subsystem_nqn
from sparrow.node.outside import Identity
from sparrow.node.primacy import Primacy
from sparrow.node.replicas import Replicas
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


class SlotReports:
    """The slots of one heartbeat after another."""

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
        self._told: tuple[SlotFact, ...] = ()
        self._made: dict[VolumeId, _Made] = {}
        #: What was told last stands while both are as they were; None: it may change with time alone.
        self._stands: tuple[dict[VolumeId, VolumeStatus], int] | None = None
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
            self._stands = None
            self._told = tuple(replace(told, withdrawn=True) for told in self._told)
            return self._told
        stirs = self._replicas.stirs
        if self._stands is not None and self._stands[0] is statuses and self._stands[1] == stirs:
            # Nothing was told by the core, nothing happened here, and nothing was on its way: as it is for hours.
            self.resting = True
            return self._told
        slots = []
        settled = True
        for volume in self._replicas:
            status = statuses.get(volume.volume_id)
            if status is None:
                continue  # being opened, or closed
            volume.observe(status)
            slots.append(self._fact(volume, status))
            settled = settled and volume.settled
        told = {slot.volume_id for slot in slots}
        # A replica that is being deleted is here until its files are gone; it will not serve again.
        slots += [
            replace(slot, ready_for_primary=False, role_claim=RoleClaim.NONE, gate_open=False)
            for slot in self._told
            if slot.volume_id in self._replicas.leaving and slot.volume_id not in told
        ]
        self._told = tuple(slots)
        self._stands = (statuses, stirs) if settled else None
        for gone in self._made.keys() - told:
            del self._made[gone]
        return self._told

    def _fact(self, volume: Volume, status: VolumeStatus) -> SlotFact:
        """The fact it had, when core and volume say what they said last time."""
        made = self._made.get(volume.volume_id)
        if made is None or not made.stands(volume, status):
            made = self._made[volume.volume_id] = _Made(
                slot_fact(volume, status, self._me),
                volume,
                status,
                volume.primacy,
                volume.known_line,
                volume.withdrawn,
                volume.disk_failed,
                volume.size_bytes,
            )
        return made.fact


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
    fine = log.state is ReplicaState.CLEAN and not volume.disk_failed and not status.disk_failed
    whole = log.must_reach_lsn <= log.last_lsn
    meant = volume.known_line is None or volume.known_line.retired or volume.is_member
    return fine and whole and meant
