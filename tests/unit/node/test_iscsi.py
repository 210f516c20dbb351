"""The iSCSI portal on a real socket, and the commands the core hands up."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncGenerator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from sparrow.authority.effects import AllowAccess
from sparrow.base.access import AccessEntry, AccessList, Frontend, Secret
from sparrow.base.errors import OutcomeUnknown, SparrowError, StaleEpoch, Unavailable, Withdrawn
from sparrow.base.ids import Lsn, NodeId, VolumeId
from sparrow.dataplane.model.links import Fabric
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.dataplane.model.state import ModelPool
from sparrow.formats.reservations import (
    ReservationTable,
    decode_registrant,
    decode_table,
    encode_table,
)
from sparrow.frontends.iscsi.naming import target_name
from sparrow.frontends.reservations.machine import Change, Notice, preempt, register, reserve
from sparrow.node.access import AccessBook, is_loopback
from sparrow.node.forwarding import Forwarding
from sparrow.node.iscsi import IscsiPortal
from sparrow.node.links import bind
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations
from sparrow.node.upcalls import Upcalls
from sparrow.ports.dataplane import ReservationsChanged, SessionParameters, Upcall
from sparrow.rpc.messages import (
    ReservationChangeAnswer,
    ReservationChangeRequest,
    ReservationLook,
    ReservationLookRequest,
    ReservationOutcome,
)
from tests.support.iscsi_client import IscsiClient, LoginError
from tests.support.lines import SIZE, VOLUME, line, member, rid

TARGET = target_name(VOLUME)
ISID = bytes.fromhex("800000000009")


PORTALS = {rid("b"): ("192.0.2.2:3260", "[2001:db8::2]:3260")}


class RecordingDataPlane(ModelDataPlane):
    """Keeps the sockets it is given, so that the test can play the core."""

    def __init__(self) -> None:
        super().__init__("na", ModelPool(), Fabric(), clock=lambda: 0.0)
        self.refuse = False
        self.tables: list[bytes] = []
        self.logging = asyncio.Event()
        self.logging.set()
        self.stale: list[bytes] = []
        self.askers: list[tuple[int, int]] = []
        self.withdrawn = False
        #: Key and tag of commands that were pinned; key and how many answers there were, of those that are no more.
        self.pins: list[tuple[int, int]] = []
        self.looks = 0
        self.not_now = 0
        self.error: SparrowError | None = None
        self.asked: list[tuple[int, int]] = []
        self.on_end: Callable[[int], None] = lambda _key: None
        self.on_table: Callable[[], None] = lambda: None
        self.changed = asyncio.Event()

    async def adopt_session(self, volume_id: VolumeId, fd: int, session: SessionParameters) -> None:
        if self.refuse:
            os.close(fd)
            raise Unavailable("no room")
        self.sessions[session.session_key] = (volume_id, fd, session)
        self.changed.set()

    def answer(self, session_key: int, tag: int, **answer: Any) -> None:
        super().answer(session_key, tag, **answer)
        self.changed.set()

    async def reservations(self, volume_id: VolumeId) -> tuple[Lsn, bytes | None]:
        self.looks += 1
        self.changed.set()
        if self.not_now:
            self.not_now -= 1
            raise Unavailable("not now")
        if self.error is not None:
            raise self.error
        return Lsn(len(self.tables)), self.tables[-1] if self.tables else None

    async def log_reservations(
        self,
        volume_id: VolumeId,
        expected_lsn: Lsn,
        table: bytes,
        *,
        session_key: int = 0,
        tag: int = 0,
        by_ns: int = 0,
    ) -> Lsn | None:
        self.askers.append((session_key, tag))
        if self.withdrawn:
            raise Withdrawn("taken back")
        if self.stale:
            self.tables.append(self.stale.pop())
            return None
        assert expected_lsn == len(self.tables)
        self.tables.append(table)
        self.changed.set()
        await self.logging.wait()
        if self.error is not None:
            raise self.error
        # As the core does: it is told before it is answered.
        self.on_table()
        return Lsn(len(self.tables))

    async def pin_command(self, session_key: int, tag: int) -> bool:
        self.pins.append((session_key, tag))
        return not self.withdrawn

    async def unpin_command(self, session_key: int) -> None:
        self.pins.append((session_key, len(self.answers)))
        self.changed.set()

    async def end_session(self, session_key: int, *, leave_ms: int = 0) -> None:
        self.asked.append((session_key, leave_ms))
        found = self.sessions.pop(session_key, None)
        if found is not None:
            os.close(found[1])
        self.changed.set()
        asyncio.get_running_loop().call_soon(self.on_end, session_key)


class OtherNode:
    """The primary's, when this node is not."""

    def __init__(self) -> None:
        self.table = ReservationTable()
        self.away = False
        self.answer = ReservationChangeAnswer(outcome=ReservationOutcome.ANSWERED)
        self.asked: list[ReservationChangeRequest] = []

    async def look_at_reservations(
        self, addr: str, request: ReservationLookRequest, *, timeout_s: float
    ) -> ReservationLook:
        assert (addr, request.volume_id, timeout_s > 0) == ("nb:ctrl", VOLUME, True)
        if self.away:
            raise Unavailable("away")
        return ReservationLook(table=encode_table(self.table), ticket_ns=1)

    async def change_reservations(
        self, addr: str, request: ReservationChangeRequest, *, timeout_s: float
    ) -> ReservationChangeAnswer:
        assert (addr, timeout_s > 0) == ("nb:ctrl", True)
        self.asked.append(request)
        return self.answer


