"""Links to the peers of an open volume, event by event: which one is meant, and what one that fails leaves."""

from __future__ import annotations

import pytest

from sparrow.authority.adapter import START_DEADLINE_S
from sparrow.base.ids import LinkId, Lsn
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.link_ids import Link, LinkIds, OpeningLink
from sparrow.node.peers.state import Stage
from sparrow.ports.dataplane import RebuildKind, RebuildPlan
from tests.support.lines import line, member, rid, uuid_of
from tests.support.peers_driver import Driver, elsewhere

FULL = RebuildPlan(kind=RebuildKind.FULL)


def fed_again(driver: Driver) -> tuple[LinkId, LinkId]:
    """A peer whose link broke and whose next one is being made; gives both ids."""
    old = driver.newest("b")
    driver.tell(ev.LinkLost(replica=rid("b"), link=old, cause="closed"))
    driver.joined("b", 10, head=10)
    (ship,) = driver.take(fx.StartShip)
    driver.take(fx.SendJoin)
    assert ship.link != old
    return old, ship.link


def test_the_end_of_an_older_link_is_not_that_of_the_newer() -> None:
    """The follower closes the older one when the newer reaches it: heard before the newer is known to stand."""
    driver = Driver(line(1, 1, "a", "ab", members="ab"), linked="b")
    old, new = fed_again(driver)
    driver.tell(ev.LinkLost(replica=rid("b"), link=old, cause="closed"))
    assert not driver.take(fx.SendJoin)
    driver.tell(ev.ShipStarted(replica=rid("b"), link=new))
    driver.tell(ev.LinkLost(replica=rid("b"), link=old, cause="closed"))
    driver.wait(10.0)
    assert not driver.take(fx.SendJoin)
    assert not driver.take(fx.AskShrink)
    driver.tell(ev.LinkLost(replica=rid("b"), link=new, cause="closed"))
    assert [join.replica for join in driver.take(fx.SendJoin)] == ["b"]


def test_the_end_of_a_link_is_believed_before_it_is_known_to_stand() -> None:
    driver = Driver(line(1, 1, "a", "ab", members="ab"), linked="b")
    _old, new = fed_again(driver)
    driver.tell(ev.LinkLost(replica=rid("b"), link=new, cause="protocol"))
    driver.wait(0.1)
    (join,) = driver.take(fx.SendJoin)
    driver.tell(ev.ShipStarted(replica=rid("b"), link=new))
    assert driver.peers.peers[rid("b")].stage is Stage.JOINING, "what was made is over"
    driver.wait(0.2)
    assert driver.take(fx.AskShrink), "nobody feeds it"
    driver.joined("b", 10, head=10)
    driver.tell(ev.ShipStarted(replica=rid("b"), link=join.link))
    assert driver.peers.peers[rid("b")].stage is Stage.FEEDING


def test_what_is_said_of_an_older_link_is_void_at_every_stage() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    old = driver.newest("b")
    driver.tell(ev.JoinFailed(replica=rid("b"), link=old, cause="refused"))
    driver.wait(1.1)
    assert driver.newest("b") != old
    driver.tell(ev.JoinFailed(replica=rid("b"), link=old, cause="refused"))
    driver.joined("b", 10, head=10, link=old)
    assert driver.peers.peers[rid("b")].stage is Stage.JOINING
    driver.joined("b", 5, head=60, oldest_lsn=Lsn(50))
    driver.tell(ev.RebuildPrepared(replica=rid("b"), link=old, uuid=uuid_of("b"), plan=FULL))
    driver.tell(ev.RebuildRefused(replica=rid("b"), link=old, cause="gone"))
    assert driver.peers.peers[rid("b")].stage is Stage.PREPARING
    driver.tell(
        ev.RebuildPrepared(replica=rid("b"), link=driver.newest("b"), uuid=uuid_of("b"), plan=FULL)
    )
    driver.tell(ev.ShipStarted(replica=rid("b"), link=old, rebuild=True))
    driver.tell(ev.ShipFailed(replica=rid("b"), link=old, cause="gone"))
    driver.tell(ev.BaseComplete(replica=rid("b"), link=old, lsn=Lsn(60)))
    assert driver.peers.peers[rid("b")].stage is Stage.CONNECTING


