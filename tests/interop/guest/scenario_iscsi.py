"""The kernel's own iSCSI initiator on a cluster of three nodes."""

from __future__ import annotations

import asyncio

import pytest

from sparrow.base.access import AccessEntry, Frontend, Secret
from tests.interop.guest.bed import VOLUME, Bed
from tests.interop.guest.image import INITIATOR
from tests.interop.guest.pauses import pauses_of, tell
from tests.support.waiting import until

SECRETS = {"host": "twelve-and-more", "array": "another-secret-1"}


def portals(bed: Bed) -> str:
    return " ".join(node.iscsi_addr for node in bed.cluster.nodes.values())


def wait_no_sessions(bed: Bed) -> None:
    """The guest has ended its own; a node's end of each goes a moment later."""

    def none() -> bool:
        return not any(bed.connections(node.iscsi_addr) for node in bed.cluster.nodes.values())

    asyncio.run(until(none))


@pytest.mark.timeout(600)
def test_iscsi_file_systems_live_on_the_disk_and_leave_nothing_behind(bed: Bed) -> None:
    primary = bed.cluster.primary(VOLUME)
    bed.play(
        "iscsi_life.sh",
        timeout_s=400,
        environment={"TARGET": bed.target("iscsi"), "PORTAL": primary.iscsi_addr},
    )
    wait_no_sessions(bed)
    started = len(primary.log_events("session.started"))
    assert started > 0
    asyncio.run(until(lambda: len(primary.log_events("session.ended")) == started))
    assert bed.cluster.verify(VOLUME) == []


@pytest.mark.timeout(600)
def test_iscsi_an_old_primary_refuses_reads_and_writes(bed: Bed) -> None:
    """Superseded by the operator's word, then cut off from everybody but the guest."""
    old = bed.cluster.primary(VOLUME)
    new = bed.another(old)
    bed.asks |= bed.usurp(new, lambda node: node.iscsi_addr)
    bed.play(
        "iscsi_stale.sh",
        timeout_s=240,
        environment={
            "TARGET": bed.target("iscsi"),
            "PORTALS": portals(bed),
            "PRIMARY": old.iscsi_addr,
        },
    )
    assert bed.cluster.verify(VOLUME) == []


@pytest.mark.timeout(600)
def test_iscsi_chap_lets_in_who_knows_the_secrets_and_nobody_else(bed: Bed) -> None:
    for name, value in SECRETS.items():
        secret = Secret(name=name, value=value.encode())
        bed.cluster.api(lambda api, secret=secret: api.set_secret(secret))
    bed.allow(
        AccessEntry(protocol=Frontend.ISCSI, name=INITIATOR, secret="host", target_secret="array")
    )
    primary = bed.cluster.primary(VOLUME)
    bed.play(
        "iscsi_chap.sh",
        timeout_s=240,
        environment={
            "TARGET": bed.target("iscsi"),
            "PORTAL": primary.iscsi_addr,
            "NAME": "host",
            "SECRET": SECRETS["host"],
            "NAME_IN": "array",
            "SECRET_IN": SECRETS["array"],
        },
    )
    wait_no_sessions(bed)
    assert len(primary.log_events("session.started")) == 2


@pytest.mark.timeout(600)
def test_iscsi_reservations_bind_initiators_through_a_kill_of_the_primary(bed: Bed) -> None:
    """With sg_persist: every type, every action, and who may do what under each."""
    bed.asks |= bed.kills(lambda node: node.iscsi_addr)
    bed.play(
        "iscsi_reservations.sh",
        timeout_s=400,
        environment={
            "TARGET": bed.target("iscsi"),
            "PORTALS": portals(bed),
            "PRIMARY": bed.cluster.primary(VOLUME).iscsi_addr,
        },
    )
    wait_no_sessions(bed)
    assert bed.cluster.verify(VOLUME) == []


@pytest.mark.timeout(600)
def test_iscsi_mpathpersist_registers_on_every_path_and_keeps_another_host_out(bed: Bed) -> None:
    """Of its three paths one serves; the others carry registrations to that, also after it was killed."""
    bed.asks |= bed.kills(lambda node: node.iscsi_addr)
    bed.play(
        "iscsi_mpathpersist.sh",
        timeout_s=400,
        environment={
            "TARGET": bed.target("iscsi"),
            "PORTALS": portals(bed),
            "PRIMARY": bed.cluster.primary(VOLUME).iscsi_addr,
        },
    )
    wait_no_sessions(bed)
    assert bed.cluster.verify(VOLUME) == []


@pytest.mark.timeout(1500)
def test_iscsi_a_mounted_file_system_survives_kills_of_the_primary(bed: Bed, kills: int) -> None:
    bed.asks |= bed.kills()
    result = bed.play(
        "iscsi_failover.sh",
        timeout_s=120 + 90 * kills,
        environment={"TARGET": bed.target("iscsi"), "PORTALS": portals(bed), "KILLS": str(kills)},
    )
    pauses = pauses_of(result.files)
    print(tell("iscsi, dm-multipath", pauses))
    assert len(pauses) == kills
    assert bed.cluster.verify(VOLUME) == []
