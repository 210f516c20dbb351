"""What a node needs of the world besides its data plane: other nodes, links to them, the master.

``node.app`` hands in the real ones, tests hand in fakes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from sparrow.base.ids import NodeId
from sparrow.formats.hello import Hello
from sparrow.ports.dataplane import FenceReport, PageDigests, SumsImage
from sparrow.rpc.messages import (
    AskAnswer,
    AskRequest,
    FenceRequest,
    Heartbeat,
    HeartbeatAck,
    JoinAnswer,
    JoinRequest,
    LogChunk,
    NodeInstruction,
    PageDigestRequest,
    PrepareRebuildAnswer,
    PrepareRebuildRequest,
    ReadLogRequest,
    ReadPageAnswer,
    ReadPageRequest,
    ReadSumsRequest,
)


class PeerCalls(Protocol):
    """Calls to another node by its control address (``host:port``); every one is bounded by ``timeout_s``."""

    async def fence(self, addr: str, request: FenceRequest, *, timeout_s: float) -> FenceReport: ...

    async def join(self, addr: str, request: JoinRequest, *, timeout_s: float) -> JoinAnswer: ...

    async def prepare_rebuild(
        self, addr: str, request: PrepareRebuildRequest, *, timeout_s: float
    ) -> PrepareRebuildAnswer: ...

    def read_log(
        self, addr: str, request: ReadLogRequest, *, timeout_s: float
    ) -> AsyncGenerator[LogChunk]: ...

    async def page_digests(
        self, addr: str, request: PageDigestRequest, *, timeout_s: float
    ) -> PageDigests: ...

    async def read_page(
        self, addr: str, request: ReadPageRequest, *, timeout_s: float
    ) -> ReadPageAnswer: ...

    async def read_sums(
        self, addr: str, request: ReadSumsRequest, *, timeout_s: float
    ) -> SumsImage: ...


class Links(Protocol):
    """Connections to other nodes' replication ports."""

    async def connect(self, addr: str, hello: Hello, *, timeout_s: float) -> int:
        """A descriptor whose hello was accepted; it is the caller's.

        Raises: StaleEpoch (a newer epoch is promised there), Refused, Unavailable, TimedOut, RemoteProtocolError.
        """


class MasterCalls(Protocol):
    """The master as a node calls it."""

    async def heartbeat(self, heartbeat: Heartbeat, *, timeout_s: float) -> HeartbeatAck: ...

    def subscribe(self, node_id: NodeId, incarnation: int) -> AsyncGenerator[NodeInstruction]: ...

    async def ask(self, request: AskRequest, *, timeout_s: float) -> AskAnswer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this node is. Addresses are ``host:port`` as others reach them, with the real ports."""

    node_id: NodeId
    incarnation: int
    ctrl_addr: str
    data_addr: str
    iscsi_addr: str
    nvme_addr: str = ""
    #: Empty when there is no such portal.
    nbd_addr: str = ""
    #: It serves over TLS only.
    nbd_tls: bool = False
    #: All iSCSI portals, the first one included; empty where it is the only one.
    iscsi_portals: tuple[str, ...] = ()
