"""A master that knows only what a test puts into it, served for real on a socket by a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from sparrow.authority.types import FrontendTarget, Line, Lineage, Member
from sparrow.base.errors import AlreadyExists, NotFound, SparrowError, Unavailable
from sparrow.base.ids import (
    EndpointVersion,
    Epoch,
    Lsn,
    NodeId,
    ReplicaId,
    ReplicaUuid,
    VolumeId,
)
from sparrow.rpc import methods
from sparrow.rpc.messages import (
    AttachVolumeRequest,
    AuthorityStatus,
    AuthorityStatusRequest,
    CreateVolumeRequest,
    DeleteVolumeAnswer,
    DeleteVolumeRequest,
    DetachVolumeRequest,
    DiscardDivergentAnswer,
    DiscardDivergentRequest,
    GetNodeRequest,
    GetVolumeRequest,
    ListNodesRequest,
    ListVolumesRequest,
    MoveProgress,
    MoveVolumeRequest,
    NodeDetails,
    NodeList,
    NodeView,
    RecoverStaleAnswer,
    RecoverStaleRequest,
    ReplicaView,
    ScrubReport,
    ScrubRequest,
    SetAccessRequest,
    SetNodeStateRequest,
    VerifyProgress,
    VerifyRequest,
    VolumeList,
    VolumeView,
    VolumeWhy,
    WhyVolumeRequest,
)
from sparrow.rpc.paging import Walk, paged
from sparrow.rpc.server import Call, Server, stream, unary
from tests.support.waiting import WAIT_S


def line_of(name: str = "demo", *, replicas: int = 3, in_sync: int | None = None) -> Line:
    """A line with replicas ``r1``.. on nodes ``n1``.., primary ``r1``."""
    members = tuple(
        Member(
            replica_id=ReplicaId(f"r{i}"),
            node_id=NodeId(f"n{i}"),
            uuid=ReplicaUuid(f"{i:032x}"),
            data_addr=f"127.0.0.1:{7400 + 10 * i + 1}",
            ctrl_addr=f"127.0.0.1:{7400 + 10 * i}",
        )
        for i in range(1, replicas + 1)
    )
    count = replicas if in_sync is None else in_sync
    return Line(
        volume_id=VolumeId(name),
        lineage=Lineage(epoch=Epoch(2), endpoint_version=EndpointVersion(3)),
        primary=ReplicaId("r1"),
        members=members,
        in_sync=tuple(member.replica_id for member in members[:count]),
        size_bytes=1 << 30,
        block_size=4096,
        replication_factor=replicas,
        min_in_sync=1,
        master_generation=1,
        write_seq=4,
    )


def volume_view(name: str = "demo", *, state: str = "healthy", cause: str = "") -> VolumeView:
    """A volume of three replicas served on n1."""
    line = line_of(name)
    return VolumeView(
        name=VolumeId(name),
        size_bytes=1 << 30,
        block_size=4096,
        replication_factor=3,
        state=state,
        cause=cause,
        line=line,
        replicas=tuple(
            ReplicaView(
                replica_id=member.replica_id,
                node_id=member.node_id,
                role="primary" if member.replica_id == line.primary else "in_sync",
                durable_lsn=Lsn(7),
                commit_lsn=Lsn(6),
                state="clean",
            )
            for member in line.members
        ),
        frontends=(
            FrontendTarget(
                protocol="iscsi", addr="127.0.0.1:7412", name=f"iqn.2025-01.io.sparrow:{name}"
            ),
        ),
    )


def node_view(name: str, **changes: Any) -> NodeView:
    given: dict[str, Any] = {
        "state": "ready",
        "ctrl_addr": "127.0.0.1:7410",
        "data_addr": "127.0.0.1:7411",
        "iscsi_addr": "127.0.0.1:7412",
        "pool_total_bytes": 100 << 30,
        "pool_free_bytes": 40 << 30,
        "replica_count": 1,
        "primary_count": 0,
        "last_heard_s": 0.2,
        "desired_state": "active",
    }
    return NodeView(node_id=NodeId(name), **{**given, **changes})


class FakeMaster:
    """Context manager; ``address`` is where it listens, ``seen`` what was asked of it, in order."""

    def __init__(self, *volumes: VolumeView, nodes: tuple[NodeView, ...] = ()) -> None:
        self.volumes = {volume.name: volume for volume in volumes}
        self.nodes = nodes
        self.verify: list[VerifyProgress] = []
        self.move: list[MoveProgress] = []
        #: What Scrub answers, one after the other; the last one again and again.
        self.scrubs: list[ScrubReport] = [ScrubReport(replicas=(), unreachable=())]
        #: What Why answers of every volume.
        self.why: VolumeWhy | None = None
        #: What Get and SetState of a node answer, one after the other; the last one again and again.
        self.details: list[NodeDetails] = []
        #: What Status tells beside the lines of the volumes; of a volume when there is one of that name.
        self.authority = AuthorityStatus(master_generation=1, skipped=(), lines=())
        #: Whether only the first page of a list is given.
        self.stops_within_lists = False
        #: Raised by the next create.
        self.refuse: SparrowError | None = None
        #: What a volume has become when somebody waited for it, by its name.
        self.opened: dict[str, VolumeView] = {}
        self.seen: list[object] = []
        #: Whether a discarded replica's node was reached.
        self.releases = True
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fake-master", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(WAIT_S), "the fake master did not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = Server(
            [
                unary(methods.CREATE_VOLUME, self._create),
                unary(methods.GET_VOLUME, self._get),
                unary(methods.SET_ACCESS, self._set_access),
                paged(methods.LIST_VOLUMES, self._list),
                unary(methods.DELETE_VOLUME, self._delete),
                unary(methods.ATTACH_VOLUME, self._attach),
                unary(methods.DETACH_VOLUME, self._detach),
                stream(methods.VERIFY_VOLUME, self._verify),
                stream(methods.MOVE_VOLUME, self._move),
                paged(methods.LIST_NODES, self._list_nodes),
                paged(methods.AUTHORITY_STATUS, self._status),
                unary(methods.WHY_VOLUME, self._why),
                unary(methods.SCRUB_VOLUME, self._scrub),
                unary(methods.GET_NODE, self._get_node),
                unary(methods.SET_NODE_STATE, self._set_node_state),
                unary(methods.RECOVER_STALE, self._recover_stale),
                unary(methods.DISCARD_DIVERGENT, self._discard),
            ]
        )
        self.address = await server.start("127.0.0.1:0")
        self._started.set()
        await self._stop.wait()
        await server.stop(grace_s=0)

    async def _create(self, request: CreateVolumeRequest, call: Call) -> VolumeView:
        self.seen.append(request)
        if self.refuse is not None:
            raise self.refuse
        if request.name in self.volumes:
            raise AlreadyExists(
                f"Volume {request.name} exists already.", hint="Choose another name."
            )
        made = volume_view(request.name)
        self.volumes[made.name] = made
        return made

    def _find(self, name: str) -> VolumeView:
        if name not in self.volumes:
            raise NotFound(f"There is no volume {name}.", hint="`sparrow volume list` shows all.")
        return self.volumes[VolumeId(name)]

    async def _get(self, request: GetVolumeRequest, call: Call) -> VolumeView:
        self.seen.append(request)
        if request.wait and request.name in self.opened:
            self.volumes[VolumeId(request.name)] = self.opened.pop(request.name)
        return self._find(request.name)

    async def _set_access(self, request: SetAccessRequest, call: Call) -> VolumeView:
        self.seen.append(request)
        access = replace(request.access, revision=request.access.revision + 1)
        changed = replace(self._find(request.name), access=access)
        self.volumes[changed.name] = changed
        return changed

    async def _list(self, _request: ListVolumesRequest, after: str) -> Walk[VolumeList]:
        self._turn_a_page(after)
        found = [one for name, one in sorted(self.volumes.items()) if name > after]
        return Walk(
            VolumeList(volumes=()), ((one.name, VolumeList(volumes=(one,))) for one in found)
        )

    def _turn_a_page(self, after: str) -> None:
        if after and self.stops_within_lists:
            raise Unavailable("The master stops.")

    async def _delete(self, request: DeleteVolumeRequest, call: Call) -> DeleteVolumeAnswer:
        self.seen.append(request)
        del self.volumes[self._find(request.name).name]
        return DeleteVolumeAnswer()

    async def _attach(self, request: AttachVolumeRequest, call: Call) -> VolumeView:
        return self._attached(request.name, request.host)

    async def _detach(self, request: DetachVolumeRequest, call: Call) -> VolumeView:
        self.seen.append(request)
        return self._attached(request.name, "")

    def _attached(self, name: str, host: str) -> VolumeView:
        if self.refuse is not None:
            raise self.refuse
        view = replace(self._find(name), attached_to=host)
        self.volumes[view.name] = view
        return view

    async def _verify(self, request: VerifyRequest, call: Call) -> AsyncGenerator[VerifyProgress]:
        self._find(request.volume_id)
        for progress in self.verify:
            yield progress

    async def _move(self, request: MoveVolumeRequest, call: Call) -> AsyncGenerator[MoveProgress]:
        self.seen.append(request)
        self._find(request.name)
        if self.refuse is not None:
            raise self.refuse
        for progress in self.move:
            yield progress

    async def _list_nodes(self, _request: ListNodesRequest, after: str) -> Walk[NodeList]:
        self._turn_a_page(after)
        found = [one for one in self.nodes if one.node_id > after]
        return Walk(
            NodeList(nodes=(), topology_version=7),
            ((one.node_id, NodeList(nodes=(one,), topology_version=7)) for one in found),
        )

    async def _why(self, request: WhyVolumeRequest, call: Call) -> VolumeWhy:
        self._find(request.name)
        assert self.why is not None, "set by the test"
        return self.why

    async def _scrub(self, request: ScrubRequest, call: Call) -> ScrubReport:
        self.seen.append(request)
        self._find(request.volume_id)
        return self.scrubs.pop(0) if len(self.scrubs) > 1 else self.scrubs[0]

    async def _get_node(self, request: GetNodeRequest, call: Call) -> NodeDetails:
        self.seen.append(request)
        return self._details()

    async def _set_node_state(self, request: SetNodeStateRequest, call: Call) -> NodeDetails:
        self.seen.append(request)
        if self.refuse is not None:
            raise self.refuse
        return self._details()

    async def _recover_stale(self, request: RecoverStaleRequest, call: Call) -> RecoverStaleAnswer:
        self.seen.append(request)
        if self.refuse is not None:
            raise self.refuse
        line = replace(
            line_of(request.name, in_sync=1), set_aside=(ReplicaId("r2"), ReplicaId("r3"))
        )
        return RecoverStaleAnswer(
            loss="entries 8 to 9 are lost",
            kept_lsn=Lsn(7),
            line=None if request.plan_only else line,
        )

    async def _discard(
        self, request: DiscardDivergentRequest, call: Call
    ) -> DiscardDivergentAnswer:
        self.seen.append(request)
        return DiscardDivergentAnswer(line=line_of(request.name), released=self.releases)

    def _details(self) -> NodeDetails:
        return self.details.pop(0) if len(self.details) > 1 else self.details[0]

    async def _status(self, _request: AuthorityStatusRequest, after: str) -> Walk[AuthorityStatus]:
        self._turn_a_page(after)
        head = replace(self.authority, skipped=(), lines=(), unconfirmed=())
        if after:
            head = AuthorityStatus(master_generation=1, skipped=(), lines=())
        return Walk(head, self._status_entries(after))

    def _status_entries(self, after: str) -> Iterator[tuple[str, AuthorityStatus]]:
        empty = AuthorityStatus(master_generation=1, skipped=(), lines=())
        for name, volume in sorted(self.volumes.items()):
            if name > after:
                yield (
                    name,
                    replace(
                        empty,
                        lines=() if volume.line is None else (volume.line,),
                        skipped=tuple(s for s in self.authority.skipped if s.volume_id == name),
                        unconfirmed=tuple(
                            one for one in self.authority.unconfirmed if one.volume_id == name
                        ),
                    ),
                )
