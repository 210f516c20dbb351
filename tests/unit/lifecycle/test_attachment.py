"""One machine at a time, on record."""

from __future__ import annotations

import pytest

from sparrow.authority.types import DesiredVolume, VolumeShape
from sparrow.base.ids import VolumeId
from sparrow.lifecycle.attachment import AttachedElsewhere, attached, detached

VOLUME = DesiredVolume(
    volume_id=VolumeId("a"),
    shape=VolumeShape(size_bytes=1 << 20, block_size=4096, replication_factor=1, min_in_sync=1),
    slots=(),
)


def test_a_volume_is_attached_once_and_again_to_the_same_machine() -> None:
    there = attached(VOLUME, "host1")
    assert there.attached_to == "host1"
    assert attached(there, "host1") == there


def test_a_volume_that_one_machine_has_is_given_to_no_other() -> None:
    there = attached(VOLUME, "host1")
    with pytest.raises(AttachedElsewhere, match="attached to host1, not to host2") as caught:
        attached(there, "host2")
    assert "volume detach a" in caught.value.hint
    assert attached(detached(there, "host1"), "host2").attached_to == "host2"


def test_a_volume_is_detached_from_where_it_is_or_from_wherever() -> None:
    there = attached(VOLUME, "host1")
    with pytest.raises(AttachedElsewhere, match="attached to host1, not to host2"):
        detached(there, "host2")
    assert detached(there, "host1") == detached(there, "") == VOLUME
    assert detached(VOLUME, "host2") == VOLUME, "it is so already"
