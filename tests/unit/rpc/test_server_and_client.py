"""A server and a client of ours on one real socket: answers, errors, streams, deadlines, health."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from sparrow.base.errors import (
    AlreadyExists,
    ConfigError,
    FailedPrecondition,
    RemoteProtocolError,
    SparrowError,
    TimedOut,
    Unavailable,
)
from sparrow.base.ids import Lsn, ReplicaId, VolumeId
from sparrow.rpc import methods
from sparrow.rpc.client import Channel
from sparrow.rpc.messages import GetVolumeRequest, VerifyProgress, VerifyRequest, VolumeView
from sparrow.rpc.server import Call, Route, Server, stream, unary

WAIT_S = 30.0


def view(name: str) -> VolumeView:
    return VolumeView(
        name=VolumeId(name),
        size_bytes=1,
        block_size=4096,
        replication_factor=1,
        state="healthy",
        cause="",
        line=None,
        replicas=(),
        frontends=(),
    )


class Served:
    """Handlers whose behaviour is the volume's name."""

    def __init__(self) -> None:
        self.stream_ended = asyncio.Event()
        self.time_left: float | None = None

    async def get(self, request: GetVolumeRequest, call: Call) -> VolumeView:
        self.time_left = call.time_left()
        if request.name == "taken":
            raise AlreadyExists("Volume taken exists.", hint="Choose another name.")
        if request.name == "bug":
            raise ZeroDivisionError("secret detail")
        if request.name == "many":
            raise FailedPrecondition("n1, " * 4000, hint="n1: \u00fc full; " * 4000)
        if request.name == "slow":
            await asyncio.Event().wait()
        return view(request.name)

    async def verify(self, request: VerifyRequest, _call: Call) -> AsyncGenerator[VerifyProgress]:
        try:
            for page in range(3):
                yield VerifyProgress(
                    pages_done=page, pages_total=3, lsn=Lsn(1), replicas=(ReplicaId("r1"),)
                )
            if request.volume_id == "broken":
                raise Unavailable("The primary went away.", hint="Start again.")
            if request.volume_id == "endless":
                await asyncio.Event().wait()
        finally:
            self.stream_ended.set()

    def routes(self) -> tuple[Route, ...]:
        return (unary(methods.GET_VOLUME, self.get), stream(methods.VERIFY_VOLUME, self.verify))


@pytest.fixture
async def served() -> AsyncGenerator[tuple[Served, Channel, str]]:
    handlers = Served()
    server = Server(handlers.routes())
    address = await server.start("127.0.0.1:0")
    channel = Channel(address, who="the master")
    yield handlers, channel, address
    await channel.close()
    await server.stop(grace_s=0)


async def test_an_answer_arrives_and_the_handler_knows_the_deadline(
    served: tuple[Served, Channel, str],
) -> None:
    handlers, channel, _ = served
    answer = await channel.call(methods.GET_VOLUME, GetVolumeRequest(name="a"), timeout_s=WAIT_S)
    assert answer == view("a")
    assert handlers.time_left is not None
    # The server counts from when it first saw the call, on a clock of its own: near the end of a long wait is enough.
    assert 0 < handlers.time_left <= WAIT_S + 1


async def test_an_error_is_raised_as_the_class_the_handler_raised(
    served: tuple[Served, Channel, str],
) -> None:
    with pytest.raises(AlreadyExists, match=r"Volume taken exists\.") as caught:
        await served[1].call(methods.GET_VOLUME, GetVolumeRequest(name="taken"), timeout_s=WAIT_S)
    assert caught.value.hint == "Choose another name."


async def test_an_error_that_names_a_thousand_nodes_arrives_as_what_it_is(
    served: tuple[Served, Channel, str],
) -> None:
    with pytest.raises(FailedPrecondition, match=r"^n1, n1, .*\.\.\.$") as caught:
        await served[1].call(methods.GET_VOLUME, GetVolumeRequest(name="many"), timeout_s=WAIT_S)
    assert caught.value.hint.startswith("n1: \u00fc full; n1")
    assert caught.value.hint.endswith("...")


