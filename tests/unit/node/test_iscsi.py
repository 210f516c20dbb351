"""The iSCSI portal on a real socket, and the commands the core hands up."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from sparrow.authority.effects import AllowAccess
from sparrow.base.access import AccessEntry, AccessList, Frontend, Secret
from sparrow.base.errors import Unavailable
from sparrow.base.ids import NodeId, VolumeId
from sparrow.dataplane.model import ModelDataPlane, ModelPool
from sparrow.dataplane.model_links import Fabric
from sparrow.frontends.iscsi.naming import target_name
from sparrow.node.access import AccessBook, is_loopback
from sparrow.node.iscsi import IscsiPortal
from sparrow.node.links import bind
from sparrow.node.replicas import Replicas
from sparrow.node.upcalls import Upcalls
from sparrow.ports.dataplane import SessionParameters, Upcall
from tests.support.iscsi_client import IscsiClient, LoginError
from tests.support.lines import SIZE, VOLUME, line, rid

TARGET = target_name(VOLUME)
ISID = bytes.fromhex("800000000009")


PORTALS = {rid("b"): ("192.0.2.2:3260", "[2001:db8::2]:3260")}


class RecordingDataPlane(ModelDataPlane):
    """Keeps the sockets it is given, so that the test can play the core."""

    def __init__(self) -> None:
        super().__init__("na", ModelPool(), Fabric(), clock=lambda: 0.0)
        self.refuse = False
        self.asked: list[tuple[int, int]] = []
        self.on_end: Callable[[int], None] = lambda _key: None
        self.changed = asyncio.Event()

    async def adopt_session(self, volume_id: VolumeId, fd: int, session: SessionParameters) -> None:
        if self.refuse:
            os.close(fd)
            raise Unavailable("no room")
        self.sessions[session.session_key] = (volume_id, fd, session)
        self.changed.set()

    async def end_session(self, session_key: int, *, leave_ms: int = 0) -> None:
        self.asked.append((session_key, leave_ms))
        found = self.sessions.pop(session_key, None)
        if found is not None:
            os.close(found[1])
        self.changed.set()
        asyncio.get_running_loop().call_soon(self.on_end, session_key)


class Node:
    """A portal in front of one volume that this node is primary of."""

    def __init__(self) -> None:
        self.dataplane = RecordingDataPlane()
        known = line(1, 1, "a", "abc")
        self.volume = SimpleNamespace(
            volume_id=VOLUME,
            replica_id=rid("a"),
            known_line=known,
            size_bytes=SIZE,
            block_size=4096,
            disk_failed=False,
            pool_full=False,
            frozen=False,
            primacy=object(),
            gate_open=True,
            portals_of=lambda replica, _protocol: PORTALS.get(replica, ()),
        )
        volumes = {VOLUME: self.volume}
        replicas = SimpleNamespace(find=volumes.get, get=volumes.__getitem__)
        holder = type("Holder", (), {"__iter__": lambda _self: iter(volumes.values())})()
        holder.find = replicas.find
        holder.get = replicas.get
        self.volumes = volumes
        sock, self.address = bind("127.0.0.1:0")
        log = structlog.get_logger().bind(node=NodeId("na"))
        self.access = AccessBook(log)
        self.access.learn(AllowAccess(volume_id=VOLUME, access=AccessList()))
        self.portal = IscsiPortal(
            [sock],
            addresses=[self.address],
            replicas=cast("Replicas", holder),
            access=self.access,
            dataplane=self.dataplane,
            log=log,
        )
        self.upcalls = Upcalls(
            replicas=cast("Replicas", holder),
            portal=self.portal,
            dataplane=self.dataplane,
            cluster_id=lambda: "c1",
            log=log,
        )
        self.dataplane.on_end = lambda key: self.portal.ended(key, "command")
        self.task = asyncio.get_running_loop().create_task(self.portal.serve())

    async def log_in(self, **options: Any) -> IscsiClient:
        host, _, port = self.address.rpartition(":")
        options.setdefault("target", TARGET)
        return await asyncio.to_thread(IscsiClient, host, int(port), timeout_s=5, **options)

    async def adopted(self, count: int) -> list[SessionParameters]:
        """Wait until the core has this many sessions."""
        async with asyncio.timeout(5):
            while len(self.dataplane.sessions) != count:
                self.dataplane.changed.clear()
                await self.dataplane.changed.wait()
        return [session for _volume, _fd, session in self.dataplane.sessions.values()]

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.portal.close()
        for key in list(self.dataplane.sessions):
            await self.dataplane.end_session(key)


@pytest.fixture
async def node() -> AsyncGenerator[Node]:
    opened = Node()
    yield opened
    await opened.close()


async def test_a_normal_login_hands_the_socket_to_the_core(node: Node) -> None:
    client = await node.log_in()
    (session,) = await node.adopted(1)
    assert session.initiator_recv_bytes_max == 262144
    assert session.immediate_data
    assert session.tsih == client.tsih != 0
    assert session.pending == b""
    client.close()


@pytest.mark.parametrize("target", ["iqn.2026-01.io.sparrow:other", "nonsense"])
async def test_a_target_that_is_not_here_is_refused(node: Node, target: str) -> None:
    with pytest.raises(LoginError):
        await node.log_in(target=target)
    assert not node.dataplane.sessions


async def test_a_retired_volume_is_no_target_any_more(node: Node) -> None:
    node.volume.known_line = line(2, 1, "a", "abc", retired=True)
    with pytest.raises(LoginError):
        await node.log_in()


async def test_a_new_login_of_the_same_nexus_ends_the_old_session_first(node: Node) -> None:
    first = await node.log_in(isid=ISID)
    (old,) = await node.adopted(1)
    second = await node.log_in(isid=ISID)
    (new,) = await node.adopted(1)
    assert new.session_key != old.session_key
    assert new.tsih != old.tsih
    assert (old.reinstated, new.reinstated) == (False, True)
    first.close()
    second.close()


async def test_another_isid_is_another_session(node: Node) -> None:
    clients = [await node.log_in(), await node.log_in()]
    sessions = await node.adopted(2)
    assert len({session.tsih for session in sessions}) == 2
    for client in clients:
        client.close()


async def test_a_session_the_core_refused_leaves_nothing_behind(node: Node) -> None:
    node.dataplane.refuse = True
    client = await node.log_in(isid=ISID)
    client.close()
    node.dataplane.refuse = False
    again = await node.log_in(isid=ISID)
    await node.adopted(1)
    again.close()


async def test_rubbish_closes_the_connection_and_nothing_else(node: Node) -> None:
    host, _, port = node.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\xff" * 48)
    await asyncio.wait_for(reader.read(), 5)
    writer.close()
    client = await node.log_in()
    client.close()


async def test_discovery_tells_every_portal_of_every_replica_with_its_port_group(
    node: Node,
) -> None:
    """The directory a discovery session is given; the conversation itself has its own tests."""
    directory = node.portal.directory(node.address)
    (entry,) = directory.visible_to("iqn.2026-01.io.sparrow.test:client")
    assert entry.name == TARGET
    assert [(portal.authority, portal.group_tag) for portal in entry.portals] == [
        (node.address, 1),
        ("192.0.2.2:3260", 2),
        ("[2001:db8::2]:3260", 2),
    ]
    assert entry.group_tag == 1


# ---------------------------------------------------------------- access

CLIENT = "iqn.2026-01.io.sparrow.test:client"


def _allow(node: Node, *entries: AccessEntry, revision: int = 1, secrets: tuple[Secret, ...] = ()):
    access = AccessList(revision=revision, entries=entries, allow_none=not secrets)
    node.access.learn(AllowAccess(volume_id=VOLUME, access=access, secrets=secrets))


async def test_before_the_master_said_who_may_use_a_volume_nobody_may(node: Node) -> None:
    node.access.forget(VOLUME)
    with pytest.raises(LoginError) as refused:
        await node.log_in()
    assert refused.value.status == (2, 2)
    assert node.portal.directory(node.address).visible_to(CLIENT) == ()


async def test_a_volume_nobody_was_allowed_to_use_is_open_on_loopback_only(node: Node) -> None:
    assert node.portal.directory("127.0.0.1:3260").visible_to(CLIENT)
    assert node.portal.directory("192.0.2.7:3260").visible_to(CLIENT) == ()
    assert [is_loopback(host) for host in ("127.3.0.1", "::1", "::ffff:127.0.0.1")] == [True] * 3
    assert [is_loopback(host) for host in ("192.0.2.1", "fe80::1%eth0", "")] == [False] * 3


async def test_an_initiator_that_is_not_in_the_list_is_refused_and_hears_nothing(
    node: Node,
) -> None:
    _allow(node, AccessEntry(protocol=Frontend.ISCSI, name="iqn.2004-10.com.example:other"))
    with pytest.raises(LoginError) as refused:
        await node.log_in()
    assert refused.value.status == (2, 2)
    assert node.portal.directory(node.address).visible_to(CLIENT) == ()


async def test_a_session_that_is_not_allowed_any_more_ends_and_others_stay(node: Node) -> None:
    friend = "iqn.2004-10.com.example:friend"
    entries = [AccessEntry(protocol=Frontend.ISCSI, name=name) for name in (CLIENT, friend)]
    _allow(node, *entries)
    first = await node.log_in()
    second = await node.log_in(initiator=friend)
    await node.adopted(2)
    _allow(node, entries[1], revision=2)
    await node.adopted(1)
    ((volume, _fd, session),) = node.dataplane.sessions.values()
    living = node.portal.session(session.session_key)
    assert living is not None
    assert (volume, living.session.initiator_name) == (VOLUME, friend)
    first.close()
    second.close()


async def test_a_secret_that_was_changed_ends_the_sessions_that_came_in_without_it(
    node: Node,
) -> None:
    _allow(node, AccessEntry(protocol=Frontend.ISCSI, name=CLIENT))
    client = await node.log_in()
    await node.adopted(1)
    locked = AccessEntry(protocol=Frontend.ISCSI, name=CLIENT, secret="host")
    _allow(node, locked, revision=2, secrets=(Secret(name="host", value=b"a" * 16),))
    await node.adopted(0)
    client.close()


# ---------------------------------------------------------------- upcalls


def command(cdb: bytes, *, lun: int = 0) -> bytes:
    return struct.pack(">BB2xIQII4xI4x", 0x01, 0x80, 0, lun, 7, 0, 1)[:32].ljust(
        32, b"\0"
    ) + cdb.ljust(16, b"\0")


async def session_of(node: Node) -> int:
    client = await node.log_in()
    (session,) = await node.adopted(1)
    client.close()
    return session.session_key


async def test_inquiry_is_answered_from_the_volume(node: Node) -> None:
    key = await session_of(node)
    node.upcalls.take(
        Upcall(
            volume_id=VOLUME,
            session_key=key,
            tag=3,
            header=command(bytes([0x12, 0, 0, 0, 96, 0])),
            data=b"",
        )
    )
    ((session_key, tag, status, sense, data),) = node.dataplane.answers
    assert (session_key, tag, status, sense) == (key, 3, 0, b"")
    assert data[0] & 0x1F == 0


async def test_an_unknown_command_is_an_illegal_request(node: Node) -> None:
    key = await session_of(node)
    node.upcalls.take(
        Upcall(volume_id=VOLUME, session_key=key, tag=3, header=command(b"\xee"), data=b"")
    )
    ((_key, _tag, status, sense, _data),) = node.dataplane.answers
    assert status == 2
    assert sense[2] & 0x0F == 5


async def test_task_management_the_core_does_not_know_is_not_supported(node: Node) -> None:
    key = await session_of(node)
    header = bytes([0x42, 0x80 | 6]).ljust(16, b"\0") + struct.pack(">I", 77)
    node.upcalls.take(
        Upcall(volume_id=VOLUME, session_key=key, tag=4, header=header.ljust(48, b"\0"), data=b"")
    )
    ((_key, tag, _raw, answer, data),) = node.dataplane.answers
    assert tag == 4
    assert len(answer) == 48
    assert (answer[0], answer[2], data) == (0x22, 5, b"")
    assert struct.unpack_from(">I", answer, 16) == (77,)


async def test_text_in_a_normal_session_lists_its_own_target(node: Node) -> None:
    key = await session_of(node)
    text = b"SendTargets=\0"
    header = bytearray(48)
    header[0], header[1] = 0x04, 0x80
    header[5:8] = len(text).to_bytes(3, "big")
    struct.pack_into(">II", header, 16, 9, 0xFFFFFFFF)
    node.upcalls.take(
        Upcall(volume_id=VOLUME, session_key=key, tag=5, header=bytes(header), data=text)
    )
    ((_key, _tag, _raw, answer, data),) = node.dataplane.answers
    assert answer[0] == 0x24
    assert f"TargetName={TARGET}".encode() in data


async def test_a_request_of_no_known_kind_is_rejected(node: Node) -> None:
    key = await session_of(node)
    header = bytes([0x10]).ljust(48, b"\0")
    node.upcalls.take(Upcall(volume_id=VOLUME, session_key=key, tag=6, header=header, data=b""))
    ((_key, _tag, _raw, answer, data),) = node.dataplane.answers
    assert answer[0] == 0x3F
    assert data == header


async def test_a_command_of_a_session_that_is_gone_is_dropped(node: Node) -> None:
    node.upcalls.take(
        Upcall(volume_id=VOLUME, session_key=99, tag=1, header=command(b"\x12"), data=b"")
    )
    assert not node.dataplane.answers
