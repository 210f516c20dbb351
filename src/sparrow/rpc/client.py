"""Client side of the method table: one channel to one address, errors raised as the server raised them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from sparrow.rpc.errors import from_wire
from sparrow.rpc.methods import Stream, Unary
from sparrow.rpc.server import MESSAGE_BYTES_MAX, SENDER_KEY

Q = TypeVar("Q")
A = TypeVar("A")

CHANNEL_OPTIONS: Final = (
    # A proxy from the environment must never sit between two processes of one cluster.
    ("grpc.enable_http_proxy", 0),
    # One broken connection is one peer's trouble: no sharing between channels of a process.
    ("grpc.use_local_subchannel_pool", 1),
    # A restarted peer is found within a second; the default would back off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A subscription carries nothing for hours; a peer that vanished without a word is noticed by pings.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
)


class Channel:
    """A channel that lives until :meth:`close`; it connects by itself, again and again.

    Args:
        address: ``host:port``.
        who: the peer in words for error sentences, for example ``"the master"``.
        sender: sent with every call; the other side reads it with ``Call.sender``.
    """

    def __init__(self, address: str, *, who: str, sender: str = "") -> None:
        self.address = address
        self._metadata = ((SENDER_KEY, sender),) if sender else ()
        self._peer = f"{who} at {address}"
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)

    async def call(self, method: Unary[Q, A], request: Q, *, timeout_s: float) -> A:
        """One request, one answer. Raises SparrowError as the server's table says, Unavailable, TimedOut."""
        invoke: Any = self._channel.unary_unary(method.path)
        try:
            data: bytes = await invoke(
                method.request.encode(request), timeout=timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from None
        return method.answer.decode(data)

    async def stream(
        self, method: Stream[Q, A], request: Q, *, timeout_s: float | None = None
    ) -> AsyncGenerator[A]:
        """One request, answers as they come; leaving the loop and closing the generator cancels the call."""
        invoke: Any = self._channel.unary_stream(method.path)
        running = invoke(method.request.encode(request), timeout=timeout_s, metadata=self._metadata)
        try:
            async for data in running:
                yield method.answer.decode(data)
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from None
        finally:
            running.cancel()

    async def close(self) -> None:
        """Cancel what runs and let the connection go."""
        await self._channel.close()

    def _translate(self, error: grpc.aio.AioRpcError) -> Exception:
        trailing = [(key, value) for key, value in (error.trailing_metadata() or ())]
        return from_wire(error.code(), error.details() or "", trailing, peer=self._peer)
