"""Settings of a node that name its portals."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparrow.node.config import NodeSettings, iscsi_portals, read_cache_bytes, validate


def _faults(listen: str, **more: str) -> list[str]:
    settings = NodeSettings(
        node_id="n1",
        pool=Path("pool"),
        cluster_key=Path("key"),
        master="h:1",
        listen_iscsi=listen,
        **more,
    )
    return validate(settings)


@pytest.mark.parametrize(
    "listen", ["10.0.0.1:3260", "10.0.0.1:3260, [fd00::1]:3260", "127.0.0.1:0,127.0.0.1:0"]
)
def test_one_or_several_portals_are_taken(listen: str) -> None:
    assert _faults(listen) == []


@pytest.mark.parametrize(
    ("listen", "what"),
    [
        ("", "has 0 addresses"),
        (",", "has 0 addresses"),
        (",".join(f"10.0.0.{n}:3260" for n in range(9)), "has 9 addresses"),
        ("10.0.0.1:3260,10.0.0.1:3260", "twice"),
        ("10.0.0.1:3260,nonsense", "listen_iscsi:"),
        ("10.0.0.1:3260,0.0.0.0:3261", "listens everywhere"),
    ],
)
def test_portals_that_cannot_be_are_refused_by_name(listen: str, what: str) -> None:
    faults = _faults(listen)
    assert len(faults) == 1
    assert what in faults[0]


def test_a_portal_on_every_address_is_told_by_the_advertised_name() -> None:
    assert _faults("10.0.0.1:3260,0.0.0.0:3261", advertise_host="n1.example") == []


def test_the_order_of_portals_is_kept() -> None:
    settings = NodeSettings(
        node_id="n1",
        pool=Path("pool"),
        cluster_key=Path("key"),
        master="h:1",
        listen_iscsi=" b:2 , a:1",
    )
    assert iscsi_portals(settings) == ("b:2", "a:1")


def _with_cache(mib: int) -> NodeSettings:
    return NodeSettings(
        node_id="n1", pool=Path("pool"), cluster_key=Path("key"), master="h:1", read_cache_mib=mib
    )


@pytest.mark.parametrize(
    ("mib", "machine_mib", "wanted_mib"),
    [(-1, 2048, 128), (-1, 1 << 20, 1024), (0, 2048, 0), (700, 2048, 700)],
)
def test_the_read_cache_is_what_is_asked_for_or_a_part_of_the_machine(
    mib: int, machine_mib: int, wanted_mib: int
) -> None:
    settings = _with_cache(mib)
    assert validate(settings) == []
    assert read_cache_bytes(settings, machine_mib << 20) == wanted_mib << 20


@pytest.mark.parametrize("mib", [-2, (256 << 10) + 1])
def test_a_read_cache_that_cannot_be_is_refused(mib: int) -> None:
    (fault,) = validate(_with_cache(mib))
    assert "read_cache_mib" in fault
