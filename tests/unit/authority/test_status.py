"""What a person is told of a volume below its minimum: true about writes, and about reads."""

from __future__ import annotations

from sparrow.authority.status import VolumeState
from sparrow.authority.types import Intent
from sparrow.base.ids import ReplicaId
from tests.support.authority import FakeCluster, V, ask, shrink


def below() -> FakeCluster:
    """r1 alone of at least two in sync; r2, which left last, is eligible."""
    c = FakeCluster()
    c.create()
    c.run(2)
    c.node_ask(1, shrink(c.line(), "r3"))
    c.node_ask(1, shrink(c.line(), "r2"))
    c.run(0.6)
    assert c.line().eligible == ("r2",)
    return c


def cause(c: FakeCluster) -> str:
    found = c.loop.status(V, c.now)
    assert found is not None
    assert found.state is VolumeState.UNAVAILABLE
    return found.cause


def test_reads_below_the_minimum_need_the_eligible() -> None:
    c = below()
    assert cause(c) == (
        "only 1 of at least 2 replicas in sync: writes wait, reads are served while r2 can be reached"
    )


def test_a_primary_without_their_grants_is_said_to_wait_for_them() -> None:
    c = below()
    c.fact(1, gate_open=False)
    c.beat(1)
    assert "it may not answer reads without r2, which could be made primary beside it" in cause(c)


def test_with_nobody_eligible_reads_are_served() -> None:
    c = below()
    c.node_ask(1, shrink(c.line(), "r2", clear_eligible=True))
    c.run(0.6)
    assert cause(c).endswith("writes wait, reads are served")


def test_who_is_set_aside_is_named_with_what_to_do() -> None:
    c = below()
    c.node_ask(1, shrink(c.line(), "r2", clear_eligible=True))
    recover = ask(Intent.RECOVER_STALE, replica_id=ReplicaId("r3"), basis=c.line().lineage)
    c.loop.publisher.apply(recover)
    c.loop.attention.touch(V)
    c.run(1)
    assert "r1, r2 set aside, see `sparrow volume discard-divergent`" in cause(c)
    roles = {one.replica_id: one.role for one in c.loop.status(V, c.now).replicas}  # type: ignore[union-attr]
    assert roles == {"r1": "set_aside", "r2": "set_aside", "r3": "primary"}


def test_what_is_not_known_of_a_primary_is_said_so() -> None:
    """A master starts while all nodes are away; nobody has decided anything yet."""
    c = FakeCluster()
    c.create()
    c.run(2)
    for number in (1, 2, 3):
        c.kill(number)
    c.boot()
    assert cause(c).endswith("does not serve: n1 was not heard since the master started")
