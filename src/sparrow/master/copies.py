"""Keeps a copy of the store on two nodes, always behind by a moment and never ahead of what is durable.

One way only: nodes fetch, and nothing they hold ever comes back but through ``master run --from-copy``, which restores
it with every volume unconfirmed. A node refuses a master whose generation it knows to be over, so a master that was
replaced cannot put its store in the place of its successor's.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events
from sparrow.base.errors import SparrowError
from sparrow.base.ids import NodeId
from sparrow.lifecycle.nodes import NodeState
from sparrow.master.driver import Driver
from sparrow.master.inventory import Inventory
from sparrow.master.node_states import NodeStates
from sparrow.ports.store import AuthorityStore
from sparrow.rpc import methods
from sparrow.rpc.client import Channel
from sparrow.rpc.messages import KeepCopyRequest, StoreCopyView
from sparrow.rpc.proof import Keys

COPIES: Final = 2
#: Between two rounds, so that a burst of mints is one copy; a large store takes longer and is copied more rarely.
PAUSE_S: Final = 1.0
PAUSE_PER_COPY_S: Final = 10.0
KEEP_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    generation: int
    revision: int


class Copies:
    """One per master; ``run`` is its task."""

    def __init__(
        self,
        driver: Driver,
        inventory: Inventory,
        store: AuthorityStore,
        states: NodeStates,
        *,
        generation: int,
        log: FilteringBoundLogger,
        keys: Keys | None = None,
    ) -> None:
        self._keys = keys
        self._driver = driver
        self._inventory = inventory
        self._store = store
        self._states = states
        self._generation = generation
        self._log = log
        self._held: dict[NodeId, _Held] = {}
        #: Nodes whose last failure was told.
        self._failed: set[NodeId] = set()
        self._pause_s = PAUSE_S

    def views(self) -> tuple[StoreCopyView, ...]:
        """Where copies are, and whether they hold everything that is durable now."""
        now = (self._generation, self._store.revision)
        return tuple(
            StoreCopyView(
                node_id=node_id,
                master_generation=held.generation,
                revision=held.revision,
                current=(held.generation, held.revision) >= now,
            )
            for node_id, held in sorted(self._held.items())
        )

    async def run(self) -> None:
        """Work for ever."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                behind = self._behind()
                await asyncio.gather(*(self._copy_to(node_id) for node_id in behind))
            except Exception:  # noqa: BLE001 - a bug here must not leave the store without copies from then on
                self._log.exception(events.COMMAND_FAILED, command="copy the store")
            self._pause_s = max(PAUSE_S, PAUSE_PER_COPY_S * (loop.time() - began))
            await self._driver.changed()
            await asyncio.sleep(self._pause_s)

    def _behind(self) -> list[NodeId]:
        """The nodes that are to hold copies and lack the newest; who holds one goes on doing so while it is well."""
        well = [one.node_id for one in self._inventory if self._is_well(one.node_id)]
        chosen = [one for one in sorted(self._held) if one in well]
        # Those that failed last are tried after the others, but they are tried.
        chosen += sorted(set(well) - self._held.keys(), key=lambda one: (one in self._failed, one))
        chosen = chosen[:COPIES]
        self._held = {one: held for one, held in self._held.items() if one in chosen}
        newest = (self._generation, self._store.revision)
        none = _Held(generation=0, revision=0)
        held = ((one, self._held.get(one, none)) for one in chosen)
        return [one for one, has in held if (has.generation, has.revision) < newest]

    def _is_well(self, node_id: NodeId) -> bool:
        # Not its whole status, which counts its volumes: this is asked every second.
        sight = self._driver.authority.observations.sight(node_id, self._driver.clock.now())
        return sight.up and self._states.of(node_id) is not NodeState.LOST

    async def _copy_to(self, node_id: NodeId) -> None:
        heartbeat = self._inventory.get(node_id)
        if heartbeat is None:
            return
        channel = Channel(heartbeat.ctrl_addr, who=f"node {node_id}", keys=self._keys)
        request = KeepCopyRequest(
            cluster_id=self._store.cluster_id,
            master_generation=self._generation,
            revision=self._store.revision,
        )
        try:
            info = await channel.call(methods.KEEP_COPY, request, timeout_s=KEEP_TIMEOUT_S)
        except SparrowError as error:
            # Another node takes its place, or the next round tries again.
            self._held.pop(node_id, None)
            if node_id not in self._failed:
                self._log.warning(
                    events.CALL_FAILED, call="keep copy", peer=node_id, cause=str(error)
                )
            self._failed.add(node_id)
        else:
            self._failed.discard(node_id)
            self._held[node_id] = _Held(generation=info.master_generation, revision=info.revision)
        finally:
            await channel.close()
