"""Whom the NVMe/TCP portal lets in, and what it has to prove."""

from __future__ import annotations

import pytest

from sparrow.base.access import AccessEntry, AccessList, Frontend, Secret
from tests.support.nvme_auth import Unproven
from tests.support.nvme_host import (
    DISCOVERY,
    HOST_NQN,
    Admin,
    Queue,
    Refused,
)
from tests.support.nvme_node import NQN, Node
from tests.support.waiting import until

DNR = 0x4000
KEY, OTHER = b"k" * 32, b"o" * 32
SECRETS = (Secret(name="host", value=KEY), Secret(name="array", value=OTHER))


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


async def test_a_host_that_loses_its_right_loses_its_controller(node: Node) -> None:
    node.allow(AccessList(revision=1, entries=(entry(HOST_NQN),), allow_none=True))
    admin, _ = await node.attach()
    await until(lambda: len(node.dataplane.queues) == 1)
    node.allow(AccessList(revision=2, entries=(entry(HOST_NQN), entry("*")), allow_none=True))
    await node.do(admin.keep_alive)
    node.allow(AccessList(revision=3, entries=(entry("nqn.2024-01.x:other"),), allow_none=True))
    assert await node.do(admin.closed)
    await until(lambda: not node.dataplane.queues)


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
