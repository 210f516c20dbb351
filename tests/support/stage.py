"""A simulated cluster on which a test plays one history, move by move."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.recovery import NodeAnswer
from sparrow.authority.results import AskResult
from sparrow.authority.types import AckPolicy, Ask, Intent, Line, RoleClaim
from sparrow.base.errors import SparrowError, TimedOut
from sparrow.base.ids import NodeId, VolumeId
from sparrow.master.recover import begin
from sparrow.rpc.messages import (
    AskIntent,
    AskRequest,
    CreateVolumeRequest,
    DeleteVolumeRequest,
    Heartbeat,
    SetNodeStateRequest,
)
from sparrow.sim.checkers import Bug, Violation
from sparrow.sim.clock import unheard
from sparrow.sim.master import MASTER, OTHER_MASTER, SimCall, SimMaster
from sparrow.sim.node import SimNode
from sparrow.sim.world import OPERATOR, SIZE_BYTES, Shape, World
from sparrow.store.memory import MemoryDisk, MemoryStore

V = VolumeId("v1")
#: A history on a stage is short, and is searched to its beginning.
EVENTS_HEARD = 10_000


class Stage:
    """One volume ``v1``, healthy when the curtain rises. ``a`` is its primary's node, ``b`` and ``c`` the others."""

    def __init__(
        self,
        rf: int = 2,
        min_in_sync: int = 1,
        seed: int = 1,
        nodes: int | None = None,
        *,
        ack: AckPolicy = AckPolicy.SYNC,
        kind: type[World] = World,
    ) -> None:
        self.world = kind(
            seed,
            Shape(
                nodes=rf if nodes is None else nodes,
                volumes=1,
                replication_factor=rf,
                min_in_sync=min_in_sync,
                ack=ack,
            ),
        )
        world = self.world
        world.events = deque(maxlen=EVENTS_HEARD)
        world.start_master()
        for name in world.names:
            world.start_node(name)
        world.run(0.5)
        world.create_volumes()
        self.until(world.all_healthy)
        self.until(lambda: self.acked > 3)
        self.a = self.line.primary_member.node_id
        others = [one.node_id for one in self.line.members if one.node_id != self.a]
        self.b, self.c = (*others, NodeId(""), NodeId(""))[:2]
        #: Nodes without a replica.
        self.spare = [one for one in world.names if one not in {self.a, *others}]

    @property
    def line(self) -> Line:
        return self.world.checkers.newest[V]

    @property
    def acked(self) -> int:
        return self.world.clients[V].acked

    @property
    def in_sync(self) -> set[str]:
        """Nodes whose replica the newest line counts on."""
        members = (self.line.member(replica) for replica in self.line.in_sync)
        return {member.node_id for member in members if member is not None}

    @property
    def cause(self) -> str:
        status = self.world.status(V)
        return "" if status is None else f"{status.state}: {status.cause}"

    def node(self, name: NodeId) -> SimNode:
        return self.world.nodes[name]

    def serves(self, name: NodeId) -> bool:
        return name in self.world.nodes and self.node(name).dataplane.may_serve(V)

    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    def until(
        self, holds: Callable[[], bool], *, seconds: float = 20.0, look_s: float = 0.01
    ) -> float:
        """Let time pass until it holds, looking every ``look_s``; how long that took."""
        began = self.world.loop.now
        while not holds():
            assert self.world.loop.now < began + seconds, f"not within {seconds} s"
            self.world.run(look_s)
        return self.world.loop.now - began

    def cut(self, *ways: str) -> None:
        """``"a>b"``, ``"a-m"``: one way, both ways; m is the first master, n the one that takes over from it."""
        for a, b in self._ways(ways):
            self.world.network.block(a, b)

    def open(self, *ways: str) -> None:
        for a, b in self._ways(ways):
            self.world.network.open(a, b)

    def heard(self, event: str, **facts: object) -> int:
        """How often something was said, in what is kept of the history."""
        wanted = [f"{key}={value}" for key, value in facts.items()]
        return sum(event in line and all(w in line for w in wanted) for line in self.world.events)

    def forget(self) -> None:
        self.world.events.clear()

    def lose_asks(self, name: NodeId, intent: AskIntent) -> list[AskRequest]:
        """From now on a node's asks of this kind are under way without end; the list fills with them."""
        lost: list[AskRequest] = []
        master = self.node(name).master
        send = master.ask

        async def ask(request: AskRequest, *, timeout_s: float) -> Any:
            if request.intent is not intent:
                return await send(request, timeout_s=timeout_s)
            lost.append(request)
            raise TimedOut("lost")

        master.ask = ask  # type: ignore[method-assign]
        return lost

    def claims_primary(self, name: NodeId) -> None:
        """From now on a node's heartbeats say that it is primary, whatever it is."""
        link = self.node(name).link
        build = link._build

        async def claiming(*args: Any) -> Heartbeat:
            heartbeat = await build(*args)
            slots = (replace(one, role_claim=RoleClaim.PRIMARY) for one in heartbeat.slots)
            return replace(heartbeat, slots=tuple(slots))

        link._build = claiming

    def arrives(self, request: AskRequest, name: NodeId) -> None:
        """An ask that was under way comes to the master."""
        master = self.world.master
        assert master is not None
        master.process.spawn(master.service.ask(request, SimCall(name)), "late ask")
        self.run(0.1)

    def publish(self, ask: Ask) -> AskResult:
        """An ask of the controller, applied now."""
        master = self.world.master
        assert master is not None
        return master.authority.publisher.apply(ask)

    def move(self, to: NodeId) -> None:
        """Another primary is planned, now; the node need not hear of it."""
        master = self.world.master
        assert master is not None
        line = self.line
        ask = Ask(
            intent=Intent.REASSIGN,
            volume_id=V,
            replica_id=next(m.replica_id for m in line.members if m.node_id == to),
            basis=line.lineage,
            reason="hand-over: planned",
        )
        master.process.soon(master.driver.plan, ask)

    def operator(self, state: str, name: NodeId) -> None:
        """`sparrow node drain` and its like; a loss is confirmed."""
        request = SetNodeStateRequest(node_id=name, state=state, confirm=name)
        self.call(lambda master, call: master.nodes.set_state(request, call))

    def delete(self) -> None:
        """`sparrow volume delete`, not waited for."""
        request = DeleteVolumeRequest(name=V)
        self.call(lambda master, call: master.volumes.delete(request, call))

    def create(self) -> None:
        """`sparrow volume create` under the name that was there before, not waited for."""
        shape = self.world.shape
        request = CreateVolumeRequest(
            name=V,
            size_bytes=SIZE_BYTES,
            replication_factor=shape.replication_factor,
            min_in_sync=shape.min_in_sync,
        )
        self.call(lambda master, call: master.volumes.create(request, call))

    def call(self, serve: Callable[[SimMaster, SimCall], Awaitable[Any]]) -> None:
        """Call the master's API; what becomes of it is seen in the cluster."""

        async def wish() -> None:
            with suppress(SparrowError):
                await self.world.api(serve)

        self.world.spawn(wish(), "wish")

    def lose_store(self) -> None:
        """The master's store is gone; another one is rebuilt from the nodes."""
        disk = MemoryDisk()

        async def rebuild() -> None:
            async def ask(some: Collection[str], generation: int) -> dict[str, NodeAnswer]:
                return await self.world.ask_nodes(OPERATOR, some, generation)

            store = MemoryStore(disk)
            addresses = [f"{name}:1" for name in self.world.names]
            await begin(store, addresses, self.world.logger("rebuild"), ask=ask)
            self.world.replace_master(disk)

        self.world.lose_store()
        self.world.spawn(rebuild(), "rebuild")
        self.run(3)

    def strays(self) -> list[str]:
        """Nodes with files of the volume on which it is not placed."""
        volume = self.world.volumes.get(V)
        placed = set() if volume is None else {slot.node_id for slot in volume.slots}
        return [name for name in self.holders if name not in placed]

    @property
    def moving(self) -> bool:
        """Whether something is still being given up, by the store."""
        volume = self.world.volumes.get(V)
        return volume is not None and bool(volume.leaving)

    @property
    def holders(self) -> list[str]:
        return [name for name, pool in self.world.pools.items() if V in pool.files]

    def to_one(self) -> None:
        """b is lost for a while: the line is {a}, and a has acknowledged writes alone."""
        self.world.kill_node(self.b)
        self.until(lambda: self.in_sync == {self.a})
        before = self.acked
        self.until(lambda: self.acked > before + 3)

    def _ways(self, ways: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        names = {"a": self.a, "b": self.b, "c": self.c, "m": MASTER, "n": OTHER_MASTER}
        for way in ways:
            x, sign, y = names[way[0]], way[1], names[way[2]]
            yield x, y
            if sign == "-":
                yield y, x


@contextmanager
def ends_badly() -> Iterator[None]:
    """A promise is broken or does not come true in here. An error of the code that plays it proves nothing."""
    with pytest.raises((Violation, AssertionError)) as ended:
        yield
    assert not isinstance(ended.value, Bug), ended.value


@contextmanager
def stage(
    rf: int = 2,
    min_in_sync: int = 1,
    seed: int = 1,
    nodes: int | None = None,
    *,
    ack: AckPolicy = AckPolicy.SYNC,
    kind: type[World] = World,
) -> Iterator[Stage]:
    """A stage, taken down at the end."""
    built = Stage(rf, min_in_sync, seed, nodes, ack=ack, kind=kind)
    try:
        yield built
    finally:
        with unheard():
            built.world.close()
            del built.world