def test_a_copy_that_ends_before_its_link_is_known_to_stand_has_ended() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 5, head=60, oldest_lsn=Lsn(50))
    link = driver.newest("b")
    driver.tell(ev.RebuildPrepared(replica=rid("b"), link=link, uuid=uuid_of("b"), plan=FULL))
    driver.tell(ev.BaseComplete(replica=rid("b"), link=link, lsn=Lsn(60)))
    driver.tell(ev.ShipStarted(replica=rid("b"), link=link, rebuild=True))
    driver.seen("b", 60, head=60)
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(60)))
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=(rid("b"),))]


@pytest.mark.parametrize("stage", [Link.JOINING, Link.CONNECTING])
def test_a_link_that_the_opening_was_making_is_not_begun_a_second_time(stage: Link) -> None:
    made = OpeningLink(link=LinkIds().next(), stage=stage, joined_lsn=Lsn(10))
    driver = Driver(line(1, 1, "a", "abc"), handed={rid("b"): made}, linked="c")
    assert not driver.take(fx.SendJoin)
    if stage is Link.JOINING:
        driver.joined("b", 10, head=10)
        (ship,) = driver.take(fx.StartShip)
        assert ship.link == made.link
    driver.tell(ev.ShipStarted(replica=rid("b"), link=made.link))
    driver.wait(10.0)
    assert driver.peers.peers[rid("b")].stage is Stage.FEEDING
    assert not driver.take(fx.SendJoin)
    assert not driver.take(fx.StartShip)


def test_a_link_that_the_opening_was_making_and_that_fails_is_made_anew() -> None:
    made = OpeningLink(link=LinkIds().next(), stage=Link.CONNECTING, joined_lsn=Lsn(10))
    driver = Driver(line(1, 1, "a", "abc"), handed={rid("b"): made}, linked="c")
    driver.tell(ev.ShipFailed(replica=rid("b"), link=made.link, cause="refused"))
    driver.wait(0.1)
    assert [join.replica for join in driver.take(fx.SendJoin)] == ["b"]
    driver.wait(0.2)
    assert [ask.replica for ask in driver.take(fx.AskShrink)] == ["b"]


def test_s1_a_pending_peer_whose_link_broke_at_the_end_of_the_opening_is_needed_all_the_same() -> (
    None
):
    """The ask of an earlier process may still be answered with a line that has it in sync."""
    driver = Driver(line(1, 1, "a", "a", members="ab"), pending="b")
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(rid("b"),), writable=True)]
    driver.tell(ev.MembershipSet(needed=(rid("b"),), frozen_lsn=Lsn(20)))
    driver.catch_up("b")
    driver.seen("b", 20, head=20)
    driver.wait(0.1)
    driver.tell(ev.MembershipSet(needed=(rid("b"),), frozen_lsn=Lsn(20)))
    driver.seen("b", 20, head=20)
    assert [ask.replica for ask in driver.take(fx.AskGrow)] == ["b"]


@pytest.mark.parametrize("late", [False, True], ids=["never", "late"])
def test_a_peer_whose_catch_up_does_not_start_in_time_is_joined_anew_and_grown(
    late: bool,
) -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 10, head=20)
    link = driver.newest("b")
    driver.wait(START_DEADLINE_S - 0.1)
    assert not driver.take(fx.DropPeer)
    driver.wait(0.2)
    assert driver.take(fx.DropPeer) == [fx.DropPeer(replica=rid("b"))]
    if late:
        driver.tell(ev.ShipStarted(replica=rid("b"), link=link))
        driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(20)))
    driver.wait(2.0)
    assert driver.newest("b") != link
    assert not driver.take(fx.RecordPending)
    driver.catch_up("b")
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=(rid("b"),))]


def test_a_peer_that_is_given_up_while_it_connects_is_dropped() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 20, head=20)
    (ship,) = driver.take(fx.StartShip)
    moved = line(1, 2, "a", "a", members=(member("a"), elsewhere("b")))
    driver.tell(ev.LineChanged(line=moved))
    assert driver.take(fx.DropPeer) == [fx.DropPeer(replica=rid("b"))]
    driver.tell(ev.ShipStarted(replica=rid("b"), link=ship.link))
    assert driver.peers.peers[rid("b")].stage is Stage.JOINING
