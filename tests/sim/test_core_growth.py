"""Volumes that become longer on compiled cores, whoever dies meanwhile (S28)."""

from __future__ import annotations

import pytest

from sparrow.base.constants import PAGE_BYTES
from sparrow.rpc.messages import ResizeVolumeRequest
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V

#: Another block of checksums begins at page 960.
PAGES = 1024


def asked_to_grow(s: CompiledStage) -> None:
    request = ResizeVolumeRequest(name=V, size_bytes=PAGES * PAGE_BYTES)
    s.call(lambda master, call: master.volumes.resize(request, call))


def is_grown(s: CompiledStage) -> bool:
    status = s.world.status(V)
    return status is not None and status.size_bytes == PAGES * PAGE_BYTES


@pytest.mark.parametrize("after_s", [0.002, 0.008, 0.02, 0.1])
def test_s28_a_resize_survives_its_primary(after_s: float) -> None:
    """a dies while it makes its files longer, logs the resize or waits for b; b has it, or is asked again.

    Rule: a size is told when its entry has committed, and an entry is taken by replicas that are as long.
    """
    with compiled_stage(2, 1) as s:
        asked_to_grow(s)
        s.run(after_s)
        s.lose_power(s.a, strike="tear")
        s.until(lambda: s.serves(s.b), seconds=30)
        s.until(lambda: is_grown(s), seconds=30)
        s.client.grown(PAGES)
        value = s.written(s.b, PAGES - 1)
        s.world.start_node(s.a)
        s.until(s.world.all_healthy, seconds=60)
        s.world.kill_node(s.b)
        s.until(lambda: s.serves(s.a), seconds=30)
        s.client.quiet = True
        assert s.last_read(s.a, PAGES - 1) >= value
        s.ends_well()


def test_s28_a_replica_is_copied_whole_to_the_length_it_has_by_then() -> None:
    """c's disk is replaced, and the volume grows while c is copied."""
    with compiled_stage(3, 2) as s:
        s.world.wipe_node(s.c)
        s.until(lambda: s.in_sync == {s.a, s.b})
        s.world.start_node(s.c)
        asked_to_grow(s)
        s.until(lambda: is_grown(s), seconds=30)
        s.client.grown(PAGES)
        s.ends_well()
