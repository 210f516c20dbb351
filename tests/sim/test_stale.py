"""S25 on simulated clusters: a volume goes on from a stale replica, and its old primary comes back.

The checker ends a run in which more is lost than was named, or in which two serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sparrow.authority import mint
from sparrow.authority.results import Minted
from sparrow.authority.stale import Plan, Refused, discard_ask, weigh
from sparrow.authority.types import Ask, Line, ReplicaState
from sparrow.base.ids import NodeId, ReplicaId
from sparrow.node.volume import Volume
from sparrow.rpc.messages import ReleaseReplicaRequest
from sparrow.sim.checkers import Violation
from tests.support.stage import Stage, V, ends_badly, stage


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(2, 1) as made:
        yield made


def replica_on(s: Stage, name: NodeId) -> ReplicaId:
    return next(m.replica_id for m in s.line.members if m.node_id == name)


def look(s: Stage, name: NodeId, *, off: NodeId) -> Plan | Refused:
    master = s.world.master
    assert master is not None
    snapshot = master.authority.snapshot(V, master.process.clock())
    return weigh(snapshot, replica_on(s, name), old_primary_is_off=off, accept_state="")


def submit(s: Stage, ask: Ask | None) -> Line:
    """An operator's ask, in the master's process."""
    master = s.world.master
    assert master is not None
    assert ask is not None
    done: list[Any] = []
    master.process.soon(lambda: done.append(master.driver.plan(ask)))
    s.until(lambda: bool(done))
    assert isinstance(done[0], Minted), done[0]
    return done[0].line


def recover(s: Stage, name: NodeId) -> Line:
    """What `volume recover --from-stale` does, with the old primary said to be off."""
    found = look(s, name, off=s.a)
    assert isinstance(found, Plan), found
    s.world.checkers.loss_named(V, found.kept_lsn)
    return submit(s, found.ask)


def discard(s: Stage, name: NodeId) -> None:
    line = submit(s, discard_ask(s.line, replica_on(s, name)))
    volume = s.node(name).replicas.get(V)
    s.until(lambda: volume.known_line is not None and volume.known_line.lineage >= line.lineage)
    request = ReleaseReplicaRequest(
        line=line,
        replica_id=volume.replica_id,
        uuid=volume.uuid,
        state=ReplicaState.REBUILDING,
    )
    s.node(name).process.spawn(volume.release(request), "release")
    s.until(lambda: volume.state is not ReplicaState.QUARANTINED)


def files(s: Stage, name: NodeId) -> Any:
    return s.world.pools[name].files[V]


def lost_alone(s: Stage) -> int:
    """a acknowledges alone and dies; b, which missed that, is back. The last LSN of a's log."""
    s.to_one()
    s.world.kill_node(s.a)
    last: int = files(s, s.a).log.last_lsn
    s.world.start_node(s.b)
    s.run(15)
    assert not s.serves(s.b)
    assert last > files(s, s.b).log.last_lsn
    return last


def goes_on(s: Stage) -> None:
    before = s.acked
    s.until(lambda: s.acked > before + 3)


def returning_primary_is_kept_and_serves_never(s: Stage) -> None:
    """b goes on, a returns: nothing of a's is cut or emptied, and a never serves."""
    last = lost_alone(s)
    recover(s, s.b)
    s.until(lambda: s.serves(s.b))
    goes_on(s)
    s.world.start_node(s.a)
    s.until(lambda: files(s, s.a).state is ReplicaState.QUARANTINED)
    s.run(15)
    assert files(s, s.a).log.last_lsn == last
    assert s.in_sync == {s.b}
    assert s.serves(s.b)


def kept_also_when_its_log_would_simply_be_cut(s: Stage) -> None:
    """What a has alone is not applied: a join would cut it off and call it done."""
    s.to_one()
    s.world.kill_node(s.a)
    tail = files(s, s.a)
    tail.applied = min(tail.applied, files(s, s.b).log.last_lsn)
    last = tail.log.last_lsn
    s.world.start_node(s.b)
    s.run(15)
    recover(s, s.b)
    s.until(lambda: s.serves(s.b))
    goes_on(s)
    s.world.start_node(s.a)
    s.run(15)
    assert files(s, s.a).log.last_lsn == last
    assert files(s, s.a).state is ReplicaState.QUARANTINED