class Node:
    """A portal in front of one volume that this node is primary of."""

    def __init__(self) -> None:
        self.dataplane = RecordingDataPlane()
        self.peer = OtherNode()
        self.spawned: list[asyncio.Task[None]] = []
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
            peer=member,
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
        self.reservations = Reservations(self.dataplane, spawn=self.spawn, log=log, patience_s=0.02)
        self.portal = IscsiPortal(
            [sock],
            addresses=[self.address],
            replicas=cast("Replicas", holder),
            access=self.access,
            dataplane=self.dataplane,
            reservations=self.reservations,
            log=log,
        )
        self.upcalls = Upcalls(
            replicas=cast("Replicas", holder),
            portal=self.portal,
            dataplane=self.dataplane,
            reservations=self.reservations,
            forwarding=Forwarding(self.peer, within_s=0.05, patience_s=0.05),
            cluster_id=lambda: "c1",
            log=log,
        )
        self.dataplane.on_end = lambda key: self.portal.ended(key, "command")
        self.dataplane.on_table = self.commit
        self.task = asyncio.get_running_loop().create_task(self.portal.serve())

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.spawned.append(task)

    def commit(self) -> None:
        """The core tells of the newest table."""
        table = self.dataplane.tables[-1]
        lsn = Lsn(len(self.dataplane.tables))
        self.reservations.changed(ReservationsChanged(volume_id=VOLUME, lsn=lsn, table=table))

    async def log_in(self, **options: Any) -> IscsiClient:
        host, _, port = self.address.rpartition(":")
        options.setdefault("target", TARGET)
        return await asyncio.to_thread(IscsiClient, host, int(port), timeout_s=5, **options)

    async def reached(self, condition: Callable[[], bool]) -> None:
        """Wait until the core was told enough."""
        async with asyncio.timeout(5):
            while not condition():
                self.dataplane.changed.clear()
                await self.dataplane.changed.wait()

    async def adopted(self, count: int) -> list[SessionParameters]:
        """Wait until the core has this many sessions."""
        await self.reached(lambda: len(self.dataplane.sessions) == count)
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
    header = bytes([0x42, 0x80 | 7]).ljust(16, b"\0") + struct.pack(">I", 77)
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


