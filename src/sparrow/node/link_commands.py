"""Making links to peers: join their logs, prepare their rebuild, connect them to the core.

One link to a peer is made at a time, and each has one outcome, whatever went wrong.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sparrow.authority.types import Peer
from sparrow.base import events as names
from sparrow.base.errors import SparrowError
from sparrow.base.ids import Lsn, ReplicaId
from sparrow.formats.hello import Hello, LinkKind
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.term import INTERNAL, TermPlace
from sparrow.ports.dataplane import LogSummary
from sparrow.rpc.messages import JoinAnswerOutcome, JoinRequest, PrepareRebuildRequest

LINK_TIMEOUT_S: Final = 1.0
PREPARE_TIMEOUT_S: Final = 30.0


class LinkCommands:
    """Each ends with the event that tells its outcome."""

    def __init__(self, term: TermPlace) -> None:
        self._term = term
        #: Connections that are being made, none of which is the core's yet; one at a time to each peer.
        self._connecting: dict[ReplicaId, asyncio.Task[None]] = {}

    def connecting(self, replica: ReplicaId, task: asyncio.Task[None]) -> None:
        """The command ``ship`` runs as this task; an older one of the same peer was ended."""
        self._connecting[replica] = task

    def end_connecting(self, replica: ReplicaId) -> None:
        """Of a link that nobody wants any more: the core would get it after what is wanted now."""
        task = self._connecting.pop(replica, None)
        if task is not None:
            task.cancel()

    async def join(self, effect: fx.SendJoin) -> ev.PrimaryEvent:
        replica, link = effect.replica, effect.link
        try:
            peer = self._term.owner.peer(replica)
            log = (await self._term.around.dataplane.status(self._term.volume_id)).log
            request = JoinRequest(
                volume_id=self._term.volume_id,
                replica_id=replica,
                term=effect.term,
                primary=self._term.replica,
                log=log,
                line=self._term.owner.line,
            )
            answer = await self._term.around.calls.join(
                peer.ctrl_addr, request, timeout_s=effect.timeout_s
            )
            now = (await self._term.around.dataplane.status(self._term.volume_id)).log
            matches = answer.outcome is JoinAnswerOutcome.JOINED and await self._matches(
                answer.joined_lsn, answer.joined_check, now
            )
        except Exception as error:  # noqa: BLE001 - the link has one outcome, whatever went wrong
            cause, superseded = self._no_link("join", error)
            return ev.JoinFailed(replica=replica, link=link, cause=cause, superseded=superseded)
        return ev.JoinAnswered(
            replica=replica,
            link=link,
            uuid=answer.log.uuid,
            outcome=answer.outcome,
            joined_lsn=answer.joined_lsn,
            check_matches=matches,
            oldest_lsn=now.oldest_lsn,
            head_lsn=now.last_lsn,
            detail=answer.detail,
        )

    async def _matches(self, lsn: Lsn, check: int, log: LogSummary) -> bool:
        """Whether both logs hold the same batch there, as far as ours still reaches."""
        if lsn == 0:
            return True
        ours = await self._term.around.dataplane.check_at(self._term.volume_id, lsn)
        if ours is None:
            # Recycled: whether the log still reaches is told by the LSNs, and the follower compares the parent
            # of the first batch it is shipped.
            return lsn < log.oldest_lsn
        return ours == check

    async def prepare_rebuild(self, effect: fx.PrepareRebuild) -> ev.PrimaryEvent:
        try:
            peer = self._term.owner.peer(effect.replica)
            status = await self._term.around.dataplane.status(self._term.volume_id)
            known = status.absence(effect.uuid)
            request = PrepareRebuildRequest(
                volume_id=self._term.volume_id,
                replica_id=effect.replica,
                term=effect.term,
                primary=self._term.replica,
                log=status.log,
                line=self._term.owner.line,
                changed_from=None if known is None else known.from_lsn,
            )
            answer = await self._term.around.calls.prepare_rebuild(
                peer.ctrl_addr, request, timeout_s=PREPARE_TIMEOUT_S
            )
        except Exception as error:  # noqa: BLE001 - the link has one outcome, whatever went wrong
            cause, superseded = self._no_link("prepare_rebuild", error)
            return ev.RebuildRefused(
                replica=effect.replica, link=effect.link, cause=cause, superseded=superseded
            )
        return ev.RebuildPrepared(
            replica=effect.replica, link=effect.link, uuid=answer.uuid, plan=answer.plan
        )

    async def ship(self, effect: fx.StartShip) -> ev.PrimaryEvent:
        """Nothing is awaited between the connection and the command: the core has it, or it is being made."""
        try:
            try:
                peer = self._term.owner.peer(effect.replica)
                slot = self._term.owner.slots.slot(effect.replica)
                key = self._term.around.keys.key(peer.node_id)
                fd = await self._term.around.links.connect(
                    peer.data_addr, self._hello(peer, effect), timeout_s=LINK_TIMEOUT_S
                )
            finally:
                if self._connecting.get(effect.replica) is asyncio.current_task():
                    del self._connecting[effect.replica]
            await self._term.around.dataplane.ship(
                self._term.volume_id,
                slot,
                key,
                fd,
                link=effect.link,
                joined_lsn=effect.joined_lsn,
                rebuild=effect.rebuild,
                uuid=effect.uuid,
            )
        except Exception as error:  # noqa: BLE001 - the link has one outcome, whatever went wrong
            cause, superseded = self._no_link("ship", error)
            return ev.ShipFailed(
                replica=effect.replica, link=effect.link, cause=cause, superseded=superseded
            )
        return ev.ShipStarted(
            replica=effect.replica, link=effect.link, rebuild=effect.rebuild is not None
        )

    def _no_link(self, command: str, error: Exception) -> tuple[str, bool]:
        """Why a link is not made, and whether the term is over. Of a bug nobody but the log hears more."""
        if isinstance(error, SparrowError):
            self._term.note_conflict(error)
            return str(error), self._term.is_over_for(error)
        self._term.log.error(names.COMMAND_FAILED, command=command, exc_info=error)
        return INTERNAL, False

    def _hello(self, peer: Peer, effect: fx.StartShip) -> Hello:
        return Hello(
            kind=LinkKind.SHIP,
            cluster_id=self._term.around.cluster_id(),
            from_node=self._term.around.me.node_id,
            to_node=peer.node_id,
            volume_id=self._term.volume_id,
            from_replica=self._term.replica,
            to_replica=effect.replica,
            uuid=effect.uuid,
            term_epoch=effect.term.epoch,
            term_start=effect.term.start,
        )