def test_a_returning_primary_is_kept_and_serves_never(s: Stage) -> None:
    returning_primary_is_kept_and_serves_never(s)


def test_a_returning_primary_is_kept_also_when_its_log_would_simply_be_cut(s: Stage) -> None:
    kept_also_when_its_log_would_simply_be_cut(s)


def test_discarded_it_is_rebuilt_and_the_volume_is_whole(s: Stage) -> None:
    returning_primary_is_kept_and_serves_never(s)
    discard(s, s.a)
    s.until(s.world.all_healthy, seconds=60)
    assert s.in_sync == {s.a, s.b}
    s.world.kill_node(s.b)
    s.until(lambda: s.serves(s.a))
    goes_on(s)


def test_a_primary_that_returns_where_it_reaches_nobody_does_not_serve(s: Stage) -> None:
    lost_alone(s)
    recover(s, s.b)
    s.until(lambda: s.serves(s.b))
    s.cut("a-m", "a-b")
    s.world.start_node(s.a)
    s.run(10)
    assert not s.serves(s.a)
    s.open("a-b")
    s.until(lambda: files(s, s.a).state is ReplicaState.QUARANTINED)
    assert not s.serves(s.a)


def test_a_crash_of_the_returning_node_at_any_moment_keeps_its_files(s: Stage) -> None:
    last = lost_alone(s)
    recover(s, s.b)
    s.until(lambda: s.serves(s.b))
    for step in range(12):
        s.world.start_node(s.a)
        s.run(0.02 + 0.015 * step)
        s.world.kill_node(s.a)
        assert files(s, s.a).log.last_lsn == last
    s.world.start_node(s.a)
    s.run(12)
    assert files(s, s.a).log.last_lsn == last
    assert files(s, s.a).state is ReplicaState.QUARANTINED


def test_it_is_refused_as_long_as_the_holder_may_be_had(s: Stage) -> None:
    """a is cut off from the master and serves on: typing a name does not make that safe, silence alone either."""
    s.to_one()
    s.cut("a-b")
    s.world.start_node(s.b)
    s.run(3)
    found = look(s, s.b, off=s.a)
    assert isinstance(found, Refused)
    assert "has every acknowledged write" in found.cause
    s.cut("a-m")
    s.run(15)
    found = look(s, s.b, off=NodeId(""))
    assert isinstance(found, Refused)
    assert "may be serving" in found.cause


def test_without_an_operators_word_the_checker_calls_it_a_loss(s: Stage) -> None:
    lost_alone(s)
    found = look(s, s.b, off=s.a)
    assert isinstance(found, Plan)
    with pytest.raises(Violation, match="passes over everyone"):
        submit(s, found.ask)


def test_a_window_named_too_small_is_noticed(s: Stage) -> None:
    last = lost_alone(s)
    found = look(s, s.b, off=s.a)
    assert isinstance(found, Plan)
    s.world.checkers.loss_named(V, type(found.kept_lsn)(last))
    with pytest.raises(Violation, match="was to be kept"):
        submit(s, found.ask)


def nobody_set_aside(patch: pytest.MonkeyPatch) -> None:
    """The rule taken away: the line forgets who had something else."""
    made = mint._recover_stale

    def forgets(old: Line, ask: Ask, generation: int) -> Line:
        from dataclasses import replace

        return replace(made(old, ask, generation), set_aside=())

    patch.setattr(mint, "_recover_stale", forgets)
    patch.setattr("sparrow.authority.invariants._check_stale", lambda _old, _new: None)


def nodes_that_do_not_care(patch: pytest.MonkeyPatch) -> None:
    """The rule taken away: a node joins with what it has."""
    patch.setattr(Volume, "is_set_aside", lambda _self, _line: False)


@pytest.mark.parametrize("take_away", [nobody_set_aside, nodes_that_do_not_care])
def test_without_its_rule_the_only_copy_is_cut(
    s: Stage, take_away: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(monkeypatch)
    with ends_badly():
        kept_also_when_its_log_would_simply_be_cut(s)
