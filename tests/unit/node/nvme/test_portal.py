"""Controllers and queues of the NVMe/TCP portal: who gets one, and when it ends."""

from __future__ import annotations

import asyncio
import os

import pytest

from sparrow.base.access import Frontend
from tests.support.lines import SIZE, VOLUME, line, rid
from tests.support.nvme_host import (
    ANA_CHANGED,
    CC_ENABLE,
    CHANGE,
    DISCOVERY,
    INACCESSIBLE,
    NS_CHANGED,
    OPTIMIZED,
    Admin,
    Queue,
    Refused,
)
from tests.support.nvme_node import NQN, PORTALS, Node
from tests.support.waiting import until

DNR = 0x4000


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
    admin, _ = await node.attach()
    await until(lambda: len(node.dataplane.queues) == 1)
    # From now on: what goes before may take any time on a machine that stands still.
    await node.do(admin.admin, 0x09, cdw10=0x0F, cdw11=300)
    assert await node.do(admin.closed)
    await until(lambda: not node.dataplane.queues)


async def test_a_stop_lets_go_of_everything(node: Node) -> None:
    admin, _ = await node.attach(queues=2)
    await until(lambda: len(node.dataplane.queues) == 2)
    await node.portal.close()
    assert not node.dataplane.queues
    assert await node.do(admin.closed)


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
