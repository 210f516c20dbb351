"""What tests of whole processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import disk_directory


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory on a real disk."""
    with disk_directory("e2e") as path:
        yield path
