"""Settings of a node that name its portals."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparrow.base.errors import ConfigError
from sparrow.dataplane.machine import CoreSizes
from sparrow.node.config import (
    NodeSettings,
    check_memory,
    iscsi_portals,
    read_cache_bytes,
    validate,
)
from sparrow.node.process import main


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


def sized(**more: int) -> NodeSettings:
    return NodeSettings(
        node_id="n1", pool=Path("pool"), cluster_key=Path("key"), master="h:1", **more
    )


@pytest.mark.parametrize(("mib", "good"), [(95, False), (96, True), (16384, True), (16385, False)])
def test_the_buffer_has_bounds(mib: int, good: bool) -> None:
    assert validate(sized(buffer_mib=mib)) == ([] if good else ["buffer_mib is not 96 to 16384."])


def test_more_memory_than_there_is_is_refused_with_all_figures() -> None:
    check_memory(sized(), 512 << 20)
    check_memory(sized(buffer_mib=1024, read_cache_mib=2048), 3073 << 20)
    with pytest.raises(ConfigError) as caught:
        check_memory(sized(buffer_mib=1024, read_cache_mib=2048), 3072 << 20)
    assert "buffer_mib of 1024 and a read cache of 2048 MiB do not fit in the 3072 MiB" in str(
        caught.value
    )
    assert "--buffer-mib 96" in caught.value.hint


def test_what_waits_to_be_applied_never_takes_all_of_the_buffer() -> None:
    usual = CoreSizes()
    assert CoreSizes.of_buffer(384 << 20) == usual
    small = CoreSizes.of_buffer(96 << 20, cache_bytes=8 << 20)
    assert (small.pages, small.cache_pages) == (96 << 8, 8 << 8)
    assert 2 * small.versions_per_volume <= small.versions < small.pages
    assert CoreSizes.of_buffer(16 << 30).versions * 4096 == 1 << 30


def test_a_node_that_may_not_use_so_much_does_not_begin(tmp_path: Path) -> None:
    given = {
        "node-id": "n1",
        "pool": str(tmp_path / "pool"),
        "cluster-key": "key",
        "master": "h:1",
        "read-cache-mib": str(256 << 10),
    }
    with pytest.raises(ConfigError, match="a read cache of 262144 MiB do not fit"):
        main([f"--{name}={value}" for name, value in given.items()])
    assert not (tmp_path / "pool").exists()
