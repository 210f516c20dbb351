"""NBD clients nobody here wrote, against volumes of a live cluster with three replicas."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.cluster import Cluster
from tests.support.foreign import on_primary
from tests.support.needs import needs_io_uring, needs_program
from tests.support.places import disk_directory

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

SIZE_BYTES = 64 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with disk_directory("interop-nbd") as place:
        made = Cluster(place)
        authority = Authority(place / "pki")
        server = authority.issue("server", "storage")
        authority.issue("client", "backup-host")
        for name, node in made.nodes.items():
            node.arguments = (
                *(*node.arguments, "--nbd-socket", str(place / f"{name}.sock")),
                *("--nbd-tls", "allowed", "--tls-client-ca", str(authority.certificate)),
                *("--tls-certificate", str(server.certificate), "--tls-key", str(server.key)),
            )
        with made:
            made.create_volume("a", size=SIZE_BYTES)
            made.wait_healthy("a")
            yield made


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """Of the volume; whatever a program did to it, the replicas are equal afterwards."""
    yield cluster.nbd_url("a")
    assert cluster.verify("a") == []


def run(*command: str, fails: bool = False, timeout_s: float = 120.0) -> str:
    done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    shown = (done.stdout + done.stderr).decode(errors="replace")
    assert (done.returncode != 0) == fails, shown
    return shown


def run_on_primary(cluster: Cluster, *command: str) -> str:
    return on_primary(cluster, "a", cluster.nbd_url, *command)


def image_of(place: Path) -> Path:
    """Some data, some zeros, some data, of the volume's size."""
    image = place / "image"
    image.write_bytes(os.urandom(24 << 20) + bytes(16 << 20) + os.urandom(24 << 20))
    return image


@needs_program("nbdinfo")
def test_nbdinfo_is_told_the_truth(url: str) -> None:
    told = json.loads(run("nbdinfo", "--json", url))
    assert told["protocol"] == "newstyle-fixed"
    assert told["structured"]
    (export,) = told["exports"]
    assert export["export-size"] == SIZE_BYTES
    assert export["contexts"] == ["base:allocation"]
    assert not export["is_read_only"]
    for flag in ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn"):
        assert export[flag], flag
    sizes = [export[f"block_size_{name}"] for name in ("minimum", "preferred", "maximum")]
    assert sizes == [1, 4096, 32 << 20]


@needs_program("nbdinfo")
def test_the_primary_lists_the_volume_and_a_standby_refuses_it(cluster: Cluster, url: str) -> None:
    primary = cluster.primary("a")
    listed = json.loads(run("nbdinfo", "--list", "--json", f"nbd://{primary.nbd_addr}"))
    assert [one["export-name"] for one in listed["exports"]] == ["a"]
    for node in cluster.nodes.values():
        if node is not primary:
            refused = run("nbdinfo", "--size", cluster.nbd_url("a", node), fails=True)
            assert "server policy prevents NBD_OPT_GO" in refused


@needs_program("qemu-img")
def test_qemu_passes_on_where_the_primary_is(cluster: Cluster) -> None:
    primary = cluster.primary("a")
    for node in cluster.nodes.values():
        if node is not primary:
            shown = run("qemu-img", "info", cluster.nbd_url("a", node), fails=True)
            assert f"its primary is on node {primary.node_id}" in shown
    address = f"nbd://{primary.nbd_addr}"
    assert "no replica of a volume named 'nothing'" in run(
        "qemu-img", "info", f"{address}/nothing", fails=True
    )


@needs_program("nbdcopy")
def test_nbdcopy_copies_in_and_out_over_tls(cluster: Cluster, url: str, place: Path) -> None:
    image, back = image_of(place), place / "back"
    secured = f"nbds{{address}}?tls-certificates={cluster.path / 'pki'}"
    assert json.loads(run_on_primary(cluster, "nbdinfo", "--json", secured))["TLS"]
    run_on_primary(cluster, "nbdcopy", "--flush", str(image), secured)
    run_on_primary(cluster, "nbdcopy", secured, str(back))
    assert back.read_bytes() == image.read_bytes()
    run("nbdinfo", url.replace("nbd:", "nbds:"), fails=True)


