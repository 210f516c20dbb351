"""Every crash point of a recorded workload: wherever the crash falls, what was acknowledged is there.

A workload is a script for one client and its cluster, of production code on compiled cores: writes of every size, many
at once and over the end of the ring, zeroes, flushes, reads, pauses in which the flusher makes its checkpoint, replicas
that die and come back. It is played once without a fault, which counts file operations. Then once for each of them and
each way to strike it: the process is killed before it; power is lost before it, within it, or after it before anybody
heard; it fails. Until then every run is the same history, so no point is left out.

Afterwards whoever died is started again (a disk that failed is replaced), and all must become well: every acknowledged
byte is there, an entry that was not acknowledged is there whole or not at all, nothing that was read vanishes, replicas
are byte for byte equal, and nobody is condemned, quarantined or damaged who lost no more than a crash may take.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, cast

from sparrow.base.ids import NodeId, VolumeId
from sparrow.dataplane.events import Mail
from sparrow.sim.checkers import Violation
from sparrow.sim.client import Client
from sparrow.sim.clock import unheard
from sparrow.sim.compiled.client import BlockClient
from sparrow.sim.compiled.history import PageHistory
from sparrow.sim.compiled.plane import CompiledDataPlane
from sparrow.sim.compiled.world import CompiledWorld
from sparrow.sim.world import SIZE_BYTES, Shape

STRIKES: Final = ("cut", "lose", "tear", "done", "eio")
V: Final = VolumeId("v1")
PAGES: Final = SIZE_BYTES // 4096
SEED: Final = 20_261
HEALTHY_S: Final = 120.0
ANSWER_S: Final = 4.0
#: Who was struck down is started again after this.
AGAIN_S: Final = 0.4
#: What the only replica is left alone for after its disk failed.
LONE_S: Final = 6.0
#: Between two lines that say how far a sweep is.
PROGRESS_S: Final = 10.0
#: What a replica says of itself that a crash alone never explains.
WRONGED: Final = (
    "replica.damaged",
    "replica.quarantined",
    "replica.condemned",
    "page.damaged",
    "sums.damaged",
    "state=quarantined",
)

#: One step: a verb and its numbers. Writes of one group are under way together.
Step = tuple[Any, ...]
SMALL: Final[tuple[Step, ...]] = (
    ("write", 0, 1),
    ("write", 0, 8),
    ("group", (1, 1), (2, 2), (252, 4), (1, 1), (100, 16)),
    ("flush",),
    ("read", 0, 16),
    ("pause", 1.4),
    ("write", 96, 8),
    ("zero", 100, 4),
    ("read", 96, 16),
    ("pause", 1.4),
    ("group", (0, 2), (96, 1), (255, 1)),
    # The second and the third go to either slot with a checkpoint, and one follows in the log.
    ("fence", (0, 1)),
    ("pause", 1.4),
    ("fence", (0,)),
    ("group", (0, 2), (96, 1), (255, 1)),
    ("pause", 1.4),
    ("fence", (0, 1)),
)
WRAP: Final[tuple[Step, ...]] = (
    *(("write", 0, 256) for _ in range(6)),
    ("group", (3, 1), (4, 1), (5, 8)),
    ("pause", 1.4),
)
#: A follower misses something and catches up; the primary dies, is cut and joins.
MEMBERS: Final[tuple[Step, ...]] = (
    ("kill", "follower"),
    ("write", 7, 3),
    ("start",),
    ("write", 8, 3),
    ("kill", "primary"),
    ("write", 9, 3),
    ("start",),
    ("group", (7, 1), (8, 1), (9, 1)),
)
#: A follower misses so much that it writes several batches at once when it comes back.
RETURN: Final[tuple[Step, ...]] = (
    ("write", 0, 8),
    # Whoever was struck by now is in sync again, so that two are left.
    ("pause", 6.0),
    ("kill", "follower"),
    *(("write", 2 * page, 1) for page in range(12)),
    ("start",),
    ("write", 7, 3),
)
RESTART: Final[tuple[Step, ...]] = (
    ("kill", "primary"),
    ("start",),
    ("write", 9, 3),
    ("pause", 1.4),
)

#: An only replica, whose log keeps nothing that is applied: it is empty after each pause.
LONE: Final[tuple[Step, ...]] = (
    ("write", 0, 8),
    ("pause", 1.4),
    ("group", (1, 1), (2, 2), (252, 4)),
    *RESTART,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A script and the cluster it is played on."""

    name: str
    shape: Shape
    steps: tuple[Step, ...]


