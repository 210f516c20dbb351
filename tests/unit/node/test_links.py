"""The replication port on real sockets: hello, answer, hand-over, and what bad peers get."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import structlog
from structlog.testing import capture_logs

from sparrow.base.errors import (
    ConfigError,
    Refused,
    RemoteProtocolError,
    StaleEpoch,
    TimedOut,
    Unavailable,
    Unproven,
)
from sparrow.base.ids import Epoch, NodeId
from sparrow.formats.hello import (
    CHALLENGE,
    HELLO,
    HELLO_ANSWER,
    PROOF,
    Hello,
    HelloAnswer,
    HelloCode,
    LinkKind,
    decode_answer,
    encode_answer,
    encode_challenge,
    encode_hello,
    encode_proof,
)
from sparrow.node.links import LinkListener, TcpLinks, bind
from tests.support.keys import KeyRing
from tests.support.waiting import WAIT_S

GRANT = Hello(kind=LinkKind.GRANT, cluster_id="c", from_node=NodeId("a"), to_node=NodeId("b"))


KEYS = KeyRing(b"one")


class Wire:
    """One end of a connection, driven by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def read(self, size: int) -> bytes:
        """This many bytes, fewer at the end of the stream."""
        data = b""
        async with asyncio.timeout(WAIT_S):
            while len(data) < size:
                part = await self._loop.sock_recv(self.sock, size - len(data))
                if not part:
                    break
                data += part
        return data


def named(keys: KeyRing, hello: Hello = GRANT, nonce: bytes = b"n" * 32) -> bytes:
    """The bytes of a hello that names a key."""
    return encode_hello(replace(hello, key_id=keys.own().key_id, nonce=nonce))


@contextlib.asynccontextmanager
async def conversation(port: Port) -> AsyncIterator[Wire]:
    """A connection to the port, nothing said yet."""
    host, _, number = port.addr.rpartition(":")
    with socket.create_connection((host, int(number))) as sock:
        sock.setblocking(False)
        yield Wire(sock)


@contextlib.asynccontextmanager
async def imposter(script: Callable[[Wire], Awaitable[None]]) -> AsyncIterator[str]:
    """What answers at the address it gives; ``script`` is its side of one connection."""
    sock, addr = bind("127.0.0.1:0")

    async def serve() -> None:
        taken, _address = await asyncio.get_running_loop().sock_accept(sock)
        with taken:
            taken.setblocking(False)
            await script(Wire(taken))

    task = asyncio.get_running_loop().create_task(serve())
    try:
        yield addr
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sock.close()


class Port:
    """A listener whose judge says what the test wants."""

    def __init__(self, *, hello_timeout_s: float = WAIT_S, keys: KeyRing = KEYS) -> None:
        sock, self.addr = bind("127.0.0.1:0")
        self.answer = HelloAnswer(code=HelloCode.ACCEPTED)
        self.judged: list[Hello] = []
        self.adopted: asyncio.Queue[tuple[Hello, int]] = asyncio.Queue()
        self.listener = LinkListener(
            sock,
            keys=keys,
            judge=self._judge,
            adopt=self._adopt,
            log=structlog.get_logger(),
            hello_timeout_s=hello_timeout_s,
        )
        self.task = asyncio.get_running_loop().create_task(self.listener.serve())

    async def _judge(self, hello: Hello) -> HelloAnswer:
        self.judged.append(hello)
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
    ours = await TcpLinks(KEYS).connect(port.addr, GRANT, timeout_s=WAIT_S)
    hello, theirs = await port.adopted.get()
    assert replace(hello, key_id=bytes(8), nonce=bytes(32)) == GRANT
    with socket.socket(fileno=ours) as a, socket.socket(fileno=theirs) as b:
        a.setblocking(True)
        b.setblocking(True)
        a.sendall(b"first frame")
        assert b.recv(100) == b"first frame"


async def test_the_kernel_finds_out_when_the_other_end_is_gone(port: Port) -> None:
    ours = await TcpLinks(KEYS).connect(port.addr, GRANT, timeout_s=WAIT_S)
    _hello, theirs = await port.adopted.get()
    for fd in (ours, theirs):
        with socket.socket(fileno=fd) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle_s = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            assert idle_s * 1000 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert idle_s <= 10


