"""What people do to a cluster while things go wrong: create, delete, cordon, drain, write nodes off, take them back.

Every wish goes through the services that the command line calls, over the same bad network; one that fails is simply
given up, as people do. At the end ``settle`` leaves only wishes that can come true, and ``unfinished`` tells which of
them did not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

from sparrow.authority.recovery import MarkKind
from sparrow.authority.types import DesiredVolume
from sparrow.base.errors import AlreadyExists, FailedPrecondition, NotFound, SparrowError
from sparrow.base.ids import NodeId, VolumeId
from sparrow.lifecycle.nodes import NodeRecord, NodeState
from sparrow.rpc.messages import (
    CreateVolumeRequest,
    DeleteVolumeRequest,
    RecoverRequest,
    RecoveryVerb,
    SetNodeStateRequest,
)
from sparrow.sim.network import ALL_ARRIVED_S
from sparrow.sim.world import SIZE_BYTES, World
from sparrow.store.rows import read_node_row, read_volume_row

PAUSE_S: Final = (0.3, 4.0)
#: Chance that a run has people in it at all, and that one of them writes a machine off.
BUSY_CHANCE: Final = 0.7
LOSS_CHANCE: Final = 0.35
#: Names beyond those of the first volumes.
NAMES_MORE: Final = 2
#: A wish that must come true is repeated after this.
AGAIN_S: Final = 0.5
#: Within this every volume whose members are there is confirmed by itself.
CONFIRM_S: Final = 5.0
#: Nodes that were restarted with the rest need a moment before they can prove anything.
MEND_TRIES: Final = 20


class Operators:
    """Draws one wish after another while it is on."""

    def __init__(self, world: World, rng: Random) -> None:
        self.on = rng.random() < BUSY_CHANCE
        self.settled = False
        self._world = world
        self._rng = rng
        #: Wishes somebody waits for; each ends by itself.
        self._under_way = 0
        self._answered = asyncio.Event()
        self._losses = int(rng.random() < LOSS_CHANCE)
        #: Machines written off that come back one day with the disk they had.
        self._returning: set[NodeId] = set()
        kinds: list[tuple[int, Callable[[], None]]] = [
            (3, self._delete),
            (3, self._create),
            (3, self._drain),
            (2, self._cordon),
            (4, self._uncordon),
            (1, self._write_off),
        ]
        self._kinds = [kind for _, kind in kinds]
        self._weights = [weight * rng.choice((0, 1, 1, 2)) for weight, _ in kinds]
        self._weights[-1] = 1
        self._next()

    @property
    def states(self) -> dict[NodeId, NodeState]:
        """What is wanted of nodes, by the store."""
        rows = self._world.disk.nodes.values()
        found = [one for row in rows if isinstance(one := read_node_row(row), NodeRecord)]
        wanted = {record.node_id: record.state for record in found}
        return {name: wanted.get(name, NodeState.ACTIVE) for name in self._world.names}

    def settle(self, damaged: set[VolumeId]) -> None:
        """No more wishes; those that too few nodes are left for are taken back, damaged records are mended.

        Args:
            damaged: those that can be mended are taken out of it.
        """
        self.on = False
        self._world.spawn(self._settle(damaged), "settle")

    def unfinished(self, damaged: set[VolumeId]) -> list[str]:
        """What was wanted and is not so: replicas where none belong, nodes that are not empty."""
        world, found = self._world, []
        volumes, states = world.volumes, self.states
        reconciler = None if world.master is None else world.master.reconciler
        for name in world.names:
            for volume_id in sorted(world.pools[name].files):
                if name in world.scrapped or volume_id in damaged:
                    continue
                wanted = volumes.get(volume_id)
                if wanted is None and volume_id not in world.disk.volumes:
                    found.append(f"{name} has files of {volume_id}, which was deleted")
                elif wanted is not None and name not in {slot.node_id for slot in wanted.slots}:
                    found.append(f"{name} has files of {volume_id}, which is placed elsewhere")
            if states[name].gives_up_replicas and reconciler is not None:
                left = set(reconciler.volumes_left(name)) - damaged
                found += [
                    f"{volume_id} is on {name}, {states[name]} still" for volume_id in sorted(left)
                ]
        if not self.settled:
            found.append("people still wait for an answer")
        return found

    # ------------------------------------------------------------ drawing

    def _next(self) -> None:
        self._world.loop.at(self._rng.uniform(*PAUSE_S), self._wish)

    def _wish(self) -> None:
        if self.on:
            self._rng.choices(self._kinds, self._weights)[0]()
            self._next()

    def _begin(self, work: Coroutine[Any, Any, object], name: str) -> None:
        async def wish() -> None:
            self._under_way += 1
            try:
                await work
            finally:
                self._under_way -= 1
                self._answered.set()

        self._world.spawn(wish(), name)

    def _node(self) -> NodeId:
        return self._rng.choice(self._world.names)

    def _name(self) -> VolumeId:
        number = self._rng.randint(1, self._world.shape.volumes + NAMES_MORE)
        return VolumeId(f"v{number}")

    # ------------------------------------------------------------ volumes

    def _create(self) -> None:
        shape = self._world.shape
        factor = self._rng.randint(1, shape.replication_factor)
        request = CreateVolumeRequest(
            name=self._name(),
            size_bytes=SIZE_BYTES,
            replication_factor=factor,
            min_in_sync=min(factor, shape.min_in_sync),
        )
        self._begin(self._try_create(request), "create")

    async def _try_create(self, request: CreateVolumeRequest) -> None:
        world = self._world
        world.note("operator.creates", volume=request.name, rf=request.replication_factor)
        world.attach(VolumeId(request.name))
        try:
            await world.api(lambda master, call: master.volumes.create(request, call))
        except AlreadyExists:
            return
        except SparrowError as error:
            world.note("operator.failed", wish="create", volume=request.name, cause=error)
        else:
            world.note("operator.created", volume=request.name)

    def _delete(self) -> None:
        self._begin(self._try_delete(self._name()), "delete")

    async def _try_delete(self, volume_id: VolumeId) -> None:
        world = self._world
        world.note("operator.deletes", volume=volume_id)
        request = DeleteVolumeRequest(name=volume_id)
        try:
            await world.api(lambda master, call: master.volumes.delete(request, call))
        except SparrowError as error:
            world.note("operator.failed", wish="delete", volume=volume_id, cause=error)
        else:
            world.note("operator.deleted", volume=volume_id)

    # ------------------------------------------------------------ nodes

    def _drain(self) -> None:
        self._begin(self._try_state(self._node(), NodeState.DRAINING), "drain")

    def _cordon(self) -> None:
        self._begin(self._try_state(self._node(), NodeState.CORDONED), "cordon")

    def _uncordon(self) -> None:
        name = self._node()
        if name in self._world.scrapped and name in self._returning:
            self._bring_back(name)
        self._begin(self._try_state(name, NodeState.ACTIVE), "uncordon")

    def _write_off(self) -> None:
        """A machine is gone for good: power, then the operator's word; now and then it comes back after all."""
        world = self._world
        if not self._losses or not world.whole:
            return
        self._losses -= 1
        name = self._node()
        world.note("machine.scrapped", node=name)
        world.kill_node(name, silently=True)
        world.scrapped.add(name)
        if self._rng.random() < 0.5:
            self._returning.add(name)
        self._begin(self._remove(name), "remove")

    async def _remove(self, name: NodeId) -> None:
        while self.on and name in self._world.scrapped:
            await asyncio.sleep(self._rng.uniform(0.5, 3.0))
            if await self._try_state(name, NodeState.LOST):
                break
        if self.on and name in self._returning:
            await asyncio.sleep(self._rng.uniform(0.5, 10.0))
            self._bring_back(name)

    def _bring_back(self, name: NodeId) -> None:
        world = self._world
        if name in world.scrapped:
            world.note("machine.found_again", node=name)
            world.scrapped.discard(name)
            world.start_node(name)

    async def _try_state(self, name: NodeId, state: NodeState) -> bool:
        world = self._world
        request = SetNodeStateRequest(
            node_id=name, state=state.value, confirm=name if state is NodeState.LOST else ""
        )
        try:
            await world.api(lambda master, call: master.nodes.set_state(request, call))
        except SparrowError as error:
            world.note("operator.failed", wish=state.value, node=name, cause=error)
            # A master that was started after the machine went, and that placed nothing there, has nothing to give up.
            return state is NodeState.LOST and isinstance(error, NotFound)
        world.note("operator.set", node=name, state=state.value)
        return True

    # ------------------------------------------------------------ the end

    async def _settle(self, damaged: set[VolumeId]) -> None:
        """Leave as many active nodes as a volume needs; whoever is written off and back stays so, and ends empty."""
        world = self._world
        while self._under_way:
            self._answered.clear()
            await self._answered.wait()
        # A request may come, or come once more, after its caller was told that nobody is there. What is said from here
        # on is the last word only when nothing older is under way any more.
        await asyncio.sleep(ALL_ARRIVED_S)
        while True:
            states = self.states
            active = [
                name
                for name in world.names
                if states[name] is NodeState.ACTIVE and name not in world.scrapped
            ]
            if len(active) >= world.shape.replication_factor:
                break
            name = next(name for name in world.names if name not in active)
            self._bring_back(name)
            if states[name] is not NodeState.ACTIVE:
                await self._try_state(name, NodeState.ACTIVE)
            await asyncio.sleep(AGAIN_S)
        await self._write_off_all()
        await self._mend_all(damaged)
        # Where nothing else was placed, it takes a repaired record to know the node at all.
        await self._write_off_all()
        await asyncio.sleep(CONFIRM_S)
        for volume_id in sorted(world.disk.marks):
            await self._force(
                RecoveryVerb.RESET,
                volume_id,
                lambda one: one in world.disk.marks and one in world.checkers.deleted,
            )
        for volume_id in sorted(self._known_to_nodes_alone()):
            await self._force(
                RecoveryVerb.RECOVER, volume_id, lambda one: one in self._known_to_nodes_alone()
            )
        for volume_id in sorted(self._unheard_of()):
            await self._force(RecoveryVerb.RESET, volume_id, lambda one: one in self._unheard_of())
        self.settled = True

    async def _write_off_all(self) -> None:
        """The machines that are gone for good, as far as anything is known of them."""
        for name in sorted(self._world.scrapped):
            while self.states[name] is not NodeState.LOST:
                if await self._try_state(name, NodeState.LOST):
                    break
                await asyncio.sleep(AGAIN_S)

    def _known_to_nodes_alone(self) -> set[VolumeId]:
        """The store was lost, and no member's answer is missing: one that was wiped has other files by now."""
        disk = self._world.disk
        return {
            one
            for one, mark in disk.marks.items()
            if mark.kind is MarkKind.LOST and one not in disk.volumes
        }

    def _unheard_of(self) -> set[VolumeId]:
        """Nodes have files of these that never served, and the store, restored from before they were made, nothing."""
        world = self._world
        return {
            volume_id
            for name, pool in world.pools.items()
            if name not in world.scrapped
            for volume_id, files in pool.files.items()
            if files.line is None
            and volume_id not in world.disk.lines
            and volume_id not in world.disk.volumes
        }

    async def _force(
        self, verb: RecoveryVerb, volume_id: VolumeId, wanted: Callable[[VolumeId], bool]
    ) -> None:
        """`sparrow authority recover` or `reset`, by force, until it is not wanted any more.

        Recover: what no answer can prove, because the disk of a member is gone. Reset: what is remembered again
        although it was deleted, or is known to nodes alone.
        """
        world = self._world
        request = RecoverRequest(
            verb=verb, volume_id=volume_id, who="the simulator", force=True, confirm=volume_id
        )
        while wanted(volume_id):
            try:
                await world.api(lambda master, call: master.authorities.recover(request, call))
            except SparrowError as error:
                world.note("operator.failed", wish=verb.name.lower(), volume=volume_id, cause=error)
            else:
                world.note(f"operator.{verb.name.lower()}", volume=volume_id)
            await asyncio.sleep(AGAIN_S)

    async def _mend_all(self, damaged: set[VolumeId]) -> None:
        """What is damaged is repaired; what was wanted of a node is said again."""
        nodes = self._world.disk.nodes
        for name in sorted(nodes):
            while not isinstance(read_node_row(nodes[name]), NodeRecord):
                await self._try_state(name, NodeState.ACTIVE)
                await asyncio.sleep(AGAIN_S)
        for volume_id in sorted(damaged):
            await self._mend(volume_id, damaged)
        for volume_id in sorted(self._damaged_wishes()):
            await self._mend_wish(volume_id)

    def _damaged_wishes(self) -> set[VolumeId]:
        rows = self._world.disk.volumes.items()
        return {one for one, row in rows if not isinstance(read_volume_row(row), DesiredVolume)}

    async def _mend_wish(self, volume_id: VolumeId) -> None:
        """`sparrow authority repair`; a volume that never had a line is reset, and its name is free again."""
        world = self._world
        request = RecoverRequest(
            verb=RecoveryVerb.REPAIR, volume_id=volume_id, who="the simulator", force=False
        )
        for _ in range(MEND_TRIES):
            try:
                await world.api(lambda master, call: master.authorities.recover(request, call))
            except SparrowError as error:
                world.note("operator.failed", wish="repair", volume=volume_id, cause=error)
            else:
                world.note("operator.repaired", wish=volume_id)
            if volume_id not in self._damaged_wishes() or volume_id not in world.disk.lines:
                break
            await asyncio.sleep(AGAIN_S)
        if volume_id not in world.disk.marks:
            await self._force(
                RecoveryVerb.RESET, volume_id, lambda one: one in self._damaged_wishes()
            )

    async def _mend(self, volume_id: VolumeId, damaged: set[VolumeId]) -> None:
        """`sparrow authority repair`, without force: what its nodes do not prove stays as it is, with its name."""
        world = self._world
        request = RecoverRequest(
            verb=RecoveryVerb.REPAIR, volume_id=volume_id, who="the simulator", force=False
        )
        for _ in range(MEND_TRIES):
            try:
                await world.api(lambda master, call: master.authorities.recover(request, call))
            except FailedPrecondition as error:
                world.note("operator.failed", wish="repair", volume=volume_id, cause=error)
                if "is believed" in str(error):
                    break
            except SparrowError as error:
                world.note("operator.failed", wish="repair", volume=volume_id, cause=error)
            else:
                world.note("operator.repaired", volume=volume_id)
                break
            await asyncio.sleep(AGAIN_S)
        else:
            return
        damaged.discard(volume_id)
