"""One client of a volume that goes on where the volume is served when its path is gone, as dm-multipath has it.

A volume may move at any moment: a machine that stands still for a second while a write is under way looks to a node
like a disk that hangs, and its primary asks to be relieved. So a test that is not about one session uses this.

    with Multipath(cluster_paths(cluster, "a")) as client:
        client.write(0, bytes(4096))
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self, TypeVar

from tests.support.iscsi_client import IscsiClient, ProtocolViolation, ScsiError
from tests.support.ledger import PAGE_BYTES, Ledger
from tests.support.paths import PATH_SENSE, SILENCE_S, WAIT_S, Paths

T = TypeVar("T")

READ_PAGES: Final = 64
#: Writes under way at once, and how many are begun before all of them are waited for.
DEPTH: Final = 8
BATCH: Final = 64


class Multipath:
    """A session with whoever serves the volume; not for use by several threads.

    Args:
        silence_s: how long an answer is waited for before the volume is looked for elsewhere.
        within_s: how long a command may take, however often its path changes.
    """

    def __init__(
        self, paths: Paths, *, silence_s: float = SILENCE_S, within_s: float = WAIT_S
    ) -> None:
        self._paths = paths
        self._silence_s = silence_s
        self._within_s = within_s
        self._client: IscsiClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._drop()

    def read(self, page: int, pages: int) -> bytes:
        """Raises ScsiError for an error that is not of the path; TimeoutError."""

        def work(client: IscsiClient) -> bytes:
            blocks = PAGE_BYTES // client.block_bytes
            return client.read(page * blocks, pages * blocks)

        return self.use(work)

    def write(self, page: int, data: bytes) -> None:
        """Write whole pages; returns when they are acknowledged. Raises as :meth:`read`."""
        self.use(lambda client: client.write(page * (PAGE_BYTES // client.block_bytes), data))

    def write_runs(self, ledger: Ledger, pages: Iterable[int], *, run_pages: int) -> None:
        """Write runs of pages at these places, some at once, until all are acknowledged. Raises as :meth:`read`.

        What was under way on a path that is gone is written anew: it may have happened or not.
        """
        places = iter(pages)
        while batch := list(itertools.islice(places, BATCH)):
            self.use(lambda client, batch=batch: _write_batch(client, ledger, batch, run_pages))

    def use(self, work: Callable[[IscsiClient], T]) -> T:
        """What comes of ``work``, which is done again on another session when its path is gone."""
        deadline = time.monotonic() + self._within_s
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                if self._client is None:
                    self._client = self._paths.connect(timeout_s=self._silence_s, within_s=left)
                return work(self._client)
            except ProtocolViolation:
                raise
            except ScsiError as error:
                if left == 0 or (error.key, error.asc, error.ascq) not in PATH_SENSE:
                    raise
            except ConnectionError:
                if left == 0:
                    raise
            self._drop()

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _write_batch(client: IscsiClient, ledger: Ledger, runs: list[int], run_pages: int) -> None:
    """Write these runs; those that are acknowledged leave the list. Raises ScsiError, ConnectionError."""
    blocks = PAGE_BYTES // client.block_bytes
    flying: dict[int, tuple[int, int]] = {}

    def take() -> None:
        done = client.poll(client.timeout_s)
        if not done:
            raise ConnectionError("no answer")
        # All of them, whatever one says: an acknowledgement that arrived is one.
        for one in done:
            version, page = flying.pop(one.tag)
            if one.error is None:
                ledger.acknowledge(version)
                runs.remove(page)
        for one in done:
            if one.error is not None:
                raise one.error

    for page in list(runs):
        version, data = ledger.begin_write(page, run_pages)
        flying[client.submit_write(page * blocks, data)] = version, page
        while len(flying) >= DEPTH:
            take()
    while flying:
        take()


def check_all(ledger: Ledger, paths: Paths) -> int:
    """Read everything that was ever written, with nothing in flight; the number of pages read.

    What is wrong is in ``ledger.faults`` afterwards.
    """
    count = 0
    with Multipath(paths) as client:
        for page, pages in ledger.extents(READ_PAGES):
            basis = ledger.begin_read(page, pages)
            ledger.check(basis, client.read(page, pages), at_rest=True)
            count += pages
    return count
