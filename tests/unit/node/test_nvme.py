"""The NVMe/TCP portal on a real socket, with the test in the place of the core."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncGenerator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
import structlog

from sparrow.authority.effects import AllowAccess
from sparrow.base.access import AccessEntry, AccessList, Frontend, Secret
from sparrow.base.errors import OutcomeUnknown, SparrowError, StaleEpoch, Unavailable
from sparrow.base.ids import Lsn, NodeId, VolumeId
from sparrow.dataplane.model.links import Fabric
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.dataplane.model.state import ModelPool
from sparrow.formats.reservations import decode_table
from sparrow.frontends.nvme.naming import subsystem_nqn
from sparrow.node.access import AccessBook
from sparrow.node.links import bind
from sparrow.node.nvme.portal import NvmePortal
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations
from sparrow.ports.dataplane import QueueParameters, ReservationsChanged, Upcall, VolumeStatus
from tests.support.lines import SIZE, VOLUME, line, rid
from tests.support.nvme_auth import Unproven
from tests.support.nvme_host import (
    ANA_CHANGED,
    CC_ENABLE,
    CHANGE,
    DISCOVERY,
    HOST_NQN,
    INACCESSIBLE,
    NS_CHANGED,
    OPTIMIZED,
    Admin,
    Queue,
    Refused,
    attach,
    close_all,
)
from tests.support.waiting import WAIT_S, until

T = TypeVar("T")
NQN = subsystem_nqn(VOLUME)
PORTALS: dict[tuple[str, str], tuple[str, ...]] = {
    ("c", Frontend.NVME): ("192.0.2.3:4420", "[2001:db8::3]:4421"),
    ("c", Frontend.ISCSI): ("192.0.2.3:3260",),
}
DNR = 0x4000


class RecordingDataPlane(ModelDataPlane):
    """Keeps the sockets it is given, so that the test can play the core."""

    def __init__(self) -> None:
        super().__init__("na", ModelPool(), Fabric(), clock=lambda: 0.0)
        self.refuse = False
        self.on_end: Callable[[int], None] = lambda _key: None
        self.gate_open = True
        self.silent_ms: int | None = None
        self.ends: list[int] = []
        self.aborts: list[tuple[int, int]] = []
        self.tables: list[bytes] = []
        self.askers: list[tuple[int, int]] = []
        self.lost: SparrowError | None = None
        self.on_table: Callable[[ReservationsChanged], None] = lambda _event: None
        self.error: SparrowError | None = None
        self.changed = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def adopt_queue(self, volume_id: VolumeId, fd: int, queue: QueueParameters) -> None:
        if self.refuse:
            os.close(fd)
            raise Unavailable("no room")
        self.queues[queue.session_key] = (volume_id, fd, queue)

    async def abort_command(self, session_key: int, command_id: int) -> bool:
        self.aborts.append((session_key, command_id))
        return command_id == 7

    def answer(self, session_key: int, tag: int, **answer: Any) -> None:
        super().answer(session_key, tag, **answer)
        self.changed.set()

    async def reservations(self, volume_id: VolumeId) -> tuple[Lsn, bytes | None]:
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
        assert expected_lsn == len(self.tables)
        self.askers.append((session_key, tag))
        if self.lost is not None:
            raise self.lost
        self.tables.append(table)
        lsn = Lsn(len(self.tables))
        self.on_table(ReservationsChanged(volume_id=volume_id, lsn=lsn, table=table))
        return lsn

    async def end_session(self, session_key: int) -> None:
        self.ends.append(session_key)
        found = self.queues.pop(session_key, None)
        if found is not None:
            os.close(found[1])
            asyncio.get_running_loop().create_task(self._ended(session_key))

    async def _ended(self, session_key: int) -> None:
        await self.let_go.wait()
        self.on_end(session_key)

    async def status(self, volume_id: VolumeId) -> VolumeStatus:
        return cast(
            "VolumeStatus",
            SimpleNamespace(
                gate_open=self.gate_open, primary_silent_ms=self.silent_ms,
                reads=1, writes=2, read_bytes=3, written_bytes=4,
            ),
        )  # fmt: skip


class Node:
    """A portal in front of one volume that this node is primary of."""

    def __init__(self) -> None:
        self.dataplane = RecordingDataPlane()
        self.volume = SimpleNamespace(
            volume_id=VOLUME,
            replica_id=rid("b"),
            known_line=line(1, 1, "b", "abc"),
            size_bytes=SIZE,
            block_size=4096,
            disk_failed=False,
            pool_full=False,
            frozen=False,
            primacy=object(),
            portals_of=lambda replica, protocol: PORTALS.get((replica, protocol), ()),
        )
        self.volumes = {VOLUME: self.volume}
        holder = type("Holder", (), {"__iter__": lambda _self: iter(self.volumes.values())})()
        holder.find = self.volumes.get
        holder.get = self.volumes.__getitem__
        sock, address = bind("127.0.0.1:0")
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        log = structlog.get_logger().bind(node=NodeId("na"))
        self.access = AccessBook(log)
        self.allow(AccessList())
        self.reservations = Reservations(self.dataplane, spawn=self.spawn, log=log, patience_s=0.02)
        self.dataplane.on_table = self.reservations.changed
        self.portal = NvmePortal(
            sock,
            address=address,
            replicas=cast("Replicas", holder),
            access=self.access,
            dataplane=self.dataplane,
            reservations=self.reservations,
            cluster_id=lambda: "c1",
            first_serial=7,
            log=log,
        )
        self.dataplane.on_end = lambda key: self.portal.ended(key, "command")
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(self.portal.serve()), loop.create_task(self.portal.watch())]

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        raise AssertionError(f"{name}: RESERVE(6) is not of NVMe")

    def allow(self, access: AccessList, *secrets: Secret) -> None:
        """The master's newest word of who may use the volume."""
        self.access.learn(AllowAccess(volume_id=VOLUME, access=access, secrets=secrets))

    async def do(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        return await asyncio.to_thread(work, *arguments, **options)

    async def attach(self, **options: Any) -> tuple[Admin, list[Queue]]:
        return await self.do(attach, self.address, NQN, **options)


@pytest.fixture
async def node() -> AsyncGenerator[Node]:
    node = Node()
    yield node
    for task in node.tasks:
        task.cancel()
    await asyncio.gather(*node.tasks, return_exceptions=True)
    await node.portal.close()
    close_all()
    for _, fd, _ in node.dataplane.queues.values():
        os.close(fd)


async def test_an_io_queue_goes_to_the_core_as_agreed(node: Node) -> None:
    admin, _ = await node.attach(queues=2, digests=3, sqsize=63)
    await until(lambda: len(node.dataplane.queues) == 2)
    for volume_id, _, queue in node.dataplane.queues.values():
        assert volume_id == VOLUME
        assert (queue.entries, queue.sq_head, queue.flow_control) == (64, 1, True)
        assert (queue.header_digest, queue.data_digest) == (True, True)
    controller = await node.do(admin.identify, 1)
    assert int.from_bytes(controller[78:80], "little") >> 12 == 2, "the place of the replica"


async def test_a_queue_the_core_refused_leaves_nothing_behind(node: Node) -> None:
    node.dataplane.refuse = True
    _, (queue,) = await node.attach()
    assert await node.do(queue.closed)
    node.dataplane.refuse = False
    await node.attach()
    await until(lambda: len(node.dataplane.queues) == 1)


async def test_what_connect_asks_must_exist(node: Node) -> None:
    for nqn, options, status in [
        ("nqn.2024-01.x:nothing", {}, 0x182),
        (NQN, {"cntlid": 5}, 0x182),
        (NQN, {"qid": 1, "cntlid": 0x2001}, 0x182),
    ]:
        queue = await node.do(Queue, node.address)
        with pytest.raises(Refused) as raised:
            await node.do(queue.connect, nqn, **options)
        assert raised.value.status == status | DNR
        assert await node.do(queue.closed)


async def test_a_host_that_says_nonsense_is_told_why_and_left(node: Node) -> None:
    queue = await node.do(Queue, node.address)
    queue.send(b"\x55" * 64)
    pdu = await node.do(queue.receive)
    assert (pdu.kind, pdu.fault[0]) == (3, 1)
    assert await node.do(queue.closed)


async def test_a_newer_controller_waits_until_the_core_let_go_of_the_older_one(node: Node) -> None:
    """A held write of the old association must not land after one of the new."""
    admin, (queue,) = await node.attach()
    await until(lambda: len(node.dataplane.queues) == 1)
    node.dataplane.let_go.clear()
    newer = await node.do(Admin, node.address)
    connecting = asyncio.ensure_future(node.do(newer.connect, NQN))
    await until(lambda: bool(node.dataplane.ends))
    done, _ = await asyncio.wait([connecting], timeout=0.2)
    assert not done
    node.dataplane.let_go.set()
    assert await connecting
    assert await node.do(admin.closed)
    assert await node.do(queue.closed)


async def test_a_lost_queue_leaves_its_controller_to_the_host(node: Node) -> None:
    """Goal: `nvme disconnect` closes its I/O queues, then shuts the controller down, and waits for that."""
    admin, _ = await node.attach(queues=3)
    await until(lambda: len(node.dataplane.queues) == 3)
    first, second, third = node.dataplane.queues
    for key, cause in ((first, "logout"), (second, "closed")):
        _, fd, _ = node.dataplane.queues.pop(key)
        os.close(fd)
        node.portal.ended(key, cause)
    await node.do(admin.property_set, 0x14, CC_ENABLE | 1 << 14)
    assert await node.do(admin.property_get, 0x1C) == 1 | 2 << 2
    admin.close()
    await until(lambda: node.dataplane.ends == [third])


async def test_a_reset_ends_the_queues_before_it_is_answered(node: Node) -> None:
    admin, _ = await node.attach(queues=2)
    await until(lambda: len(node.dataplane.queues) == 2)
    await node.do(admin.property_set, 0x14, 0)
    assert not node.dataplane.queues
    await node.do(admin.property_set, 0x14, CC_ENABLE)
    queue = await node.do(Queue, node.address)
    cntlid = int.from_bytes((await node.do(admin.identify, 1))[78:80], "little")
    await node.do(queue.connect, NQN, qid=1, cntlid=cntlid)
    await until(lambda: len(node.dataplane.queues) == 1)


async def test_what_the_gate_does_is_told_and_shown(node: Node) -> None:
    admin, _ = await node.attach()
    (group,) = await node.do(admin.ana)
    assert (group.group, group.state) == (2, OPTIMIZED)
    event = await node.do(admin.ask_events, 1 << 11)
    node.dataplane.gate_open = False
    node.portal.changed()
    assert await node.do(admin.answer, event) == (ANA_CHANGED, b"")
    (group,) = await node.do(admin.ana)
    assert group.state == CHANGE
    event = await node.do(admin.ask_event)
    node.volume.primacy = None
    node.volume.known_line = line(2, 1, "a", "abc")
    node.dataplane.silent_ms = 50
    assert await node.do(admin.answer, event) == (ANA_CHANGED, b""), "found without being told"
    (group,) = await node.do(admin.ana)
    assert group.state == INACCESSIBLE


async def test_a_new_size_is_told_and_shown(node: Node) -> None:
    admin, _ = await node.attach()
    event = await node.do(admin.ask_events, 1 << 8)
    node.volume.size_bytes = 2 * SIZE
    node.portal.resized(VOLUME)
    assert await node.do(admin.answer, event) == (NS_CHANGED, b"")
    namespace = await node.do(admin.identify, 0, nsid=1)
    assert int.from_bytes(namespace[:8], "little") == 2 * SIZE // 4096


async def test_a_silent_host_is_given_up(node: Node) -> None:
    admin, _ = await node.attach(kato=300)
    assert await node.do(admin.closed)
    await until(lambda: not node.dataplane.queues)


async def test_a_stop_lets_go_of_everything(node: Node) -> None:
    admin, _ = await node.attach(queues=2)
    await until(lambda: len(node.dataplane.queues) == 2)
    await node.portal.close()
    assert not node.dataplane.queues
    assert await node.do(admin.closed)


def entry(name: str, *, protocol: Frontend = Frontend.NVME, secret: str = "") -> AccessEntry:
    return AccessEntry(protocol=protocol, name=name, secret=secret)


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (entry("nqn.2024-01.x:other"),),
        (entry(HOST_NQN, protocol=Frontend.ISCSI),),
        (entry(HOST_NQN, secret="a secret this node was not given"),),
    ],
)
async def test_a_host_that_the_list_does_not_let_in_is_refused_and_shown_nothing(
    node: Node, entries: tuple[AccessEntry, ...]
) -> None:
    node.allow(AccessList(revision=1, entries=entries, allow_none=True))
    queue = await node.do(Queue, node.address)
    with pytest.raises(Refused) as raised:
        await node.do(queue.connect, NQN)
    assert raised.value.status == 0x184 | DNR
    discovery = await node.do(Admin, node.address)
    await node.do(discovery.connect, DISCOVERY)
    await node.do(discovery.enable)
    log = await node.do(discovery.log_page, 0x70, 1024)
    assert int.from_bytes(log[8:16], "little") == 1