@needs_program("qemu-img")
def test_a_unix_socket_serves_as_tcp_does(cluster: Cluster) -> None:
    path = cluster.path / f"{cluster.primary('a').node_id}.sock"
    shown = run("qemu-img", "info", f"nbd+unix:///a?socket={path}")
    assert f"({SIZE_BYTES} bytes)" in shown
    assert path.stat().st_mode & 0o777 == 0o600


@needs_program("qemu-img")
def test_qemu_copies_an_image_in_and_out(cluster: Cluster, url: str, place: Path) -> None:
    image, back = image_of(place), place / "back"
    run_on_primary(
        cluster, *("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), "{url}")
    )
    shown = run_on_primary(
        cluster, "qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), "{url}"
    )
    assert "identical" in shown
    run_on_primary(cluster, "qemu-img", "convert", "-f", "raw", "-O", "raw", "{url}", str(back))
    assert back.read_bytes() == image.read_bytes()


@needs_program("nbdcopy")
@pytest.mark.parametrize("more", [(), ("--no-extents", "--connections=1", "--synchronous")])
def test_nbdcopy_copies_in_and_out(
    cluster: Cluster, url: str, place: Path, more: tuple[str, ...]
) -> None:
    image, back = image_of(place), place / "back"
    run_on_primary(cluster, "nbdcopy", "--flush", *more, str(image), "{url}")
    run_on_primary(cluster, "nbdcopy", *more, "{url}", str(back))
    assert back.read_bytes() == image.read_bytes()


@needs_program("nbdinfo")
@needs_program("qemu-io")
def test_allocation_is_what_was_written(cluster: Cluster, url: str) -> None:
    changes = ("discard 0 64M", "write -P 7 1M 128k", "write -z -u 1M 64k")
    told = (part for change in changes for part in ("-c", change))
    run_on_primary(cluster, "qemu-io", "-f", "raw", "{url}", *told)
    spans = json.loads(run_on_primary(cluster, "nbdinfo", "--json", "--map", "{url}"))
    shown = [(one["offset"], one["length"], one["type"]) for one in spans]
    assert shown == [
        (0, (1 << 20) + 65536, 3),
        ((1 << 20) + 65536, 65536, 0),
        ((1 << 20) + 131072, SIZE_BYTES - (1 << 20) - 131072, 3),
    ]


@needs_program("qemu-io")
def test_qemu_io_writes_and_reads_at_any_place(cluster: Cluster, url: str) -> None:
    run_on_primary(
        cluster,
        *("qemu-io", "-f", "raw", "{url}"),
        *("-c", "write -P 1 0 16M", "-c", "write -P 2 1000 5000", "-c", "write -f -P 3 4095 2"),
        *("-c", "write -z 8k 100", "-c", "write -z -u 12288 4096", "-c", "flush"),
        *("-c", "read -P 1 0 1000", "-c", "read -P 2 1000 3095", "-c", "read -P 3 4095 2"),
        *("-c", "read -P 2 4097 1903", "-c", "read -P 1 6000 2192", "-c", "read -P 0 8192 100"),
        *(
            "-c",
            "read -P 1 8292 3996",
            "-c",
            "read -P 0 12288 4096",
            "-c",
            "read -P 1 16384 1000000",
        ),
    )


@needs_program("fio")
@pytest.mark.parametrize("depth", [1, 32])
def test_fio_verifies_what_it_wrote(cluster: Cluster, url: str, depth: int) -> None:
    shown = run_on_primary(
        cluster,
        *(
            "fio",
            "--name=nbd",
            "--ioengine=nbd",
            "--uri={url}",
            "--rw=randwrite",
            "--bsrange=512-64k",
        ),
        *(
            f"--iodepth={depth}",
            "--size=16M",
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
        ),
        *("--bs_unaligned=0", "--randrepeat=1", "--verify_state_save=0"),
    )
    assert "err= 0" in shown
