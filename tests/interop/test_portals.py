"""Portals of a live cluster: all of them told by each of them, many sessions on one."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from tests.support.cluster import Cluster
from tests.support.iscsi_client import IscsiClient, ScsiError
from tests.support.needs import needs_io_uring, needs_program
from tests.support.places import disk_directory
from tests.support.ports import free_ports
from tests.support.waiting import until

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]

TARGET = "iqn.2026-01.io.sparrow:a"
#: The goal is that many; each has a connection of its own.
SESSIONS = 64


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with disk_directory("portals") as place, Cluster(place) as made:
        # The last of two wins on a command line: every node has a second portal.
        for node, port in zip(made.nodes.values(), free_ports(3), strict=True):
            node.arguments = (
                *node.arguments,
                *("--listen-iscsi", f"{node.iscsi_addr},127.0.0.2:{port}"),
            )
            node.terminate()
            node.wait()
            node.start()
        made.wait_nodes()
        made.create_volume("a", size=16 << 20, block_size=512)
        made.wait_healthy("a")
        yield made


def listed(address: str) -> dict[str, str]:
    """Target portal group tag by portal, as discovery at one portal tells them."""
    done = subprocess.run(
        ["iscsi-ls", f"iscsi://{address}"], capture_output=True, timeout=60, text=True, check=True
    )
    return dict(re.findall(rf"Target:{re.escape(TARGET)} Portal:(\S+),(\d+)", done.stdout))


@needs_program("iscsi-ls")
def test_every_portal_tells_every_portal_with_its_port_group(cluster: Cluster) -> None:
    def portals(node):
        return node.arguments[-1].split(",")

    line = cluster.volume("a").line
    assert line is not None
    groups = {
        member.node_id: str(number)
        for number, member in enumerate(sorted(line.members, key=lambda m: m.replica_id), 1)
    }
    wanted = {
        address: groups[name] for name, node in cluster.nodes.items() for address in portals(node)
    }
    assert len(wanted) == 6
    for node in cluster.nodes.values():
        for address in portals(node):
            # Where the others can be reached is heard a little after the volume is.
            asyncio.run(until(lambda address=address: listed(address) == wanted))


def test_the_group_told_at_login_is_the_one_of_the_path(cluster: Cluster) -> None:
    """TargetPortalGroupTag of the login, and the port group in INQUIRY page 83 of the same path."""
    for node in cluster.nodes.values():
        tag = listed(node.iscsi_addr)[node.iscsi_addr]
        with IscsiClient(*node.portal, TARGET, timeout_s=30) as client:
            page = client.inquiry(0x83)
            found = set()
            at = 4
            while at < len(page):
                kind, length = page[at + 1] & 0x0F, page[at + 3]
                if kind == 5:
                    found.add(str(int.from_bytes(page[at + 6 : at + 8], "big")))
                at += 4 + length
            assert found == {tag}


def test_a_session_is_told_that_it_is_new_and_one_that_replaces_another_that(
    cluster: Cluster,
) -> None:
    """On the primary and on a standby alike: before anything else, and once."""
    isid = bytes.fromhex("800000abcdef")
    with ExitStack() as stack:
        for node in cluster.nodes.values():
            for greeting in ((0x29, 0x00), (0x29, 0x07)):
                client = IscsiClient(*node.portal, TARGET, timeout_s=30, isid=isid)
                # Closed in the end only: the second login finds the session of the first.
                stack.enter_context(client)
                with suppress(ScsiError):
                    client.test_unit_ready()
                assert client.greeting == greeting


def test_sixty_four_sessions_on_one_node_all_move_data(cluster: Cluster) -> None:
    primary = cluster.primary("a")
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                IscsiClient(
                    *primary.portal, TARGET, timeout_s=30, initiator=f"iqn.2004-10.com.example:h{n}"
                )
            )
            for n in range(SESSIONS)
        ]
        for number, client in enumerate(clients):
            client.submit_write(number * 8, bytes([number]) * 4096)
        for client in clients:
            (done,) = client.poll(30)
            assert done.error is None
        for number, client in enumerate(reversed(clients)):
            found = SESSIONS - 1 - number
            assert client.read(found * 8, 8) == bytes([found]) * 4096
    assert cluster.verify("a") == []


def wait_asked(client: IscsiClient) -> None:
    """Until the target has requested a logout."""
    deadline = time.monotonic() + 20
    while not client.logout_requested:
        assert time.monotonic() < deadline, "nobody asked it to log out"
        assert client.poll(0.05) == []


def hear_out(client: IscsiClient) -> None:
    """Everything up to its end, which it raises."""
    while True:
        assert client.poll(1.0) == []


def test_initiators_are_asked_to_log_out_before_a_volume_goes(cluster: Cluster) -> None:
    """One that does is gone at once, one that does not is cut off; the deletion waits for neither longer than that."""
    cluster.create_volume("gone", size=16 << 20, replicas=1)
    node = cluster.primary("gone")
    target = "iqn.2026-01.io.sparrow:gone"
    with (
        IscsiClient(*node.portal, target, timeout_s=20) as polite,
        IscsiClient(*node.portal, target, timeout_s=20) as deaf,
        ThreadPoolExecutor(1) as pool,
    ):
        deleted = pool.submit(cluster.delete_volume, "gone")
        wait_asked(polite)
        polite.logout()
        deleted.result(60)
        with pytest.raises(ConnectionError):
            hear_out(deaf)
        assert deaf.logout_requested
    for cause in ("logout", "command"):
        node.wait_log("session.ended", volume="gone", cause=cause)
    assert len(node.log_events("session.ended", volume="gone")) == 2
