"""Directories for data that must lie on a real disk: O_DIRECT and fsync mean nothing on a memory file system."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def disk_directory(prefix: str) -> Iterator[Path]:
    """A fresh directory under $SPARROW_TEST_DIR or /var/tmp; removed at the end, whatever happened."""
    parent = Path(os.environ.get("SPARROW_TEST_DIR", "/var/tmp"))
    path = Path(tempfile.mkdtemp(prefix=f"sparrow-{prefix}-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)
