"""One seed from start to end, many seeds for a while, and what is printed of a failure."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from sparrow.authority.quorum import QUORUM
from sparrow.authority.status import VolumeState
from sparrow.authority.types import AckPolicy
from sparrow.base.ids import VolumeId
from sparrow.sim.checkers import Violation
from sparrow.sim.clock import START_S, unheard
from sparrow.sim.faults import Faults
from sparrow.sim.operators import Operators
from sparrow.sim.world import Shape, World
from sparrow.sim.zombie import Zombies

STEPS: Final = 25_000
#: After the last fault every volume is healthy within this, or says by name why it never will be.
CONVERGENCE_S: Final = 120.0
#: What a fault leaves behind shows within this: an operation that it made slow ends up to 3 s later, and a peer that
#: held up commits until then is asked out one window after that, to come back ten seconds later (node/pace.py).
SETTLE_S: Final = 6.0
#: And stays so.
CALM_S: Final = 5.0
#: But for a planned move, which evens out how many volumes a node leads and may be under way at that very moment.
MOVE_S: Final = 1.0
SEED_BITS: Final = 48
LARGE_CHANCE: Final = 0.1
#: What is drawn from, by replication factor.
POLICIES: Final = {
    1: (AckPolicy.SYNC,),
    2: (AckPolicy.SYNC, AckPolicy.SYNC, AckPolicy.LOCAL),
    3: (AckPolicy.SYNC, AckPolicy.SYNC, AckPolicy.QUORUM, AckPolicy.QUORUM, AckPolicy.LOCAL),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What clusters are made of, and what goes wrong there."""

    world: type[World] = World
    faults: type[Faults] = Faults
    operators: type[Operators] = Operators
    zombies: type[Zombies] = Zombies


MODEL: Final = Kind()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one seed. ``violation`` is empty when all went well."""

    seed: int
    steps: int
    minted: int
    acked: int
    simulated_s: float
    digest: str
    violation: str = ""
    events: tuple[str, ...] = ()


def shape_of(seed: int) -> Shape:
    """The cluster a seed means, unless the caller wants another."""
    rng = Random(f"shape {seed}")
    factor = rng.choice((1, 2, 2, 3, 3, 3, 3))
    shape = Shape(
        nodes=max(factor, rng.choice((2, 3, 3, 4, 4, 5))),
        volumes=rng.choice((1, 2, 3)),
        replication_factor=factor,
        min_in_sync=min(factor, rng.choice((1, 2))),
    )
    ack = Random(f"policy {seed}").choice(POLICIES[factor])
    least = max(QUORUM, shape.min_in_sync) if ack is AckPolicy.QUORUM else shape.min_in_sync
    zones = Random(f"zones of {seed}").choice((0, 0, 2, 3))
    large = Random(f"size {seed}").random() < LARGE_CHANCE
    return replace(shape, ack=ack, min_in_sync=least, zones=zones, large=large)


def run_seed(
    seed: int, *, shape: Shape | None = None, steps: int = STEPS, kind: Kind = MODEL
) -> Outcome:
    """Build a cluster, let faults loose on it, stop them, wait until all is well."""
    # Collection by count would come at other moments in another process.
    collecting = gc.isenabled()
    gc.disable()
    # What was there before is not looked through again with every collection at the end of a run.
    gc.freeze()
    try:
        with unheard():
            return _outcome(seed, shape or shape_of(seed), steps, kind)
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


def _outcome(seed: int, shape: Shape, steps: int, kind: Kind) -> Outcome:
    world = kind.world(seed, shape)
    violation = ""
    try:
        _live(world, steps, kind)
    except Violation as found:
        violation = str(found)
    outcome = Outcome(
        seed=seed,
        steps=world.loop.steps,
        minted=world.checkers.minted,
        acked=sum(client.acked for client in world.clients.values()),
        simulated_s=world.loop.now - START_S,
        digest=world.digest(),
        violation=violation,
        events=tuple(world.events) if violation else (),
    )
    world.close()
    return outcome


def fresh_seeds(first: int) -> Iterator[int]:
    """Seeds without end, all following from the first."""
    rng = Random(first)
    while True:
        yield rng.getrandbits(SEED_BITS)


def deadline(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds of wall clock have passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def _live(world: World, steps: int, kind: Kind) -> None:
    world.start_master()
    for name in world.names:
        world.start_node(name)
    world.run(0.5)
    world.create_volumes()
    _until(world, "at first", lambda: _unwell(world, set()))
    faults = kind.faults(world, Random(world.rng.random()))
    operators = kind.operators(world, Random(world.rng.random()))
    zombies = kind.zombies(world, Random(world.rng.random()))
    world.run(10_000.0, steps=steps)
    zombies.heal()
    faults.heal()
    operators.settle(faults.damaged)

    def unwell() -> list[str]:
        return [*_unwell(world, faults.damaged), *operators.unfinished(faults.damaged)]

    world.run(SETTLE_S)
    _until(world, "after the faults", unwell)
    world.run(CALM_S)
    if unwell():
        world.run(MOVE_S)
    _judge(f"{CALM_S} s later", unwell)
    world.last_look()


def _until(world: World, when: str, unwell: Callable[[], list[str]]) -> None:
    end = world.loop.now + CONVERGENCE_S
    while world.loop.now < end and unwell():
        world.run(0.5)
    _judge(when, unwell)


def _judge(when: str, unwell: Callable[[], list[str]]) -> None:
    found = unwell()
    if found:
        raise Violation(f"not well {when}: {'; '.join(found)}")


def _unwell(world: World, damaged: set[VolumeId]) -> list[str]:
    """Volumes that are neither as they are wanted nor have a name for what is wrong with their record."""
    master = world.master
    if master is None or not master.process.alive:
        return ["the master is not there"]
    found = []
    for volume_id in sorted(world.disk.volumes):
        status = world.status(volume_id)
        if status is None:
            found.append(f"{volume_id}: the master does not know it")
        elif volume_id in damaged and "RecordQuarantined" in status.cause:
            continue
        elif status.state is not VolumeState.HEALTHY:
            found.append(f"{volume_id}: {status.state}, {status.cause}")
        if volume_id in damaged:
            continue
        found += [
            f"{volume_id}: {view.replica_id or view.successor} is being replaced or added, {view.text}"
            for view in master.reconciler.replacements(volume_id=volume_id)
        ]
    return found


def reshaped(seed: int, *, nodes: int | None, volumes: int | None) -> Shape:
    """A seed's own cluster with what the caller insists on."""
    shape = shape_of(seed)
    if nodes is not None:
        factor = min(shape.replication_factor, nodes)
        least = min(shape.min_in_sync, factor)
        ack = shape.ack if factor == shape.replication_factor else AckPolicy.SYNC
        shape = replace(shape, nodes=nodes, replication_factor=factor, min_in_sync=least, ack=ack)
    return shape if volumes is None else replace(shape, volumes=volumes)
