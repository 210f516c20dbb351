"""Moving primaries for balance on whole simulated clusters: a node that returns leads again, and nothing else moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sparrow.authority import balance
from sparrow.base.ids import NodeId
from sparrow.sim.clock import unheard
from sparrow.sim.world import Shape, World

#: Of true time: nodes and the master settle, then one move a second or so.
EVEN_S = balance.SETTLE_S + 25.0


@pytest.fixture
def world() -> Iterator[World]:
    with six_volumes() as made:
        yield made


@contextmanager
def six_volumes() -> Iterator[World]:
    """Of three replicas on three nodes, two led by each, all of them written to."""
    made = World(7, Shape(nodes=3, volumes=6, replication_factor=3, min_in_sync=2))
    made.start_master()
    for name in made.names:
        made.start_node(name)
    made.run(0.5)
    made.create_volumes()
    until(made, made.all_healthy)
    try:
        yield made
    finally:
        with unheard():
            made.close()


def until(world: World, holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = world.loop.now + seconds
    while not holds():
        assert world.loop.now < end, f"not within {seconds} s"
        world.run(0.05)


def led(world: World) -> dict[NodeId, int]:
    counted = dict.fromkeys(world.names, 0)
    for line in world.checkers.newest.values():
        counted[line.primary_member.node_id] += 1
    return counted


def epochs(world: World) -> int:
    return sum(line.lineage.epoch for line in world.checkers.newest.values())


def lose_and_return(world: World) -> NodeId:
    """One node dies and comes back: every volume is whole again and it leads none."""
    lost = world.names[0]
    world.kill_node(lost)
    until(world, lambda: led(world)[lost] == 0)
    world.start_node(lost)
    until(world, world.all_healthy, seconds=40)
    assert led(world)[lost] == 0
    return lost


def test_a_node_that_returned_leads_again_and_nothing_is_lost(world: World) -> None:
    assert set(led(world).values()) == {2}
    lost = lose_and_return(world)
    before = epochs(world)
    acked = {volume_id: client.acked for volume_id, client in world.clients.items()}
    until(world, lambda: set(led(world).values()) == {2}, seconds=EVEN_S)
    assert epochs(world) == before + 2, "two moves even it out"
    until(world, world.all_healthy, seconds=10)
    assert led(world)[lost] == 2
    assert all(client.acked > acked[v] for v, client in world.clients.items())


def test_even_loads_stay_even(world: World) -> None:
    lose_and_return(world)
    until(world, lambda: set(led(world).values()) == {2}, seconds=EVEN_S)
    until(world, world.all_healthy, seconds=10)
    before = epochs(world)
    world.run(balance.SETTLE_S + 15)
    assert epochs(world) == before


def test_a_node_that_dies_while_primaries_return_to_it_loses_nothing(world: World) -> None:
    """In the moment of the first move, and again when it is back."""
    lost = lose_and_return(world)
    until(world, lambda: led(world)[lost] > 0, seconds=EVEN_S)
    world.kill_node(lost)
    until(world, lambda: led(world)[lost] == 0)
    world.start_node(lost)
    until(world, world.all_healthy, seconds=40)
    until(world, lambda: set(led(world).values()) == {2}, seconds=EVEN_S)


def flap(world: World) -> int:
    """One node comes back for ten seconds, three times; how often a primary was given to it by choice."""
    given = 0
    node = world.names[0]
    for _ in range(3):
        world.kill_node(node)
        until(world, lambda: led(world)[node] == 0)
        before = epochs(world)
        world.start_node(node)
        until(world, world.all_healthy, seconds=40)
        world.run(10)
        given += epochs(world) - before
    return given


def test_a_node_that_comes_and_goes_is_given_nothing(world: World) -> None:
    assert flap(world) == 0


def test_without_rest_primaries_chase_a_node_that_comes_and_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rule taken away: each time it is given primaries, and each time they fail over."""
    monkeypatch.setattr(balance, "SETTLE_S", 0.0)
    monkeypatch.setattr(balance, "CALM_S", 0.0)
    with six_volumes() as world:
        assert flap(world) >= 3
