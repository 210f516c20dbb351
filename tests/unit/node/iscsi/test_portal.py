"""The iSCSI portal on a real socket: logins, sessions, discovery."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.iscsi_client import LoginError
from tests.support.iscsi_node import ISID, TARGET, Node
from tests.support.lines import line
from tests.support.waiting import WAIT_S


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
    await asyncio.wait_for(reader.read(), WAIT_S)
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