async def test_discovery_tells_the_portals_of_every_replica(node: Node) -> None:
    """As far as they are known; each with the number of its path, and none of another protocol."""
    discovery = await node.do(Admin, node.address)
    await node.do(discovery.connect, DISCOVERY)
    await node.do(discovery.enable)
    log = await node.do(discovery.log_page, 0x70, 1024 * 5)
    count = int.from_bytes(log[8:16], "little")
    found = []
    for at in range(1024, 1024 * (count + 1), 1024):
        entry_ = log[at : at + 1024]
        port, address = entry_[32:64].strip(b" \0"), entry_[512:768].strip(b" \0")
        nqn = entry_[256:512].strip(b"\0").decode()
        found.append((nqn, entry_[1], int.from_bytes(entry_[4:6], "little"), address, int(port)))
    here = (node.address[0].encode(), node.address[1])
    assert found == [
        (DISCOVERY, 1, 1, *here),
        (NQN, 1, 2, *here),
        (NQN, 1, 3, b"192.0.2.3", 4420),
        (NQN, 2, 3, b"2001:db8::3", 4421),
    ]


async def test_a_new_portal_elsewhere_changes_discovery(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    discovery = await node.do(Admin, node.address)
    await node.do(discovery.connect, DISCOVERY)
    await node.do(discovery.enable)
    was = (await node.do(discovery.log_page, 0x70, 1024))[:8]
    monkeypatch.setitem(PORTALS, ("a", Frontend.NVME), ("192.0.2.1:4420",))
    node.portal.changed()
    log = await node.do(discovery.log_page, 0x70, 1024)
    assert log[:8] != was
    assert int.from_bytes(log[8:16], "little") == 5


async def test_an_abort_is_the_cores_to_answer(node: Node) -> None:
    admin, _ = await node.attach(queues=2)
    await until(lambda: len(node.dataplane.queues) == 2)
    first, second = sorted(node.dataplane.queues)
    assert await node.do(admin.abort, 1, 7), "it was taken back"
    assert not await node.do(admin.abort, 2, 8)
    assert not await node.do(admin.abort, 3, 7), "no such queue"
    assert node.dataplane.aborts == [(first, 7), (second, 8)]


async def test_identifiers_of_controllers_keep_their_range_when_members_change(node: Node) -> None:
    node.volume.replica_id = rid("r7")
    admin, _ = await node.attach()
    before = int.from_bytes((await node.do(admin.identify, 1))[78:80], "little")
    node.volume.known_line = line(2, 1, "b", "b")
    again, _ = await node.attach(hostnqn="nqn.2024-01.x:other")
    after = int.from_bytes((await node.do(again.identify, 1))[78:80], "little")
    assert before >> 12 == after >> 12 == 7
    assert before != after


async def test_a_host_that_loses_its_right_loses_its_controller(node: Node) -> None:
    node.allow(AccessList(revision=1, entries=(entry(HOST_NQN),), allow_none=True))
    admin, _ = await node.attach()
    await until(lambda: len(node.dataplane.queues) == 1)
    node.allow(AccessList(revision=2, entries=(entry(HOST_NQN), entry("*")), allow_none=True))
    await node.do(admin.keep_alive)
    node.allow(AccessList(revision=3, entries=(entry("nqn.2024-01.x:other"),), allow_none=True))
    assert await node.do(admin.closed)
    await until(lambda: not node.dataplane.queues)


KEY, OTHER = b"k" * 32, b"o" * 32
SECRETS = (Secret(name="host", value=KEY), Secret(name="array", value=OTHER))


def with_secret(revision: int = 1, *, target: str = "") -> AccessList:
    mine = AccessEntry(protocol=Frontend.NVME, name=HOST_NQN, secret="host", target_secret=target)
    return AccessList(revision=revision, entries=(mine,))


async def test_every_queue_of_a_host_with_a_secret_is_proven(node: Node) -> None:
    node.allow(with_secret(target="array"), *SECRETS)
    admin = await node.do(Admin, node.address, digests=3)
    cntlid = await node.do(admin.connect, NQN)
    assert admin.connect_result >> 17 & 1, "the answer to Connect asks for it"
    with pytest.raises(Refused) as raised:
        await node.do(admin.enable)
    assert raised.value.status == 0x191 | DNR
    side = await node.do(admin.authenticate, KEY, NQN, asks=OTHER)
    assert side.group == 1
    await node.do(admin.enable)
    queue = await node.do(Queue, node.address)
    await node.do(queue.connect, NQN, qid=1, cntlid=cntlid)
    with pytest.raises(Refused):
        await node.do(queue.finish_flush)
    assert not node.dataplane.queues
    await node.do(queue.authenticate, KEY, NQN)
    await until(lambda: len(node.dataplane.queues) == 1)
    ((_, _, handed),) = node.dataplane.queues.values()
    assert handed.sq_head == 6, "Connect, a refusal and four messages"


async def test_a_name_without_its_secret_ends_nobodys_controller(node: Node) -> None:
    node.allow(with_secret(), *SECRETS)
    admin = await node.do(Admin, node.address)
    cntlid = await node.do(admin.connect, NQN)
    await node.do(admin.authenticate, KEY, NQN)
    await node.do(admin.enable)
    for qid in (0, 1):
        thief = await node.do(Queue, node.address)
        wanted = cntlid if qid else 0xFFFF
        await node.do(thief.connect, NQN, qid=qid, cntlid=wanted)
        with pytest.raises(Unproven):
            await node.do(thief.authenticate, OTHER, NQN)
        assert await node.do(thief.closed)
    await node.do(admin.keep_alive)
    assert not node.dataplane.queues
    queue = await node.do(Queue, node.address)
    await node.do(queue.connect, NQN, qid=1, cntlid=cntlid)
    await node.do(queue.authenticate, KEY, NQN)
    await until(lambda: len(node.dataplane.queues) == 1)


async def test_a_controller_that_is_not_proven_has_no_queues(node: Node) -> None:
    node.allow(with_secret(), *SECRETS)
    admin = await node.do(Admin, node.address)
    cntlid = await node.do(admin.connect, NQN)
    queue = await node.do(Queue, node.address)
    with pytest.raises(Refused) as raised:
        await node.do(queue.connect, NQN, qid=1, cntlid=cntlid)
    assert raised.value.status == 0x182 | DNR


async def test_another_secret_ends_controllers_of_the_old_one(node: Node) -> None:
    node.allow(with_secret(), *SECRETS)
    admin = await node.do(Admin, node.address)
    await node.do(admin.connect, NQN)
    await node.do(admin.authenticate, KEY, NQN)
    await node.do(admin.enable)
    node.allow(with_secret(), Secret(name="host", value=b"n" * 32), SECRETS[1])
    assert await node.do(admin.closed)


# reservations

OTHER_HOST = {"hostnqn": "nqn.2020-01.com.example:other", "hostid": b"o" * 16}


async def carry_out(
    node: Node, queue: QueueParameters, opcode: int, cdw10: int, *keys: int, cdw11: int = 0
) -> tuple[int, bytes]:
    """Status and data of one command of reservations."""
    head = struct.pack("<BBHI32xII", opcode, 0x40, 7, 1, cdw10, cdw11)
    node.portal.take(
        Upcall(
            volume_id=VOLUME,
            session_key=queue.session_key,
            tag=1,
            header=head,
            data=struct.pack(f"<{len(keys)}Q", *keys),
        )
    )
    async with asyncio.timeout(WAIT_S):
        while not node.dataplane.answers:
            node.dataplane.changed.clear()
            await node.dataplane.changed.wait()
    ((key, _tag, status, _sense, data),) = node.dataplane.answers
    node.dataplane.answers.clear()
    assert key == queue.session_key
    return status, data


async def two_hosts(node: Node) -> tuple[Admin, QueueParameters, Admin, QueueParameters]:
    first, _ = await node.do(attach, node.address, NQN)
    ((_v, _fd, one),) = node.dataplane.queues.values()
    second, _ = await node.do(attach, node.address, NQN, **OTHER_HOST)
    (other,) = (q for _v, _fd, q in node.dataplane.queues.values() if q is not one)
    return first, one, second, other


async def test_a_host_is_registered_and_hears_when_it_is_preempted(node: Node) -> None:
    admin, one, _, other = await two_hosts(node)
    event = await node.do(admin.ask_event)
    assert await carry_out(node, one, 0x0D, 3 << 30, 0, 7) == (0, b"")
    assert await carry_out(node, other, 0x0D, 0, 0, 8) == (0, b"")
    assert [row.nexus.record() for row in decode_table(node.dataplane.tables[-1]).registrants] == [
        one.nexus,
        other.nexus,
    ]
    assert (await node.do(admin.admin, 0x0A, cdw10=0x83, nsid=1))[0] == 1
    assert await carry_out(node, other, 0x11, 1 | 1 << 8, 8, 7) == (0, b"")
    assert (await node.do(admin.answer, event))[0] == 0x800006
    log = await node.do(admin.log_page, 0x80, 64)
    assert struct.unpack_from("<QBBxxI", log) == (1, 1, 0, 1)
    status, data = await carry_out(node, one, 0x0E, 1023, cdw11=1)
    assert (status, struct.unpack_from("<IBH", data)) == (0, (3, 0, 1))
    assert (await carry_out(node, one, 0x0E, 1023))[0] == 0x018 | DNR
    assert (await carry_out(node, one, 0x11, 1 << 8, 7, 0))[0] == 0x083 | DNR


async def test_preempt_and_abort_ends_the_commands_of_who_lost(node: Node) -> None:
    _, one, _, other = await two_hosts(node)
    for queue, key in ((one, 7), (other, 8)):
        assert (await carry_out(node, queue, 0x0D, 0, 0, key))[0] == 0
    assert (await carry_out(node, other, 0x11, 1 | 1 << 8, 8, 7))[0] == 0
    assert node.dataplane.aborted == []
    assert (await carry_out(node, one, 0x0D, 0, 0, 7))[0] == 0
    assert (await carry_out(node, other, 0x11, 2 | 1 << 8, 8, 7))[0] == 0
    assert node.dataplane.aborted == [one.session_key]


async def test_a_node_that_does_not_serve_sends_the_host_elsewhere(node: Node) -> None:
    _, one, _, _ = await two_hosts(node)
    node.dataplane.error = StaleEpoch("another is primary")
    assert (await carry_out(node, one, 0x0D, 0, 0, 7))[0] == 0x303
    node.dataplane.error = Unavailable("not now")
    assert (await carry_out(node, one, 0x0E, 1023, cdw11=1))[0] == 0x021
    node.dataplane.error = None
    node.dataplane.lost = OutcomeUnknown("not in time")
    assert (await carry_out(node, one, 0x0D, 0, 0, 7))[0] == 0x021


async def test_a_change_is_logged_in_the_name_of_its_command(node: Node) -> None:
    """So the core can tell whether the host is still there to hear of it."""
    _, one, _, _ = await two_hosts(node)
    assert (await carry_out(node, one, 0x0D, 0, 0, 7))[0] == 0
    assert node.dataplane.askers == [(one.session_key, 1)]
