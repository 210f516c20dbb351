"""A volume in memory behind the core's NBD connections, and one client of either kind of reply."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.front_bed import Bed
from tests.support.nbd_bed import NbdPeer


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture(params=[True, False], ids=["structured", "simple"])
def peer(bed: Bed, request: pytest.FixtureRequest) -> NbdPeer:
    return NbdPeer(bed, structured=request.param)
