"""Server side of the method table: handlers take and give dataclasses, errors travel by the error table.

An error of ours becomes its row's status; anything else is a bug here, logged with its traceback and answered
INTERNAL without one.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sparrow.base import events
from sparrow.base.errors import ConfigError, SparrowError
from sparrow.rpc.errors import details_of, metadata_of, row_of
from sparrow.rpc.methods import Stream, Unary

Q = TypeVar("Q")
A = TypeVar("A")

log = structlog.get_logger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

#: Of one message, both directions; a chunk of log is the largest thing sent.
MESSAGE_BYTES_MAX: Final = 16 << 20
#: Both ends. By default gRPC measures each connection with pings of its own and sizes its windows by that, with every
#: burst of data; most bursts here are heartbeats, of which there are two a second for ever. A window that is as large
#: as what is worth having in flight needs no measuring: a chunk of log, at 10 Gbit/s and 3 ms.
WINDOW_OPTIONS: Final = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4 << 20))
#: Metadata key under which a caller says who it is.
SENDER_KEY: Final = "sparrow-sender"
SERVER_OPTIONS: Final = (
    # Two servers on one port would each get half of the calls; a taken port must be an error.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Clients of ours ping idle subscriptions; the default would answer that with "too many pings".
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.keepalive_permit_without_calls", 1),
    *WINDOW_OPTIONS,
)


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know of the call itself."""

    context: Any

    def time_left(self) -> float | None:
        """Seconds until the caller gives up, None when it waits for ever."""
        left: float | None = self.context.time_remaining()
        return left

    def sender(self) -> str:
        """Who the caller says it is, empty when it does not: a claim, unless the call is proved (``rpc.proof``)."""
        found = dict(self.context.invocation_metadata() or ()).get(SENDER_KEY, "")
        return found if isinstance(found, str) else ""

    def peer(self) -> str:
        """The caller's address as gRPC prints it, for logs only."""
        name: str = self.context.peer()
        return name


@dataclass(frozen=True, slots=True)
class Route:
    """One method with its handler, in gRPC's own form."""

    service: str
    name: str
    handler: Handler
    #: See ``methods.Stream``.
    live: bool = False


def unary(method: Unary[Q, A], handle: Callable[[Q, Call], Awaitable[A]]) -> Route:
    """Serve a one-answer method."""

    async def serve(data: bytes, context: Any) -> bytes:
        try:
            return method.answer.encode(await handle(method.request.decode(data), Call(context)))
        except SparrowError as error:
            await _refuse(context, error)
        except Exception as error:  # noqa: BLE001 - whatever a bug raises, the caller gets an answer
            await _give_up(context, method.path, error)

    handler: Handler = grpc.unary_unary_rpc_method_handler(serve)
    return Route(method.service, method.name, handler)


def stream(method: Stream[Q, A], handle: Callable[[Q, Call], AsyncGenerator[A]]) -> Route:
    """Serve a many-answers method; the handler is closed when the caller goes away."""

    async def serve(data: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            # Closed here and now, so that a handler's clean-up does not wait for the garbage collector.
            async with aclosing(handle(method.request.decode(data), Call(context))) as answers:
                async for answer in answers:
                    yield method.answer.encode(answer)
        except SparrowError as error:
            await _refuse(context, error)
        except Exception as error:  # noqa: BLE001 - whatever a bug raises, the caller gets an answer
            await _give_up(context, method.path, error)

    handler: Handler = grpc.unary_stream_rpc_method_handler(serve)
    return Route(method.service, method.name, handler, live=method.live)


async def _refuse(context: Any, error: SparrowError) -> NoReturn:
    await context.abort(row_of(error).status, details_of(error), metadata_of(error))
    raise AssertionError("abort raises")


async def _give_up(context: Any, path: str, error: Exception) -> NoReturn:
    if context.done():
        # abort() ends a handler by raising its own error; there is nobody left to answer.
        raise error
    log.error(events.CALL_FAILED, method=path, exc_info=error)
    await _refuse(
        context, SparrowError(f"{path} failed inside the server.", hint="Its log has the cause.")
    )


class Server:
    """One gRPC server on one address, with health and reflection beside the routes given."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._services = sorted({route.service for route in routes})
        for service in self._services:
            handlers = {route.name: route.handler for route in routes if route.service == service}
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, handlers),)
            )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, listen: str) -> str:
        """Listen on ``host:port`` (port 0: any free one); returns the address with the real port.

        Raises: ConfigError: the address is taken or not ours.
        """
        host = listen.rpartition(":")[0]
        _check_free(listen)
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise ConfigError(f"Cannot listen on {listen}: {error}") from error
        await self._server.start()
        await self.set_serving(True)
        return f"{host}:{port}"

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers, for the process and each service."""
        kind = health_pb2.HealthCheckResponse
        status = kind.SERVING if serving else kind.NOT_SERVING
        for name in ("", *self._services):
            await self._health.set(name, status)

    async def stop(self, *, grace_s: float) -> None:
        """Refuse new calls, give running ones this long, then cancel them."""
        await self.set_serving(False)
        await self._server.stop(grace_s)


def _check_free(listen: str) -> None:
    """Bind and let go, because gRPC's own failure does not say why."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f"{listen!r} is no address.", hint="Write host:port, for example 127.0.0.1:7400."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As gRPC does it: connections of a process that died a moment ago are no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            cause = error.strerror or str(error)
            raise ConfigError(
                f"Cannot listen on {listen}: {cause}.",
                hint="Another process has it; stop that one or choose another port.",
            ) from error
