"""VolumeService: create, get, list, resize, delete, move, verify, scrub.

What is wanted becomes durable first and is worked on afterwards, by the authority loop; a call only waits for that.
So a caller that goes away, a time-out and a restart of the master all leave the same thing: work that goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.authority.builder import VolumeSnapshot
from sparrow.authority.events import TopologyChanged
from sparrow.authority.results import PutFailed, RefusedAsk
from sparrow.authority.status import VolumeState, VolumeStatus, serving
from sparrow.authority.types import DesiredVolume, Line, Member, VolumePhase
from sparrow.base import events
from sparrow.base.constants import FRESHNESS_S
from sparrow.base.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SparrowError,
    TimedOut,
    Unavailable,
)
from sparrow.base.ids import VolumeId
from sparrow.base.units import format_size
from sparrow.lifecycle.placement import place
from sparrow.lifecycle.plans.move import plan_move, reaches, target_of
from sparrow.lifecycle.spec import VolumeSpec, check_name, check_size, check_spec
from sparrow.master.driver import Driver
from sparrow.master.incoming import check_move
from sparrow.master.inventory import Inventory
from sparrow.master.node_states import NodeStates
from sparrow.master.reconciler import Reconciler
from sparrow.master.views import known_nodes, node_rooms, told_progress, volume_view
from sparrow.ports.store import AuthorityStore
from sparrow.rpc import methods
from sparrow.rpc.client import Channel
from sparrow.rpc.messages import (
    CandidateView,
    CreateVolumeRequest,
    DeleteVolumeAnswer,
    DeleteVolumeRequest,
    GetVolumeRequest,
    ListVolumesRequest,
    MoveProgress,
    MoveVolumeRequest,
    ResizeVolumeRequest,
    ScrubReport,
    ScrubRequest,
    ScrubStatus,
    VerifyProgress,
    VerifyRequest,
    VolumeList,
    VolumeView,
    VolumeWhy,
    WhyVolumeRequest,
)
from sparrow.rpc.paging import Walk, paged
from sparrow.rpc.proof import Keys
from sparrow.rpc.server import Call, Route, stream, unary

#: How long a call waits for nodes to do what it started, at most.
WORK_S: Final = 15.0
#: A node that does not answer within this is listed as one that cannot be asked.
SCRUB_TIMEOUT_S: Final = 2.0
#: Of the caller's own deadline, what is left for the answer to travel.
ANSWER_S: Final = 0.5
#: After a start the master knows few nodes; a create that needs more waits for their first heartbeats.
GATHER_S: Final = FRESHNESS_S
#: How long a move waits for the replica's own word that it has what was committed when it was asked for.
REPORT_S: Final = FRESHNESS_S

_SERVING: Final = (VolumeState.HEALTHY, VolumeState.DEGRADED)


class VolumeService:
    """What operators call about volumes."""

    def __init__(
        self,
        driver: Driver,
        inventory: Inventory,
        store: AuthorityStore,
        states: NodeStates,
        reconciler: Reconciler,
        *,
        awaited_nodes: Callable[[], tuple[str, ...]] = tuple,
        log: FilteringBoundLogger,
        keys: Keys | None = None,
    ) -> None:
        self._driver = driver
        self._keys = keys
        self._inventory = inventory
        self._store = store
        self._states = states
        self._reconciler = reconciler
        self._awaited_nodes = awaited_nodes
        self._log = log
        self._started_at = driver.clock.now()

    def routes(self) -> tuple[Route, ...]:
        return (
            unary(methods.CREATE_VOLUME, self.create),
            unary(methods.GET_VOLUME, self.get),
            paged(methods.LIST_VOLUMES, self.list_volumes),
            unary(methods.DELETE_VOLUME, self.delete),
            unary(methods.RESIZE_VOLUME, self.resize),
            stream(methods.MOVE_VOLUME, self.move),
            stream(methods.VERIFY_VOLUME, self.verify),
            unary(methods.SCRUB_VOLUME, self.scrub),
            unary(methods.WHY_VOLUME, self.why),
        )

    async def create(self, request: CreateVolumeRequest, call: Call) -> VolumeView:
        """Check, place, record, then wait until it serves; an equal volume that is there already, where that will do.

        Raises:
            InvalidArgument, AlreadyExists, FailedPrecondition: refused, and nothing was recorded.
            TimedOut: recorded, and still being made.
        """
        check_name(request.name)
        await self._gather(VolumeId(request.name), request.replication_factor)
        # No await from here to the record: two creates of one name cannot both pass.
        spec = check_spec(
            name=request.name,
            size_bytes=request.size_bytes,
            replication_factor=request.replication_factor,
            block_size=request.block_size,
            min_in_sync=request.min_in_sync,
            ack=request.ack,
            known_nodes=len(known_nodes(self._driver, self._inventory)),
        )
        if not (request.exist_ok and self._is_equal(spec)):
            self._refuse_taken(spec.volume_id)
            desired = self._place(spec)
            self._store.create_volume(desired)
            where = ",".join(slot.node_id for slot in desired.slots)
            self._log.info(events.VOLUME_CREATED, volume=desired.volume_id, nodes=where)
            self._driver.feed(TopologyChanged(changed=(desired,)))

        await self._driver.until(lambda: self._is_settled(spec.volume_id), timeout_s=_wait_s(call))
        status = self._status(spec.volume_id)
        if status is None or status.state is VolumeState.DELETING:
            raise FailedPrecondition(f"Volume {spec.volume_id} was deleted before it was ready.")
        if status.state not in _SERVING:
            raise TimedOut(
                f"Volume {spec.volume_id} is recorded and still being created: {status.cause}.",
                hint=f"`sparrow volume show {spec.volume_id}` tells when it is ready.",
            )
        return volume_view(status)

    async def get(self, request: GetVolumeRequest, call: Call) -> VolumeView:
        """As it is now or, with ``wait``, once it serves or is being deleted; as it is when that takes too long."""
        status = self._find(request.name)
        if request.wait:
            volume_id = status.volume_id
            await self._driver.until(
                lambda: not self._comes_to_serve(volume_id), timeout_s=_wait_s(call)
            )
            status = self._find(request.name)
        return volume_view(status)

    async def list_volumes(self, _request: ListVolumesRequest, after: str) -> Walk[VolumeList]:
        """By name."""

        def entries() -> Iterator[tuple[str, VolumeList | None]]:
            for volume_id in self._driver.authority.volumes_after(after):
                status = self._status(volume_id)
                yield (
                    volume_id,
                    None if status is None else VolumeList(volumes=(volume_view(status),)),
                )

        return Walk(VolumeList(volumes=()), entries())

    async def resize(self, request: ResizeVolumeRequest, call: Call) -> VolumeView:
        """Record the wish, then wait until clients may use the new size.

        The primary makes it so by an entry of the log, whoever is primary then; so the wish outlives this call, this
        master and any failover.

        Raises:
            InvalidArgument: shorter than it is, or no possible size.
            FailedPrecondition: the volume is being deleted, or its record is damaged.
            TimedOut: recorded, and still being made so.
        """
        status = self._find(request.name)
        volume_id, size = status.volume_id, request.size_bytes
        check_size(size)
        desired = self._driver.authority.desired(volume_id)
        if desired is None or desired.phase is VolumePhase.DELETING:
            raise FailedPrecondition(
                f"Volume {volume_id} cannot be resized: {status.cause or 'its record is damaged'}."
            )
        least = max(desired.size_bytes, status.size_bytes)
        if size < least:
            raise InvalidArgument(
                f"Volume {volume_id} has {format_size(least)}; it can only become longer.",
                hint="Make a smaller volume and copy what is needed.",
            )
        if size > desired.size_bytes:
            desired = replace(desired, size_wanted=size)
            self._store.update_volume(desired)
            self._log.info(events.VOLUME_RESIZE_ASKED, volume=volume_id, size_bytes=size)
            self._driver.feed(TopologyChanged(changed=(desired,)))
        await self._driver.until(lambda: self._size_of(volume_id) >= size, timeout_s=_wait_s(call))
        status = self._find(request.name)
        if status.size_bytes < size:
            raise TimedOut(
                f"Volume {volume_id} is recorded to get {format_size(size)} and has {format_size(status.size_bytes)}.",
                hint="It goes on by itself; `sparrow volume show` tells when it is done.",
            )
        return volume_view(status)

    def _size_of(self, volume_id: VolumeId) -> int:
        status = self._status(volume_id)
        return 0 if status is None else status.size_bytes

    async def delete(self, request: DeleteVolumeRequest, call: Call) -> DeleteVolumeAnswer:
        """Record the wish, then wait until the line is retired and every node has removed its files.

        Raises:
            NotFound: there is no such volume, and that will not do.
            TimedOut: it goes on, also after a restart of the master; the cause names who is missing.
        """
        check_name(request.name)
        if request.missing_ok and self._status(VolumeId(request.name)) is None:
            return DeleteVolumeAnswer()
        volume_id = self._find(request.name).volume_id
        desired = self._driver.authority.desired(volume_id)
        if desired is None:
            raise FailedPrecondition(
                f"Volume {volume_id} has a line, but its record of what was asked for is damaged.",
                hint="Look for record.quarantined in the master's log.",
            )
        if self._driver.authority.publisher.quarantined(volume_id):
            raise FailedPrecondition(
                f"The authority record of volume {volume_id} is not believed; it cannot be retired.",
                hint="Its data stays as it is until the record is repaired.",
            )
        if desired.phase is not VolumePhase.DELETING:
            desired = replace(desired, phase=VolumePhase.DELETING)
            self._store.update_volume(desired)
            self._log.info(events.VOLUME_DELETE_ASKED, volume=volume_id)
            self._driver.feed(TopologyChanged(changed=(desired,)))
        gone = await self._driver.until(
            lambda: self._driver.authority.desired(volume_id) is None, timeout_s=_wait_s(call)
        )
        if not gone:
            status = self._status(volume_id)
            cause = "" if status is None else f": {status.cause}"
            raise TimedOut(
                f"Volume {volume_id} is being deleted{cause}.",
                hint="It ends by itself when they are back; the name stays taken until then.",
            )
        return DeleteVolumeAnswer()

    async def why(self, request: WhyVolumeRequest, _call: Call) -> VolumeWhy:
        """Why it is placed as it is, who may be its primary, what is being replaced. Raises: NotFound."""
        status = self._find(request.name)
        authority = self._driver.authority
        desired = authority.desired(status.volume_id)
        decision = authority.why(status.volume_id)
        line = status.line if status.line is not None and not status.line.retired else None
        return VolumeWhy(
            name=status.volume_id,
            state=status.state.value,
            cause=status.cause,
            decision="" if decision is None else decision.reason,
            balance=authority.balance(status.volume_id, self._driver.clock.now()),
            topology_version=self._states.topology_version,
            placement=() if desired is None else desired.verdicts,
            candidates=tuple(
                CandidateView(
                    replica_id=one.replica_id,
                    node_id=one.node_id,
                    primary=line is not None and one.replica_id == line.primary,
                    in_sync=line is not None and one.replica_id in line.in_sync,
                    rejected=one.rejected,
                )
                for one in authority.candidates(status.volume_id, self._driver.clock.now())
            ),
            replacements=self._reconciler.replacements(volume_id=status.volume_id),
            returning=tuple(one for one in told_progress(status).values() if one.kind),
        )

    async def move(self, request: MoveVolumeRequest, call: Call) -> AsyncGenerator[MoveProgress]:
        """Make another in-sync replica primary, and tell when it serves.

        Raises:
            NotFound, InvalidArgument, FailedPrecondition: refused, and nothing was changed.
            Unavailable: the line could not be made durable, and nothing was changed.
            TimedOut: the line stands, and the new primary does not serve yet.
        """
        volume_id = self._find(request.name).volume_id
        check_move(request.to)
        authority = self._driver.authority

        def look() -> VolumeSnapshot:
            return authority.snapshot(volume_id, self._driver.clock.now())

        committed = look().highest_commit
        line = look().live_line
        if line is not None:
            target = target_of(line, request.to)
            await self._driver.until(
                lambda: reaches(look(), target, committed), timeout_s=min(REPORT_S, _wait_s(call))
            )
        snapshot = look()
        target, ask = plan_move(snapshot, request.to, self._states.of, committed=committed)
        where = f"{target.replica_id} on {target.node_id}"
        if ask is None:
            text = f"{where} is primary already."
            yield MoveProgress(text=text, line=snapshot.live_line, finished=True)
            return
        yield MoveProgress(text=f"{where} is to become primary.")
        result = self._driver.plan(ask)
        if isinstance(result, PutFailed):
            raise Unavailable(f"The line could not be made durable: {result.cause}.")
        if isinstance(result, RefusedAsk):
            raise FailedPrecondition(
                f"Volume {volume_id} stays where it is: {result.message}.",
                hint="Something else came first; look at it again with `sparrow volume show`.",
            )
        line = authority.publisher.line(volume_id)
        self._log.info(events.VOLUME_MOVE_ASKED, volume=volume_id, replica=target.replica_id)
        yield MoveProgress(text=f"{where} is named primary and opens the volume.", line=line)
        if not await self._driver.until(
            lambda: self._serves(volume_id, line), timeout_s=_wait_s(call)
        ):
            status = self._status(volume_id)
            raise TimedOut(
                f"{where} is primary of volume {volume_id} and does not serve yet"
                + ("." if status is None else f": {status.cause}."),
                hint=f"`sparrow volume show {volume_id}` tells when it does.",
            )
        yield MoveProgress(text=f"{where} serves volume {volume_id}.", line=line, finished=True)

    def _serves(self, volume_id: VolumeId, line: Line | None) -> bool:
        """Whether the primary of a line says that it serves; also when a newer line took its place."""
        newest = self._driver.authority.publisher.line(volume_id)
        if newest is None or line is None or newest.lineage.epoch != line.lineage.epoch:
            return True
        slot = self._driver.authority.snapshot(volume_id, self._driver.clock.now()).slot(
            newest.primary
        )
        return slot is not None and serving(newest, slot)

    async def verify(self, request: VerifyRequest, _call: Call) -> AsyncGenerator[VerifyProgress]:
        """Let the primary's node compare the replicas, and pass on what it says."""
        status = self._find(request.volume_id)
        if status.state not in _SERVING or status.line is None:
            raise FailedPrecondition(
                f"Volume {status.volume_id} cannot be verified now: {status.cause}.",
                hint=f"`sparrow volume show {status.volume_id}` tells when its primary serves.",
            )
        primary = status.line.primary_member
        heartbeat = self._inventory.get(primary.node_id)
        address = primary.ctrl_addr if heartbeat is None else heartbeat.ctrl_addr
        channel = Channel(address, who=f"node {primary.node_id}", keys=self._keys)
        try:
            async with aclosing(channel.stream(methods.VERIFY_ON_PRIMARY, request)) as progress:
                async for one in progress:
                    yield one
        finally:
            await channel.close()

    async def scrub(self, request: ScrubRequest, _call: Call) -> ScrubReport:
        """Ask the node of every replica; each scrubs its own files."""
        status = self._find(request.volume_id)
        members = status.line.members if status.line is not None else ()
        answers = await asyncio.gather(*(self._scrub_one(member, request) for member in members))
        return ScrubReport(
            replicas=tuple(answer for answer in answers if answer is not None),
            unreachable=tuple(
                member.replica_id
                for member, answer in zip(members, answers, strict=True)
                if answer is None
            ),
        )

    async def _scrub_one(self, member: Member, request: ScrubRequest) -> ScrubStatus | None:
        heartbeat = self._inventory.get(member.node_id)
        address = member.ctrl_addr if heartbeat is None else heartbeat.ctrl_addr
        channel = Channel(address, who=f"node {member.node_id}", keys=self._keys)
        try:
            return await channel.call(methods.SCRUB_REPLICA, request, timeout_s=SCRUB_TIMEOUT_S)
        except SparrowError:
            return None
        finally:
            await channel.close()

    # ---------------------------------------------------------------- helpers

    async def _gather(self, volume_id: VolumeId, wanted: int) -> None:
        """Right after a start, wait a moment for as many nodes as a volume needs, or for all that live."""
        left = self._started_at + GATHER_S - self._driver.clock.now()

        def heard() -> bool:
            rooms = node_rooms(self._driver, self._inventory, self._states)
            return sum(room.ready for room in rooms) >= wanted and not self._may_be_lost(volume_id)

        if left > 0:
            await self._driver.until(heard, timeout_s=left)

    def _may_be_lost(self, volume_id: VolumeId) -> bool:
        """Whether the store knows nothing of a name and has lost names: it was restored, or rebuilt.

        Nodes that hold a volume of it may be others than those that are heard first. All that live are heard within the
        moment after a start, and then ``_refuse_taken`` knows. Who repeats a create that the master before had
        answered comes just then. A node that is away for longer cannot be waited for: nobody knows of it.
        """
        authority = self._driver.authority
        return (
            authority.publisher.epoch_floor > 0
            and authority.publisher.line(volume_id) is None
            and not authority.publisher.quarantined(volume_id)
            and authority.desired(volume_id) is None
        )

    def _is_equal(self, spec: VolumeSpec) -> bool:
        """Whether the volume asked for is there: of the size it was made with, or has been given since."""
        found = self._driver.authority.desired(spec.volume_id)
        if found is None or found.phase is VolumePhase.DELETING:
            return False
        sizes = {found.shape.size_bytes, found.size_bytes}
        alike = replace(spec.shape, size_bytes=found.shape.size_bytes) == found.shape
        return alike and spec.shape.size_bytes in sizes

    def _refuse_taken(self, volume_id: VolumeId) -> None:
        authority = self._driver.authority
        awaited = self._awaited_nodes()
        if awaited:
            raise FailedPrecondition(
                f"The master is being rebuilt and has not heard from {', '.join(awaited)}, which may hold a volume"
                f" {volume_id} already.",
                hint="Start them, or see `sparrow authority give-up-node`.",
            )
        if authority.publisher.quarantined(volume_id):
            raise FailedPrecondition(
                f"The authority record of a volume {volume_id} is damaged or unconfirmed.",
                hint="Choose another name, or see `sparrow authority status`.",
            )
        holders = authority.observations.hosts(volume_id)
        if (
            holders
            and authority.publisher.line(volume_id) is None
            and not authority.desired(volume_id)
        ):
            raise FailedPrecondition(
                f"{', '.join(sorted(holders))} hold files of a volume {volume_id} the master does not know.",
                hint="Choose another name, or see `sparrow authority status`.",
            )
        status = self._status(volume_id)
        if status is not None and status.state is VolumeState.DELETING:
            raise AlreadyExists(
                f"Volume {volume_id} is still being deleted: {status.cause}.",
                hint="Choose another name, or wait until it is gone.",
            )
        if status is not None:
            raise AlreadyExists(
                f"Volume {volume_id} exists already.",
                hint=f"Choose another name; `sparrow volume show {volume_id}` shows it.",
            )

    def _place(self, spec: VolumeSpec) -> DesiredVolume:
        placement = place(
            spec.shape,
            nodes=node_rooms(self._driver, self._inventory, self._states),
            planned=self._driver.authority.planned(),
        )
        return DesiredVolume(
            volume_id=spec.volume_id,
            shape=spec.shape,
            slots=placement.slots,
            verdicts=placement.kept_verdicts,
        )

    def _is_settled(self, volume_id: VolumeId) -> bool:
        status = self._status(volume_id)
        return status is None or status.state in (*_SERVING, VolumeState.DELETING)

    def _comes_to_serve(self, volume_id: VolumeId) -> bool:
        """Whether it is to be served, and is not yet."""
        status = self._status(volume_id)
        return (
            status is not None and not status.frontends and status.state is not VolumeState.DELETING
        )

    def _status(self, volume_id: VolumeId) -> VolumeStatus | None:
        return self._driver.authority.status(volume_id, self._driver.clock.now())

    def _find(self, name: str) -> VolumeStatus:
        check_name(name)
        status = self._status(VolumeId(name))
        if status is None:
            raise NotFound(
                f"There is no volume {name!r}.", hint="`sparrow volume list` shows all volumes."
            )
        return status


def _wait_s(call: Call) -> float:
    """What the caller's deadline allows, at most ``WORK_S``."""
    left = call.time_left()
    return WORK_S if left is None else max(0.0, min(WORK_S, left - ANSWER_S))