async def test_bytes_behind_the_proof_are_left_in_the_socket(port: Port) -> None:
    async with conversation(port) as peer:
        said = named(KEYS)
        await peer.send(said)
        challenge = await peer.read(CHALLENGE.size)
        await peer.send(encode_proof(KEYS.own(), said, challenge) + b"eager")
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
        await TcpLinks(KEYS).connect(port.addr, GRANT, timeout_s=WAIT_S)
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
        await TcpLinks(KEYS).connect(port.addr, hello, timeout_s=WAIT_S)


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n" * 40, b"\0" * 400, b"short"])
async def test_rubbish_is_answered_by_closing(port: Port, rubbish: bytes) -> None:
    host, _, number = port.addr.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    writer.write(rubbish)
    writer.write_eof()
    # A reset is as good: it was closed with bytes of ours unread.
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(100), WAIT_S) == b""
    writer.close()
    assert port.adopted.empty()
    # The port goes on.
    os.close(await TcpLinks(KEYS).connect(port.addr, GRANT, timeout_s=WAIT_S))
    os.close((await port.adopted.get())[1])


async def test_a_peer_that_says_nothing_is_dropped() -> None:
    port = Port(hello_timeout_s=0.05)
    host, _, number = port.addr.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    assert await asyncio.wait_for(reader.read(1), WAIT_S) == b""
    writer.close()
    await port.close()


async def test_a_port_that_never_answers_is_given_up() -> None:
    sock, addr = bind("127.0.0.1:0")
    with sock, pytest.raises(TimedOut):
        await TcpLinks(KEYS).connect(addr, GRANT, timeout_s=0.1)


async def test_a_port_nobody_listens_on_is_unavailable() -> None:
    # Bound, so that nobody else gets the port, and not listening.
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        addr = f"127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(Unavailable):
            await TcpLinks(KEYS).connect(addr, GRANT, timeout_s=WAIT_S)


def test_a_taken_port_is_a_sentence() -> None:
    sock, addr = bind("127.0.0.1:0")
    with sock, pytest.raises(ConfigError, match="Cannot listen"):
        bind(addr)


# ---------------------------------------------------------------- proofs


async def test_a_stranger_is_refused_and_both_sides_say_why(port: Port) -> None:
    stranger = KeyRing(b"another")
    with capture_logs() as logs, pytest.raises(Unproven) as caught:
        os.close(await TcpLinks(stranger).connect(port.addr, GRANT, timeout_s=WAIT_S))
    assert "does not know the cluster key we prove with" in str(caught.value)
    assert "same cluster key file" in caught.value.hint
    (told,) = [entry for entry in logs if entry["event"] == "link.refused"]
    assert (told["peer"], told["cause"]) == ("a", "unknown_key")
    assert "same cluster key file" in told["hint"]
    assert port.judged == []
    assert port.adopted.empty()


async def test_who_only_names_the_key_is_refused(port: Port) -> None:
    """The id of a key is no secret: it is in every hello."""
    async with conversation(port) as peer:
        said = named(KEYS)
        await peer.send(said)
        challenge = await peer.read(CHALLENGE.size)
        await peer.send(encode_proof(KeyRing(b"guessed").own(), said, challenge))
        answer = decode_answer(await peer.read(HELLO_ANSWER.size))
        assert answer.code is HelloCode.WRONG_PROOF
        assert await peer.read(1) == b""
    assert port.judged == []
    assert port.adopted.empty()


async def test_a_recorded_conversation_cannot_be_played_again(port: Port) -> None:
    async with conversation(port) as peer:
        said = named(KEYS)
        await peer.send(said)
        proof = encode_proof(KEYS.own(), said, await peer.read(CHALLENGE.size))
        await peer.send(proof)
        assert decode_answer(await peer.read(HELLO_ANSWER.size)).code is HelloCode.ACCEPTED
        os.close((await port.adopted.get())[1])
    port.judged.clear()
    async with conversation(port) as peer:
        await peer.send(said)
        await peer.read(CHALLENGE.size)
        await peer.send(proof)
        answer = decode_answer(await peer.read(HELLO_ANSWER.size))
        assert answer.code is HelloCode.WRONG_PROOF
    assert port.judged == []
    assert port.adopted.empty()


async def test_a_proof_in_a_changed_hello_is_refused(port: Port) -> None:
    """A grant link's proof does not open a ship link, nor one in another's name."""
    async with conversation(port) as peer:
        honest = named(KEYS)
        await peer.send(named(KEYS, replace(GRANT, from_node=NodeId("x"))))
        challenge = await peer.read(CHALLENGE.size)
        await peer.send(encode_proof(KEYS.own(), honest, challenge))
        answer = decode_answer(await peer.read(HELLO_ANSWER.size))
        assert answer.code is HelloCode.WRONG_PROOF
    assert port.judged == []


