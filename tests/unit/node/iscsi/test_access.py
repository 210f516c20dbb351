"""Who may log in over iSCSI, and whose session ends when the list changes."""

from __future__ import annotations

import pytest

from sparrow.authority.effects import AllowAccess
from sparrow.base.access import AccessEntry, AccessList, Frontend, Secret
from sparrow.node.access import is_loopback
from tests.support.iscsi_client import LoginError
from tests.support.iscsi_node import Node
from tests.support.lines import VOLUME

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
