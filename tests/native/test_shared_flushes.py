"""Flushes that logs share: which file is asked, and which logs they reach."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from sparrow.base.errors import SparrowError
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.dataplane.machine import KernelMachine
from sparrow.ports.dataplane import DiskFailed
from tests.support.core_client import page_of
from tests.support.core_cluster import core_cluster
from tests.support.places import disk_directory

#: The kernel refuses to flush it.
NO_FILE: Final = Path("/dev/null")
VOLUME_BYTES: Final = 1 << 20


async def test_a_shared_flush_is_asked_of_the_file_that_nobody_writes() -> None:
    async with core_cluster(nodes=1, share_from=1, flush_file=NO_FILE) as cluster:
        (node,) = cluster.nodes
        with pytest.raises(SparrowError):
            await cluster.open_term(node)
        assert (await node.wait(DiskFailed)).file == "wal"


async def test_a_log_that_no_shared_flush_reaches_is_flushed_by_its_own_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(KernelMachine, "shares_flushes", lambda _self, _files: False)
    async with core_cluster(nodes=1, share_from=1, flush_file=NO_FILE) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        assert (await client.write(0, page_of(0, 1))).status == 0
        assert not node.heard(DiskFailed)


async def test_a_log_on_another_file_system_than_the_pool_is_reached_by_no_shared_flush() -> None:
    with disk_directory("flushes") as place:
        machine = KernelMachine(place, name="test")
        volume = VolumeId("v")
        await machine.format(volume, ReplicaId("r1"), size_bytes=VOLUME_BYTES, block_size=4096)
        files = await machine.open(volume)
        elsewhere = os.memfd_create("log")
        assert os.fstat(elsewhere).st_dev != place.stat().st_dev
        assert machine.shares_flushes(files)
        assert not machine.shares_flushes(replace(files, wal_fd=elsewhere))
        os.close(elsewhere)
        files.close()
        machine.close()
