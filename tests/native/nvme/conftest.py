"""A volume in memory behind the core's NVMe/TCP queues, and one host that is connected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.front_bed import Bed
from tests.support.nvme_bed import Host


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture
def host(bed: Bed) -> Host:
    return Host.connect(bed)