WORKLOADS: Final = {
    one.name: one
    for one in (
        Workload(
            name="one",
            shape=Shape(nodes=1, volumes=1, replication_factor=1, min_in_sync=1),
            steps=(*SMALL, *WRAP, *RESTART),
        ),
        Workload(
            name="three",
            shape=Shape(nodes=3, volumes=1, replication_factor=3, min_in_sync=2),
            steps=(*SMALL, *MEMBERS, *WRAP),
        ),
        Workload(
            name="return",
            shape=Shape(nodes=3, volumes=1, replication_factor=3, min_in_sync=2),
            steps=RETURN,
        ),
        Workload(
            name="lone",
            shape=Shape(nodes=1, volumes=1, replication_factor=1, min_in_sync=1),
            steps=LONE,
        ),
        Workload(
            name="short",
            shape=Shape(nodes=2, volumes=1, replication_factor=2, min_in_sync=1),
            steps=(
                ("write", 0, 8),
                ("fence", (0, 1)),
                ("group", (1, 1), (2, 2)),
                ("pause", 1.4),
                ("fence", (0,)),
                ("write", 1, 1),
                ("write", 2, 1),
                ("pause", 1.4),
                ("fence", (0, 1)),
            ),
        ),
    )
}


class Player(BlockClient):
    """Plays a script, and knows every page of the volume."""

    def __init__(self, world: SweepWorld, volume_id: VolumeId, rng: Random) -> None:
        super().__init__(world, volume_id, rng)
        self.pages = {page: PageHistory() for page in range(PAGES)}
        self.done = False
        self._sweep = world

    def act(self) -> None:
        """Nothing by itself."""

    async def play(self, steps: Sequence[Step]) -> None:
        for step in steps:
            await self._step(step)
        self.done = True

    async def _step(self, step: Step) -> None:
        match step:
            case ("write" | "zero" | "read" as verb, first, count):
                await self._together([(verb, first, count)])
            case ("group", *runs):
                await self._together([("write", first, count) for first, count in runs])
            case ("fence", hosts):
                plane = await self._server()
                if plane is not None:
                    await self.fencing.change(plane, hosts)
            case ("flush",):
                await self._together([("flush", 0, 0)])
            case ("pause", seconds):
                await asyncio.sleep(seconds)
            case ("kill", who):
                self._sweep.script_kill(who)
            case ("start",):
                await self._sweep.script_start()
            case _:
                raise AssertionError(f"no such step: {step}")

    async def _together(self, requests: list[tuple[str, int, int]]) -> None:
        """On whoever serves; waits for the answers, or gives up as an initiator does."""
        plane = await self._server()
        if plane is None:
            return
        answers = [self._begin(plane, *request) for request in requests]
        waited = [answer for answer in answers if answer is not None]
        if waited:
            await asyncio.wait(waited, timeout=ANSWER_S)
        if plane.alive:
            plane.direct.abort_all()

    def _begin(
        self, plane: CompiledDataPlane, verb: str, first: int, count: int
    ) -> asyncio.Future[Mail] | None:
        if verb == "flush":
            return plane.submit(V, "flush")
        if verb == "read":
            return self.read(plane, first, count)
        return self.write(plane, first, count, zero=verb == "zero")

    async def _server(self) -> CompiledDataPlane | None:
        for _ in range(int(HEALTHY_S / 0.05)):
            plane = self._sweep.serving()
            if plane is not None:
                return plane
            await asyncio.sleep(0.05)
        return None


