"""A whole master on a store in memory, with three fake nodes and a real client on real sockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.master_cluster import Cluster


@pytest.fixture
async def cluster() -> AsyncGenerator[Cluster]:
    made = Cluster()
    await made.start()
    yield made
    await made.stop()
