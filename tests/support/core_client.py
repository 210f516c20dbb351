"""An initiator of a core in this process: single commands, or a load that knows what was acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
import time
from collections.abc import Sequence
from typing import Final

from sparrow.base.constants import PAGE_BYTES as PAGE
from tests.support.front_bed import COMMAND, FINAL, RESPONSE, WRITES, Peer, Result, write_16
from tests.support.waiting import until

WAIT_S: Final = 30.0
#: More bytes than any load writes.
NO_END: Final = 1 << 62
#: UNIT ATTENTION, power on: the session is new.
POWER_ON: Final = (0x06, 0x29, 0x00)


class Client:
    """An initiator after its login, whose blocking calls run on threads."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    async def write(self, page: int, data: bytes) -> Result:
        """From a page, or block, on; returns with the answer, whatever its status is."""
        async with asyncio.timeout(WAIT_S):
            return await asyncio.to_thread(self.peer.write, page, data)

    async def read(self, page: int, count: int = 1) -> Result:
        async with asyncio.timeout(WAIT_S):
            return await asyncio.to_thread(self.peer.read, page, count)

    async def unmap(self, *ranges: tuple[int, int]) -> Result:
        """Pages and how many."""
        async with asyncio.timeout(WAIT_S):
            return await asyncio.to_thread(self.peer.unmap, *ranges)

    async def command(self, cdb: bytes, data: bytes = b"", *, expected: int = 0) -> Result:
        """Any SCSI command."""

        def run() -> Result:
            return self.peer.finish(self.peer.command(cdb, data=data, expected=expected))

        async with asyncio.timeout(WAIT_S):
            return await asyncio.to_thread(run)

    def close(self) -> None:
        self.peer.socket.close()


class Load:
    """Writes in flight on one session, from a thread, until told to stop; knows what was acknowledged.

    Page ``n`` holds ``page_of(n, version)``. ``acked`` is the newest version that was answered, ``sent`` the newest
    that was sent; each page has one write in flight at most. ``rate`` bounds bytes per second, and ``allow`` how many
    bytes are sent in all by now.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        pages: Sequence[int],
        depth: int = 8,
        run: int = 1,
        limit: int = 1 << 30,
        rate: int = 1 << 30,
    ) -> None:
        self.acked: dict[int, int] = {}
        self.sent: dict[int, int] = {}
        self.written_bytes = 0
        self.failed: Result | None = None
        self._peer = peer
        self._starts = [page for page in pages if page % run == 0]
        self._depth = depth
        self._run_pages = run
        self._limit = limit
        self._rate = rate
        self._allowed = NO_END
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        flying: dict[int, int] = {}
        turn = version = 0
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while True:
                while len(flying) < self._depth and self._may_send():
                    if self.written_bytes >= self._limit:
                        self._stopping.set()
                        break
                    start = self._starts[turn % len(self._starts)]
                    turn += 1
                    if start in flying.values():
                        continue
                    version += 1
                    flying[self._send(start, version)] = start
                if not flying:
                    if self._stopping.is_set():
                        return
                    with self._changed:
                        self._changed.wait_for(lambda: self._stopping.is_set() or self._may_send())
                    continue
                ahead_s = self.written_bytes / self._rate - (time.monotonic() - began)
                if ahead_s > 0:
                    self._stopping.wait(ahead_s)
                answer = self._peer.receive()
                if self._peer.pong(answer):
                    continue
                start = flying.pop(answer.itt)
                assert answer.opcode == RESPONSE
                if answer.status:
                    self.failed = Result(answer.status, b"", 0, 0, answer.sense, [answer])
                    self._stopping.set()
                    continue
                for page in range(start, start + self._run_pages):
                    self.acked[page] = self.sent[page]

    def _may_send(self) -> bool:
        return not self._stopping.is_set() and self.written_bytes < self._allowed

    def allow(self, count: int) -> None:
        """From now on no more than so many bytes, and no write, are sent, counted from the beginning."""
        with self._changed:
            self._allowed = count
            self._changed.notify()

    @property
    def run_bytes(self) -> int:
        """Of one write."""
        return self._run_pages * PAGE

    def _send(self, start: int, version: int) -> int:
        data = b"".join(page_of(start + i, version) for i in range(self._run_pages))
        for page in range(start, start + self._run_pages):
            self.sent[page] = version
        self.written_bytes += len(data)
        return self._peer.request(
            COMMAND,
            flags=FINAL | WRITES | 1,
            word20=len(data),
            specific=write_16(start, self._run_pages),
            data=data,
        )

    async def wait_written(self, count: int) -> None:
        """Returns when so many bytes were sent, or the load has ended. However slow it is, it must get on."""
        while self.written_bytes < count and self._thread.is_alive():
            before = self.written_bytes
            await until(lambda: self.written_bytes > before or not self._thread.is_alive())  # noqa: B023

    async def stop(self) -> None:
        """No new writes; returns when every one in flight was answered."""
        with self._changed:
            self._stopping.set()
            self._changed.notify()
        async with asyncio.timeout(WAIT_S):
            await asyncio.to_thread(self._thread.join)

    def seen(self) -> dict[int, int]:
        """What was acknowledged by now."""
        return dict(self.acked)


def page_of(page: int, version: int) -> bytes:
    """The content of one version of one page."""
    return struct.pack("<QQ", page, version) * (PAGE // 16)


def version_of(page: int, data: bytes) -> int:
    """Which version this is, 0 for a hole. Fails when it is none."""
    if not any(data):
        return 0
    version = int.from_bytes(data[8:16], "little")
    assert data == page_of(page, version), f"page {page} holds what nobody wrote"
    return version
