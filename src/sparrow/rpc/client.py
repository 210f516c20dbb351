"""Client side of the method table: one channel to one address, errors raised as the server raised them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from sparrow.base.errors import SparrowError, Unavailable, Unproven
from sparrow.rpc import proof
from sparrow.rpc.errors import CODE_KEY, from_wire
from sparrow.rpc.methods import CHALLENGE, Stream, Unary
from sparrow.rpc.proof import Keys, Session, SessionOver
from sparrow.rpc.server import MESSAGE_BYTES_MAX, SENDER_KEY, WINDOW_OPTIONS

Q = TypeVar("Q")
A = TypeVar("A")

CHANNEL_OPTIONS: Final = (
    # A proxy from the environment must never sit between two processes of one cluster.
    ("grpc.enable_http_proxy", 0),
    # One broken connection is one peer's trouble: no sharing between channels of a process.
    ("grpc.use_local_subchannel_pool", 1),
    # A restarted peer is found within a second; the default would back off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # The name misleads: for so long at least a peer may take to answer a new connection. All calls that wait for one
    # end when it is given up, whatever their own time, and a peer that stands still for a moment is not gone.
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A subscription carries nothing for hours; a peer that vanished without a word is noticed by pings.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
    *WINDOW_OPTIONS,
)


#: For a session that is begun by a call without a time.
BEGIN_TIMEOUT_S: Final = 5.0


class Channel:
    """A channel that lives until :meth:`close`; it connects by itself, again and again.

    Args:
        address: ``host:port``.
        who: the peer in words for error sentences, for example ``"the master"``.
        sender: sent with every call, and proved with it; the other side reads it with ``Call.sender``.
        keys: with them every call and every answer is proved (``rpc.proof``); without, none is.
    """

    def __init__(
        self, address: str, *, who: str, sender: str = "", keys: Keys | None = None
    ) -> None:
        self.address = address
        self._sender = sender
        self._metadata = ((SENDER_KEY, sender),) if sender else ()
        self._peer = f"{who} at {address}"
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._keys = keys
        self._session: Session | None = None

    async def call(self, method: Unary[Q, A], request: Q, *, timeout_s: float) -> A:
        """One request, one answer. Raises SparrowError as the server's table says, Unavailable, TimedOut, Unproven."""
        body = method.request.encode(request)
        if self._keys is None:
            return method.answer.decode(await self._plain(method.path, body, timeout_s))
        return method.answer.decode(await self._proved(method.path, body, timeout_s, self._keys))

    async def stream(
        self, method: Stream[Q, A], request: Q, *, timeout_s: float | None = None
    ) -> AsyncGenerator[A]:
        """One request, answers as they come; leaving the loop and closing the generator cancels the call.

        With keys the last answer comes only when all of them were proved, of a live stream each when it was.
        """
        body = method.request.encode(request)
        if self._keys is None:
            running = self._stream(method.path, body, timeout_s, self._metadata)
            try:
                async for data in running:
                    yield method.answer.decode(data)
            except grpc.aio.AioRpcError as error:
                raise self._translate(error) from None
            finally:
                running.cancel()
            return
        try:
            async for data in self._proved_stream(method, body, timeout_s, self._keys):
                yield method.answer.decode(data)
        except SessionOver:
            # Said before the first answer: the call was not carried out.
            async for data in self._proved_stream(method, body, timeout_s, self._keys):
                yield method.answer.decode(data)

    async def _plain(self, path: str, body: bytes, timeout_s: float) -> bytes:
        invoke: Any = self._channel.unary_unary(path)
        try:
            data: bytes = await invoke(body, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from None
        return data

    async def _proved(self, path: str, body: bytes, timeout_s: float, keys: Keys) -> bytes:
        """Prove the call, check the answer; both, and a session before them if need be, within the time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        for attempt in (1, 2):
            session = self._session or await self._begin(keys, deadline - loop.time())
            number, proved = session.prove(path, body)
            invoke: Any = self._channel.unary_unary(path)
            running = invoke(
                body,
                timeout=max(deadline - loop.time(), 0.001),
                metadata=(*self._metadata, (proof.PROOF_KEY, proved)),
            )
            try:
                data: bytes = await running
            except grpc.aio.AioRpcError as error:
                found = self._believed(error, session, path, number)
                if isinstance(found, SessionOver) and attempt == 1:
                    continue
                raise found from None
            trailing = await running.trailing_metadata()
            digest = proof.digest_of([data])
            session.check(proof.ANSWER, path, number, digest, metadata=trailing, who=self._peer)
            return data
        raise AssertionError("the second attempt returns or raises")

    async def _proved_stream(
        self, method: Stream[Q, A], body: bytes, timeout_s: float | None, keys: Keys
    ) -> AsyncGenerator[bytes]:
        path = method.path
        session = self._session or await self._begin(keys, timeout_s)
        number, proved = session.prove(path, body)
        metadata = (*self._metadata, (proof.PROOF_KEY, proved))
        running = self._stream(path, body, timeout_s, metadata)
        digest = proof.StreamDigest()
        held: bytes | None = None
        count = 0
        try:
            async for data in running:
                if method.live:
                    yield session.item(path, number, count, data, who=self._peer)
                    count += 1
                    continue
                if held is not None:
                    yield held
                held = data
                digest.add(data)
            trailing = await running.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            raise self._believed(error, session, path, number) from None
        finally:
            running.cancel()
        if method.live:
            return
        session.check(
            proof.ANSWER, path, number, digest.digest(), metadata=trailing, who=self._peer
        )
        if held is not None:
            yield held

    async def _begin(self, keys: Keys, timeout_s: float | None) -> Session:
        """A session of which the server has proved its end. Raises: Unproven, Unavailable, TimedOut."""
        key, request = proof.new_request(keys)
        bound = BEGIN_TIMEOUT_S if timeout_s is None else max(timeout_s, 0.001)
        try:
            data = await self._plain(CHALLENGE.path, CHALLENGE.request.encode(request), bound)
        except (Unavailable, Unproven):
            raise
        except SparrowError as error:
            # Nobody has proved anything yet: what a stranger says of epochs or volumes is no fact.
            raise Unproven(f"{self._peer} does not prove who it is: {error}") from error
        answer = CHALLENGE.answer.decode(data)
        self._session = proof.accept(key, request, answer, self._peer, self._sender)
        return self._session

    def _believed(
        self, error: grpc.aio.AioRpcError, session: Session, path: str, number: int
    ) -> Exception:
        """What a failed call raises: an error of ours only with its proof, else that there is no answer."""
        trailing = [(key, value) for key, value in (error.trailing_metadata() or ())]
        found = self._translate(error)
        if isinstance(found, Unproven):
            # Who refuses our proof has no session to prove itself in; it only ends the attempt. The next one begins
            # another session, with the key that is ours by then.
            if self._session is session:
                self._session = None
            return found
        if CODE_KEY not in dict(trailing) and isinstance(found, Unavailable):
            # The transport's own: there is no answer.
            return found
        digest = proof.digest_of_error(error.code(), error.details() or "", trailing)
        try:
            session.check(proof.ERROR, path, number, digest, metadata=trailing, who=self._peer)
        except Unproven as unproven:
            return unproven
        return found

    def _stream(
        self, path: str, body: bytes, timeout_s: float | None, metadata: tuple[Any, ...]
    ) -> Any:
        invoke: Any = self._channel.unary_stream(path)
        return invoke(body, timeout=timeout_s, metadata=metadata)

    async def close(self) -> None:
        """Cancel what runs and let the connection go."""
        await self._channel.close()

    def _translate(self, error: grpc.aio.AioRpcError) -> Exception:
        trailing = [(key, value) for key, value in (error.trailing_metadata() or ())]
        return from_wire(error.code(), error.details() or "", trailing, peer=self._peer)
