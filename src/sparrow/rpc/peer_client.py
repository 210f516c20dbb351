"""Other nodes as a node calls them: one channel per peer, every wait bounded."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from sparrow.ports.dataplane import FenceReport, PageDigests, SumsImage
from sparrow.rpc import methods
from sparrow.rpc.client import Channel
from sparrow.rpc.messages import (
    FenceRequest,
    JoinAnswer,
    JoinRequest,
    LogChunk,
    PageDigestRequest,
    PrepareRebuildAnswer,
    PrepareRebuildRequest,
    ReadLogRequest,
    ReadPageAnswer,
    ReadPageRequest,
    ReadSumsRequest,
    ReservationChangeAnswer,
    ReservationChangeRequest,
    ReservationLook,
    ReservationLookRequest,
)
from sparrow.rpc.methods import Unary
from sparrow.rpc.proof import Keys

Q = TypeVar("Q")
A = TypeVar("A")


class PeerClients:
    """Calls to any node by its control address. Raises what the peer raised, Unavailable, TimedOut or Unproven."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._channels: dict[str, Channel] = {}

    async def fence(self, addr: str, request: FenceRequest, *, timeout_s: float) -> FenceReport:
        return await self._call(addr, methods.FENCE, request, timeout_s)

    async def join(self, addr: str, request: JoinRequest, *, timeout_s: float) -> JoinAnswer:
        return await self._call(addr, methods.JOIN, request, timeout_s)

    async def prepare_rebuild(
        self, addr: str, request: PrepareRebuildRequest, *, timeout_s: float
    ) -> PrepareRebuildAnswer:
        return await self._call(addr, methods.PREPARE_REBUILD, request, timeout_s)

    async def read_log(
        self, addr: str, request: ReadLogRequest, *, timeout_s: float
    ) -> AsyncGenerator[LogChunk]:
        """Chunks of whole batches up to the end of the peer's log."""
        stream = self._channel(addr).stream(methods.READ_LOG, request, timeout_s=timeout_s)
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk

    async def page_digests(
        self, addr: str, request: PageDigestRequest, *, timeout_s: float
    ) -> PageDigests:
        return await self._call(addr, methods.PAGE_DIGEST, request, timeout_s)

    async def read_page(
        self, addr: str, request: ReadPageRequest, *, timeout_s: float
    ) -> ReadPageAnswer:
        return await self._call(addr, methods.READ_PAGE, request, timeout_s)

    async def read_sums(
        self, addr: str, request: ReadSumsRequest, *, timeout_s: float
    ) -> SumsImage:
        return await self._call(addr, methods.READ_SUMS, request, timeout_s)

    async def look_at_reservations(
        self, addr: str, request: ReservationLookRequest, *, timeout_s: float
    ) -> ReservationLook:
        return await self._call(addr, methods.LOOK_AT_RESERVATIONS, request, timeout_s)

    async def change_reservations(
        self, addr: str, request: ReservationChangeRequest, *, timeout_s: float
    ) -> ReservationChangeAnswer:
        return await self._call(addr, methods.CHANGE_RESERVATIONS, request, timeout_s)

    async def close(self) -> None:
        """Cancel what runs and close every channel."""
        while self._channels:
            await self._channels.popitem()[1].close()

    async def _call(self, addr: str, method: Unary[Q, A], request: Q, timeout_s: float) -> A:
        return await self._channel(addr).call(method, request, timeout_s=timeout_s)

    def _channel(self, addr: str) -> Channel:
        if addr not in self._channels:
            self._channels[addr] = Channel(addr, who="the node", keys=self._keys)
        return self._channels[addr]
