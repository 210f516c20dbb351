"""Going on from a stale replica: when it is refused, what it costs, and what the new line keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.events import PlannedAsk
from sparrow.authority.invariants import BrokenInvariant, check, check_transition
from sparrow.authority.record import decode_line, encode_line
from sparrow.authority.results import Refusal, RefusedAsk
from sparrow.authority.stale import Plan, Refused, discard_ask, weigh
from sparrow.authority.types import AckPolicy, Ask, Intent, Line, ReplicaState
from sparrow.base.ids import NodeId, ReplicaId, ReplicaUuid
from tests.support.authority import (
    FakeCluster,
    V,
    ask,
    bind,
    grow,
    lineage,
    member,
    minted,
    new_publisher,
    positions,
    reassign,
    shrink,
)

R2 = ReplicaId("r2")


def alone(rf: int = 2, ack: AckPolicy = AckPolicy.SYNC) -> FakeCluster:
    """r1 was alone in sync and is gone with its node; r2 missed the entries 91 to 100."""
    c = FakeCluster(nodes=rf)
    c.create(rf=rf, min_in_sync=1, ack=ack)
    c.run(2)
    assert c.line().primary == "r1"
    for number in range(2, rf + 1):
        c.node_ask(1, shrink(c.line(), f"r{number}"))
        c.fact(number, **positions(90, commit=85))
    c.fact(1, **positions(100, commit=100))
    c.run(1)
    c.kill(1)
    c.run(12)
    assert c.line().primary == "r1"
    return c


def look(c: FakeCluster, replica: str = "r2", off: str = "n1", accept: str = "") -> Plan | Refused:
    return weigh(
        c.loop.snapshot(V, c.now),
        ReplicaId(replica),
        old_primary_is_off=NodeId(off),
        accept_state=accept,
    )


def refused(found: Plan | Refused) -> str:
    assert isinstance(found, Refused), found
    return found.cause


def plan(found: Plan | Refused) -> Plan:
    assert isinstance(found, Plan), found
    return found


def test_the_window_of_loss_is_named() -> None:
    found = plan(look(alone()))
    assert found.kept_lsn == 90
    assert "entries 91 to 100, committed without r2 on n2, are lost" in found.loss
    assert "and whatever was acknowledged after n1 was last heard, " in found.loss
    assert "the files of r1 are kept as they are" in found.loss


def test_under_ack_local_what_was_answered_alone_is_named() -> None:
    """In sync with r3, which is gone too: r1 had answered to 120 and committed to 100."""
    c = FakeCluster()
    c.create(rf=3, min_in_sync=1, ack=AckPolicy.LOCAL)
    c.run(2)
    c.node_ask(1, shrink(c.line(), "r2"))
    c.fact(2, **positions(90, commit=85))
    c.fact(3, **positions(100, commit=100))
    c.fact(1, **positions(130, durable=120, commit=100))
    c.run(1)
    c.kill(3)
    c.kill(1)
    c.run(12)
    found = plan(look(c))
    assert found.kept_lsn == 90
    assert (
        "entries 91 to 100, committed without r2 on n2, entries 101 to 120, answered by n1 alone, are lost"
        in found.loss
    )


def test_what_nobody_reported_is_named_too() -> None:
    c = alone()
    c.fact(2, **positions(100, commit=100))
    c.beat(2)
    found = plan(look(c))
    assert found.kept_lsn == 100
    assert found.loss.startswith("whatever was acknowledged after n1 was last heard, ")
    assert "nothing beyond LSN 100, up to which r2 on n2 has everything" in found.loss


def test_only_what_it_knows_as_committed_is_kept_when_the_terms_differ() -> None:
    """The lost primary restarted in its epoch: below 90 the two logs may hold different entries."""
    c = alone()
    c.fact(2, **positions(90, commit=85, epoch=1))
    fact = c.node(2).slots[V]
    assert fact.last_term is not None
    c.fact(2, last_term=replace(fact.last_term, start=7))
    c.beat(2)
    found = plan(look(c))
    assert found.kept_lsn == 85
    assert "entries 86 to 100" in found.loss


def test_nobody_recovers_while_the_old_primary_may_serve() -> None:
    c = alone()
    assert "may be serving on n1, cut off from the master: nobody says so" in refused(
        look(c, off="")
    )
    assert "'n2' is not its node" in refused(look(c, off="n2"))


def test_a_node_that_is_heard_is_not_off_whatever_is_typed() -> None:
    c = alone()
    c.node(1).opens = False
    c.restart(1)
    c.beat(1)
    # Its disk is fine: it is the one to go on from.
    assert "has every acknowledged write and can serve" in refused(look(c))
    c.fact(1, ready_for_primary=False)
    c.beat(1)
    assert "n1, the node of the primary r1, was heard" in refused(look(c))


@pytest.mark.parametrize(
    "change", [{"disk_failed": True}, {"state": ReplicaState.CONDEMNED}], ids=["disk", "condemned"]
)
def test_the_old_primarys_own_word_that_it_is_over_needs_no_typing(change: dict[str, Any]) -> None:
    c = alone()
    c.fact(1, **change)
    c.node(1).opens = False
    c.restart(1)
    c.beat(1)
    assert plan(look(c, off="")).ask is not None
    c.fact(1, gate_open=True)
    c.beat(1)
    assert "was heard" in refused(look(c, off="")), "but not while it says that it serves"


def test_an_eligible_or_in_sync_replica_that_can_serve_comes_first() -> None:
    c = FakeCluster()
    c.create()
    c.run(2)
    c.node_ask(1, shrink(c.line(), "r3"))
    c.node_ask(1, shrink(c.line(), "r2"))
    assert c.line().eligible == ("r2",)
    c.node(2).opens = False
    assert "r1 on n1 has every acknowledged write" in refused(look(c, "r3", off="n1"))
    c.kill(1)
    assert "r2 on n2 has every acknowledged write" in refused(look(c, "r3", off="n1"))


def test_one_that_was_slow_lately_and_has_everything_comes_first() -> None:
    c = FakeCluster()
    c.create()
    c.run(2)
    c.node_ask(1, shrink(c.line(), "r3"))
    c.fact(2, withdrawn=True, ready_for_primary=True)
    c.node(2).opens = False
    c.run(1)
    c.kill(1)
    assert "r2 on n2 has every acknowledged write" in refused(look(c, "r3", off="n1"))


def test_a_replica_in_no_state_to_serve_needs_its_state_accepted_by_name() -> None:
    c = alone()
    c.fact(2, state=ReplicaState.REBUILDING, ready_for_primary=False)
    c.beat(2)
    assert "a mixture of old and new pages" in refused(look(c))
    assert "is rebuilding" in refused(look(c, accept="quarantined"))
    assert plan(look(c, accept="rebuilding")).state is ReplicaState.REBUILDING
    c.fact(2, state=ReplicaState.CONDEMNED)
    c.beat(2)
    assert "cannot be used" in refused(look(c, accept="rebuilding"))
    c.fact(2, state=ReplicaState.CLEAN, suspect=True)
    c.beat(2)
    assert "lost part of its log" in refused(look(c))
    c.fact(2, suspect=False, uuid=ReplicaUuid("f" * 32))
    c.beat(2)
    assert "not heard with the line's files" in refused(look(c))
    assert "not one of its replicas" in refused(look(c, "r9"))


def stale_line(rf: int = 3) -> tuple[Any, Line]:
    publisher = new_publisher()
    line = minted(publisher.apply(bind(rf)))
    line = minted(publisher.apply(shrink(line, "r3")))
    return publisher, line


def recover(line: Line, replica: str) -> Any:
    return ask(Intent.RECOVER_STALE, replica_id=ReplicaId(replica), basis=line.lineage)


def discard(line: Line, replica: str) -> Any:
    return ask(Intent.DISCARD_DIVERGENT, replica_id=ReplicaId(replica), basis=line.lineage)


def code(result: Any) -> Refusal:
    assert isinstance(result, RefusedAsk), result
    return result.code


def test_the_new_line_is_an_epoch_of_one_with_everybody_else_set_aside() -> None:
    publisher, line = stale_line()
    made = minted(publisher.apply(recover(line, "r3")))
    assert made.lineage == lineage(2, 1)
    assert (made.primary, made.in_sync, made.eligible) == ("r3", ("r3",), ())
    assert made.set_aside == ("r1", "r2")
    assert made.members == line.members
    assert decode_line(encode_line(made)) == made
    assert "set_aside" not in encode_line(line), "records without anybody set aside read as ever"


def gone_on() -> FakeCluster:
    """r1 had committed 100; r2 went on alone at 90, and r3 follows it at 95."""
    c = alone(rf=3)
    found = plan(look(c))
    assert found.ask is not None
    c.step(PlannedAsk(token=1, ask=found.ask))
    c.step(PlannedAsk(token=2, ask=discarded(c, "r3")))
    for number in (2, 3):
        c.fact(number, **positions(95, commit=95, epoch=2))
    c.run(1)
    c.node_ask(2, grow(c.line(), "r3"))
    # r1 is back, and still says what it had.
    c.fact(1, state=ReplicaState.QUARANTINED)
    c.restart(1)
    c.run(1)
    assert c.line().in_sync == ("r2", "r3")
    return c


def test_nobody_has_to_reach_what_was_given_up_before_it_is_discarded() -> None:
    c = gone_on()
    c.kill(2)
    c.run(3)
    assert c.line().primary == "r3"


def test_nobody_has_to_reach_what_was_given_up() -> None:
    c = gone_on()
    c.step(PlannedAsk(token=3, ask=discarded(c, "r1")))
    c.run(1)
    c.kill(2)
    c.run(3)
    assert c.line().primary == "r3"


def discarded(c: FakeCluster, replica: str) -> Ask:
    wanted = discard_ask(c.line(), ReplicaId(replica))
    assert wanted is not None
    return wanted


def test_who_has_everything_is_not_recovered_from() -> None:
    publisher, line = stale_line()
    assert code(publisher.apply(recover(line, "r2"))) is Refusal.MEMBER_IN_USE
    assert code(publisher.apply(recover(line, "r9"))) is Refusal.NOT_A_MEMBER
    stale = replace(recover(line, "r3"), basis=lineage(1, 1))
    assert code(publisher.apply(stale)) is Refusal.STALE_BASIS


def test_who_is_set_aside_neither_grows_nor_goes_until_discarded() -> None:
    publisher, line = stale_line()
    made = minted(publisher.apply(recover(line, "r3")))
    assert code(publisher.apply(grow(made, "r1"))) is Refusal.SET_ASIDE
    made = publisher.line(V)
    assert made.set_aside == ("r1", "r2")
    gone = tuple(one for one in made.members if one.replica_id != "r1")
    without = ask(Intent.SET_MEMBERS, members=gone, basis=made.lineage)
    assert code(publisher.apply(without)) is Refusal.SET_ASIDE
    elsewhere = (member(1, node_id="n9"), *made.members[1:])
    moved = ask(Intent.SET_MEMBERS, members=elsewhere, basis=made.lineage)
    assert code(publisher.apply(moved)) is Refusal.SET_ASIDE
    made = minted(publisher.apply(discard(made, "r1")))
    assert made.set_aside == ("r2",)
    assert code(publisher.apply(discard(made, "r1"))) is Refusal.NOT_SET_ASIDE
    made = minted(publisher.apply(grow(made, "r1")))
    assert made.in_sync == ("r1", "r3")
    # And it stays so over a failover.
    made = minted(publisher.apply(reassign(made, "r1")))
    assert made.set_aside == ("r2",)


def test_files_formatted_over_are_set_aside_no_longer() -> None:
    publisher, line = stale_line()
    made = minted(publisher.apply(recover(line, "r3")))
    renewed = (member(1, uuid="e" * 32), *made.members[1:])
    made = minted(publisher.apply(ask(Intent.SET_MEMBERS, members=renewed, basis=made.lineage)))
    assert made.set_aside == ("r2",)


def test_a_line_that_forgets_whom_it_set_aside_is_a_bug() -> None:
    publisher, line = stale_line()
    made = minted(publisher.apply(recover(line, "r3")))
    with pytest.raises(BrokenInvariant, match="whoever else was a member is set aside"):
        check_transition(line, replace(made, set_aside=("r1",)))
    with pytest.raises(BrokenInvariant, match="alone in sync"):
        check_transition(line, replace(made, in_sync=("r2", "r3"), set_aside=("r1",)))
    with pytest.raises(BrokenInvariant, match="neither in sync nor eligible"):
        check(replace(made, set_aside=("r1", "r3")))
    later = replace(made, lineage=lineage(2, 2), write_seq=made.write_seq + 1)
    with pytest.raises(BrokenInvariant, match="nobody is set aside within an epoch"):
        check_transition(replace(made, set_aside=("r1",)), later)


def test_only_a_replica_that_was_set_aside_is_discarded_by_a_line() -> None:
    publisher, line = stale_line()
    assert discard_ask(line, ReplicaId("r1")) is None
    made = minted(publisher.apply(recover(line, "r3")))
    wanted = discard_ask(made, ReplicaId("r1"))
    assert wanted is not None
    assert wanted.intent is Intent.DISCARD_DIVERGENT
