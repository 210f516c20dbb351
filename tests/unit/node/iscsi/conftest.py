"""A portal in front of one volume that its node is primary of."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.iscsi_node import Node


@pytest.fixture
async def node() -> AsyncGenerator[Node]:
    opened = Node()
    yield opened
    await opened.close()


@pytest.fixture
async def hasty() -> AsyncGenerator[Node]:
    """One that has little patience, for commands that are told to come back in the end."""
    opened = Node(patience_s=0.02)
    yield opened
    await opened.close()
