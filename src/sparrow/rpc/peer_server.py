"""The service nodes offer each other, as routes of one server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from sparrow.authority.recovery import NodeAnswer
from sparrow.ports.dataplane import FenceReport, PageDigests, SumsImage
from sparrow.rpc import methods
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
from sparrow.rpc.server import Call, Route, stream, unary


class NodePeerService(Protocol):
    """What answers. Every method raises errors of ``base.errors``."""

    async def fence(self, request: FenceRequest) -> FenceReport: ...
    def read_log(self, request: ReadLogRequest) -> AsyncGenerator[LogChunk]: ...
    async def join(self, request: JoinRequest) -> JoinAnswer: ...
    async def prepare_rebuild(self, request: PrepareRebuildRequest) -> PrepareRebuildAnswer: ...
    async def page_digests(self, request: PageDigestRequest) -> PageDigests: ...
    async def read_page(self, request: ReadPageRequest) -> ReadPageAnswer: ...
    async def read_sums(self, request: ReadSumsRequest) -> SumsImage: ...
    async def look_at_reservations(self, request: ReservationLookRequest) -> ReservationLook: ...
    async def change_reservations(
        self, request: ReservationChangeRequest
    ) -> ReservationChangeAnswer: ...
    def verify(self, request: VerifyRequest) -> AsyncGenerator[VerifyProgress]: ...
    async def scrub(self, request: ScrubRequest) -> ScrubStatus: ...
    async def replica_lines(self, request: ReplicaLinesRequest) -> NodeAnswer: ...
    async def release_replica(self, request: ReleaseReplicaRequest) -> ReleaseReplicaAnswer: ...
    async def keep_copy(self, request: KeepCopyRequest) -> CopyInfo: ...
    async def copy_info(self, request: CopyInfoRequest) -> CopyInfo: ...
    def copy(self, request: CopyRequest) -> AsyncGenerator[BackupChunk]: ...


def routes(service: NodePeerService) -> list[Route]:  # noqa: C901 - one closure per method
    """NodePeer, answered by ``service``."""

    async def fence(request: FenceRequest, _call: Call) -> FenceReport:
        return await service.fence(request)

    def read_log(request: ReadLogRequest, _call: Call) -> AsyncGenerator[LogChunk]:
        return service.read_log(request)

    async def join(request: JoinRequest, _call: Call) -> JoinAnswer:
        return await service.join(request)

    async def prepare(request: PrepareRebuildRequest, _call: Call) -> PrepareRebuildAnswer:
        return await service.prepare_rebuild(request)

    async def digests(request: PageDigestRequest, _call: Call) -> PageDigests:
        return await service.page_digests(request)

    async def read_page(request: ReadPageRequest, _call: Call) -> ReadPageAnswer:
        return await service.read_page(request)

    async def read_sums(request: ReadSumsRequest, _call: Call) -> SumsImage:
        return await service.read_sums(request)

    async def look(request: ReservationLookRequest, _call: Call) -> ReservationLook:
        return await service.look_at_reservations(request)

    async def change(request: ReservationChangeRequest, _call: Call) -> ReservationChangeAnswer:
        return await service.change_reservations(request)

    def verify(request: VerifyRequest, _call: Call) -> AsyncGenerator[VerifyProgress]:
        return service.verify(request)

    async def scrub(request: ScrubRequest, _call: Call) -> ScrubStatus:
        return await service.scrub(request)

    async def replica_lines(request: ReplicaLinesRequest, _call: Call) -> NodeAnswer:
        return await service.replica_lines(request)

    async def release(request: ReleaseReplicaRequest, _call: Call) -> ReleaseReplicaAnswer:
        return await service.release_replica(request)

    async def keep_copy(request: KeepCopyRequest, _call: Call) -> CopyInfo:
        return await service.keep_copy(request)

    async def copy_info(request: CopyInfoRequest, _call: Call) -> CopyInfo:
        return await service.copy_info(request)

    def copy(request: CopyRequest, _call: Call) -> AsyncGenerator[BackupChunk]:
        return service.copy(request)

    return [
        unary(methods.FENCE, fence),
        stream(methods.READ_LOG, read_log),
        unary(methods.JOIN, join),
        unary(methods.PREPARE_REBUILD, prepare),
        unary(methods.PAGE_DIGEST, digests),
        unary(methods.READ_PAGE, read_page),
        unary(methods.READ_SUMS, read_sums),
        unary(methods.LOOK_AT_RESERVATIONS, look),
        unary(methods.CHANGE_RESERVATIONS, change),
        stream(methods.VERIFY_ON_PRIMARY, verify),
        unary(methods.SCRUB_REPLICA, scrub),
        unary(methods.REPLICA_LINES, replica_lines),
        unary(methods.RELEASE_REPLICA, release),
        unary(methods.KEEP_COPY, keep_copy),
        unary(methods.COPY_INFO, copy_info),
        stream(methods.COPY, copy),
    ]
