"""A copy of the master's store in this node's pool, for the day the master's machine is gone.

The master says that there is something newer; the node fetches it from its own master, so nobody can make it keep
something else. One whole file counts, named ``store-GENERATION-REVISION.db``: content durable first, then its name,
then the older one goes, so a crash at any moment leaves the old copy or the new one. Neither an older revision nor one
of a master that was replaced ever takes the place of a newer one.

A copy is never authority: a master started from it marks every volume unconfirmed until its members have answered
(``store.restore``), so it does no harm that a copy is a moment old.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events as names
from sparrow.base.errors import NotFound, RemoteProtocolError, StaleEpoch, StorageError
from sparrow.rpc.messages import BackupChunk, CopyInfo, KeepCopyRequest

FOLDER: Final = "master-copy"
DRAFT: Final = "draft"
CHUNK_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"store-(\d{1,19})-(\d{1,19})\.db")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Copy:
    """One whole copy; the newest is the greatest."""

    master_generation: int
    revision: int
    path: Path


class StoreCopy:
    """The newest copy in one pool.

    Args:
        fetch: the master's store from the master this node listens to.
        heard: the highest master generation heard here.
    """

    def __init__(
        self,
        pool: Path,
        *,
        fetch: Callable[[], AsyncGenerator[BackupChunk]],
        heard: Callable[[], int],
        cluster_id: Callable[[], str],
        log: FilteringBoundLogger,
    ) -> None:
        self._folder = pool / FOLDER
        self._fetch = fetch
        self._heard = heard
        self._cluster_id = cluster_id
        self._log = log
        self._keeping = asyncio.Lock()

    def newest(self) -> Copy | None:
        """Raises: StorageError."""
        return max(self._copies(), default=None)

    def info(self) -> CopyInfo:
        """What is held here; generation and revision 0 when there is no copy. Raises: StorageError."""
        found = self.newest()
        return CopyInfo(
            cluster_id=self._cluster_id(),
            heard_generation=self._heard(),
            master_generation=0 if found is None else found.master_generation,
            revision=0 if found is None else found.revision,
        )

    async def keep(self, request: KeepCopyRequest) -> CopyInfo:
        """Have a copy at least as new as the one offered.

        Raises:
            StaleEpoch: the master that offers it was replaced.
            RemoteProtocolError: it is of another cluster, or not what was offered.
            StorageError, Unavailable: there is no such copy here; an older one stays.
        """
        if request.cluster_id != self._cluster_id():
            raise RemoteProtocolError("cluster_id is another cluster's")
        async with self._keeping:
            if request.master_generation < self._heard():
                raise StaleEpoch(
                    f"Master generation {request.master_generation} was replaced by {self._heard()}."
                )
            held = self.newest()
            offered = (request.master_generation, request.revision)
            if held is None or (held.master_generation, held.revision) < offered:
                await self._take(offered)
        return self.info()

    async def read(self) -> AsyncGenerator[BackupChunk]:
        """The newest copy, piece by piece. Raises: NotFound."""
        found = self.newest()
        if found is None:
            raise NotFound("This node holds no copy of the master's store.")
        with found.path.open("rb") as file:
            while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield BackupChunk(
                    data=data, master_generation=found.master_generation, revision=found.revision
                )

    async def _take(self, offered: tuple[int, int]) -> None:
        """Everything that may wait for the disk does so on a thread: a pool that hangs must not silence its node."""
        draft = self._folder / DRAFT
        try:
            file = await asyncio.to_thread(self._begin, draft)
            got = (0, 0)
            try:
                async with aclosing(self._fetch()) as chunks:
                    async for chunk in chunks:
                        got = (chunk.master_generation, chunk.revision)
                        await asyncio.to_thread(file.write, chunk.data)
                await asyncio.to_thread(_flush, file)
            finally:
                await asyncio.to_thread(file.close)
            if got < offered:
                raise RemoteProtocolError(f"The copy is {got}, and {offered} was offered.")
            path = self._folder / f"store-{got[0]}-{got[1]}.db"
            await asyncio.to_thread(self._put_in_place, draft, path)
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be written: {error.strerror}.") from None
        finally:
            await asyncio.to_thread(_remove, draft)
        self._log.info(names.STORE_COPIED, master_generation=got[0], revision=got[1])

    def _begin(self, draft: Path) -> BinaryIO:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return draft.open("wb")

    def _put_in_place(self, draft: Path, path: Path) -> None:
        draft.replace(path)
        _sync(self._folder)
        for older in self._copies():
            if older.path != path:
                older.path.unlink(missing_ok=True)

    def _copies(self) -> Iterator[Copy]:
        try:
            found = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be read: {error.strerror}.") from None
        for path in found:
            match = _NAME.fullmatch(path.name)
            if match is not None:
                yield Copy(master_generation=int(match[1]), revision=int(match[2]), path=path)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove(draft: Path) -> None:
    with suppress(OSError):
        draft.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
