"""All replicas of this node: opened at start, made and removed as the master wants, found by everyone else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sparrow.authority.effects import HostReplica, RemoveReplica
from sparrow.authority.types import AssignmentFact, Line, ReplicaState
from sparrow.base import events as names
from sparrow.base.errors import (
    DamagedData,
    FailedPrecondition,
    NotFound,
    Unavailable,
)
from sparrow.base.ids import Epoch, ReplicaId, ReplicaUuid, VolumeId
from sparrow.node.found import Outcome, open_each
from sparrow.node.surroundings import Surroundings
from sparrow.node.troubles import CAUSE_BYTES_MAX, cut
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import OpenReport
from sparrow.rpc.messages import ReleaseReplicaRequest

CLOSE_AT_ONCE: Final = 4
#: Replicas that cannot be opened and are told of one by one.
TOLD_MAX: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Files that could not be opened. They are told of, so that everybody knows that this node has them.

    ``lost``: they are damaged, and no start of this node makes them whole. Otherwise something is missing that may come
    back: a WAL device, a permission, the version that wrote them.
    """

    volume_id: VolumeId
    replica_id: ReplicaId
    cause: str
    lost: bool


class Replicas:
    """Every volume this node has files of."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._dataplane = around.dataplane
        self._log = around.log
        self._volumes: dict[VolumeId, Volume] = {}
        #: Replicas whose files are being deleted now.
        self.leaving: set[VolumeId] = set()
        #: Files that could not be opened; never formatted over.
        self.broken: dict[VolumeId, Broken] = {}
        #: What the master wants to be where they are.
        self._wanted: dict[VolumeId, HostReplica] = {}
        #: Facts of volumes that are not open yet.
        self._early: dict[VolumeId, AssignmentFact] = {}
        self._changing: dict[VolumeId, asyncio.Lock] = {}
        #: Called with the uuid of files that were deleted.
        self.on_removed: Callable[[ReplicaUuid], None] = lambda _uuid: None
        self._dismissals: list[Callable[[VolumeId], Awaitable[None]]] = []

    def before_removal(self, dismiss: Callable[[VolumeId], Awaitable[None]]) -> None:
        """Await this before a replica's files go: a frontend asks its initiators to leave. Bounded by itself."""
        self._dismissals.append(dismiss)

    def __iter__(self) -> Iterator[Volume]:
        return iter([self._volumes[volume_id] for volume_id in sorted(self._volumes)])

    def get(self, volume_id: VolumeId) -> Volume:
        """Raises: NotFound."""
        volume = self._volumes.get(volume_id)
        if volume is None:
            raise NotFound(f"This node has no replica of {volume_id}.")
        return volume

    @property
    def stirs(self) -> int:
        """Counts what happens to any of them but in the core."""
        return self._around.stirs.count

    def find(self, volume_id: VolumeId) -> Volume | None:
        return self._volumes.get(volume_id)

    async def open_all(self) -> None:
        """Open every replica that has files; one that cannot be opened is reported and left alone."""
        here = self._dataplane.replicas()
        await open_each(self._dataplane, lambda name, outcome: self._opened(name, outcome, here))

    def adopt(self, found: Mapping[VolumeId, Outcome]) -> None:
        """Take over what was opened already, as :meth:`open_all` would have opened it."""
        here = self._dataplane.replicas()  # once: it looks at every folder of the pool
        for volume_id, outcome in found.items():
            self._opened(volume_id, outcome, here)

    def _opened(
        self, volume_id: VolumeId, outcome: Outcome, here: Mapping[VolumeId, ReplicaId]
    ) -> None:
        if isinstance(outcome, OpenReport):
            self._add(volume_id, outcome)
            return
        self.broken[volume_id] = Broken(
            volume_id=volume_id,
            replica_id=here[volume_id],
            cause=f"{outcome} {outcome.hint}".strip(),
            lost=isinstance(outcome, DamagedData),
        )
        self._log.error(
            names.REPLICA_UNREADABLE,
            volume=volume_id,
            replica=self.broken[volume_id].replica_id,
            code=outcome.code,
            cause=str(outcome),
            hint=outcome.hint,
        )

    def troubles(self) -> tuple[str, ...]:
        """Sentences about replicas that cannot be opened, for an operator; few and short however many there are."""
        found = [self.broken[volume_id] for volume_id in sorted(self.broken)]
        told = [
            f"{one.replica_id} of volume {one.volume_id} cannot be opened: {cut(one.cause, CAUSE_BYTES_MAX)}"
            for one in found[:TOLD_MAX]
        ]
        if len(found) > TOLD_MAX:
            rest = len(found) - TOLD_MAX
            told.append(
                f"{rest} more replicas cannot be opened; its log has each as {names.REPLICA_UNREADABLE}."
            )
        return tuple(told)

    async def want(self, desired: HostReplica) -> None:
        """Make the files of a replica if there are none; existing files are never touched, but told what is wanted.

        Raises: StorageError.
        """
        volume_id = desired.volume_id
        async with self._lock(volume_id):
            if volume_id in self._volumes:
                self._volumes[volume_id].growth.want(desired.size_wanted)
            if volume_id in self.broken:
                self._wanted[volume_id] = desired
            if volume_id in self._volumes or volume_id in self.broken:
                return
            if volume_id in self._dataplane.replicas():
                return
            uuid = await self._dataplane.format_replica(
                volume_id,
                desired.replica_id,
                size_bytes=desired.size_bytes,
                block_size=desired.block_size,
            )
            self._log.info(
                names.REPLICA_FORMATTED, volume=volume_id, replica=desired.replica_id, uuid=uuid
            )
            volume = self._add(volume_id, await self._dataplane.open_replica(volume_id))
            volume.growth.want(desired.size_wanted)
        early = self._early.pop(volume_id, None)
        if early is not None:
            await volume.accept(early)
        self._around.stirs.note()
        self._around.urge()

    async def assign(self, fact: AssignmentFact) -> None:
        """Hand a line to its volume; kept for later when the replica is still being made."""
        volume = self._volumes.get(fact.line.volume_id)
        if volume is None:
            self._early[fact.line.volume_id] = fact
            return
        await volume.accept(fact)

    async def remove(self, wanted: RemoveReplica) -> None:
        """Delete a replica's files, if what came with the wish proves that nobody counts on them.

        A tombstone proves it of every replica of a retired volume; a live line that is as new as the one held here
        proves it of a replica that is not among its members. Of files that cannot be opened nobody knows which line
        they held: a line proves it that has no member of that name here; names are used again, elsewhere.
        """
        volume_id, tombstone = wanted.volume_id, wanted.tombstone
        if tombstone.retired:
            self._early.pop(volume_id, None)
        async with self._lock(volume_id):
            volume, broken = self._volumes.get(volume_id), self.broken.get(volume_id)
            cause = ""
            if tombstone.volume_id != volume_id:
                cause = "what came with it is no line of this volume"
            elif volume is not None and volume.replica_id != wanted.replica_id:
                cause = f"this node hosts {volume.replica_id}"
            elif volume is not None:
                cause = _still_wanted(volume, tombstone)
            elif broken is not None and broken.replica_id != wanted.replica_id:
                cause = f"this node has files of {broken.replica_id}, which cannot be opened"
            elif broken is not None and not tombstone.retired and self._may_mean(tombstone, broken):
                cause = "the line that came with it has a member of their name"
            if cause:
                self._log.error(
                    names.LINE_REFUSED,
                    volume=volume_id,
                    epoch=tombstone.lineage.epoch,
                    cause=f"files are kept: {cause}",
                )
                return
            if broken is not None:
                await self._give_up(broken, epoch=tombstone.lineage.epoch)
            if volume is None:
                return
            del self._volumes[volume_id]
            # Told to the master until the files are gone: what is missing in a heartbeat counts as deleted.
            self.leaving.add(volume_id)
            self._around.stirs.note()
            try:
                for dismiss in self._dismissals:
                    await dismiss(volume_id)
                await volume.close()
                await self._dataplane.delete_replica(volume_id)
                self.on_removed(volume.uuid)
            finally:
                self.leaving.discard(volume_id)
                self._around.stirs.note()
            self._log.info(
                names.REPLICA_REMOVED,
                volume=volume_id,
                replica=wanted.replica_id,
                epoch=tombstone.lineage.epoch,
            )
        self._around.stirs.note()
        self._around.urge()

    async def discard(self, request: ReleaseReplicaRequest) -> None:
        """An operator gives up files that cannot be opened; blank ones take their place, to be rebuilt.

        They are counted on by nobody: the newest line the master's own stream brought has the replica neither in sync
        nor eligible nor set aside. That is what lets a primary empty files that can be opened (``Follower.prepared``).

        Raises:
            FailedPrecondition: the line still counts on them.
            NotFound: this node has no such files.
            StorageError: they cannot be deleted, or no blank ones made.
            Unavailable: that line has not come down the master's own stream yet.
        """
        volume_id = request.line.volume_id
        async with self._lock(volume_id):
            broken, heard = self.broken.get(volume_id), self._early.get(volume_id)
            if broken is None or broken.replica_id != request.replica_id:
                raise NotFound(f"This node has no files of {request.replica_id} of {volume_id}.")
            if heard is None or heard.line.lineage < request.line.lineage:
                raise Unavailable(f"That line of {volume_id} was not heard of here yet.")
            line = heard.line
            counted = (*line.in_sync, *line.eligible, *line.set_aside)
            if request.state is not ReplicaState.REBUILDING or broken.replica_id in counted:
                raise FailedPrecondition(
                    f"The newest line of {volume_id} counts on {broken.replica_id}: its files are kept."
                )
            self._log.warning(
                names.REPLICA_RELEASED, volume=volume_id, state=request.state, who=request.who
            )
            await self._give_up(broken, epoch=line.lineage.epoch)
            wanted = self._wanted.pop(volume_id, None)
        if wanted is not None:
            await self.want(wanted)

    def _may_mean(self, line: Line, broken: Broken) -> bool:
        member = line.member(broken.replica_id)
        return member is not None and member.node_id == self._around.me.node_id

    async def _give_up(self, broken: Broken, *, epoch: Epoch) -> None:
        """Delete files that cannot be opened; told of until they are gone. Raises: StorageError."""
        await self._dataplane.delete_replica(broken.volume_id)
        del self.broken[broken.volume_id]
        self._log.info(
            names.REPLICA_REMOVED, volume=broken.volume_id, replica=broken.replica_id, epoch=epoch
        )
        self._around.stirs.note()
        self._around.urge()

    def control_changed(self, *, live: bool) -> None:
        for volume in self:
            volume.control_changed(live=live)

    async def close_all(self) -> None:
        """Close every replica, a few at a time."""
        room = asyncio.Semaphore(CLOSE_AT_ONCE)

        async def close_one(volume: Volume) -> None:
            async with room:
                await volume.close()

        volumes = list(self)
        self._volumes.clear()
        await asyncio.gather(*(close_one(volume) for volume in volumes))

    def _add(self, volume_id: VolumeId, report: OpenReport) -> Volume:
        volume = Volume(volume_id=volume_id, report=report, around=self._around)
        self._volumes[volume_id] = volume
        self._around.stirs.note()
        log = report.log
        self._log.info(
            names.REPLICA_OPENED,
            volume=volume_id,
            replica=report.replica_id,
            uuid=log.uuid,
            state=log.state,
            suspect=log.suspect,
            last_lsn=log.last_lsn,
            commit_lsn=log.commit_lsn,
            promised_epoch=report.promised_epoch,
        )
        if report.torn_after_lsn is not None:
            self._log.info(
                names.WAL_TORN_TAIL_CUT, volume=volume_id, after_lsn=report.torn_after_lsn
            )
        if report.damaged_after_lsn is not None:
            self._log.error(
                names.WAL_DAMAGE_FOUND,
                volume=volume_id,
                after_lsn=report.damaged_after_lsn,
                must_reach_lsn=log.must_reach_lsn,
            )
        if report.completed_blocks:
            self._log.info(names.SUMS_COMPLETED, volume=volume_id, blocks=report.completed_blocks)
        if report.superblock_damaged:
            self._log.error(names.SUPERBLOCK_DAMAGED, volume=volume_id)
        if report.let_go_to_lsn is not None:
            self._log.error(names.WAL_LET_GO, volume=volume_id, to_lsn=report.let_go_to_lsn)
        if log.state is ReplicaState.QUARANTINED:
            self._log.error(names.REPLICA_QUARANTINED, volume=volume_id)
        return volume

    def _lock(self, volume_id: VolumeId) -> asyncio.Lock:
        return self._changing.setdefault(volume_id, asyncio.Lock())


def _still_wanted(volume: Volume, proof: Line) -> str:
    """Why a line does not prove that a replica's files may go; empty when it does."""
    known = volume.known_line
    if proof.retired:
        if known is not None and proof.lineage.epoch < known.lineage.epoch:
            return f"epoch {known.lineage.epoch} is known here"
        return ""
    if known is not None and proof.lineage < known.lineage:
        return f"a newer line is known here, of epoch {known.lineage.epoch}"
    member = proof.member(volume.replica_id)
    if member is not None and member.uuid == volume.uuid:
        return "the line that came with it means these very files"
    return ""
