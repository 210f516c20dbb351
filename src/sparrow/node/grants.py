"""Connections on which this node asks others for grants: one per node pair, on its own, never behind bulk data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events
from sparrow.base.errors import SparrowError
from sparrow.base.ids import NodeId, VolumeId
from sparrow.formats.hello import Hello, LinkKind
from sparrow.node.keys import NodeKeys
from sparrow.node.outside import Identity, Links
from sparrow.ports.dataplane import DataPlane

PAUSE_FIRST_S: Final = 0.1
PAUSE_LAST_S: Final = 1.0
CONNECT_TIMEOUT_S: Final = 0.5


class GrantLinks:
    """Keeps a link to every node that some volume needs grants of."""

    def __init__(
        self,
        *,
        me: Identity,
        dataplane: DataPlane,
        links: Links,
        keys: NodeKeys,
        cluster_id: Callable[[], str],
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        log: FilteringBoundLogger,
    ) -> None:
        self._me = me
        self._dataplane = dataplane
        self._links = links
        self._keys = keys
        self._cluster_id = cluster_id
        self._spawn = spawn
        self._log = log
        self._wanted: dict[VolumeId, dict[NodeId, str]] = {}
        self._lost: dict[NodeId, asyncio.Event] = {}

    def want(self, volume_id: VolumeId, nodes: dict[NodeId, str]) -> None:
        """From now on this volume needs grants of these nodes; empty when it needs none."""
        self._wanted[volume_id] = nodes
        for node_id in sorted(nodes):
            if node_id != self._me.node_id and node_id not in self._lost:
                self._lost[node_id] = asyncio.Event()
                self._spawn(self._keep(node_id), f"grants:{node_id}")

    def lost(self, node_key: int) -> None:
        """The core says that a link is gone."""
        node_id = self._keys.node(node_key)
        if node_id is not None and node_id in self._lost:
            self._lost[node_id].set()

    def _address(self, node_id: NodeId) -> str | None:
        """Where volumes say the node is; None when no volume needs it."""
        for nodes in self._wanted.values():
            if node_id in nodes:
                return nodes[node_id]
        return None

    async def _keep(self, node_id: NodeId) -> None:
        pause = PAUSE_FIRST_S
        try:
            while (addr := self._address(node_id)) is not None:
                lost = self._lost[node_id]
                lost.clear()
                hello = Hello(
                    kind=LinkKind.GRANT,
                    cluster_id=self._cluster_id(),
                    from_node=self._me.node_id,
                    to_node=node_id,
                )
                try:
                    fd = await self._links.connect(addr, hello, timeout_s=CONNECT_TIMEOUT_S)
                    await self._dataplane.grant_ask_link(self._keys.key(node_id), fd)
                except SparrowError as error:
                    self._log.debug(events.LINK_REFUSED, peer=node_id, cause=str(error))
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, PAUSE_LAST_S)
                    continue
                pause = PAUSE_FIRST_S
                await lost.wait()
        finally:
            del self._lost[node_id]
