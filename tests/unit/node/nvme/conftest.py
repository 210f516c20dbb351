"""A portal in front of one volume that its node is primary of."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.nvme_node import Node


@pytest.fixture
async def node() -> AsyncGenerator[Node]:
    opened = Node()
    yield opened
    await opened.close()
