"""The master as a node calls it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from sparrow.base.ids import NodeId
from sparrow.rpc import methods
from sparrow.rpc.client import Channel
from sparrow.rpc.messages import (
    AskAnswer,
    AskRequest,
    Heartbeat,
    HeartbeatAck,
    NodeInstruction,
    SubscribeRequest,
)
from sparrow.rpc.proof import Keys


class NodeControlClient:
    """Heartbeats, the subscription and asks of one node over one channel to the master, proved if there are keys."""

    def __init__(self, master: str, *, node_id: NodeId, keys: Keys | None = None) -> None:
        self._channel = Channel(master, who="the master", sender=node_id, keys=keys)

    async def heartbeat(self, heartbeat: Heartbeat, *, timeout_s: float) -> HeartbeatAck:
        """Raises Unavailable, TimedOut, RemoteProtocolError or InvalidArgument (a field is off: nothing was taken)."""
        return await self._channel.call(methods.HEARTBEAT, heartbeat, timeout_s=timeout_s)

    async def subscribe(self, node_id: NodeId, incarnation: int) -> AsyncGenerator[NodeInstruction]:
        """Everything the master wants of this node now, then ``Synced``, then changes.

        Raises: Unavailable when it ends.
        """
        request = SubscribeRequest(node_id=node_id, incarnation=incarnation, several=True)
        async with aclosing(self._channel.stream(methods.SUBSCRIBE, request)) as told:
            async for instructions in told:
                for instruction in instructions:
                    yield instruction

    async def ask(self, request: AskRequest, *, timeout_s: float) -> AskAnswer:
        """The line that now stands, or a durable refusal. Raises Unavailable, TimedOut: then nothing is known."""
        return await self._channel.call(methods.ASK, request, timeout_s=timeout_s)

    async def close(self) -> None:
        await self._channel.close()
