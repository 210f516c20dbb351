"""Access lists, CHAP and mutual CHAP on a live cluster, proven with libiscsi."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sparrow.base.access import AccessEntry, AccessList, Frontend, Secret
from sparrow.base.errors import FailedPrecondition
from tests.support.cluster import Cluster
from tests.support.iscsi_client import IscsiClient, LoginError
from tests.support.needs import needs_io_uring, needs_program
from tests.support.places import disk_directory
from tests.support.waiting import wait_for

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]

HOST = "iqn.2004-10.com.example:host1"
OTHER = "iqn.2004-10.com.example:host2"
TARGET = "iqn.2026-01.io.sparrow:a"
VALUES = {"host": "twelve-and-more", "array": "another-secret-1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with disk_directory("access") as place, Cluster(place, nodes=1) as made:
        for name, value in VALUES.items():
            secret = Secret(name=name, value=value.encode())
            made.api(lambda api, secret=secret: api.set_secret(secret))
        made.create_volume("a", size=16 << 20, replicas=1)
        made.wait_healthy("a")
        yield made


def allow(cluster: Cluster, *entries: AccessEntry, allow_none: bool = False) -> AccessList:
    """Replace the list, and wait until the node has it."""
    held = cluster.volume("a").access
    wanted = replace(held, entries=entries, allow_none=allow_none)
    changed = cluster.api(lambda api: api.set_access("a", wanted)).access
    cluster.nodes["n1"].wait_log("volume.access_changed", revision=changed.revision)
    return changed


def entry(name: str = HOST, **more: str) -> AccessEntry:
    return AccessEntry(protocol=Frontend.ISCSI, name=name, **more)


def inquire(cluster: Cluster, user: str = "", **mutual: str) -> subprocess.CompletedProcess[str]:
    addr = cluster.nodes["n1"].iscsi_addr
    query = "?" + "&".join(f"{key}={value}" for key, value in mutual.items()) if mutual else ""
    return subprocess.run(
        ["iscsi-inq", "-i", HOST, f"iscsi://{user}{addr}/{TARGET}/0{query}"],
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
    )


def listed(cluster: Cluster, initiator: str, user: str = "") -> str:
    addr = cluster.nodes["n1"].iscsi_addr
    done = subprocess.run(
        ["iscsi-ls", "-i", initiator, f"iscsi://{user}{addr}"],
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
    )
    return done.stdout


@needs_program("iscsi-inq")
def test_the_right_secret_comes_in_and_no_other(cluster: Cluster) -> None:
    allow(cluster, entry(secret="host"))
    assert "Vendor:SPARROW" in inquire(cluster, f"host%{VALUES['host']}@").stdout
    for user in ("", f"host%{VALUES['array']}@", f"array%{VALUES['host']}@", "host%@"):
        refused = inquire(cluster, user)
        assert refused.returncode != 0
        assert "SPARROW" not in refused.stdout


@needs_program("iscsi-inq")
def test_mutual_chap_with_the_right_and_with_the_wrong_secret_of_ours(cluster: Cluster) -> None:
    allow(cluster, entry(secret="host", target_secret="array"))
    user = f"host%{VALUES['host']}@"
    good = inquire(cluster, user, target_user="array", target_password=VALUES["array"])
    assert "Vendor:SPARROW" in good.stdout, good.stderr
    bad = inquire(cluster, user, target_user="array", target_password="not-the-secret-1")
    assert bad.returncode != 0
    assert "SPARROW" not in bad.stdout


@needs_program("iscsi-ls")
def test_discovery_lists_only_what_the_initiator_may_use(cluster: Cluster) -> None:
    allow(cluster, entry(), allow_none=True)
    assert TARGET in listed(cluster, HOST)
    assert TARGET not in listed(cluster, OTHER)
    assert "SPARROW" in inquire(cluster).stdout


@needs_program("iscsi-ls")
def test_discovery_with_a_wrong_secret_is_refused(cluster: Cluster) -> None:
    allow(cluster, entry(secret="host"))
    assert TARGET in listed(cluster, HOST, f"host%{VALUES['host']}@")
    assert TARGET not in listed(cluster, HOST, "host%wrong-wrong-wrong@")


def test_a_session_ends_when_it_is_not_allowed_any_more(cluster: Cluster) -> None:
    allow(cluster, entry(), entry(OTHER), allow_none=True)
    host, port = cluster.nodes["n1"].portal
    with (
        IscsiClient(host, port, TARGET, timeout_s=30, initiator=HOST) as stays,
        IscsiClient(host, port, TARGET, timeout_s=30, initiator=OTHER) as goes,
    ):
        goes.test_unit_ready()
        allow(cluster, entry(), allow_none=True)
        cluster.nodes["n1"].wait_log("session.ended", initiator=OTHER)
        with pytest.raises(ConnectionError):
            goes.test_unit_ready()
        stays.test_unit_ready()
        with pytest.raises(LoginError) as refused:
            IscsiClient(host, port, TARGET, timeout_s=30, initiator=OTHER)
        assert refused.value.status == (2, 2)


@needs_program("iscsi-inq")
def test_the_list_is_there_after_every_process_was_killed(cluster: Cluster) -> None:
    before = allow(cluster, entry(secret="host"))
    cluster.kill_all()
    cluster.start_all()
    cluster.wait_healthy("a")
    assert cluster.volume("a").access == before
    # The node may have been killed before it had written the list down: then it hears of it again.
    wait_for(lambda: inquire(cluster).returncode != 0)
    assert "Vendor:SPARROW" in inquire(cluster, f"host%{VALUES['host']}@").stdout


def test_a_node_that_starts_without_the_master_lets_in_who_it_let_in_before(
    cluster: Cluster,
) -> None:
    """Whether it may serve is the gate's to say; a login is not refused."""
    changed = allow(cluster, entry(), allow_none=True)
    node = cluster.nodes["n1"]
    kept = node.pool / "access" / "a.json"
    # The node says that it has the list before it has written it down.
    wait_for(
        lambda: (
            kept.exists() and f'"revision":{changed.revision}' in kept.read_text().replace(" ", "")
        )
    )
    assert kept.stat().st_mode & 0o777 == 0o600

    def refusal(initiator: str) -> tuple[int, int] | None:
        try:
            with IscsiClient(*node.portal, TARGET, timeout_s=30, initiator=initiator) as client:
                client.inquiry()
        except LoginError as error:
            return error.status
        return None

    cluster.kill_all()
    try:
        node.start()
        assert refusal(HOST) is None
        assert refusal(OTHER) == (2, 2)
        node.kill()
        kept.write_text(kept.read_text().replace("host1", "host2"))
        node.start()
        assert (refusal(HOST), refusal(OTHER)) == ((2, 2), (2, 2)), "a damaged list lets nobody in"
    finally:
        cluster.start_all()
    cluster.wait_healthy("a")
    wait_for(lambda: refusal(HOST) is None)


def test_two_that_change_a_list_at_once_do_not_undo_each_other(cluster: Cluster) -> None:
    held = allow(cluster, entry(), allow_none=True)
    cluster.api(lambda api: api.set_access("a", held))
    with pytest.raises(FailedPrecondition, match="revision"):
        cluster.api(lambda api: api.set_access("a", held))


def test_no_secret_is_in_any_log(cluster: Cluster) -> None:
    allow(cluster, entry(secret="host", target_secret="array"))
    for proc in (cluster.master, *cluster.nodes.values()):
        text = proc.log_path.read_text()
        for value in VALUES.values():
            assert value not in text
            assert value.encode().hex() not in text
