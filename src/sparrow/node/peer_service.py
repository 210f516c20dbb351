"""What this node answers other nodes, and the master's request to compare replicas."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from sparrow.authority.recovery import HeldReplica, NodeAnswer
from sparrow.authority.types import Term
from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import NotFound, RemoteProtocolError, SparrowError, Unavailable
from sparrow.base.ids import VolumeId
from sparrow.formats.hello import Hello, HelloAnswer, HelloCode, LinkKind
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.node.forwarding import Door
from sparrow.node.incoming import (
    COUNTER_END,
    check_release,
    check_shown,
    check_term,
    check_volume_id,
)
from sparrow.node.mending import page_checksum
from sparrow.node.replicas import Replicas
from sparrow.node.scrub import Scrubs
from sparrow.node.store_copy import StoreCopy
from sparrow.node.surroundings import Surroundings
from sparrow.node.verify import compare_replicas
from sparrow.ports.dataplane import FenceReport, PageDigests, SumsImage
from sparrow.rpc.messages import (
    BackupChunk,
    CopyInfo,
    CopyInfoRequest,
    CopyRequest,
    FenceRequest,
    JoinAnswer,
    JoinRequest,
    KeepCopyRequest,
    LogChunk,
    PageDigestRequest,
    PrepareRebuildAnswer,
    PrepareRebuildRequest,
    ReadLogRequest,
    ReadPageAnswer,
    ReadPageRequest,
    ReadSumsRequest,
    ReleaseReplicaAnswer,
    ReleaseReplicaRequest,
    ReplicaLinesRequest,
    ReservationChangeAnswer,
    ReservationChangeRequest,
    ReservationLook,
    ReservationLookRequest,
    ScrubRequest,
    ScrubStatus,
    VerifyProgress,
    VerifyRequest,
)

READ_LOG_BYTES: Final = 4 << 20
DIGEST_PAGES_MAX: Final = 4096


class PeerService:
    """The node's side of NodePeer, and the judge of links that others open to it.

    Args:
        scrubs: of this node's replicas; None where there are none, in simulated clusters.
        hear_generation: takes a master's generation and gives the highest known, durably.
        store_copy: the copy of the master's store in this node's pool.
        door: to the reservations of volumes this node is primary of; None like ``scrubs``.
    """

    def __init__(
        self,
        replicas: Replicas,
        around: Surroundings,
        scrubs: Scrubs | None = None,
        *,
        hear_generation: Callable[[int], int] = int,
        store_copy: StoreCopy | None = None,
        door: Door | None = None,
    ) -> None:
        self._replicas = replicas
        self._around = around
        self._scrubs = scrubs
        self._hear_generation = hear_generation
        self._store_copy = store_copy
        self._door = door
        self._dataplane = around.dataplane

    async def fence(self, request: FenceRequest) -> FenceReport:
        check_shown(request.line.volume_id, request.line, request.term, request.primary)
        return await self._replicas.get(request.line.volume_id).follower.fenced(request)

    async def join(self, request: JoinRequest) -> JoinAnswer:
        check_shown(request.volume_id, request.line, request.term, request.primary)
        return await self._replicas.get(request.volume_id).follower.joined(request)

    async def prepare_rebuild(self, request: PrepareRebuildRequest) -> PrepareRebuildAnswer:
        check_shown(request.volume_id, request.line, request.term, request.primary)
        return await self._replicas.get(request.volume_id).follower.prepared(request)

    async def read_log(self, request: ReadLogRequest) -> AsyncGenerator[LogChunk]:
        """One chunk of the log from an LSN on, nothing past its end; the caller goes on from what it appended.

        Raises: StaleEpoch, FailedPrecondition (the term is not promised here), NotFound (recycled).
        """
        check_volume_id(request.volume_id)
        check_term(request.term)
        if request.from_lsn < 1:
            raise RemoteProtocolError("from_lsn is missing")
        volume = self._replicas.get(request.volume_id)
        await volume.follower.check_promised(request.term)
        batches = await self._dataplane.read_log(
            request.volume_id, request.from_lsn, bytes_max=READ_LOG_BYTES
        )
        if batches:
            yield LogChunk(batches=batches)

    async def page_digests(self, request: PageDigestRequest) -> PageDigests:
        if not 0 < request.page_count <= DIGEST_PAGES_MAX:
            raise RemoteProtocolError(
                f"page_count is {request.page_count}, not 1 to {DIGEST_PAGES_MAX}"
            )
        self._check_pages(request.volume_id, request.first_page, request.page_count)
        return await self._dataplane.page_digests(
            request.volume_id,
            at_lsn=request.at_lsn,
            first_page=request.first_page,
            page_count=request.page_count,
        )

    async def read_page(self, request: ReadPageRequest) -> ReadPageAnswer:
        self._check_pages(request.volume_id, request.page, 1)
        as_of, data = await self._dataplane.read_page(
            request.volume_id, request.page, at_least_lsn=request.at_least_lsn
        )
        return ReadPageAnswer(as_of_lsn=as_of, data=data, check=page_checksum(data))

    async def read_sums(self, request: ReadSumsRequest) -> SumsImage:
        self._check_pages(request.volume_id, request.block * PAGES_PER_BLOCK, 1)
        return await self._dataplane.read_sums(
            request.volume_id, request.block, at_lsn=request.at_lsn
        )

    async def look_at_reservations(self, request: ReservationLookRequest) -> ReservationLook:
        """Raises as ``Door.look``."""
        return await self._reservations().look(request)

    async def change_reservations(
        self, request: ReservationChangeRequest
    ) -> ReservationChangeAnswer:
        """Raises as ``Door.change``."""
        return await self._reservations().change(request)

    def _reservations(self) -> Door:
        if self._door is None:
            raise NotFound("This node has no frontends.")
        return self._door

    async def verify(self, request: VerifyRequest) -> AsyncGenerator[VerifyProgress]:
        check_volume_id(request.volume_id)
        volume = self._replicas.get(request.volume_id)
        async with aclosing(compare_replicas(volume, self._around)) as steps:
            async for progress in steps:
                yield progress

    async def scrub(self, request: ScrubRequest) -> ScrubStatus:
        check_volume_id(request.volume_id)
        volume = self._replicas.get(request.volume_id)
        if self._scrubs is None:
            raise Unavailable("Nothing is scrubbed here.")
        if request.start:
            self._scrubs.begin(volume)
        return self._scrubs.status(volume)

    async def release_replica(self, request: ReleaseReplicaRequest) -> ReleaseReplicaAnswer:
        """An operator's word about files here. Raises as ``Volume.release``, ``Replicas.discard``."""
        check_release(request)
        if request.line.volume_id in self._replicas.broken:
            await self._replicas.discard(request)
            return ReleaseReplicaAnswer(state=request.state)
        volume = self._replicas.get(request.line.volume_id)
        await volume.release(request)
        return ReleaseReplicaAnswer(state=volume.state)

    async def keep_copy(self, request: KeepCopyRequest) -> CopyInfo:
        """The master's store has come further: fetch and keep it. Raises as ``StoreCopy.keep``."""
        for field, value in (
            ("master_generation", request.master_generation),
            ("revision", request.revision),
        ):
            if not 0 < value < COUNTER_END:
                raise RemoteProtocolError(f"{field} is {value}, which nobody counts to")
        return await self._copies().keep(request)

    async def copy_info(self, _request: CopyInfoRequest) -> CopyInfo:
        """Which copy of the master's store is kept here. Raises: StorageError."""
        return self._copies().info()

    def copy(self, _request: CopyRequest) -> AsyncGenerator[BackupChunk]:
        """The copy itself. Raises: NotFound, StorageError."""
        return self._copies().read()

    def _copies(self) -> StoreCopy:
        if self._store_copy is None:
            raise Unavailable("This node keeps no copies.")
        return self._store_copy

    async def replica_lines(self, request: ReplicaLinesRequest) -> NodeAnswer:
        """Everything this node holds, for a master that has to find out.

        The caller's generation is believed first: lines of masters before it are refused from then on, so what is
        told here cannot be outdated by one of them.

        Raises: InvalidArgument, StorageError.
        """
        seen = self._hear_generation(request.master_generation)
        held = []
        for volume in self._replicas:
            # A line of an older master that is on its way into the superblock counts as acted on.
            line = await volume.settled_line()
            try:
                status = await self._dataplane.status(volume.volume_id)
            except SparrowError:
                continue  # closed while we asked
            held.append(
                HeldReplica(
                    volume_id=volume.volume_id,
                    replica_id=volume.replica_id,
                    uuid=volume.uuid,
                    state=status.log.state,
                    suspect=status.log.suspect,
                    line=line,
                    promised_epoch=status.promised_epoch,
                    last_term=status.log.last_term,
                    last_lsn=status.log.last_lsn,
                )
            )
        return NodeAnswer(
            node_id=self._around.me.node_id,
            cluster_id=self._around.cluster_id(),
            master_generation=seen,
            replicas=tuple(held),
            broken=tuple(sorted(self._replicas.broken)),
        )

    def _check_pages(self, volume_id: VolumeId, first: int, count: int) -> None:
        """Raises: RemoteProtocolError: they are not all pages of the volume; NotFound."""
        check_volume_id(volume_id)
        pages = self._replicas.get(volume_id).size_bytes // PAGE_BYTES
        if first + count > pages:
            raise RemoteProtocolError(f"page {first + count - 1} is beyond the volume's {pages}")

    # ------------------------------------------------------------ links

    async def judge(self, hello: Hello) -> HelloAnswer:
        """Whether a connection to the replication port may go on to the core."""
        me = self._around.me
        if not self._around.cluster_id():
            return HelloAnswer(code=HelloCode.NOT_NOW)
        if hello.cluster_id != self._around.cluster_id():
            return HelloAnswer(code=HelloCode.WRONG_CLUSTER)
        if hello.to_node != me.node_id:
            return HelloAnswer(code=HelloCode.WRONG_NODE)
        if hello.kind is LinkKind.GRANT:
            return HelloAnswer(code=HelloCode.ACCEPTED)
        volume = self._replicas.find(hello.volume_id)
        if volume is None or volume.replica_id != hello.to_replica:
            return HelloAnswer(code=HelloCode.NO_SUCH_VOLUME)
        if volume.uuid != hello.uuid:
            return HelloAnswer(code=HelloCode.WRONG_UUID)
        promised = (await self._dataplane.status(volume.volume_id)).promised_epoch
        if promised > hello.term_epoch:
            return HelloAnswer(code=HelloCode.STALE_TERM, promised_epoch=promised)
        if promised < hello.term_epoch:
            return HelloAnswer(code=HelloCode.NOT_NOW)
        return HelloAnswer(code=HelloCode.ACCEPTED)

    async def adopt(self, hello: Hello, fd: int) -> None:
        """Give an accepted connection to the core, which owns it from then on. Raises: StaleEpoch, NotFound."""
        if hello.kind is LinkKind.GRANT:
            await self._dataplane.grant_serve_link(fd)
            return
        term = Term(epoch=hello.term_epoch, start=hello.term_start)
        await self._dataplane.receive(hello.volume_id, fd, term)