class SweepWorld(CompiledWorld):
    """A cluster whose client plays a script, and in which one operation is struck."""

    #: Disks answer flushes without flushing; to show that this is noticed.
    lies = False

    def __init__(self, workload: Workload, number: int, strike: str) -> None:
        super().__init__(SEED, workload.shape)
        self.workload = workload
        self.struck_node: NodeId | None = None
        self._number = number
        self._strike = strike
        self.doom = strike
        #: What replicas said of themselves that must not be said of a crash.
        self._wrongs: list[str] = []
        #: Killed by the script, until it starts them again.
        self._resting: set[NodeId] = set()

    def _make_client(self, volume_id: VolumeId) -> Client:
        return cast(Client, Player(self, volume_id, Random(self.rng.random())))

    @property
    def player(self) -> Player:
        return cast(Player, self.clients[V])

    def play(self) -> int:
        """From an empty cluster to the last look; gives how many file operations the script took. Raises: Violation."""
        self.begin()
        for host in self.hosts.values():
            self.room.faults(host, lies=self.lies)
        before = self.room.counters()[0]
        if self._number:
            self.room.strike(self._number, self._strike)
        self.follow_script()
        if self._lost_for_good():
            self._check_alone()
            return 0
        took = self.room.counters()[0] - before
        self._resting.clear()
        for name in self.names:
            self.start_node(name)
        self._mend()
        self._until_healthy("after the crash")
        self.last_look()
        self._check_whole()
        if self._wrongs and self._strike != "eio":
            raise Violation("; ".join(self._wrongs))
        return took

    def begin(self) -> None:
        """Up to a healthy cluster. Raises: Violation."""
        self.start_master()
        for name in self.names:
            self.start_node(name)
        self.run(0.5)
        self.create_volumes()
        self._until_healthy("at first")

    def follow_script(self) -> None:
        """To its end, or until the only disk has failed. Raises: Violation."""
        self.spawn(self.player.play(self.workload.steps), "script")
        end = self.loop.now + 4 * HEALTHY_S
        while not self.player.done and self.loop.now < end:
            self.run(0.2)
            self._mend()
            if self._lost_for_good():
                return
        if not self.player.done:
            raise Violation("the script did not come to its end")

    # ------------------------------------------------------------ who is there

    def serving(self) -> CompiledDataPlane | None:
        for node in self.living_nodes():
            if self.plane_of(node).may_serve(V):
                return self.plane_of(node)
        return None

    def script_kill(self, who: str) -> None:
        """The machine of the primary, or of one that is not, loses power."""
        primary = self.checkers.newest[V].primary_member.node_id
        others = [name for name in self.names if name != primary and name in self.nodes]
        chosen = {"primary": [primary], "all": self.names}.get(who, (others or [primary])[:1])
        for name in chosen:
            self._resting.add(name)
            self.kill_node(name, silently=True, strike="lose" if who == "all" else "")

    async def script_start(self) -> None:
        await asyncio.sleep(AGAIN_S)
        self._resting.clear()
        for name in self.names:
            self.start_node(name)
        for _ in range(int(HEALTHY_S / 0.1)):
            if self.all_healthy():
                return
            await asyncio.sleep(0.1)

    def _mend(self) -> None:
        """Start again who was struck down; replace a disk that failed."""
        for name in self.names:
            if name not in self.nodes and name not in self._resting:
                self.start_node(name)
        if self._strike == "eio" and self.room.struck >= 0 and self.struck_node is None:
            self.struck_node = NodeId(f"n{self.room.struck + 1}")
            self.loop.at(AGAIN_S, self._replace_failed)

    def _replace_failed(self) -> None:
        """The operation that failed condemned the replica, or was a read and did not."""
        name = self.struck_node
        line = self.checkers.newest[V]
        node = None if name is None else self.nodes.get(name)
        if name is None or node is None:
            return
        inside = self.plane_of(node).look(V)
        condemned = inside is None or inside.condemned
        others = [
            member
            for member in line.members
            if member.replica_id in line.in_sync and member.node_id != name
        ]
        if condemned and others:
            self.wipe_node(name)
            self.start_node(name)

    def _lost_for_good(self) -> bool:
        """The only disk failed: nothing more can be asked than that it says so."""
        alone = self.shape.replication_factor == 1
        return alone and self._strike == "eio" and self.room.struck >= 0

    def _check_alone(self) -> None:
        """What is served from it goes on being right: it is frozen, stopped, or as it was after an error of a read."""
        self.run(LONE_S)
        for node in self.living_nodes():
            for page in self.player.pages:
                self.player.read(self.plane_of(node), page, 1)
        self.run(LONE_S)
        if faults := self.player.faults():
            raise Violation("; ".join(faults))

    # ------------------------------------------------------------ what must be so

    def _until_healthy(self, when: str) -> None:
        end = self.loop.now + HEALTHY_S
        while not self.all_healthy() and self.loop.now < end:
            self.run(0.2)
            self._mend()
        if not self.all_healthy():
            status = self.status(V)
            cause = "the master is away" if status is None else f"{status.state}, {status.cause}"
            raise Violation(f"not well {when}: {cause}")

    def _check_whole(self) -> None:
        """No entry of several pages is there in part: where one of its pages is, the others are, or something later."""
        last = {page: history.last_read for page, history in self.player.pages.items()}
        for value, run in self.player.runs.items():
            if any(last[page] == value for page in run):
                older = [page for page in run if last[page] < value]
                if older:
                    raise Violation(
                        f"write {value} of pages {run} is torn: older content in {older}"
                    )

    def note(self, event: str, **facts: object) -> None:
        super().note(event, **facts)
        said = f"{event} {facts}"
        if any(word in said for word in WRONGED):
            self._wrongs.append(said)