async def test_a_bug_is_logged_with_its_cause_and_answered_without_it(
    served: tuple[Served, Channel, str],
) -> None:
    with (
        capture_logs() as logs,
        pytest.raises(SparrowError, match="failed inside the server") as caught,
    ):
        await served[1].call(methods.GET_VOLUME, GetVolumeRequest(name="bug"), timeout_s=WAIT_S)
    assert "secret detail" not in caught.value.sentence()
    assert [entry["event"] for entry in logs] == ["call.failed"]


async def test_bytes_that_are_no_request_are_refused(served: tuple[Served, Channel, str]) -> None:
    raw = served[1]._channel.unary_unary(methods.GET_VOLUME.path)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(b"\xff\xff\xff", timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(caught.value.trailing_metadata() or ())["sparrow-code"] == RemoteProtocolError.code


async def test_a_stream_ends_after_its_last_answer(served: tuple[Served, Channel, str]) -> None:
    got = [
        p.pages_done
        async for p in served[1].stream(
            methods.VERIFY_VOLUME, VerifyRequest(volume_id=VolumeId("a"))
        )
    ]
    assert got == [0, 1, 2]


async def test_a_stream_that_fails_half_way_raises_after_what_arrived(
    served: tuple[Served, Channel, str],
) -> None:
    running = served[1].stream(methods.VERIFY_VOLUME, VerifyRequest(volume_id=VolumeId("broken")))
    assert [(await anext(running)).pages_done for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Unavailable, match="The primary went away"):
        await anext(running)


async def test_a_stream_left_by_its_reader_ends_at_the_server(
    served: tuple[Served, Channel, str],
) -> None:
    handlers, channel, _ = served
    running = channel.stream(methods.VERIFY_VOLUME, VerifyRequest(volume_id=VolumeId("endless")))
    async with aclosing(running):
        async for progress in running:
            if progress.pages_done == 2:
                break
    async with asyncio.timeout(WAIT_S):
        await handlers.stream_ended.wait()


async def test_a_silent_server_is_a_time_out_that_names_it(
    served: tuple[Served, Channel, str],
) -> None:
    _, channel, address = served
    with pytest.raises(TimedOut, match=f"the master at {address}"):
        await channel.call(methods.GET_VOLUME, GetVolumeRequest(name="slow"), timeout_s=0.1)


async def test_a_method_nobody_serves_is_explained(served: tuple[Served, Channel, str]) -> None:
    from sparrow.rpc.messages import ListNodesRequest

    with pytest.raises(FailedPrecondition, match="does not know this call"):
        await served[1].call(methods.LIST_NODES, ListNodesRequest(), timeout_s=WAIT_S)


async def test_nobody_listening_is_unavailable_and_names_the_address() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: refused, and nobody else can take it
        address = f"127.0.0.1:{held.getsockname()[1]}"
        channel = Channel(address, who="the master")
        with pytest.raises(Unavailable, match=f"Cannot reach the master at {address}"):
            await channel.call(methods.GET_VOLUME, GetVolumeRequest(name="a"), timeout_s=WAIT_S)
        await channel.close()


async def test_a_peer_that_stands_still_for_a_moment_is_not_yet_unavailable() -> None:
    """Its kernel took the connection, and it says nothing: as a process does that gets no processor."""
    with socket.create_server(("127.0.0.1", 0)) as standing:
        address = f"127.0.0.1:{standing.getsockname()[1]}"
        channel = Channel(address, who="the master")
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable):
            await channel.call(methods.GET_VOLUME, GetVolumeRequest(name="a"), timeout_s=WAIT_S)
        await channel.close()
    assert asyncio.get_running_loop().time() - began > 0.9


async def test_a_taken_port_is_an_error_and_not_a_shared_port(
    served: tuple[Served, Channel, str],
) -> None:
    second = Server(Served().routes())
    with pytest.raises(ConfigError, match="Address already in use"):
        await second.start(served[2])


@pytest.mark.parametrize("listen", ["7400", "localhost:", ":7400", "h:x", "h:65536"])
async def test_an_address_that_is_none_is_an_error(listen: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        await Server(Served().routes()).start(listen)


async def test_health_says_serving_for_the_process_and_each_service(
    served: tuple[Served, Channel, str],
) -> None:
    async with grpc.aio.insecure_channel(served[2]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", methods.VOLUMES):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
