"""The machine of a primary's peers, fed event by event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from sparrow.authority.adapter import SessionIds
from sparrow.authority.types import Line, Member
from sparrow.base.ids import LinkId, Lsn, ReplicaId
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.link_ids import Link, LinkIds, OpeningLink
from sparrow.node.peers.machine import Peers
from sparrow.ports.dataplane import PeerPhase, PeerStatus
from sparrow.rpc.messages import JoinAnswerOutcome
from tests.support.lines import member, rid, term, uuid_of

E = TypeVar("E")


class Driver:
    """Feeds one machine, collects what it wants, and answers the dull parts."""

    def __init__(
        self,
        of: Line,
        *,
        linked: str = "",
        pending: str = "",
        live: bool = True,
        handed: Mapping[ReplicaId, OpeningLink] | None = None,
    ) -> None:
        self.now = 100.0
        ids = LinkIds()
        links = dict(handed or {})
        for name in linked:
            links[rid(name)] = OpeningLink(link=ids.next(), stage=Link.UP, joined_lsn=Lsn(10))
        self.links = {replica: made.link for replica, made in links.items()}
        self.peers = Peers(
            line=of,
            replica=rid("a"),
            term=term(of.lineage.epoch),
            pending=tuple(map(rid, pending)),
            links=links,
            link_ids=ids,
            sessions=SessionIds(1),
            control_live=live,
            now=self.now,
        )
        self.wanted: list[fx.PrimaryEffect] = []
        self.tell(ev.Tick())

    def tell(self, event: ev.PrimaryEvent, *, after: float = 0.0) -> None:
        self.now += after
        effects = self.peers.step(event, self.now)
        self.wanted.extend(effects)
        begun = (fx.SendJoin, fx.PrepareRebuild, fx.StartShip)
        self.links.update({e.replica: e.link for e in effects if isinstance(e, begun)})

    def newest(self, name: str) -> LinkId:
        """Of the links to a peer."""
        return self.links.get(rid(name), LinkId(0))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        turns = 0
        while (at := self.peers.wake_at) is not None and at <= until:
            turns += 1
            assert turns < 1000, "the machine wakes without end"
            self.now = max(self.now, at)
            self.tell(ev.Tick())
        self.now = until

    def take(self, kind: type[E]) -> list[E]:
        found = [effect for effect in self.wanted if isinstance(effect, kind)]
        self.wanted = [effect for effect in self.wanted if not isinstance(effect, kind)]
        return found

    def reported(self, name: str) -> int:
        return sum(1 for e in self.wanted if isinstance(e, fx.Report) and e.event == name)

    def joined(self, name: str, lsn: int, *, head: int, **changes: object) -> None:
        answer = {
            "replica": rid(name),
            "link": self.newest(name),
            "uuid": uuid_of(name),
            "outcome": JoinAnswerOutcome.JOINED,
            "joined_lsn": Lsn(lsn),
            "check_matches": True,
            "oldest_lsn": Lsn(1),
            "head_lsn": Lsn(head),
            **changes,
        }
        self.tell(ev.JoinAnswered(**answer))  # type: ignore[arg-type]

    def seen(
        self, name: str, acked: int, *, head: int, granted: bool = True, silent_ms: int = 0
    ) -> None:
        status = PeerStatus(
            slot=0,
            phase=PeerPhase.SHIPPING,
            acked_lsn=Lsn(acked),
            shipped_lsn=Lsn(head),
            granted=granted,
            silent_ms=silent_ms,
            base_pages_done=0,
            base_pages_total=0,
        )
        self.tell(ev.PeersSeen(peers=((rid(name), status),), oldest_lsn=Lsn(1), head_lsn=Lsn(head)))

    def catch_up(self, name: str, *, head: int = 20) -> None:
        """From a join that misses nothing to fed and caught up."""
        self.joined(name, head, head=head)
        self.tell(ev.ShipStarted(replica=rid(name), link=self.newest(name)))
        self.tell(ev.PeerAcked(replica=rid(name), lsn=Lsn(head)))

    def make_pending(self, name: str, *, frozen: int) -> None:
        self.tell(ev.PendingRecorded(pending=(rid(name),)))
        self.tell(ev.MembershipSet(needed=(rid(name),), frozen_lsn=Lsn(frozen)))


def elsewhere(name: str) -> Member:
    """The same replica slot on files of its own, at another address: its disk was replaced."""
    return replace(member(name, uuid_of("x")), data_addr=f"n{name}:other")
