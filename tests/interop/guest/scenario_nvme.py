"""The kernel's own NVMe/TCP host, with its native multipath, on a cluster of three nodes."""

from __future__ import annotations

import asyncio

import pytest

from tests.interop.guest.bed import VOLUME, Bed
from tests.interop.guest.pauses import pauses_of, tell
from tests.support.waiting import until


def portals(bed: Bed) -> str:
    return " ".join(node.nvme_addr for node in bed.cluster.nodes.values())


@pytest.mark.timeout(600)
def test_nvme_file_systems_live_on_the_disk_and_leave_nothing_behind(bed: Bed) -> None:
    primary = bed.cluster.primary(VOLUME)
    address, _, port = primary.nvme_addr.rpartition(":")
    bed.play(
        "nvme_life.sh",
        timeout_s=400,
        environment={"NQN": bed.target("nvme"), "ADDRESS": address, "PORT": port},
    )
    nodes = bed.cluster.nodes.values()
    asyncio.run(until(lambda: not any(bed.connections(node.nvme_addr) for node in nodes)))
    assert bed.cluster.verify(VOLUME) == []


@pytest.mark.timeout(600)
def test_nvme_an_old_primary_refuses_reads_and_writes(bed: Bed) -> None:
    old = bed.cluster.primary(VOLUME)
    new = bed.another(old)
    bed.asks |= bed.usurp(new, lambda node: node.nvme_addr)
    bed.play(
        "nvme_stale.sh",
        timeout_s=240,
        environment={
            "NQN": bed.target("nvme"),
            "PORTALS": portals(bed),
            "PRIMARY": old.nvme_addr,
        },
    )
    assert bed.cluster.verify(VOLUME) == []


@pytest.mark.timeout(600)
def test_nvme_reservations_bind_hosts_through_a_kill_of_the_primary(bed: Bed) -> None:
    """With nvme-cli: every type, every action, and who may do what under each."""
    bed.asks |= bed.kills(lambda node: node.nvme_addr)
    bed.play(
        "nvme_reservations.sh",
        timeout_s=400,
        environment={
            "NQN": bed.target("nvme"),
            "PORTALS": portals(bed),
            "PRIMARY": bed.cluster.primary(VOLUME).nvme_addr,
        },
    )
    assert bed.cluster.verify(VOLUME) == []


@pytest.mark.timeout(1500)
def test_nvme_a_mounted_file_system_survives_kills_of_the_primary(bed: Bed, kills: int) -> None:
    bed.asks |= bed.kills()
    result = bed.play(
        "nvme_failover.sh",
        timeout_s=120 + 90 * kills,
        environment={"NQN": bed.target("nvme"), "PORTALS": portals(bed), "KILLS": str(kills)},
    )
    pauses = pauses_of(result.files)
    print(tell("nvme, native multipath", pauses))
    assert len(pauses) == kills
    assert bed.cluster.verify(VOLUME) == []
