"""Online grow on real processes: asked for at the command line, seen by initiators, kept through kills."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparrow.base.errors import InvalidArgument, SparrowError
from sparrow.rpc.messages import VolumeView
from tests.support.cluster import Cluster
from tests.support.iscsi_client import IscsiClient, ScsiError
from tests.support.needs import needs_io_uring, needs_program

pytestmark = [needs_io_uring(), pytest.mark.timeout(240)]

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, nodes=3) as made:
        made.create_volume("a", size=64 * MIB)
        made.wait_healthy("a")
        yield made


def attach(cluster: Cluster) -> IscsiClient:
    node = cluster.wait_serving("a")
    client = IscsiClient(*node.portal, cluster.volume("a").frontends[0].name, timeout_s=20)
    client.read_capacity()
    return client


def test_a_client_goes_on_while_its_volume_grows_and_then_has_the_room(cluster: Cluster) -> None:
    data = os.urandom(4 * PAGE)
    with attach(cluster) as client:
        client.write(10, data)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "sparrow", "volume", "resize", "a", "96MiB"),
                *("--master", cluster.master_addr),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "Volume a has 96 MiB.\n"
        with pytest.raises(ScsiError) as told:
            client.read(10, 4)
        assert (told.value.key, told.value.asc, told.value.ascq) == (0x6, 0x2A, 0x09)
        assert client.read_capacity() == (96 * MIB // PAGE, PAGE)
        assert client.read(10, 4) == data
        client.write(96 * MIB // PAGE - 4, data)
        assert client.read(96 * MIB // PAGE - 4, 4) == data
    assert cluster.volume("a").size_bytes == 96 * MIB
    assert cluster.verify("a") == []
    with pytest.raises(InvalidArgument):
        cluster.api(lambda api: api.resize_volume("a", 64 * MIB))


@needs_program("iscsi-readcapacity16")
def test_initiators_nobody_here_wrote_see_the_new_size(cluster: Cluster) -> None:
    cluster.api(lambda api: api.resize_volume("a", 80 * MIB))
    shown = subprocess.run(
        ["iscsi-readcapacity16", cluster.url("a")], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(rf"Total size:{80 * MIB}\b", shown), shown


@pytest.mark.parametrize("victim", ["primary", "follower", "master", "all"])
def test_a_resize_survives_whoever_dies_in_the_middle_of_it(cluster: Cluster, victim: str) -> None:
    data = os.urandom(2 * PAGE)
    with attach(cluster) as client:
        client.write(0, data)
    primary = cluster.primary("a")
    follower = next(node for node in cluster.nodes.values() if node is not primary)
    asked = threading.Thread(target=ask, args=(cluster, 128 * MIB))
    asked.start()
    if victim == "all":
        cluster.kill_all()
        cluster.start_all()
    else:
        process = {"primary": primary, "follower": follower, "master": cluster.master}[victim]
        process.kill()
        process.start()
    asked.join()
    # Where the wish was not recorded before the kill, it is asked for again until somebody takes it; else it came true
    # by itself.

    def asked_again() -> VolumeView:
        volume = cluster.volume("a")
        if not grown(volume):
            ask(cluster, 128 * MIB)
        return volume

    cluster._wait(asked_again, grown, 60.0, "volume a")
    cluster.wait_healthy("a")
    with attach(cluster) as client:
        assert client.read_capacity() == (128 * MIB // PAGE, PAGE)
        assert client.read(0, 2) == data
        client.write(128 * MIB // PAGE - 2, data)
    assert cluster.verify("a") == []


def grown(volume: VolumeView) -> bool:
    return volume.size_bytes == 128 * MIB


def ask(cluster: Cluster, size_bytes: int) -> None:
    try:
        cluster.api(lambda api: api.resize_volume("a", size_bytes))
    except SparrowError:
        return
