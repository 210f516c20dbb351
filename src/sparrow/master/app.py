"""The master's composition root: builds everything, in the one order that never acts on half of it.

Settings, lock and store, what the store holds, the generation raised, the loop started on it; only then a listener.
The way down is the reverse: no new calls, running ones to their end (bounded), then the store, then the lock.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from functools import partial
from typing import Final

import uvloop
from structlog.typing import FilteringBoundLogger

from sparrow.authority.balance import SKEW
from sparrow.authority.loop import AuthorityLoop
from sparrow.base import events
from sparrow.base.errors import SparrowError
from sparrow.master.access_service import AccessService
from sparrow.master.attach_service import AttachService
from sparrow.master.authority_service import AuthorityService
from sparrow.master.config import MasterSettings, addresses, node_addresses, validate
from sparrow.master.control_service import ControlService
from sparrow.master.copies import Copies
from sparrow.master.driver import Driver
from sparrow.master.from_copy import restore_newest
from sparrow.master.inventory import Inventory
from sparrow.master.node_service import NodeService
from sparrow.master.node_states import NodeStates
from sparrow.master.reconciler import Reconciler
from sparrow.master.recover import Recovery, ask_nodes, begin
from sparrow.master.stale_service import StaleService
from sparrow.master.volume_service import VolumeService
from sparrow.ports.clock import Clock
from sparrow.ports.store import AuthorityStore
from sparrow.rpc.proof import CallJudge, Keys, guarded
from sparrow.rpc.server import Route, Server
from sparrow.runtime.clock import BoottimeClock
from sparrow.runtime.cluster_key import ClusterKeys
from sparrow.runtime.config import load
from sparrow.runtime.garbage import set_survivors_aside
from sparrow.runtime.logs import set_up
from sparrow.store.sqlite import SqliteStore

#: How long running calls may take to end when the master stops.
STOP_GRACE_S: Final = 2.0
#: Processes of nodes that may have begun a session with this master; half a kilobyte is kept of each.
NODE_SESSIONS_MAX: Final = 1 << 14


def main(arguments: Sequence[str]) -> int:
    """Run a master until SIGTERM or SIGINT; returns the exit status.

    Raises:
        ConfigError: settings that cannot be used, or an address that is taken.
        StoreLockHeld, StoreUnusable, StoreDamaged: no store to work with.
    """
    loaded = load(MasterSettings, arguments=arguments, environment=os.environ, validate=validate)
    if loaded.print_only:
        print(loaded.explained())
        return 0
    log = set_up(process="master", level=loaded.settings.log_level)
    if loaded.settings.from_copy:
        wanted = addresses(loaded.settings.from_copy)
        keys = ClusterKeys(loaded.settings.cluster_key, log)
        uvloop.run(restore_newest(loaded.settings.data, wanted, log, keys))
    store = SqliteStore(loaded.settings.data)
    try:
        return uvloop.run(_run(loaded.settings, store, log))
    finally:
        store.close()


async def _run(settings: MasterSettings, store: AuthorityStore, log: FilteringBoundLogger) -> int:
    keys = ClusterKeys(settings.cluster_key, log)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if settings.recover_from_nodes:
        await begin(store, node_addresses(settings), log, ask=partial(ask_nodes, keys=keys))
    master = Master(store, BoottimeClock(), log, rebalance_skew=settings.rebalance_skew, keys=keys)
    address = await master.start(settings.listen)
    set_survivors_aside()
    ready = {"ready": "master", "listen": address, "pid": os.getpid()}
    print(json.dumps({**ready, "generation": master.generation}), flush=True)
    await _first(stop, master.driver.failed)
    failure = master.driver.failure
    if failure is not None:
        log.critical(events.PROCESS_DIED, cause=repr(failure), exc_info=failure)
    await master.stop()
    return 0 if failure is None else 1


class Master:
    """A master without its process: what a test starts on a store of its own.

    Args:
        keys: with them nodes must prove the cluster key in whatever they say (``rpc.proof``), and the master proves
            it in whatever it tells them.
    """

    def __init__(
        self,
        store: AuthorityStore,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        rebalance_skew: int = SKEW,
        keys: Keys | None = None,
    ) -> None:
        """Read the store and raise the generation; nothing lives yet.

        Raises: StorageError: the store cannot be read or written.
        """
        self._log = log
        volumes = store.load_volumes()
        for skip in volumes.skips:
            log.error(events.RECORD_QUARANTINED, volume=skip.volume_id, cause=skip.cause)
        self.generation = store.raise_generation()
        authority = AuthorityLoop(
            store,
            master_generation=self.generation,
            now=clock.now(),
            rebalance_skew=rebalance_skew,
        )
        self.driver = Driver(authority, store, clock, log)
        self.inventory = Inventory()
        self._desired = volumes.volumes
        states = NodeStates(store, log)
        self.reconciler = Reconciler(self.driver, self.inventory, store, states, log=log)
        self._reconciling: asyncio.Task[None] | None = None
        self.recovery = Recovery(
            self.driver,
            self.inventory,
            store,
            generation=self.generation,
            log=log,
            recovered=self.reconciler.recovered,
            ask=partial(ask_nodes, keys=keys),
        )
        self._recovering: asyncio.Task[None] | None = None
        self.copies = Copies(
            self.driver,
            self.inventory,
            store,
            states,
            generation=self.generation,
            log=log,
            keys=keys,
        )
        self._copying: asyncio.Task[None] | None = None
        control: Sequence[Route] = ControlService(
            self.driver,
            self.inventory,
            store,
            cluster_id=store.cluster_id,
            master_generation=self.generation,
            log=log,
        ).routes()
        if keys is not None:
            control = guarded(control, CallJudge(keys, sessions_max=NODE_SESSIONS_MAX))
        services = (
            VolumeService(
                self.driver,
                self.inventory,
                store,
                states,
                self.reconciler,
                awaited_nodes=lambda: self.recovery.awaited,
                log=log,
                keys=keys,
            ),
            AccessService(self.driver, store, log=log),
            AttachService(self.driver, store, log=log),
            StaleService(self.driver, store, log=log, keys=keys),
            NodeService(self.driver, self.inventory, states, self.reconciler),
            AuthorityService(
                self.driver,
                self.recovery,
                store,
                master_generation=self.generation,
                volume_skips=volumes.skips,
                copies=self.copies.views,
                log=log,
            ),
        )
        api = [route for service in services for route in service.routes()]
        self._server = Server([*control, *api])

    async def start(self, listen: str) -> str:
        """Start the loop, then listen; returns the address with the real port."""
        self.driver.start(self._desired)
        self.recovery.quarantine_damaged()
        try:
            address = await self._server.start(listen)
        except SparrowError:
            self.driver.stop()
            raise
        self.reconciler.start()
        self._reconciling = asyncio.get_running_loop().create_task(
            self.reconciler.run(), name="reconciler"
        )
        self._recovering = asyncio.get_running_loop().create_task(
            self.recovery.run(), name="recovery"
        )
        self._copying = asyncio.get_running_loop().create_task(self.copies.run(), name="copies")
        self._log.info(events.PROCESS_STARTED, listen=address, generation=self.generation)
        return address

    async def stop(self) -> None:
        """End streams and calls; the store stays open and is the caller's."""
        tasks = (self._reconciling, self._recovering, self._copying)
        background = [one for one in tasks if one is not None]
        for task in background:
            task.cancel()
        if background:
            await asyncio.wait(background)
        self.driver.stop()
        await self._server.stop(grace_s=STOP_GRACE_S)
        self._log.info(events.PROCESS_STOPPED)


async def _first(*some: asyncio.Event) -> None:
    """Wait for one of them."""
    waiting = [asyncio.ensure_future(event.wait()) for event in some]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
