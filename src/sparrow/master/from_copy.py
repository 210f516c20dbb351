"""Starting a master elsewhere: fetch the newest copy of the lost one's store from the nodes, and restore it.

Runs before the store is opened, and only on an empty directory: a flag that was forgotten in a unit file must not
put an old copy in the place of a store that has gone on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from sparrow.base import events
from sparrow.base.errors import FailedPrecondition, SparrowError, StorageError, Unavailable
from sparrow.master.recover import ASK_TIMEOUT_S, ITSELF
from sparrow.rpc import methods
from sparrow.rpc.client import Channel
from sparrow.rpc.messages import CopyInfo, CopyInfoRequest, CopyRequest
from sparrow.rpc.proof import Keys
from sparrow.store.restore import restore
from sparrow.store.schema import DATABASE_NAME, store_directory
from sparrow.store.sqlite import SqliteStore

FETCHED = "fetched-copy.db"


async def restore_newest(
    data: Path, addresses: Sequence[str], log: FilteringBoundLogger, keys: Keys
) -> None:
    """Make ``data`` the store of the cluster these nodes belong to, every volume unconfirmed.

    Raises:
        FailedPrecondition: a store is there already, or no node that answered holds a copy, or they disagree.
        Unavailable: no node answered.
        StorageError: it could not be written.
    """
    directory = store_directory(data)
    _refuse_used(directory)
    infos = await _ask(addresses, keys)
    address, newest = _choose(addresses, infos)
    fetched = directory / FETCHED
    try:
        await _fetch(address, fetched, keys)
        done = restore(data, fetched, who=ITSELF)
    finally:
        with suppress(OSError):
            fetched.unlink(missing_ok=True)
    log.warning(
        events.AUTHORITY_OVERRIDDEN,
        verb="from-copy",
        detail=f"copy of master generation {newest.master_generation}, revision {newest.revision}, from {address}; "
        f"answered {', '.join(sorted(infos))}",
        generation=done.generation,
        volumes=done.volumes,
    )


def _refuse_used(directory: Path) -> None:
    if not (directory / DATABASE_NAME).exists():
        return
    store = SqliteStore(directory)
    try:
        empty = store.empty
    finally:
        store.close()
    if not empty:
        raise FailedPrecondition(
            "The master's store is not empty, so no copy is put in its place.",
            hint="Start the master without --from-copy, or give it an empty --data directory.",
        )


async def _ask(addresses: Sequence[str], keys: Keys) -> dict[str, CopyInfo]:
    async def ask(address: str) -> tuple[str, CopyInfo] | None:
        channel = Channel(address, who="the node", keys=keys)
        try:
            return address, await channel.call(
                methods.COPY_INFO, CopyInfoRequest(), timeout_s=ASK_TIMEOUT_S
            )
        except SparrowError:
            return None
        finally:
            await channel.close()

    found = await asyncio.gather(*(ask(address) for address in addresses))
    return dict(one for one in found if one is not None)


def _choose(addresses: Sequence[str], infos: dict[str, CopyInfo]) -> tuple[str, CopyInfo]:
    if not infos:
        raise Unavailable(
            f"None of {', '.join(addresses)} answered, so there is no copy to start from.",
            hint="Start the nodes, and check that --from-copy has their control addresses.",
        )
    clusters = {info.cluster_id for info in infos.values()}
    if len(clusters) != 1:
        raise FailedPrecondition(
            f"The nodes that answered belong to {len(clusters)} clusters: {', '.join(sorted(clusters))}.",
            hint="Name the nodes of one cluster.",
        )
    address = max(
        sorted(infos), key=lambda one: (infos[one].master_generation, infos[one].revision)
    )
    if infos[address].master_generation == 0:
        raise FailedPrecondition(
            f"None of {', '.join(sorted(infos))} holds a copy of the master's store.",
            hint="Name all nodes, or start with --recover-from-nodes --nodes LIST.",
        )
    return address, infos[address]


async def _fetch(address: str, path: Path, keys: Keys) -> None:
    channel = Channel(address, who="the node", keys=keys)
    try:
        with path.open("wb") as out:
            async with aclosing(channel.stream(methods.COPY, CopyRequest())) as chunks:
                async for chunk in chunks:
                    out.write(chunk.data)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        await channel.close()
