"""The replication port on real sockets: hello, answer, hand-over, and what bad peers get."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator

import pytest
import structlog

from sparrow.base.errors import ConfigError, Refused, StaleEpoch, TimedOut, Unavailable
from sparrow.base.ids import Epoch, NodeId
from sparrow.formats.hello import Hello, HelloAnswer, HelloCode, LinkKind, encode_hello
from sparrow.node.links import LinkListener, TcpLinks, bind

HELLO = Hello(kind=LinkKind.GRANT, cluster_id="c", from_node=NodeId("a"), to_node=NodeId("b"))


class Port:
    """A listener whose judge says what the test wants."""

    def __init__(self, *, hello_timeout_s: float = 2.0) -> None:
        sock, self.addr = bind("127.0.0.1:0")
        self.answer = HelloAnswer(code=HelloCode.ACCEPTED)
        self.adopted: asyncio.Queue[tuple[Hello, int]] = asyncio.Queue()
        self.listener = LinkListener(
            sock,
            judge=self._judge,
            adopt=self._adopt,
            log=structlog.get_logger(),
            hello_timeout_s=hello_timeout_s,
        )
        self.task = asyncio.get_running_loop().create_task(self.listener.serve())

    async def _judge(self, _hello: Hello) -> HelloAnswer:
        return self.answer

    async def _adopt(self, hello: Hello, fd: int) -> None:
        self.adopted.put_nowait((hello, fd))

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.listener.close()


@pytest.fixture
async def port() -> AsyncGenerator[Port]:
    opened = Port()
    yield opened
    await opened.close()


async def test_an_accepted_connection_belongs_to_both_ends_whole(port: Port) -> None:
    """Nothing after the hello is read here: the bytes sent right behind it arrive at the new owner."""
    ours = await TcpLinks().connect(port.addr, HELLO, timeout_s=5)
    hello, theirs = await port.adopted.get()
    assert hello == HELLO
    with socket.socket(fileno=ours) as a, socket.socket(fileno=theirs) as b:
        a.setblocking(True)
        b.setblocking(True)
        a.sendall(b"first frame")
        assert b.recv(100) == b"first frame"


async def test_bytes_behind_the_hello_are_left_in_the_socket(port: Port) -> None:
    host, _, number = port.addr.rpartition(":")
    with socket.create_connection((host, int(number))) as peer:
        peer.sendall(encode_hello(HELLO) + b"eager")
        _hello, fd = await port.adopted.get()
        with socket.socket(fileno=fd) as taken:
            taken.setblocking(True)
            assert taken.recv(100) == b"eager"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (HelloCode.STALE_TERM, StaleEpoch),
        (HelloCode.WRONG_CLUSTER, Refused),
        (HelloCode.WRONG_NODE, Refused),
        (HelloCode.WRONG_UUID, Refused),
        (HelloCode.NO_SUCH_VOLUME, Unavailable),
        (HelloCode.NOT_NOW, Unavailable),
    ],
)
async def test_a_refusal_arrives_as_what_it_means(
    port: Port, code: HelloCode, error: type[Exception]
) -> None:
    port.answer = HelloAnswer(code=code, promised_epoch=Epoch(9))
    with pytest.raises(error):
        await TcpLinks().connect(port.addr, HELLO, timeout_s=5)
    assert port.adopted.empty()


async def test_another_version_is_refused_before_anyone_is_asked(port: Port) -> None:
    hello = Hello(
        kind=LinkKind.GRANT,
        cluster_id="c",
        from_node=NodeId("a"),
        to_node=NodeId("b"),
        version_min=90,
        version_max=91,
    )
    with pytest.raises(Refused, match="version"):
        await TcpLinks().connect(port.addr, hello, timeout_s=5)


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n" * 40, b"\0" * 400, b"short"])
async def test_rubbish_is_answered_by_closing(port: Port, rubbish: bytes) -> None:
    host, _, number = port.addr.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    writer.write(rubbish)
    writer.write_eof()
    # A reset is as good: it was closed with bytes of ours unread.
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(100), 5) == b""
    writer.close()
    assert port.adopted.empty()
    # The port goes on.
    os.close(await TcpLinks().connect(port.addr, HELLO, timeout_s=5))
    os.close((await port.adopted.get())[1])


async def test_a_peer_that_says_nothing_is_dropped() -> None:
    port = Port(hello_timeout_s=0.05)
    host, _, number = port.addr.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    assert await asyncio.wait_for(reader.read(1), 5) == b""
    writer.close()
    await port.close()


async def test_a_port_that_never_answers_is_given_up() -> None:
    sock, addr = bind("127.0.0.1:0")
    with sock, pytest.raises(TimedOut):
        await TcpLinks().connect(addr, HELLO, timeout_s=0.1)


async def test_a_port_nobody_listens_on_is_unavailable() -> None:
    sock, addr = bind("127.0.0.1:0")
    sock.close()
    with pytest.raises(Unavailable):
        await TcpLinks().connect(addr, HELLO, timeout_s=1)


def test_a_taken_port_is_a_sentence() -> None:
    sock, addr = bind("127.0.0.1:0")
    with sock, pytest.raises(ConfigError, match="Cannot listen"):
        bind(addr)
