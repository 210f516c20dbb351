"""The machine of a primary's peers, fed event by event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sparrow.authority.adapter import SessionIds
from sparrow.authority.types import Line, Member
from sparrow.base.ids import Lsn, ReplicaId
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.link_ids import Link, LinkIds, OpeningLink
from sparrow.node.peers.machine import Peers
from sparrow.ports.dataplane import PeerPhase, PeerStatus
from sparrow.rpc.messages import JoinAnswerOutcome
from tests.support.lines import member, rid, term, uuid_of
from tests.support.machine_driver import MachineDriver


class Driver(MachineDriver):
    """Answers the dull parts."""

    BEGIN = (fx.SendJoin, fx.PrepareRebuild, fx.StartShip)

    def __init__(
        self,
        of: Line,
        *,
        linked: str = "",
        pending: str = "",
        live: bool = True,
        handed: Mapping[ReplicaId, OpeningLink] | None = None,
    ) -> None:
        now = 100.0
        ids = LinkIds()
        links = dict(handed or {})
        for name in linked:
            links[rid(name)] = OpeningLink(link=ids.next(), stage=Link.UP, joined_lsn=Lsn(10))
        self.peers = Peers(
            line=of,
            replica=rid("a"),
            term=term(of.lineage.epoch),
            pending=tuple(map(rid, pending)),
            links=links,
            link_ids=ids,
            sessions=SessionIds(1),
            control_live=live,
            now=now,
        )
        super().__init__(self.peers, now=now)
        self.links = {replica: made.link for replica, made in links.items()}
        self.tell(ev.Tick())

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
        """From a join that misses nothing to fed, granting and caught up."""
        self.joined(name, head, head=head)
        self.tell(ev.ShipStarted(replica=rid(name), link=self.newest(name)))
        self.seen(name, head, head=head)
        self.tell(ev.PeerAcked(replica=rid(name), lsn=Lsn(head)))

    def make_pending(self, name: str, *, frozen: int) -> None:
        self.tell(ev.PendingRecorded(pending=(rid(name),)))
        self.tell(ev.MembershipSet(needed=(rid(name),), frozen_lsn=Lsn(frozen)))


def elsewhere(name: str) -> Member:
    """The same replica slot on files of its own, at another address: its disk was replaced."""
    return replace(member(name, uuid_of("x")), data_addr=f"n{name}:other")
