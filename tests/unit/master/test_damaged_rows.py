"""A master whose store gives damaged rows back: they are shown, repaired or reset, never guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.authority.types import DesiredVolume
from sparrow.base.errors import (
    FailedPrecondition,
)
from sparrow.base.ids import VolumeId
from sparrow.master import volume_service
from sparrow.rpc.messages import (
    RecoverRequest,
    RecoveryVerb,
)
from sparrow.store.rows import read_volume_row
from tests.support.master_cluster import Cluster, wish
from tests.support.waiting import WAIT_S


async def test_a_damaged_authority_row_is_reported_and_its_name_is_not_reused() -> None:
    cluster = Cluster()
    await cluster.start()
    await cluster.api.create_volume(wish("a"))
    await cluster.api.create_volume(wish("b"))
    await cluster.stop_master()
    cluster.disk.damage_line(VolumeId("a"))
    await cluster.start_master()
    try:
        status = await cluster.api.authority_status()
        assert [skip.volume_id for skip in status.skipped] == ["a"]
        assert await cluster.state("a") != "healthy"
        await cluster.until_state("b", "healthy")
        with pytest.raises(FailedPrecondition, match="is damaged"):
            await cluster.api.create_volume(wish("a"))
        with pytest.raises(FailedPrecondition, match="cannot be retired"):
            await cluster.api.delete_volume("a")
    finally:
        await cluster.stop()


async def test_a_damaged_wish_is_repaired_from_the_line_and_deletable_again() -> None:
    cluster = Cluster()
    await cluster.start()
    before = await cluster.api.create_volume(wish("a"))
    await cluster.stop_master()
    cluster.disk.damage_volume(VolumeId("a"))
    await cluster.start_master()
    try:
        await cluster.until_state("a", "healthy")
        assert [skip.volume_id for skip in (await cluster.api.authority_status()).skipped] == ["a"]
        with pytest.raises(FailedPrecondition, match="record of what was asked for is damaged"):
            await cluster.api.delete_volume("a")
        done = await cluster.api.recover_volume(mending(RecoveryVerb.REPAIR))
        assert done.line == before.line
        status = await cluster.api.authority_status()
        assert status.skipped == ()
        assert [(entry.verb, entry.who) for entry in status.audit] == [("repair", "somebody")]
        (row,) = [read_volume_row(row) for row in cluster.disk.volumes.values()]
        assert isinstance(row, DesiredVolume)
        assert row.shape.replication_factor == 3
        assert {slot.node_id for slot in row.slots} == {"n1", "n2", "n3"}
        with pytest.raises(FailedPrecondition, match="is believed"):
            await cluster.api.recover_volume(mending(RecoveryVerb.REPAIR))
        await cluster.api.delete_volume("a")
        assert await cluster.gone("a")
    finally:
        await cluster.stop()


async def test_a_damaged_wish_that_never_had_a_line_is_reset_and_its_name_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(volume_service, "GATHER_S", WAIT_S)
    cluster = Cluster()
    await cluster.start()
    await cluster.api.create_volume(wish("a"))
    await cluster.stop_master()
    cluster.disk.damage_volume(VolumeId("a"))
    del cluster.disk.lines[VolumeId("a")]
    for node in cluster.nodes.values():
        node.slots.clear()
    await cluster.start_master()
    try:
        with pytest.raises(FailedPrecondition, match="never had a line"):
            await cluster.api.recover_volume(mending(RecoveryVerb.REPAIR))
        done = await cluster.api.recover_volume(
            replace(mending(RecoveryVerb.RESET), force=True, confirm="a")
        )
        assert done.line is not None
        assert done.line.retired
        assert cluster.disk.volumes == {}
        volume = await cluster.api.create_volume(wish("a"))
        assert volume.line is not None
        assert volume.line.lineage.epoch == done.line.lineage.epoch + 1
    finally:
        await cluster.stop()


def mending(verb: RecoveryVerb) -> RecoverRequest:
    return RecoverRequest(verb=verb, volume_id=VolumeId("a"), who="somebody")