# ---------------------------------------------------------------- many points


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run: ``number`` 0 strikes nothing."""

    workload: str
    number: int
    strike: str

    def text(self) -> str:
        return f"{self.workload}:{self.number}:{self.strike}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    point: Point
    operations: int
    violation: str
    events: tuple[str, ...] = ()


def run_point(point: Point) -> Verdict:
    """Play one point from its beginning."""
    with unheard():
        world = SweepWorld(WORKLOADS[point.workload], point.number, point.strike)
        violation, operations = "", 0
        try:
            operations = world.play()
        except Violation as found:
            violation = str(found)
        events = tuple(world.events) if violation else ()
        world.close()
    return Verdict(point=point, operations=operations, violation=violation, events=events)


def points_of(names: Sequence[str], strikes: Sequence[str]) -> Iterator[Point]:
    """Every point of these workloads; the plain runs that count them are played here."""
    for name in names:
        plain = run_point(Point(workload=name, number=0, strike="cut"))
        if plain.violation:
            raise Violation(f"{name} without a fault: {plain.violation}")
        for number in range(1, plain.operations + 1):
            for strike in strikes:
                yield Point(workload=name, number=number, strike=strike)


def sweep(points: Sequence[Point], *, jobs: int) -> Iterator[Verdict]:
    """Verdicts in the order of the points, as they come."""
    # A killed core leaves a little memory behind: a worker is replaced now and then.
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=200) as pool:
        yield from pool.imap(run_point, points, chunksize=8)


def many(points: Sequence[Point], *, jobs: int, first: int) -> tuple[int, list[Verdict]]:
    """How many points were played from number ``first`` on, and those that ended badly.

    Ctrl-C ends it there.
    """
    bad: list[Verdict] = []
    done, told = first, time.monotonic()
    try:
        for verdict in sweep(points[first:], jobs=jobs):
            done += 1
            if verdict.violation:
                bad.append(verdict)
            if time.monotonic() - told >= PROGRESS_S:
                told = time.monotonic()
                sys.stderr.write(f"{done} of {len(points)} points, {len(bad)} bad\n")
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; ARGS='--first {done}' goes on there\n")
    return done - first, bad


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Strike every file operation of a workload.")
    parser.add_argument(
        "--workloads", default="one,three,return", help="of: " + ", ".join(WORKLOADS)
    )
    parser.add_argument("--strikes", default=",".join(STRIKES))
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--first", type=int, default=0, help="so many points were played already")
    parser.add_argument("--point", help="play one point, as a failure names it")
    asked = parser.parse_args(argv)
    began = time.monotonic()
    if asked.point:
        name, number, strike = asked.point.split(":")
        points = [Point(workload=name, number=int(number), strike=strike)]
        count, bad = many(points, jobs=1, first=0)
    else:
        points = list(points_of(asked.workloads.split(","), asked.strikes.split(",")))
        count, bad = many(points, jobs=max(1, asked.jobs), first=max(0, asked.first))
    for verdict in sorted(bad, key=lambda one: (one.point.workload, one.point.number)):
        if asked.point:
            sys.stdout.write("\n".join(verdict.events) + "\n")
        sys.stdout.write(
            f"bad: {verdict.violation}\n"
            f"replay: python -m sparrow.sim.compiled.sweep --point {verdict.point.text()}\n"
        )
    whole = "" if asked.point or count == len(points) else f" of {len(points)}"
    seconds = time.monotonic() - began
    sys.stdout.write(f"points: {count}{whole} bad: {len(bad)} seconds: {seconds:.0f}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