# reservations

READ_KEYS = bytes([0x5E, 0, 0, 0, 0, 0, 0, 0, 64, 0])


def pr_out(action: int, *, key: int = 0, other: int = 0, kind: int = 0) -> tuple[bytes, bytes]:
    cdb = struct.pack(">BBB2xIx", 0x5F, action, kind, 24)
    return command(cdb), struct.pack(">QQ8x", key, other)


def send(
    node: Node, session: SessionParameters, header: bytes, data: bytes = b"", *, tag: int = 1
) -> None:
    node.upcalls.take(
        Upcall(
            volume_id=VOLUME,
            session_key=session.session_key,
            tag=tag,
            header=header,
            data=data,
            gate_open=True,
        )
    )


async def answered(node: Node, count: int = 1) -> list[tuple[int, int, int, bytes, bytes]]:
    """Wait for so many answers and take them."""
    await node.reached(lambda: len(node.dataplane.answers) >= count)
    found = list(node.dataplane.answers)
    node.dataplane.answers.clear()
    return found


async def carry_out(
    node: Node, session: SessionParameters, header: bytes, data: bytes = b""
) -> tuple[int, bytes, bytes]:
    """Status, sense and data of one command."""
    send(node, session, header, data)
    ((key, _tag, status, sense, data_in),) = await answered(node)
    assert key == session.session_key
    return status, sense, data_in


async def two_sessions(node: Node) -> tuple[SessionParameters, SessionParameters]:
    """Of two initiators."""
    clients = [
        await node.log_in(isid=ISID),
        await node.log_in(isid=ISID, initiator="iqn.2020-01.com.example:other"),
    ]
    first, second = await node.adopted(2)
    for client in clients:
        client.close()
    return first, second


async def test_a_change_is_answered_when_it_has_committed(node: Node) -> None:
    first, _ = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, *pr_out(0, other=7))
    await node.reached(lambda: bool(node.dataplane.tables))
    assert not node.dataplane.answers
    node.dataplane.logging.set()
    ((_key, _tag, status, _sense, _data),) = await answered(node)
    assert status == 0
    (registrant,) = decode_table(node.dataplane.tables[-1]).registrants
    assert (registrant.key, registrant.port) == (7, 1)
    assert registrant.nexus.record() == first.nexus
    assert await carry_out(node, first, command(READ_KEYS)) == (
        0,
        b"",
        struct.pack(">IIQ", 1, 8, 7),
    )


async def test_a_decision_from_an_old_table_is_made_again(node: Node) -> None:
    first, second = await two_sessions(node)
    assert (await carry_out(node, first, *pr_out(0, other=7)))[0] == 0
    assert (await carry_out(node, second, *pr_out(0, other=8)))[0] == 0
    newest = decode_table(node.dataplane.tables[-1])
    taken = reserve(newest, newest.registrants[1].nexus, key=8, kind=1).table
    assert taken is not None
    node.dataplane.stale.append(encode_table(taken))
    assert (await carry_out(node, first, *pr_out(1, key=7, kind=1)))[0] == 0x18
    assert decode_table(node.dataplane.tables[-1]) == taken


async def test_a_moment_in_which_it_is_not_possible_is_waited_for(node: Node) -> None:
    patient = Reservations(node.dataplane, spawn=node.spawn, log=structlog.get_logger())
    node.dataplane.not_now = 3
    assert await patient.table(VOLUME) == ReservationTable()
    assert node.dataplane.not_now == 0


async def test_changes_of_a_volume_are_made_one_after_the_other(node: Node) -> None:
    first, second = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, *pr_out(0, other=7))
    send(node, second, *pr_out(0, other=8))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(node.dataplane.tables) == 1
    node.dataplane.logging.set()
    assert [status for _k, _t, status, _s, _d in await answered(node, 2)] == [0, 0]
    assert len(decode_table(node.dataplane.tables[-1]).registrants) == 2