async def test_nothing_is_told_to_who_has_proved_nothing(port: Port) -> None:
    port.answer = HelloAnswer(code=HelloCode.STALE_TERM, promised_epoch=Epoch(77))
    async with conversation(port) as peer:
        await peer.send(named(KEYS))
        challenge = await peer.read(CHALLENGE.size)
        await peer.send(b"\0" * PROOF.size)
        assert await peer.read(1) == b""
    assert (77).to_bytes(8, "little") not in challenge
    assert port.judged == []


async def test_an_imposter_cannot_accept(port: Port) -> None:
    """It has the address of a node and knows every byte of the protocol, not the key."""

    async def script(wire: Wire) -> None:
        await wire.read(HELLO.size)
        await wire.send(encode_challenge(b"c" * 32))
        await wire.read(PROOF.size)
        accepted = HelloAnswer(code=HelloCode.ACCEPTED, version=2, feature_level=1)
        await wire.send(encode_answer(accepted, KeyRing(b"guessed").own(), b"", b"", b""))

    async with imposter(script) as addr:
        with pytest.raises(Unproven, match="does not know the cluster key"):
            os.close(await TcpLinks(KEYS).connect(addr, GRANT, timeout_s=WAIT_S))


@pytest.mark.parametrize("code", [HelloCode.ACCEPTED, HelloCode.STALE_TERM, HelloCode.NOT_NOW])
async def test_an_answer_without_a_challenge_is_not_believed(code: HelloCode) -> None:
    """Above all not that a newer epoch is promised: a primary would give up."""

    async def script(wire: Wire) -> None:
        await wire.read(HELLO.size)
        version, level = (2, 1) if code is HelloCode.ACCEPTED else (0, 0)
        answer = HelloAnswer(
            code=code, version=version, feature_level=level, promised_epoch=Epoch(99)
        )
        await wire.send(encode_answer(answer))

    async with imposter(script) as addr:
        with pytest.raises(Unproven, match="asks for no proof"):
            os.close(await TcpLinks(KEYS).connect(addr, GRANT, timeout_s=WAIT_S))


async def test_what_is_said_to_us_cannot_be_said_back(port: Port) -> None:
    """Reflection: the imposter has our own listener make its challenge, and gives our proof back to it."""
    heard: list[bytes] = []

    async def script(wire: Wire) -> None:
        said = await wire.read(HELLO.size)
        async with conversation(port) as ours:
            await ours.send(said)
            await wire.send(await ours.read(CHALLENGE.size))
            await ours.send(await wire.read(PROOF.size))
            heard.append(await ours.read(HELLO_ANSWER.size))

    # As PeerService does: a hello must name the node it reached.
    port.answer = HelloAnswer(code=HelloCode.WRONG_NODE)
    async with imposter(script) as addr:
        with pytest.raises(RemoteProtocolError, match="ended after 0"):
            os.close(await TcpLinks(KEYS).connect(addr, GRANT, timeout_s=WAIT_S))
    assert decode_answer(heard[0]).code is HelloCode.WRONG_NODE
    assert port.adopted.empty()


async def test_a_key_is_changed_without_a_break() -> None:
    """The three rounds: the new key below the old one, the two swapped, the old one gone."""
    rounds = [KeyRing(b"old"), KeyRing(b"old", b"new"), KeyRing(b"new", b"old"), KeyRing(b"new")]
    for before, after in pairwise(rounds):
        for connecting, listening in ((before, after), (after, before)):
            port = Port(keys=listening)
            os.close(await TcpLinks(connecting).connect(port.addr, GRANT, timeout_s=WAIT_S))
            os.close((await port.adopted.get())[1])
            await port.close()
    port = Port(keys=rounds[3])
    with pytest.raises(Unproven):
        os.close(await TcpLinks(rounds[0]).connect(port.addr, GRANT, timeout_s=WAIT_S))
    await port.close()


async def test_another_feature_level_is_refused_by_name(port: Port) -> None:
    hello = replace(GRANT, feature_min=7, feature_max=9)
    with pytest.raises(Refused) as caught:
        os.close(await TcpLinks(KEYS).connect(port.addr, hello, timeout_s=WAIT_S))
    assert "feature_level" in str(caught.value)
    assert "a has feature levels 7 to 9, b 1 to 2" in caught.value.hint
    assert port.judged == []
