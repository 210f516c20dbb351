"""Clients that write and read a volume without end and keep a ledger, whatever happens to the cluster.

Each client has one session with several commands outstanding, in pages of its own for writes and anywhere for reads.
When its session breaks, or the path is refused, it looks for the volume at every portal until one serves it.

    with Traffic(ledger, cluster_paths(cluster, "a"), pages=4096) as traffic:
        traffic.wait_acked(100)
        cluster.primary("a").kill()
        traffic.wait_moved_on()
        traffic.rest()
        check_all(...)
"""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from tests.support.iscsi_client import Completion, IscsiClient, ProtocolViolation
from tests.support.ledger import PAGE_BYTES, Basis, Ledger
from tests.support.paths import LOOK_S, PATH_SENSE, SILENCE_S, WAIT_S, Paths

PAGES_PER_COMMAND: Final = 16


class Traffic:
    """Some clients on threads of their own.

    Args:
        pages: pages of the volume that are used, from 0; each client writes in its own part.
        depth: commands in flight per client.
        reads: share of commands that read.
        pause_s: after each answer, to leave the machine to others.
        silence_s: how long a client waits for an answer before it looks elsewhere.
    """

    def __init__(
        self,
        ledger: Ledger,
        paths: Paths,
        *,
        pages: int = 8192,
        clients: int = 2,
        depth: int = 8,
        reads: float = 0.25,
        pause_s: float = 0.0,
        silence_s: float = SILENCE_S,
        seed: int = 1,
    ) -> None:
        part = pages // clients
        self.ledger = ledger
        self.paths = paths
        self.clients = tuple(
            Client(
                ledger,
                paths,
                first_page=number * part,
                pages=part,
                all_pages=part * clients,
                depth=depth,
                reads=reads,
                pause_s=pause_s,
                silence_s=silence_s,
                chance=random.Random(seed * 1000 + number),
            )
            for number in range(clients)
        )

    def __enter__(self) -> Self:
        for client in self.clients:
            client.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def refusals(self) -> Counter[tuple[int, int, int]]:
        """Errors that were answered, by sense key, code and qualifier."""
        return sum((client.refusals for client in self.clients), Counter())

    def wait_acked(self, count: int, timeout_s: float = WAIT_S) -> None:
        """Wait until this many more writes of each client were acknowledged."""
        goals = [(client, client.acked + count) for client in self.clients]
        self._wait(
            lambda: all(client.acked >= goal for client, goal in goals), timeout_s, f"{count} acks"
        )

    def wait_moved_on(self, since_s: float, timeout_s: float = WAIT_S) -> float:
        """Wait until every client had a write acknowledged on a session begun after a moment.

        Returns:
            the longest pause of a client: from its last answer on the old session to its first on the new, seconds.
        """
        self._wait(
            lambda: all(client.first_ack_at_s > since_s for client in self.clients),
            timeout_s,
            "a session that acknowledges writes",
        )
        return max(client.first_ack_at_s - client.old_ack_at_s for client in self.clients)

    def rest(self, timeout_s: float = WAIT_S) -> None:
        """Let commands in flight end and send no more."""
        for client in self.clients:
            client.resting.clear()
            client.go.clear()
        self._wait(lambda: all(c.resting.is_set() for c in self.clients), timeout_s, "rest")

    def go_on(self) -> None:
        for client in self.clients:
            client.go.set()

    def stop(self) -> None:
        for client in self.clients:
            client.stopped = True
            client.go.set()
        for client in self.clients:
            if client.thread.ident is not None:
                client.thread.join(WAIT_S)
                assert not client.thread.is_alive(), "a client hangs"

    def raise_failure(self) -> None:
        """Raises what ended a client early."""
        for client in self.clients:
            if client.failure is not None:
                raise AssertionError(f"a client ended with {client.failure!r}") from client.failure

    def _wait(self, holds: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            self.raise_failure()
            if time.monotonic() > deadline:
                states = "; ".join(client.state() for client in self.clients)
                raise AssertionError(f"no {what} within {timeout_s} s: {states}")
            time.sleep(LOOK_S)


class Client:
    """One thread, one session at a time."""

    def __init__(
        self,
        ledger: Ledger,
        paths: Paths,
        *,
        first_page: int,
        pages: int,
        all_pages: int,
        depth: int,
        reads: float,
        pause_s: float,
        silence_s: float,
        chance: random.Random,
    ) -> None:
        self.acked = 0
        self.sessions = 0
        #: The first acknowledged write of the newest session, and the last answer before it.
        self.first_ack_at_s = 0.0
        self.old_ack_at_s = 0.0
        self.refusals: Counter[tuple[int, int, int]] = Counter()
        self.failure: BaseException | None = None
        self.stopped = False
        self.go = threading.Event()
        self.go.set()
        self.resting = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._ledger = ledger
        self._paths = paths
        self._first_page = first_page
        self._pages = pages
        self._all_pages = all_pages
        self._depth = depth
        self._reads = reads
        self._pause_s = pause_s
        self._silence_s = silence_s
        self._chance = chance
        self._last_ack_at_s = 0.0
        self._session_acks = 0
        self._writes: dict[int, tuple[int, range]] = {}
        self._read_tags: dict[int, Basis] = {}

    def state(self) -> str:
        flying = len(self._writes) + len(self._read_tags)
        ago = time.monotonic() - self._last_ack_at_s
        return (
            f"session {self.sessions}, {self.acked} acks, the last {ago:.1f} s ago, {flying} in flight, "
            f"refusals {dict(self.refusals)}"
        )

    def _run(self) -> None:
        try:
            while not self.stopped:
                self._wait_to_go(None)
                client = self._paths.connect()
                self.sessions += 1
                self._session_acks = 0
                with client, contextlib.suppress(_PathGone):
                    self._use(client)
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for this client
            self.failure = error
            self.resting.set()

    def _use(self, client: IscsiClient) -> None:
        """Send and take answers until the path is gone or the end. Raises _PathGone, ProtocolViolation."""
        self._writes.clear()
        self._read_tags.clear()
        heard_at_s = time.monotonic()
        try:
            while not self.stopped:
                flying = len(self._writes) + len(self._read_tags)
                if not self.go.is_set() and flying == 0:
                    self._wait_to_go(client)
                    heard_at_s = time.monotonic()
                while self.go.is_set() and flying < self._depth:
                    self._send(client)
                    flying += 1
                done = client.poll(0.1)
                now = time.monotonic()
                if done or flying == 0:
                    heard_at_s = now
                elif now - heard_at_s > self._silence_s:
                    raise _PathGone
                # All of them, whatever one says: an acknowledgement that arrived is one.
                if False in {self._take(completion) for completion in done}:
                    raise _PathGone
                if done and self._pause_s:
                    time.sleep(self._pause_s)
        except ProtocolViolation:
            raise
        except ConnectionError:
            raise _PathGone from None

    def _send(self, client: IscsiClient) -> None:
        length = self._chance.randint(1, PAGES_PER_COMMAND)
        blocks = PAGE_BYTES // client.block_bytes
        if self._chance.random() < self._reads:
            page = self._chance.randrange(self._all_pages - length)
            basis = self._ledger.begin_read(page, length)
            self._read_tags[client.submit_read(page * blocks, length * blocks)] = basis
            return
        while True:
            page = self._first_page + self._chance.randrange(self._pages - length)
            wanted = range(page, page + length)
            if not any(_overlap(wanted, taken) for _, taken in self._writes.values()):
                break
        version, data = self._ledger.begin_write(page, length)
        self._writes[client.submit_write(page * blocks, data)] = version, wanted

    def _take(self, completion: Completion) -> bool:
        """Record one answer; False when it says that the path is gone."""
        basis = self._read_tags.pop(completion.tag, None)
        version, _ = self._writes.pop(completion.tag, (0, range(0)))
        if completion.error is not None:
            error = completion.error
            sense = error.key, error.asc, error.ascq
            self.refusals[sense] += 1
            return sense not in PATH_SENSE
        if basis is not None:
            self._ledger.check(basis, completion.data)
        elif version:
            self._ledger.acknowledge(version)
            if self._session_acks == 0:
                self.old_ack_at_s = self._last_ack_at_s or completion.at_s
                self.first_ack_at_s = completion.at_s
            self._session_acks += 1
            self._last_ack_at_s = completion.at_s
            self.acked += 1
        return True

    def _wait_to_go(self, client: IscsiClient | None) -> None:
        if self.go.is_set():
            return
        self.resting.set()
        self.go.wait()


class _PathGone(Exception):
    """The connection is of no use any more; its commands have an unknown outcome."""


def _overlap(a: range, b: range) -> bool:
    return a.start < b.stop and b.start < a.stop


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
