"""S29: policy and minimum of a volume change under its feet; each history ends well, and badly without its rule.

As in ``test_schedules``. No verb changes them: a master's database and every node refuse a line that does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.types import AckPolicy, AssignmentFact, Lineage
from sparrow.base.ids import EndpointVersion, Epoch
from sparrow.node import lines
from sparrow.store import memory
from sparrow.store.errors import PolicyFixed
from sparrow.store.memory import MemoryStore
from tests.support.stage import Stage, V, ends_badly, stage


def edited(s: Stage, **changes: Any) -> None:
    """While the master is down somebody puts another line into its database, as a tool with such a verb would."""
    world = s.world
    world.kill_master()
    world.disk.crash()
    store, line = MemoryStore(world.disk), s.line
    other = replace(
        line,
        lineage=replace(
            line.lineage, endpoint_version=EndpointVersion(line.lineage.endpoint_version + 1)
        ),
        write_seq=line.write_seq + 1,
        master_generation=world.disk.generation,
        **changes,
    )
    try:
        store.put_lines([other])
    except PolicyFixed:
        pass
    else:
        world.checkers.durable(id(world.disk), world.disk.generation, [other])
    finally:
        store.close()
    world.start_master()


def acknowledges_without_b(s: Stage) -> None:
    """a and c commit what b does not hear of, as ack=quorum lets them."""
    s.cut("a-b")
    before = s.acked
    s.until(lambda: s.acked > before + 2)


def s29_the_policy_is_edited_where_lines_are_kept(s: Stage) -> None:
    """By ack=sync any member may lead with what it has, and b lacks what was acknowledged; a and c die.

    Rule: the database itself keeps the policy. By ack=quorum b needs another answer, and waits for c.
    """
    acknowledges_without_b(s)
    edited(s, ack=AckPolicy.SYNC)
    s.world.kill_node(s.a)
    s.world.kill_node(s.c)
    s.open("a-b")
    s.move(s.b)
    s.run(8)
    assert not s.serves(s.b)
    s.world.start_node(s.c)
    s.until(lambda: s.serves(s.b) or s.serves(s.c), seconds=30)
    s.world.start_node(s.a)
    s.until(s.world.all_healthy, seconds=30)


def s29_the_minimum_is_edited_where_lines_are_kept(s: Stage) -> None:
    """Two of three are in sync, and two copies were asked for; then it is said that one will do, and b dies.

    Rule: as above; a alone acknowledges nothing.
    """
    s.world.kill_node(s.c)
    s.until(lambda: s.in_sync == {s.a, s.b})
    edited(s, min_in_sync=1)
    s.run(1)
    s.world.kill_node(s.b)
    s.until(lambda: s.in_sync == {s.a}, seconds=30)
    s.run(1)
    before = s.acked
    s.run(5)
    assert s.acked == before
    for name in (s.b, s.c):
        s.world.start_node(name)
    s.until(s.world.all_healthy, seconds=30)


def s29_nodes_are_told_of_another_policy(s: Stage) -> None:
    """A line that no publisher of ours minted has b lead by ack=sync, cut off from both that have what it lacks.

    Rule: a node acts on no line with another policy than the one that it holds of the same files.
    """
    acknowledges_without_b(s)
    s.cut("b-c")
    line = s.line
    replicas = {member.node_id: member.replica_id for member in line.members}
    other = replace(
        line,
        lineage=Lineage(epoch=Epoch(line.lineage.epoch + 1), endpoint_version=EndpointVersion(1)),
        primary=replicas[s.b],
        in_sync=tuple(sorted((replicas[s.b], replicas[s.c]))),
        write_seq=line.write_seq + 1,
        ack=AckPolicy.SYNC,
    )
    for name in (s.a, s.b, s.c):
        node = s.node(name)
        fact = AssignmentFact(line=other, peers=(), peer_revision=1000)
        node.process.spawn(node.replicas.get(V).accept(fact), "a line of nobody's")
    s.run(5)
    assert s.serves(s.a)
    s.open("a-b", "b-c")
    s.until(s.world.all_healthy, seconds=30)


# ---------------------------------------------------------------- the rules, taken away


def with_a_database_that_takes_anything(patch: pytest.MonkeyPatch) -> None:
    """A recorded volume gets another policy or minimum."""
    patch.setattr(memory, "_check_policy", lambda _old, _new: None)


def with_nodes_that_obey_anybody(patch: pytest.MonkeyPatch) -> None:
    """What a newer line says of the policy goes."""
    patch.setattr(lines, "_another_policy", lambda _known, _line: False)


def with_nobody_who_keeps_them(patch: pytest.MonkeyPatch) -> None:
    """Neither the database nor a node."""
    with_a_database_that_takes_anything(patch)
    with_nodes_that_obey_anybody(patch)


Rule = Callable[[pytest.MonkeyPatch], None]
SCHEDULES: dict[Callable[[Stage], None], tuple[AckPolicy, Rule]] = {
    s29_the_policy_is_edited_where_lines_are_kept: (
        AckPolicy.QUORUM,
        with_a_database_that_takes_anything,
    ),
    s29_the_minimum_is_edited_where_lines_are_kept: (
        AckPolicy.SYNC,
        with_nobody_who_keeps_them,
    ),
    s29_nodes_are_told_of_another_policy: (AckPolicy.QUORUM, with_nodes_that_obey_anybody),
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: one.__name__)
def test_the_schedule_ends_well(schedule: Callable[[Stage], None]) -> None:
    ack, _ = SCHEDULES[schedule]
    with stage(3, 2, ack=ack) as s:
        schedule(s)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: one.__name__)
def test_the_schedule_ends_badly_without_its_rule(
    schedule: Callable[[Stage], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ack, take_away = SCHEDULES[schedule]
    with stage(3, 2, ack=ack) as s:
        take_away(monkeypatch)
        with ends_badly():
            schedule(s)
