"""Reservations on real processes: who was fenced off stays so, whoever is primary, over iSCSI and over NVMe."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator

import pytest

from tests.support.cluster import Cluster, NodeProc
from tests.support.iscsi_client import IscsiClient, ScsiError
from tests.support.needs import needs_io_uring
from tests.support.nvme_bed import IN_CAPSULE, SGL
from tests.support.nvme_host import Admin, Queue, Refused, attach, close_all
from tests.support.waiting import until

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]

SIZE = 64 << 20
TARGET = "iqn.2026-01.io.sparrow:a"
NQN = "nqn.2026-01.io.sparrow:a"
CONFLICT = 0x18
NOT_READY, UNIT_ATTENTION = 2, 6
RESERVE_6 = (0x16, 0, 0, 0, 0, 0)
NVME_CONFLICT = 0x083
DNR = 0x4000
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT = range(6)
MOVE = 7
WRITE_EXCLUSIVE_RO = 5
#: Sessions of one initiator over several paths have one ISID, but for those that are given the number of a path.
ISIDS = {name: b"\x80\x00\x00\x00\x00" + name.encode() for name in "AB"}
BLOCK = bytes(4096)
OPENED: list[IscsiClient] = []


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("reservations")) as cluster:
        cluster.create_volume("a", size=SIZE, block_size=512)
        cluster.wait_healthy("a")
        yield cluster
        close_all()
        while OPENED:
            OPENED.pop().close()


class Initiator(IscsiClient):
    """One of two initiators, on the path to one node."""

    def __init__(self, node: NodeProc, name: str, *, path: int = 0) -> None:
        super().__init__(
            *node.portal,
            target=TARGET,
            timeout_s=30,
            initiator=f"iqn.2020-01.com.example:{name.lower()}",
            isid=ISIDS[name][:3] + bytes([path]) + ISIDS[name][4:],
        )
        OPENED.append(self)
        # Of a new session, and of a path that was not served before.
        self.settle()

    def change(self, action: int, *, key: int = 0, other: int = 0, kind: int = 0) -> None:
        """PERSISTENT RESERVE OUT. Raises: ScsiError."""
        self.change_by(action, struct.pack(">QQ8x", key, other), kind=kind)

    def change_by(self, action: int, parameters: bytes, *, kind: int = 0) -> None:
        """The same with any parameter list."""
        cdb = struct.pack(">BBB2xIx", 0x5F, action, kind, len(parameters))
        self._finish(self.submit(cdb, data_out=parameters))

    def keys(self) -> list[int]:
        data = self.command_in(struct.pack(">BB5xHx", 0x5E, 0, 1024), 1024)
        return [key for (key,) in struct.iter_unpack(">Q", data[8:])]

    def full_status(self) -> list[tuple[int, int, bytes]]:
        """Key, relative target port and ISID of every registrant."""
        data = self.command_in(struct.pack(">BB5xHx", 0x5E, 3, 4096), 4096)
        rows, at = [], 8
        while at < len(data):
            key, _flags, _kind, port, length = struct.unpack_from(">Q4xBB4xHI", data, at)
            name = data[at + 28 : at + 24 + length].rstrip(b"\0").decode()
            rows.append((key, port, bytes.fromhex(name.rpartition(",i,0x")[2])))
            at += 24 + length
        return rows

    def settle(self) -> list[int]:
        """Take unit attentions until there are none; their codes."""
        seen = []
        while True:
            try:
                self.test_unit_ready()
            except ScsiError as error:
                if error.key == NOT_READY:
                    return seen
                if error.key != UNIT_ATTENTION:
                    raise
                seen.append(error.asc << 8 | error.ascq)
            else:
                return seen


def writes(initiator: Initiator) -> bool:
    try:
        initiator.write(8, BLOCK)
    except ScsiError as error:
        if error.status != CONFLICT:
            raise
        return False
    return True


def hears(initiator: Initiator, code: int) -> None:
    """Told by its node when that hears of a commit, which may be after whoever asked for it was answered."""
    seen: list[int] = []
    asyncio.run(until(lambda: bool(seen.extend(initiator.settle()) or seen)))
    assert seen == [code]


def refused(initiator: Initiator) -> None:
    assert not writes(initiator)


def test_who_was_fenced_off_stays_so_when_the_primary_dies(cluster: Cluster) -> None:
    """Decision 0013: a PREEMPT that was answered holds at every later primary."""
    primary = cluster.primary("a")
    a, b = Initiator(primary, "A"), Initiator(primary, "B")
    a.change(REGISTER, other=0xA)
    b.change(REGISTER, other=0xB)
    b.change(RESERVE, key=0xB, kind=WRITE_EXCLUSIVE_RO)
    a.write(8, BLOCK)
    a.change(PREEMPT_AND_ABORT, key=0xA, other=0xB, kind=WRITE_EXCLUSIVE_RO)
    hears(b, 0x2A05)
    refused(b)
    assert len(b.read(8, 8)) == 4096, "write exclusive lets it read"
    primary.kill()
    successor = cluster.wait_serving("a", not_on=primary)
    a, b = Initiator(successor, "A"), Initiator(successor, "B")
    assert a.keys() == [0xA]
    refused(b)
    a.write(8, b"\x01" * 4096)
    assert b.read(8, 8) == b"\x01" * 4096
    primary.start()
    serving = cluster.wait_healthy("a").line
    assert serving is not None
    # A session that says nothing for half a minute, as while all is waited for, has ended.
    a, b = (Initiator(cluster.nodes[serving.primary_member.node_id], name) for name in "AB")
    a.change(CLEAR, key=0xA)
    b.write(8, BLOCK)


def test_who_is_preempted_hears_of_it_on_its_other_paths(cluster: Cluster) -> None:
    """Each node tells it when the table commits there; so does a successor of what it inherits."""
    primary = cluster.primary("a")
    a, b = Initiator(primary, "A"), Initiator(primary, "B")
    others = [Initiator(node, "B") for node in cluster.nodes.values() if node is not primary]
    a.change(REGISTER, other=0xA)
    b.change(REGISTER, other=0xB)
    a.change(PREEMPT, key=0xA, other=0xB, kind=WRITE_EXCLUSIVE_RO)
    for path in (b, *others):
        hears(path, 0x2A05)
    assert others


def test_reservations_outlive_every_process(cluster: Cluster) -> None:
    primary = cluster.primary("a")
    a = Initiator(primary, "A")
    a.change(REGISTER, other=0xA)
    a.change(RESERVE, key=0xA, kind=3)
    cluster.kill_all()
    cluster.start_all()
    cluster.wait_healthy("a")
    primary = cluster.primary("a")
    a, b = Initiator(primary, "A"), Initiator(primary, "B")
    refused(b)
    with pytest.raises(ScsiError) as caught:
        b.read(8, 8)
    assert caught.value.status == CONFLICT
    a.write(8, BLOCK)


def standbys(cluster: Cluster) -> list[NodeProc]:
    primary = cluster.primary("a")
    return [node for node in cluster.nodes.values() if node is not primary]


def refusal(work: Callable[[], object]) -> tuple[int, int, int]:
    """Sense key and code of a command that fails."""
    with pytest.raises(ScsiError) as caught:
        work()
    return caught.value.key, caught.value.asc, caught.value.ascq


def conflicts(work: Callable[[], object]) -> None:
    with pytest.raises(ScsiError) as caught:
        work()
    assert caught.value.status == CONFLICT


def test_a_path_that_does_not_serve_carries_reservations_to_the_primary(cluster: Cluster) -> None:
    """SPC-4, 5.15.2.4.4: an initiator registers on every path, and all of them tell the same."""
    primary = cluster.primary("a")
    first, second = standbys(cluster)
    paths = [Initiator(node, "A", path=n) for n, node in enumerate((primary, first, second))]
    b = Initiator(second, "B")
    for path in paths:
        assert path.keys() == [0xA] * paths.index(path)
        path.change(REGISTER, other=0xA)
    b.change(REGISTER, other=0xB)
    for path in (*paths, b):
        assert path.keys() == [0xA, 0xA, 0xA, 0xB]
    rows = paths[1].full_status()
    assert [(key, isid) for key, _port, isid in rows] == [
        *((0xA, path.isid) for path in paths),
        (0xB, b.isid),
    ]
    assert rows[3][1] == rows[2][1], "the port of the path it came through"
    assert len({port for _key, port, _isid in rows}) == 3
    # Through one path that does not serve, held and fought for through others.
    paths[1].change(RESERVE, key=0xA, kind=WRITE_EXCLUSIVE_RO)
    conflicts(lambda: b.change(RESERVE, key=0xB, kind=3))
    conflicts(lambda: b.change(REGISTER, key=0xC, other=0xD))
    assert writes(paths[0])
    b.change(PREEMPT, key=0xB, other=0xA, kind=WRITE_EXCLUSIVE_RO)
    # Told by the primary's node when it hears of the change, which b was answered of through another.
    asyncio.run(until(lambda: 0x2A05 in paths[0].settle()))
    refused(paths[0])
    assert b.keys() == [0xB]
    # What reads and writes is still refused there, and so is what ends with the session.
    assert refusal(lambda: b.read(8, 8)) == (NOT_READY, 0x04, 0x0B)
    assert refusal(lambda: b.command_in(bytes(RESERVE_6), 0)) == (NOT_READY, 0x04, 0x0B)


def test_who_registered_through_a_path_is_known_there_when_it_serves(cluster: Cluster) -> None:
    primary = cluster.primary("a")
    paths = {node: Initiator(node, "A", path=n) for n, node in enumerate(cluster.nodes.values())}
    for path in paths.values():
        path.change(REGISTER, other=0xA)
    paths[primary].change(RESERVE, key=0xA, kind=WRITE_EXCLUSIVE_RO)
    primary.kill()
    successor = cluster.wait_serving("a", not_on=primary)
    serving = paths[successor]
    serving.settle()
    assert writes(serving), "by the session that registered while it did not serve"
    b = Initiator(successor, "B")
    refused(b)
    # The third path found the new primary by itself.
    (third,) = (one for node, one in paths.items() if node not in (primary, successor))
    third.settle()
    third.change(RELEASE, key=0xA, kind=WRITE_EXCLUSIVE_RO)
    refused(b)
    third.change(CLEAR, key=0xA)
    assert b.settle() == []
    assert writes(b)


def test_a_path_whose_primary_is_gone_says_not_ready_and_nothing_else(cluster: Cluster) -> None:
    """Nobody may promote another one, so nobody can say what is registered."""
    primary = cluster.primary("a")
    standby = standbys(cluster)[0]
    a = Initiator(standby, "A")
    a.change(REGISTER, other=0xA)
    cluster.master.kill()
    primary.kill()
    for ask in (
        a.keys,
        lambda: a.change(REGISTER, key=0xA, other=0xB),
        lambda: a.change(CLEAR, key=0xA),
    ):
        assert refusal(ask) == (NOT_READY, 0x04, 0x0A)
    primary.start()
    cluster.master.start()
    cluster.wait_healthy("a")
    # One that waited in silence for so long may have lost its session.
    a = Initiator(standby, "A")
    assert a.keys() == [0xA], "nothing of that was carried out"


def test_an_initiator_registers_another_and_gives_it_the_reservation(cluster: Cluster) -> None:
    """SPEC_I_PT and REGISTER AND MOVE, by a path that does not serve: their lists are longer than others."""
    primary = cluster.primary("a")
    b = Initiator(primary, "B")
    a = Initiator(standbys(cluster)[0], "A")
    text = f"{b.initiator},i,0x{b.isid.hex()}".encode()
    named = struct.pack(">BxH", 0x45, 60) + text.ljust(60, b"\0")
    a.change_by(REGISTER, struct.pack(">QQ4xB3xI", 0, 0xA, 0x08, len(named)) + named)
    assert b.keys() == [0xA, 0xA]
    a.change(RESERVE, key=0xA, kind=3)
    refused(b)
    port = a.full_status()[0][1]
    a.change_by(MOVE, struct.pack(">QQxBHI", 0xA, 0xC, 0, port, len(named)) + named)
    assert sorted(a.keys()) == [0xA, 0xC]
    assert writes(b)


def test_reserve_6_is_gone_with_its_session(cluster: Cluster) -> None:
    primary = cluster.primary("a")
    a, b = Initiator(primary, "A"), Initiator(primary, "B")
    a.command_in(bytes(RESERVE_6), 0)
    refused(b)
    a.logout()
    primary.wait_log("session.ended", initiator=a.initiator)
    # Its end is logged like any change: writes are refused until then.
    asyncio.run(until(lambda: writes(b)))


# ---------------------------------------------------------------- NVMe


def address(node: NodeProc) -> tuple[str, int]:
    host, _, port = node.nvme_addr.rpartition(":")
    return host, int(port)


def host(node: NodeProc, name: str) -> tuple[Admin, Queue]:
    admin, (queue,) = attach(
        address(node),
        NQN,
        hostnqn=f"nqn.2020-01.com.example:{name.lower()}",
        hostid=name.encode() * 16,
    )
    return admin, queue


def reserve(queue: Queue, opcode: int, cdw10: int, *keys: int) -> None:
    """Register, Acquire or Release. Raises: Refused."""
    data = struct.pack(f"<{len(keys)}Q", *keys)
    entry = struct.pack(
        "<BBHI8xQQI3xBIIIIII",
        opcode, SGL, queue.take_cid(), 1, 0, 0, len(data), IN_CAPSULE, cdw10, 0, 0, 0, 0, 0,
    )  # fmt: skip
    queue.command(entry, data)


def registrants(queue: Queue) -> list[tuple[int, bytes, bool]]:
    """Key, host identifier and whether it holds, of every registrant."""
    entry = struct.pack(
        "<BBHI8xQQI3xBIIIIII",
        0x0E, SGL, queue.take_cid(), 1, 0, 0, 4096, 0x5A, 1023, 1, 0, 0, 0, 0,
    )  # fmt: skip
    _, data = queue.command(entry)
    (count,) = struct.unpack_from("<H", data, 5)
    rows = (struct.unpack_from("<HB5xQ16s", data, 64 + 64 * n) for n in range(count))
    return [(key, host_id, bool(status & 1)) for _cntlid, status, key, host_id in rows]


def test_hosts_fence_each_other_over_nvme(cluster: Cluster) -> None:
    primary = cluster.primary("a")
    (_, a), (b_admin, b) = host(primary, "A"), host(primary, "B")
    b_event = b_admin.ask_event()
    reserve(a, 0x0D, 3 << 30, 0, 0xA)
    reserve(b, 0x0D, 0, 0, 0xB)
    reserve(b, 0x11, 3 << 8, 0xB, 0)
    assert registrants(a) == [(0xA, b"A" * 16, False), (0xB, b"B" * 16, True)]
    assert a.write(8, BLOCK).status == 0
    with pytest.raises(Refused) as caught:
        reserve(a, 0x11, 1 << 8, 0xA, 0)
    assert caught.value.status == NVME_CONFLICT | DNR
    reserve(a, 0x11, 1 | 3 << 8, 0xA, 0xB)
    assert b_admin.answer(b_event)[0] == 0x800006
    assert struct.unpack_from("<QBBxxI", b_admin.log_page(0x80, 64)) == (1, 1, 0, 1)
    assert b.write(8, BLOCK).status == NVME_CONFLICT | DNR
    assert b.read(8, 8).status == 0
    primary.kill()
    successor = cluster.wait_serving("a", not_on=primary)
    (a_admin, a), (_, b) = host(successor, "A"), host(successor, "B")
    assert registrants(b) == [(0xA, b"A" * 16, True)]
    assert b.write(8, BLOCK).status == NVME_CONFLICT | DNR
    assert a.write(8, b"\x02" * 4096).status == 0
    assert a_admin.admin(0x0A, cdw10=0x83, nsid=1)[0] == 1, "it persists"
    reserve(a, 0x15, 3 << 8, 0xA)
    assert b.write(8, BLOCK).status == 0


def test_one_protocol_meets_the_reservation_of_the_other(cluster: Cluster) -> None:
    primary = cluster.primary("a")
    a = Initiator(primary, "A")
    _, b = host(primary, "B")
    a.change(REGISTER, other=0xA)
    a.change(RESERVE, key=0xA, kind=3)
    assert b.read(8, 8).status == NVME_CONFLICT | DNR
    with pytest.raises(Refused):
        reserve(b, 0x11, 2 << 8, 0, 0)
    reserve(b, 0x0D, 0, 0, 0xB)
    reserve(b, 0x11, 1 | 2 << 8, 0xB, 0xA)
    hears(a, 0x2A05)
    refused(a)
    assert b.write(8, BLOCK).status == 0
