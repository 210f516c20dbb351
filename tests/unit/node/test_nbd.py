"""The NBD portal on real sockets, with a test in the core's place."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import structlog

from sparrow.authority.effects import AllowAccess
from sparrow.authority.types import AckPolicy
from sparrow.base.access import AccessEntry, AccessList, Frontend
from sparrow.base.errors import ConfigError, Unavailable
from sparrow.base.ids import NodeId, VolumeId
from sparrow.dataplane.model.links import Fabric
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.dataplane.model.state import ModelPool
from sparrow.frontends.access import Asker
from sparrow.frontends.nbd.exports import TlsPolicy
from sparrow.node.access import AccessBook
from sparrow.node.links import bind
from sparrow.node.nbd import FIRST_KEY, NbdExports, NbdPortal, bind_unix
from sparrow.node.replicas import Replicas
from sparrow.node.tls import TlsServer
from sparrow.ports.dataplane import NbdParameters
from tests.support.certificates import Authority
from tests.support.lines import SIZE, VOLUME, line, rid
from tests.support.nbd_peer import OptionReply, choice, client_flags, option, query
from tests.support.waiting import WAIT_S

LIST, STARTTLS, GO, STRUCTURED, SET_META = 3, 5, 7, 8, 10
ACK, POLICY, UNKNOWN, TLS_REQD = 1, 2, 6, 5


LOCAL = Asker(protocol=Frontend.NBD, name="", loopback=True)


class RecordingDataPlane(ModelDataPlane):
    """Keeps the sockets it is given, so that the test can play the core."""

    def __init__(self) -> None:
        super().__init__("na", ModelPool(), Fabric(), clock=lambda: 0.0)
        self.refuse = False
        self.changed = asyncio.Event()

    async def adopt_nbd(self, volume_id: VolumeId, fd: int, client: NbdParameters) -> None:
        if self.refuse:
            os.close(fd)
            raise Unavailable("no room")
        self.nbd_clients[client.session_key] = (volume_id, fd, client)
        self.changed.set()

    async def end_session(self, session_key: int) -> None:
        found = self.nbd_clients.pop(session_key, None)
        if found is not None:
            os.close(found[1])
        self.changed.set()


class Client:
    """Speaks the negotiation over a stream, and afterwards whatever the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def greet(self) -> None:
        assert await self.reader.readexactly(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.writer.write(client_flags())

    async def reply(self) -> OptionReply:
        head = await self.reader.readexactly(20)
        _magic, asked, kind, length = struct.unpack(">QIII", head)
        return OptionReply(asked, kind, await self.reader.readexactly(length))

    async def ask(self, kind: int, data: bytes = b"") -> list[OptionReply]:
        """Replies up to the last one."""
        self.writer.write(option(kind, data))
        found = [await self.reply()]
        while found[-1].kind != ACK and not found[-1].error:
            found.append(await self.reply())
        return found

    async def secure(self, context: ssl.SSLContext) -> None:
        assert [r.kind for r in await self.ask(STARTTLS)] == [ACK]
        await self.writer.start_tls(context, server_hostname="localhost")

    async def at_end(self) -> bool:
        return await self.reader.read() == b""


class Node:
    """A portal in front of one volume that this node is primary of."""

    def __init__(self, place: Path, *, tls: TlsServer | None, policy: TlsPolicy) -> None:
        self.dataplane = RecordingDataPlane()
        self.volume = SimpleNamespace(
            volume_id=VOLUME,
            replica_id=rid("a"),
            known_line=line(1, 1, "a", "abc"),
            size_bytes=SIZE,
            primacy=object(),
            gate_open=True,
        )
        self.volumes = {VOLUME: self.volume}
        holder = type("Holder", (), {"__iter__": lambda _self: iter(self.volumes.values())})()
        holder.find = self.volumes.get
        self.replicas = cast("Replicas", holder)
        sock, self.address = bind("127.0.0.1:0")
        self.path = str(place / "nbd.sock")
        log = structlog.get_logger().bind(node=NodeId("na"))
        self.access = AccessBook(log)
        self.allow()
        self.portal = NbdPortal(
            (sock, bind_unix(self.path)),
            replicas=self.replicas,
            access=self.access,
            dataplane=self.dataplane,
            log=log,
            tls=tls,
            policy=policy,
        )
        self.task = asyncio.get_running_loop().create_task(self.portal.serve())
        self._clients: list[Client] = []

    def allow(self, *entries: AccessEntry, revision: int = 0) -> None:
        """What the master says of the volume; without anything nobody ever made a list."""
        access = AccessList(revision=revision, entries=entries)
        self.access.learn(AllowAccess(volume_id=VOLUME, access=access, secrets=()))

    def exports(self, asker: Asker = LOCAL) -> NbdExports:
        return NbdExports(self.replicas, self.access, asker)

    async def connect(self, *, local: bool = False) -> Client:
        if local:
            client = Client(*await asyncio.open_unix_connection(self.path))
        else:
            host, _, port = self.address.rpartition(":")
            client = Client(*await asyncio.open_connection(host, int(port)))
        self._clients.append(client)
        await client.greet()
        return client

    async def adopted(self) -> tuple[socket.socket, NbdParameters]:
        """The core's end of the one connection it has."""
        async with asyncio.timeout(WAIT_S):
            while not self.dataplane.nbd_clients:
                self.dataplane.changed.clear()
                await self.dataplane.changed.wait()
        ((_volume, fd, parameters),) = self.dataplane.nbd_clients.values()
        sock = socket.socket(fileno=os.dup(fd))
        sock.setblocking(False)
        return sock, parameters

    async def close(self) -> None:
        for client in self._clients:
            client.writer.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.portal.close()
        for key in list(self.dataplane.nbd_clients):
            await self.dataplane.end_session(key)
        # The file of the Unix socket is gone with the portal.
        bind_unix(self.path).close()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncGenerator[Node]:
    opened = Node(tmp_path, tls=None, policy=TlsPolicy.OFF)
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """With the certificate of one client."""
    made = Authority(tmp_path_factory.mktemp("ca"))
    made.issue("client", "backup-host")
    return made


@pytest.fixture(params=[TlsPolicy.ALLOWED, TlsPolicy.REQUIRED])
async def secured(
    tmp_path: Path, authority: Authority, request: pytest.FixtureRequest
) -> AsyncGenerator[Node]:
    pair = authority.issue("server", "na")
    server = TlsServer(pair.certificate, pair.key, authority.certificate)
    opened = Node(tmp_path, tls=server, policy=request.param)
    yield opened
    await opened.close()


def client_context(authority: Authority, *, certificate: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if certificate:
        place = authority.directory
        context.load_cert_chain(place / "client-cert.pem", place / "client-key.pem")
    return context


@pytest.mark.parametrize("local", [False, True])
async def test_a_choice_hands_the_socket_to_the_core(node: Node, local: bool) -> None:
    client = await node.connect(local=local)
    await client.ask(STRUCTURED)
    await client.ask(SET_META, query(VOLUME, "base:allocation"))
    assert (await client.ask(GO, choice(VOLUME, 3)))[-1].kind == ACK
    sock, parameters = await node.adopted()
    assert parameters.structured
    assert parameters.context == 1
    assert parameters.session_key >= FIRST_KEY
    client.writer.write(b"request")
    loop = asyncio.get_running_loop()
    with sock:
        assert parameters.pending + await loop.sock_recv(sock, 7) == b"request"
        await loop.sock_sendall(sock, b"reply")
        assert await client.reader.readexactly(5) == b"reply"


async def test_a_standby_names_the_node_of_the_primary(node: Node) -> None:
    node.volume.primacy, node.volume.gate_open = None, False
    node.volume.known_line = line(1, 1, "b", "abc")
    client = await node.connect()
    (refused,) = await client.ask(GO, choice(VOLUME))
    assert refused.error == POLICY
    member = node.volume.known_line.member(rid("b"))
    assert member is not None
    assert f"primary is on node {member.node_id}" in refused.data.decode()
    listed = await client.ask(LIST)
    assert VOLUME.encode() in listed[0].data
    # It becomes primary while the client is still talking.
    node.volume.primacy, node.volume.gate_open = object(), True
    assert (await client.ask(GO, choice(VOLUME)))[-1].kind == ACK


@pytest.mark.parametrize(("primacy", "primary"), [(object(), "a"), (None, "a")])
def test_an_export_with_a_closed_gate_is_not_served(
    node: Node, primacy: object, primary: str
) -> None:
    node.volume.gate_open = False
    node.volume.primacy = primacy
    node.volume.known_line = line(1, 1, primary, "abc")
    export = node.exports().find(VOLUME)
    assert export is not None
    assert export.refusal is not None
    assert "try again" in export.explanation


def test_a_volume_that_is_not_here_or_retired_is_no_export(node: Node) -> None:
    exports = node.exports()
    assert exports.find("other") is None
    node.volume.known_line = None
    assert exports.find(VOLUME) is None
    assert exports.listed() == ()


@pytest.mark.parametrize(("ack", "shared"), [(AckPolicy.SYNC, True), (AckPolicy.LOCAL, False)])
def test_many_connections_are_offered_where_all_see_the_same(
    node: Node, ack: AckPolicy, shared: bool
) -> None:
    node.volume.known_line = replace(node.volume.known_line, ack=ack)
    (export,) = node.exports().listed()
    assert export.shared is shared


async def test_a_connection_the_core_refused_leaves_nothing_behind(node: Node) -> None:
    node.dataplane.refuse = True
    client = await node.connect()
    await client.ask(GO, choice(VOLUME))
    assert await client.at_end()
    assert node.portal.client(FIRST_KEY) is None


@pytest.mark.parametrize(
    "wire", [b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\0\0\0\x03IHAVEOPS" + bytes(20)]
)
async def test_rubbish_closes_the_connection_and_nothing_else(node: Node, wire: bytes) -> None:
    host, _, port = node.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(wire)
    assert (await reader.read()).startswith(b"NBDMAGIC")
    writer.close()
    client = await node.connect()
    assert (await client.ask(GO, choice(VOLUME)))[-1].kind == ACK


async def test_a_gate_that_closes_for_good_ends_connections_and_one_that_may_return_does_not(
    node: Node,
) -> None:
    client = await node.connect()
    await client.ask(GO, choice(VOLUME))
    sock, _parameters = await node.adopted()
    sock.close()
    node.portal.gate_closed(VOLUME, "grant")
    node.portal.gate_closed(VolumeId("other"), "superseded")
    await asyncio.sleep(0)
    assert node.dataplane.nbd_clients
    node.portal.gate_closed(VOLUME, "superseded")
    assert await client.at_end()
    assert not node.dataplane.nbd_clients


async def test_what_the_core_says_of_other_keys_is_not_ours(node: Node) -> None:
    node.portal.ended(1, "closed")
    client = await node.connect()
    await client.ask(GO, choice(VOLUME))
    sock, _parameters = await node.adopted()
    sock.close()
    assert node.portal.client(FIRST_KEY) is not None
    node.portal.ended(FIRST_KEY, "logout")
    assert node.portal.client(FIRST_KEY) is None


# ---------------------------------------------------------------- access


def entry(name: str, **secrets: str) -> AccessEntry:
    return AccessEntry(protocol=Frontend.NBD, name=name, **secrets)


@pytest.mark.parametrize(
    ("entries", "asker", "admitted"),
    [
        ((), LOCAL, False),
        ((entry("*"),), LOCAL, True),
        ((entry("host"),), LOCAL, False),
        ((entry("host"),), replace(LOCAL, name="host", loopback=False), True),
        ((entry("host"),), replace(LOCAL, name="other"), False),
        ((entry("host", secret="s"),), replace(LOCAL, name="host"), False),
        ((AccessEntry(protocol=Frontend.ISCSI, name="*"),), LOCAL, False),
    ],
)
def test_who_is_not_in_the_list_is_told_of_nothing(
    node: Node, entries: tuple[AccessEntry, ...], asker: Asker, admitted: bool
) -> None:
    node.allow(*entries, revision=1)
    exports = node.exports(asker)
    assert (exports.find(VOLUME) is not None) is admitted
    assert len(exports.listed()) == admitted


def test_without_a_list_only_this_machine_is_served(node: Node) -> None:
    assert node.exports().find(VOLUME) is not None
    assert node.exports(replace(LOCAL, loopback=False)).find(VOLUME) is None
    node.access.forget(VOLUME)
    assert node.exports().find(VOLUME) is None


async def test_a_list_that_changes_ends_the_connections_it_does_not_let_in(node: Node) -> None:
    client = await node.connect()
    assert (await client.ask(GO, choice(VOLUME)))[-1].kind == ACK
    sock, _parameters = await node.adopted()
    sock.close()
    node.allow(entry("*"), revision=1)
    await asyncio.sleep(0)
    assert node.dataplane.nbd_clients
    node.allow(entry("host"), revision=2)
    assert await client.at_end()
    assert not node.dataplane.nbd_clients
    refused = await (await node.connect()).ask(GO, choice(VOLUME))
    assert refused[0].error == UNKNOWN


async def test_a_certificate_opens_what_its_name_may_use(
    secured: Node, authority: Authority
) -> None:
    secured.allow(entry("backup-host"), revision=1)
    client = await secured.connect()
    await client.secure(client_context(authority, certificate=True))
    assert (await client.ask(GO, choice(VOLUME)))[-1].kind == ACK
    (await secured.adopted())[0].close()
    secured.allow(entry("another"), revision=2)
    assert await client.at_end()


# ---------------------------------------------------------------- TLS


async def test_tls_carries_the_negotiation_and_what_follows(
    secured: Node, authority: Authority
) -> None:
    client = await secured.connect()
    await client.secure(client_context(authority, certificate=True))
    await client.ask(STRUCTURED)
    assert (await client.ask(GO, choice(VOLUME)))[-1].kind == ACK
    sock, parameters = await secured.adopted()
    loop = asyncio.get_running_loop()
    data = os.urandom(3 << 20)
    with sock:
        client.writer.write(data)
        got = parameters.pending
        while len(got) < len(data):
            got += await loop.sock_recv(sock, 1 << 20)
        assert got == data
        _sent, back = await asyncio.gather(
            loop.sock_sendall(sock, data), client.reader.readexactly(len(data))
        )
        assert back == data


async def test_what_comes_in_does_not_wait_for_what_goes_out(
    secured: Node, authority: Authority
) -> None:
    """A client that sends all of its requests before it reads an answer is served, as it is without TLS.

    The core has more answers for it than any buffer holds, and takes what it still sends.
    """
    client = await secured.connect()
    await client.secure(client_context(authority, certificate=True))
    await client.ask(STRUCTURED)
    assert (await client.ask(GO, choice(VOLUME)))[-1].kind == ACK
    sock, parameters = await secured.adopted()
    loop = asyncio.get_running_loop()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    answers, requests = bytes(32 << 20), os.urandom(32 << 20)
    answering = loop.create_task(loop.sock_sendall(sock, answers))
    with sock:
        client.writer.write(requests)
        got = bytearray(parameters.pending)
        async with asyncio.timeout(2 * WAIT_S):
            while len(got) < len(requests):
                got += await loop.sock_recv(sock, 1 << 20)
        assert got == requests
        assert not answering.done(), "nobody has read them"
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await client.reader.readexactly(len(answers)) == answers
        await answering


async def test_the_end_of_either_side_is_the_end_of_the_other(
    secured: Node, authority: Authority
) -> None:
    for who in ("client", "core"):
        client = await secured.connect()
        await client.secure(client_context(authority, certificate=True))
        await client.ask(GO, choice(VOLUME))
        sock, _parameters = await secured.adopted()
        (key,) = secured.dataplane.nbd_clients
        if who == "client":
            client.writer.close()
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
            sock.close()
            await secured.dataplane.end_session(key)
        else:
            await asyncio.get_running_loop().sock_sendall(sock, b"last words")
            sock.close()
            await secured.dataplane.end_session(key)
            assert await client.reader.read() == b"last words"


async def test_a_client_without_a_certificate_is_turned_away(
    secured: Node, authority: Authority
) -> None:
    client = await secured.connect()

    async def try_it() -> None:
        await client.secure(client_context(authority, certificate=False))
        await client.ask(GO, choice(VOLUME))

    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await try_it()
    assert not secured.dataplane.nbd_clients


async def test_plain_clients_are_served_where_tls_is_not_required(secured: Node) -> None:
    client = await secured.connect()
    answers = await client.ask(GO, choice(VOLUME))
    if secured.portal._policy is TlsPolicy.REQUIRED:
        assert answers[-1].error == TLS_REQD
    else:
        assert answers[-1].kind == ACK
    local = await secured.connect(local=True)
    assert (await local.ask(GO, choice(VOLUME)))[-1].kind == ACK


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(ConfigError, match="authority cannot be used"):
        TlsServer(tmp_path / "none.pem", tmp_path / "none.key", None)
    pair = authority.issue("server", "na")
    with pytest.raises(ConfigError):
        TlsServer(pair.certificate, pair.certificate, None)


# ---------------------------------------------------------------- Unix sockets


def test_a_unix_socket_left_over_is_taken_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = bind_unix(path)
    assert Path(path).stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="another process listens"):
        bind_unix(path)
    first.close()
    bind_unix(path).close()
    Path(path).unlink()
    Path(path).write_text("a file")
    with pytest.raises(ConfigError, match="no socket"):
        bind_unix(path)
    with pytest.raises(ConfigError):
        bind_unix(str(tmp_path / "none" / "s"))
