"""Commands of reservations over NVMe/TCP, from the core's upcall to the table in the log."""

from __future__ import annotations

import asyncio
import struct

from sparrow.base.errors import OutcomeUnknown, StaleEpoch, Unavailable
from sparrow.formats.reservations import decode_table
from sparrow.ports.dataplane import QueueParameters, Upcall
from tests.support.lines import VOLUME
from tests.support.nvme_host import (
    Admin,
    attach,
)
from tests.support.nvme_node import NQN, Node
from tests.support.waiting import WAIT_S, until

DNR = 0x4000
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
    await until(lambda: len(node.dataplane.queues) == 1)
    ((_v, _fd, one),) = node.dataplane.queues.values()
    second, _ = await node.do(attach, node.address, NQN, **OTHER_HOST)
    await until(lambda: len(node.dataplane.queues) == 2)
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
