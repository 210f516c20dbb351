"""The control API as people and programs call it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Final, Self, TypeVar

from sparrow.base.access import AccessList, Secret
from sparrow.base.errors import RemoteProtocolError
from sparrow.base.ids import VolumeId
from sparrow.rpc import methods
from sparrow.rpc.client import Channel
from sparrow.rpc.messages import (
    AttachVolumeRequest,
    AuthorityStatus,
    AuthorityStatusRequest,
    BackupChunk,
    BackupRequest,
    CreateVolumeRequest,
    DeleteSecretRequest,
    DeleteVolumeRequest,
    DetachVolumeRequest,
    DiscardDivergentAnswer,
    DiscardDivergentRequest,
    GetNodeRequest,
    GetVolumeRequest,
    GiveUpNodeAnswer,
    GiveUpNodeRequest,
    ListNodesRequest,
    ListSecretsRequest,
    ListVolumesRequest,
    MoveProgress,
    MoveVolumeRequest,
    NodeDetails,
    NodeList,
    NodeView,
    Page,
    PageRequest,
    RecoverAnswer,
    RecoverRequest,
    RecoverStaleAnswer,
    RecoverStaleRequest,
    RecoveryPlan,
    RecoveryPlanRequest,
    RecoveryVerb,
    ResizeVolumeRequest,
    ScrubReport,
    ScrubRequest,
    SecretList,
    SecretView,
    SetAccessRequest,
    SetNodeStateRequest,
    SetSecretRequest,
    VerifyProgress,
    VerifyRequest,
    VolumeList,
    VolumeView,
    VolumeWhy,
    WhyVolumeRequest,
)
from sparrow.rpc.methods import Unary

Q = TypeVar("Q", bound=PageRequest)
A = TypeVar("A", bound=Page)

#: Of calls that only read what the master has in memory.
READ_TIMEOUT_S: Final = 5.0
#: Of calls that wait for nodes; a little longer than the master's own bound, so that its sentence arrives.
WORK_TIMEOUT_S: Final = 20.0


class ApiClient:
    """Volumes, nodes and authority over one channel; an async context manager.

    Every method raises the error the master raised, and Unavailable or TimedOut when it did not answer.
    """

    def __init__(self, master: str) -> None:
        self._channel = Channel(master, who="the master")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def create_volume(
        self, request: CreateVolumeRequest, *, timeout_s: float = WORK_TIMEOUT_S
    ) -> VolumeView:
        """Returns when the volume serves, or raises TimedOut while it is still being created."""
        return await self._channel.call(methods.CREATE_VOLUME, request, timeout_s=timeout_s)

    async def get_volume(self, name: str, *, timeout_s: float = READ_TIMEOUT_S) -> VolumeView:
        return await self._channel.call(
            methods.GET_VOLUME, GetVolumeRequest(name=name), timeout_s=timeout_s
        )

    async def wait_for_volume(self, name: str, *, timeout_s: float = WORK_TIMEOUT_S) -> VolumeView:
        """Returns when it is served or being deleted; as it is, when that took too long."""
        return await self._channel.call(
            methods.GET_VOLUME, GetVolumeRequest(name=name, wait=True), timeout_s=timeout_s
        )

    async def list_volumes(self, *, timeout_s: float = READ_TIMEOUT_S) -> tuple[VolumeView, ...]:
        """All of them, sorted by name. The time is for each page."""
        async with aclosing(self.volume_pages(timeout_s=timeout_s)) as pages:
            return tuple([volume async for page in pages for volume in page.volumes])

    def volume_pages(self, *, timeout_s: float = READ_TIMEOUT_S) -> AsyncGenerator[VolumeList]:
        """The same page by page, as they come."""
        return self._pages(methods.LIST_VOLUMES, ListVolumesRequest(), timeout_s)

    async def delete_volume(
        self, name: str, *, missing_ok: bool = False, timeout_s: float = WORK_TIMEOUT_S
    ) -> None:
        """Returns when every node has removed its files, or raises TimedOut while that goes on."""
        request = DeleteVolumeRequest(name=name, missing_ok=missing_ok)
        await self._channel.call(methods.DELETE_VOLUME, request, timeout_s=timeout_s)

    async def resize_volume(
        self, name: str, size_bytes: int, *, timeout_s: float = WORK_TIMEOUT_S
    ) -> VolumeView:
        """Returns when clients may use the new size, or raises TimedOut while it is still being made so."""
        request = ResizeVolumeRequest(name=name, size_bytes=size_bytes)
        return await self._channel.call(methods.RESIZE_VOLUME, request, timeout_s=timeout_s)

    async def attach_volume(
        self, name: str, host: str, *, timeout_s: float = READ_TIMEOUT_S
    ) -> VolumeView:
        """Record that a machine uses the volume, one at a time; again for the same one is success."""
        request = AttachVolumeRequest(name=name, host=host)
        return await self._channel.call(methods.ATTACH_VOLUME, request, timeout_s=timeout_s)

    async def detach_volume(
        self, name: str, host: str = "", *, timeout_s: float = READ_TIMEOUT_S
    ) -> VolumeView:
        """Record that none does; with a host only if it is that one, or none already."""
        request = DetachVolumeRequest(name=name, host=host)
        return await self._channel.call(methods.DETACH_VOLUME, request, timeout_s=timeout_s)

    async def set_access(
        self, name: str, access: AccessList, *, timeout_s: float = READ_TIMEOUT_S
    ) -> VolumeView:
        """Replace a volume's access list; ``access.revision`` is that of the list it replaces."""
        request = SetAccessRequest(name=name, access=access)
        return await self._channel.call(methods.SET_ACCESS, request, timeout_s=timeout_s)

    async def set_secret(self, secret: Secret, *, timeout_s: float = READ_TIMEOUT_S) -> SecretView:
        """Make a secret, or give one another value; sessions that were let in with the old one end."""
        request = SetSecretRequest(secret=secret)
        return await self._channel.call(methods.SET_SECRET, request, timeout_s=timeout_s)

    async def delete_secret(self, name: str, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        """Forget a secret that no access list names."""
        await self._channel.call(
            methods.DELETE_SECRET, DeleteSecretRequest(name=name), timeout_s=timeout_s
        )

    async def list_secrets(self, *, timeout_s: float = READ_TIMEOUT_S) -> tuple[SecretView, ...]:
        """All of them, sorted by name, and which volumes use them; never a value."""
        async with aclosing(self.secret_pages(timeout_s=timeout_s)) as pages:
            return tuple([secret async for page in pages for secret in page.secrets])

    def secret_pages(self, *, timeout_s: float = READ_TIMEOUT_S) -> AsyncGenerator[SecretList]:
        """The same page by page, as they come."""
        return self._pages(methods.LIST_SECRETS, ListSecretsRequest(), timeout_s)

    def verify_volume(self, name: str) -> AsyncGenerator[VerifyProgress]:
        """Progress until a message with ``finished``; different pages are listed as they are found."""
        return self._channel.stream(methods.VERIFY_VOLUME, VerifyRequest(volume_id=VolumeId(name)))

    def move_volume(self, name: str, to: str) -> AsyncGenerator[MoveProgress]:
        """Make another in-sync replica primary; progress until a message with ``finished``."""
        return self._channel.stream(methods.MOVE_VOLUME, MoveVolumeRequest(name=name, to=to))

    async def scrub_volume(
        self, name: str, *, start: bool, timeout_s: float = READ_TIMEOUT_S
    ) -> ScrubReport:
        """The scrubs of a volume's replicas; ``start`` begins one on each."""
        request = ScrubRequest(volume_id=VolumeId(name), start=start)
        return await self._channel.call(methods.SCRUB_VOLUME, request, timeout_s=timeout_s)

    async def list_nodes(self, *, timeout_s: float = READ_TIMEOUT_S) -> tuple[NodeView, ...]:
        """All of them, sorted by id."""
        async with aclosing(self.node_pages(timeout_s=timeout_s)) as pages:
            return tuple([node async for page in pages for node in page.nodes])

    def node_pages(self, *, timeout_s: float = READ_TIMEOUT_S) -> AsyncGenerator[NodeList]:
        """The same page by page, as they come."""
        return self._pages(methods.LIST_NODES, ListNodesRequest(), timeout_s)

    async def why_volume(self, name: str, *, timeout_s: float = READ_TIMEOUT_S) -> VolumeWhy:
        """Why it is placed as it is, who may be its primary, and what is being replaced."""
        return await self._channel.call(
            methods.WHY_VOLUME, WhyVolumeRequest(name=name), timeout_s=timeout_s
        )

    async def recover_stale(
        self, request: RecoverStaleRequest, *, timeout_s: float = WORK_TIMEOUT_S
    ) -> RecoverStaleAnswer:
        """Take a volume on from a replica that missed writes, or say what that would lose."""
        return await self._channel.call(methods.RECOVER_STALE, request, timeout_s=timeout_s)

    async def discard_divergent(
        self, request: DiscardDivergentRequest, *, timeout_s: float = WORK_TIMEOUT_S
    ) -> DiscardDivergentAnswer:
        """Want files no longer that were kept; their replica is rebuilt."""
        return await self._channel.call(methods.DISCARD_DIVERGENT, request, timeout_s=timeout_s)

    async def get_node(self, node_id: str, *, timeout_s: float = READ_TIMEOUT_S) -> NodeDetails:
        """One node and everything that is being moved away from it."""
        return await self._channel.call(
            methods.GET_NODE, GetNodeRequest(node_id=node_id), timeout_s=timeout_s
        )

    async def set_node_state(
        self, node_id: str, state: str, *, confirm: str = "", timeout_s: float = READ_TIMEOUT_S
    ) -> NodeDetails:
        """Record what is wanted of a node (a ``lifecycle.nodes.NodeState``); the work goes on after the answer."""
        request = SetNodeStateRequest(node_id=node_id, state=state, confirm=confirm)
        return await self._channel.call(methods.SET_NODE_STATE, request, timeout_s=timeout_s)

    async def authority_status(self, *, timeout_s: float = READ_TIMEOUT_S) -> AuthorityStatus:
        """All of it, sorted by volume. The time is for each page."""
        async with aclosing(self.authority_pages(timeout_s=timeout_s)) as pages:
            found = [page async for page in pages]
        return replace(
            found[0],
            skipped=tuple(one for page in found for one in page.skipped),
            lines=tuple(one for page in found for one in page.lines),
            unconfirmed=tuple(one for page in found for one in page.unconfirmed),
            next_page_token="",
        )

    def authority_pages(
        self, *, timeout_s: float = READ_TIMEOUT_S
    ) -> AsyncGenerator[AuthorityStatus]:
        """The same page by page, as they come; what is not of volumes is in the first."""
        return self._pages(methods.AUTHORITY_STATUS, AuthorityStatusRequest(), timeout_s)

    async def _pages(self, method: Unary[Q, A], request: Q, timeout_s: float) -> AsyncGenerator[A]:
        """At least one. Raises as a call does; RemoteProtocolError: the walk would not come to an end."""
        while True:
            page = await self._channel.call(method, request, timeout_s=timeout_s)
            if page.next_page_token and page.next_page_token == request.page_token:
                raise RemoteProtocolError(f"{method.path}: a page that is followed by itself")
            yield page
            if not page.next_page_token:
                return
            request = replace(request, page_token=page.next_page_token)

    async def recovery_plan(
        self, volume_id: VolumeId, verb: RecoveryVerb, *, timeout_s: float = WORK_TIMEOUT_S
    ) -> RecoveryPlan:
        """What is known of an unconfirmed volume, and what the verb may lose by force."""
        request = RecoveryPlanRequest(volume_id=volume_id, verb=verb)
        return await self._channel.call(methods.RECOVERY_PLAN, request, timeout_s=timeout_s)

    async def recover_volume(
        self, request: RecoverRequest, *, timeout_s: float = WORK_TIMEOUT_S
    ) -> RecoverAnswer:
        return await self._channel.call(methods.RECOVER, request, timeout_s=timeout_s)

    async def give_up_node(
        self, request: GiveUpNodeRequest, *, timeout_s: float = READ_TIMEOUT_S
    ) -> GiveUpNodeAnswer:
        return await self._channel.call(methods.GIVE_UP_NODE, request, timeout_s=timeout_s)

    def backup(self) -> AsyncGenerator[BackupChunk]:
        """The master's database as it is at one moment, piece by piece."""
        return self._channel.stream(methods.BACKUP, BackupRequest())