async def test_who_lost_its_registration_is_told_before_the_answer(node: Node) -> None:
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, second, *pr_out(0, other=8))
    await carry_out(node, first, *pr_out(1, key=7, kind=5))
    assert node.dataplane.attentions == []
    assert (await carry_out(node, second, *pr_out(4, key=8, other=7, kind=5)))[0] == 0
    assert node.dataplane.attentions == [(first.session_key, Notice.REGISTRATIONS_PREEMPTED)]


async def test_preempt_and_abort_ends_the_commands_of_who_lost_before_the_answer(
    node: Node,
) -> None:
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, second, *pr_out(0, other=8))
    assert (await carry_out(node, second, *pr_out(4, key=8, other=7, kind=5)))[0] == 0
    assert node.dataplane.aborted == []
    await carry_out(node, first, *pr_out(0, other=7))
    node.dataplane.logging.clear()
    send(node, second, *pr_out(5, key=8, other=7, kind=5))
    await node.reached(lambda: len(node.dataplane.tables) == 5)
    assert node.dataplane.aborted == [], "not before it has committed"
    node.dataplane.logging.set()
    await answered(node)
    assert node.dataplane.aborted == [first.session_key]


async def test_preempt_and_abort_is_answered_when_the_core_has_ended_the_commands(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer may leave by another way than through the core; and the core may have no room for mail at first."""
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, second, *pr_out(0, other=8))
    begun, ended = asyncio.Event(), asyncio.Event()
    full = [Unavailable("more mail than it can take")]

    async def abort_commands(session_key: int) -> None:
        if full:
            raise full.pop()
        begun.set()
        await ended.wait()
        node.dataplane.aborted.append(session_key)

    monkeypatch.setattr(node.dataplane, "abort_commands", abort_commands)
    asker = decode_registrant(second.nexus).nexus

    def decide(table: ReservationTable) -> tuple[str, Change]:
        return "done", preempt(table, asker, key=8, victim=7, kind=5, abort=True)

    asking = asyncio.create_task(node.reservations.change(VOLUME, decide))
    await begun.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not asking.done()
    ended.set()
    assert await asking == "done"
    assert node.dataplane.aborted == [first.session_key]


async def test_who_lost_its_registration_hears_of_it_where_another_node_made_the_change(
    node: Node,
) -> None:
    """On the paths of the other nodes, and of a successor that commits what the primary logged."""
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, second, *pr_out(0, other=8))
    await carry_out(node, first, *pr_out(1, key=7, kind=5))
    newest = decode_table(node.dataplane.tables[-1])
    ours, theirs = (decode_registrant(one.nexus).nexus for one in (first, second))
    change = preempt(newest, theirs, key=8, victim=7, kind=5)
    assert change.table is not None
    node.dataplane.tables.append(encode_table(change.table))
    node.commit()
    assert node.dataplane.attentions == [(first.session_key, Notice.REGISTRATIONS_PREEMPTED)]
    # Who gives its registration up is told nothing.
    left = register(change.table, theirs, key=8, new_key=0).table
    assert left is not None
    node.dataplane.tables.append(encode_table(left))
    node.dataplane.attentions.clear()
    node.commit()
    assert node.dataplane.attentions == []
    assert ours != theirs


async def test_who_lost_its_registration_hears_of_it_when_the_change_commits_late(
    node: Node,
) -> None:
    """Its outcome was not known when the command that asked for it was answered."""
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, second, *pr_out(0, other=8))
    node.dataplane.logging.clear()
    send(node, second, *pr_out(3, key=8))
    await node.reached(lambda: len(node.dataplane.tables) == 3)
    node.dataplane.error = OutcomeUnknown("not in time")
    node.dataplane.logging.set()
    await answered(node)
    assert node.dataplane.attentions == []
    node.commit()
    # CLEAR: all others, and not who asked, which only this node knows.
    assert node.dataplane.attentions == [(first.session_key, Notice.RESERVATIONS_PREEMPTED)]


async def test_a_node_that_does_not_serve_says_so(node: Node) -> None:
    first, _ = await two_sessions(node)
    node.dataplane.error = StaleEpoch("another is primary")
    for header, data in (pr_out(0, other=7), (command(READ_KEYS), b"")):
        status, sense, _ = await carry_out(node, first, header, data)
        assert (status, sense[2], sense[12], sense[13]) == (2, 2, 4, 0x0A)
    node.dataplane.error = Unavailable("not now")
    assert (await carry_out(node, first, *pr_out(0, other=7)))[0] == 0x08
    assert (await carry_out(node, first, command(bytes([0x1A, 0, 0x3F, 0, 99, 0]))))[0] == 0x08


async def test_a_change_that_nobody_knows_the_end_of_is_not_answered_as_done(node: Node) -> None:
    first, _ = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, *pr_out(0, other=7))
    await node.reached(lambda: bool(node.dataplane.tables))
    node.dataplane.error = OutcomeUnknown("fenced")
    node.dataplane.logging.set()
    ((_key, _tag, status, sense, _data),) = await answered(node)
    assert (status, sense[2], sense[12], sense[13]) == (2, 0x0B, 0x2E, 0x02)


async def test_a_command_that_was_taken_back_is_neither_logged_nor_answered(node: Node) -> None:
    first, second = await two_sessions(node)
    node.dataplane.withdrawn = True
    send(node, first, *pr_out(0, other=7), tag=3)
    await node.reached(lambda: bool(node.dataplane.askers))
    node.dataplane.withdrawn = False
    # The next one is answered, and nothing before it.
    send(node, second, *pr_out(0, other=8), tag=4)
    ((_key, tag, status, _sense, _data),) = await answered(node)
    assert (tag, status) == (4, 0)
    assert node.dataplane.askers == [(first.session_key, 3), (second.session_key, 4)]
    assert len(decode_table(node.dataplane.tables[-1]).registrants) == 1


async def test_changes_behind_one_that_does_not_commit_are_told_to_come_back(node: Node) -> None:
    """Each waits for its turn no longer than for a moment in which it is possible."""
    first, second = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, *pr_out(0, other=7), tag=1)
    await node.reached(lambda: bool(node.dataplane.tables))
    for tag in (2, 3):
        send(node, second, *pr_out(0, other=8), tag=tag)
    assert [answer[1:3] for answer in await answered(node, 2)] == [(2, 0x08), (3, 0x08)]
    node.dataplane.logging.set()
    assert [answer[1:3] for answer in await answered(node)] == [(1, 0)]
    assert len(node.dataplane.tables) == 1


async def test_mode_sense_of_others_meets_the_reservation(node: Node) -> None:
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, first, *pr_out(1, key=7, kind=3))
    mode_sense = command(bytes([0x1A, 0, 0x3F, 0, 99, 0]))
    assert (await carry_out(node, first, mode_sense))[0] == 0
    assert (await carry_out(node, second, mode_sense))[0] == 0x18


async def reserved_by(node: Node, session: SessionParameters) -> None:
    assert (await carry_out(node, session, command(bytes([0x16])))) == (0, b"", b"")
    node.commit()
    assert decode_table(node.dataplane.tables[-1]).by_reserve


async def nothing_is_reserved(node: Node) -> None:
    await asyncio.gather(*node.spawned)
    assert decode_table(node.dataplane.tables[-1]) == ReservationTable()


async def test_reserve_6_ends_with_the_session_of_its_holder(node: Node) -> None:
    first, second = await two_sessions(node)
    await reserved_by(node, first)
    node.portal.ended(second.session_key, "closed")
    assert node.spawned == []
    node.portal.ended(first.session_key, "closed")
    await nothing_is_reserved(node)


async def test_reserve_6_ends_with_a_reset(node: Node) -> None:
    first, second = await two_sessions(node)
    await reserved_by(node, first)
    header = bytes([0x42, 0x80 | 5]).ljust(48, b"\0")
    send(node, second, header)
    await nothing_is_reserved(node)
    assert node.dataplane.answers == []
    node.commit()
    logged = len(node.dataplane.tables)
    send(node, second, header)
    await asyncio.gather(*node.spawned)
    assert len(node.dataplane.tables) == logged


async def test_a_reset_ends_a_reserve_6_that_is_being_logged(node: Node) -> None:
    """The core answers the reset after it; what was reserved before is not reserved then."""
    first, second = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, command(bytes([0x16])))
    await node.reached(lambda: bool(node.dataplane.tables))
    send(node, second, bytes([0x42, 0x80 | 5]).ljust(48, b"\0"))
    node.dataplane.logging.set()
    await nothing_is_reserved(node)


async def test_reserve_6_of_a_session_that_is_gone_ends_when_it_commits_late(node: Node) -> None:
    """Its outcome was not known when the session ended."""
    first, _ = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, command(bytes([0x16])))
    await node.reached(lambda: bool(node.dataplane.tables))
    node.dataplane.error = OutcomeUnknown("not in time")
    node.dataplane.logging.set()
    await answered(node)
    node.portal.ended(first.session_key, "closed")
    assert node.spawned == []
    node.dataplane.error = None
    node.commit()
    await nothing_is_reserved(node)


async def test_ending_reserve_6_is_tried_until_it_is_possible(node: Node) -> None:
    first, _ = await two_sessions(node)
    await reserved_by(node, first)
    for error in (Unavailable("not now"), OutcomeUnknown("not in time")):
        node.dataplane.error = error
        node.dataplane.looks = 0
        node.portal.ended(first.session_key, "closed")
        # More than one attempt makes.
        await node.reached(lambda: node.dataplane.looks > 20)
        assert not any(task.done() for task in node.spawned)
    node.dataplane.error = None
    await nothing_is_reserved(node)


async def test_reserve_6_that_was_there_when_the_replica_was_opened_ends_with_its_session(
    node: Node,
) -> None:
    """Nothing tells of it but the look when the gate opens."""
    first, _ = await two_sessions(node)
    held = ReservationTable(
        registrants=(registrant := decode_registrant(first.nexus),),
        type=3,
        holder=registrant.nexus,
        by_reserve=True,
    )
    node.dataplane.tables.append(encode_table(held))
    node.reservations.opened(VOLUME)
    await asyncio.gather(*node.spawned)
    assert len(node.dataplane.tables) == 1
    node.portal.ended(first.session_key, "closed")
    await nothing_is_reserved(node)


async def test_a_new_primary_ends_a_reserve_6_whose_holder_has_no_session_here(node: Node) -> None:
    first, _ = await two_sessions(node)
    await reserved_by(node, first)
    node.reservations.opened(VOLUME)
    await asyncio.gather(*node.spawned)
    assert decode_table(node.dataplane.tables[-1]).by_reserve
    held = node.dataplane.tables[-1]
    node.portal.ended(first.session_key, "closed")
    await nothing_is_reserved(node)
    node.dataplane.tables.append(held)
    node.reservations.opened(VOLUME)
    await nothing_is_reserved(node)


async def test_a_node_that_ceased_to_serve_leaves_reserve_6_to_the_next(node: Node) -> None:
    first, _ = await two_sessions(node)
    await reserved_by(node, first)
    node.dataplane.error = StaleEpoch("fenced")
    node.portal.ended(first.session_key, "closed")
    await asyncio.gather(*node.spawned)
    assert decode_table(node.dataplane.tables[-1]).by_reserve


# on a path that does not serve


async def standby_session(node: Node) -> SessionParameters:
    node.volume.known_line = line(1, 1, "b", "abc")
    node.volume.primacy = None
    return (await two_sessions(node))[0]


def carry(node: Node, session: SessionParameters, header: bytes, data: bytes = b"") -> None:
    upcall = Upcall(
        volume_id=VOLUME, session_key=session.session_key, tag=5, header=header, data=data
    )
    node.upcalls.take(upcall)


async def test_a_path_that_does_not_serve_has_the_primary_answer(node: Node) -> None:
    session = await standby_session(node)
    ours = decode_registrant(session.nexus).nexus
    table = register(ReservationTable(), ours, key=0, new_key=7).table
    assert table is not None
    node.peer.table = table
    carry(node, session, command(READ_KEYS))
    assert (await answered(node))[0][2:] == (0, b"", struct.pack(">IIQ", 1, 8, 7))
    assert node.dataplane.pins == [], "reading changes nothing"
    header, data = pr_out(0, key=7, other=8)
    carry(node, session, header, data)
    ((key, tag, status, sense, _data),) = await answered(node)
    assert (key, tag, status, sense) == (session.session_key, 5, 0, b"")
    (asked,) = node.peer.asked
    assert (asked.cdb, asked.data, asked.ticket_ns) == (header[32:48], data, 1)
    named = decode_registrant(asked.registrant)
    assert (named.nexus, named.port) == (ours, 1)
    await node.reached(lambda: len(node.dataplane.pins) == 2)
    # Answered before anything that waits for it goes on.
    assert node.dataplane.pins == [(session.session_key, 5), (session.session_key, 1)]


async def test_what_the_primary_refuses_is_refused_here(node: Node) -> None:
    session = await standby_session(node)
    outcome = ReservationOutcome.ANSWERED
    node.peer.answer = ReservationChangeAnswer(outcome=outcome, status=0x18)
    carry(node, session, *pr_out(0, key=7, other=8))
    assert (await answered(node))[0][2] == 0x18
    for outcome, status, code in (
        (ReservationOutcome.NOT_NOW, 0x08, ()),
        (ReservationOutcome.NOT_HERE, 2, (2, 0x04, 0x0A)),
        (ReservationOutcome.UNKNOWN, 2, (0x0B, 0x2E, 0x02)),
    ):
        node.peer.answer = ReservationChangeAnswer(outcome=outcome)
        carry(node, session, *pr_out(0, key=7, other=8))
        ((_key, _tag, found, sense, _data),) = await answered(node)
        assert (found, tuple(sense[at] for at in (2, 12, 13) if sense)) == (status, code)


async def test_a_primary_that_is_away_is_not_ready_in_transition(node: Node) -> None:
    session = await standby_session(node)
    node.peer.away = True
    for header, data in ((command(READ_KEYS), b""), pr_out(0, other=7)):
        carry(node, session, header, data)
        ((_key, _tag, status, sense, _data),) = await answered(node)
        assert (status, sense[2], sense[12], sense[13]) == (2, 2, 0x04, 0x0A)
    assert node.peer.asked == []


async def test_reserve_6_stays_where_its_session_is(node: Node) -> None:
    session = await standby_session(node)
    for cdb in (bytes([0x16]), bytes([0x17])):
        carry(node, session, command(cdb))
        ((_key, _tag, status, sense, _data),) = await answered(node)
        assert (status, sense[2], sense[12]) == (2, 2, 0x04)
    assert node.peer.asked == []


async def test_a_path_that_serves_by_the_time_answers_by_itself(node: Node) -> None:
    """A failover to this node, seen between the command and the first try."""
    session = await standby_session(node)
    node.peer.away = True
    carry(node, session, *pr_out(0, other=7))
    node.volume.known_line = line(2, 1, "a", "abc")
    node.volume.primacy = object()
    assert (await answered(node))[0][2] == 0
    assert len(decode_table(node.dataplane.tables[-1]).registrants) == 1
    assert node.peer.asked == []
