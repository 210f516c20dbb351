"""A volume in memory behind the core's iSCSI sessions, and one initiator that is logged in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.front_bed import Bed, Peer


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture
def peer(bed: Bed) -> Peer:
    return bed.connect()
