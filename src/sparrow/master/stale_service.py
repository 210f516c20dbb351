"""VolumeService's two verbs for a volume that lost everyone who had its last writes; ``authority.stale`` has the rules.

What is about to be done is in the audit before it is done. The line is minted without an await after the look that
allowed it, and on that line as its basis; a node is told about files only when it has acted on the line that allows it.
A call that ends in the middle is repeated: it goes on where things stand.
"""

from __future__ import annotations

from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.authority.builder import Slot, VolumeSnapshot
from sparrow.authority.recovery import AuditEntry
from sparrow.authority.results import Minted
from sparrow.authority.stale import DOUBTFUL, Refused, discard_ask, weigh
from sparrow.authority.types import Ask, Line, ReplicaState, VolumePhase
from sparrow.base import events
from sparrow.base.errors import FailedPrecondition, InvalidArgument, NotFound, SparrowError
from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from sparrow.lifecycle.spec import check_name
from sparrow.master.driver import Driver
from sparrow.ports.store import AuthorityStore
from sparrow.rpc import methods
from sparrow.rpc.client import Channel
from sparrow.rpc.messages import (
    DiscardDivergentAnswer,
    DiscardDivergentRequest,
    RecoverStaleAnswer,
    RecoverStaleRequest,
    ReleaseReplicaRequest,
)
from sparrow.rpc.proof import Keys
from sparrow.rpc.server import Call, Route, unary

TEXT_BYTES_MAX: Final = 256
#: How long a node may take to act on a line it is told of, and to answer.
ACTS_S: Final = 5.0
RELEASE_S: Final = 5.0


class StaleService:
    """Going on from a stale replica, and giving up what was kept then."""

    def __init__(
        self,
        driver: Driver,
        store: AuthorityStore,
        *,
        log: FilteringBoundLogger,
        keys: Keys | None = None,
    ) -> None:
        self._keys = keys
        self._driver = driver
        self._authority = driver.authority
        self._store = store
        self._log = log

    def routes(self) -> tuple[Route, ...]:
        return (
            unary(methods.RECOVER_STALE, self.recover),
            unary(methods.DISCARD_DIVERGENT, self.discard),
        )

    async def recover(self, request: RecoverStaleRequest, _call: Call) -> RecoverStaleAnswer:
        """Make a replica that missed writes the primary of its volume, alone.

        Raises:
            InvalidArgument: the request makes no sense, or the volume's name was not repeated.
            NotFound: there is no such volume.
            FailedPrecondition: something better can be had, or the old primary may be serving.
        """
        what = "recover"
        _check_texts(what, request.who, request.replica_id, request.old_primary_is_off)
        if request.accept_state and request.accept_state not in DOUBTFUL:
            names = " or ".join(sorted(DOUBTFUL))
            raise InvalidArgument(f"{what} refused: accept_state is not {names}")
        if not request.plan_only:
            _check_confirmed(what, request.name, request.confirm)
        snapshot = self._look(what, request.name)
        plan = weigh(
            snapshot,
            ReplicaId(request.replica_id),
            old_primary_is_off=NodeId(request.old_primary_is_off),
            accept_state=request.accept_state,
        )
        if isinstance(plan, Refused):
            raise FailedPrecondition(
                f"Volume {request.name} is not recovered: {plan.cause}.", hint=plan.hint
            )
        if request.plan_only:
            return RecoverStaleAnswer(loss=plan.loss, kept_lsn=plan.kept_lsn, line=None)
        line = snapshot.live_line
        assert line is not None, "a plan has a line"
        if plan.ask is not None:
            said = request.old_primary_is_off
            word = f"{said} is off by the operator's word" if said else "its own node says so"
            detail = f"from {request.replica_id}; {word}; {plan.loss}"
            line = self._mint(plan.ask, verb="recover-from-stale", who=request.who, detail=detail)
        if plan.state in DOUBTFUL:
            await self._release(line, request.replica_id, ReplicaState.CLEAN, request.who)
        return RecoverStaleAnswer(loss=plan.loss, kept_lsn=plan.kept_lsn, line=line)

    async def discard(
        self, request: DiscardDivergentRequest, _call: Call
    ) -> DiscardDivergentAnswer:
        """Let a replica be rebuilt whose files were kept; they are gone then.

        Raises:
            InvalidArgument: the volume's name was not repeated.
            NotFound: there is no such volume or replica.
            FailedPrecondition: it holds nothing that was kept, or its files cannot be opened and may be needed.
        """
        what = "discard"
        _check_texts(what, request.who, request.replica_id)
        _check_confirmed(what, request.name, request.confirm)
        snapshot = self._look(what, request.name)
        line, slot = snapshot.live_line, snapshot.slot(ReplicaId(request.replica_id))
        if line is None or slot is None:
            raise NotFound(f"Volume {request.name} has no replica {request.replica_id!r}.")
        ask = discard_ask(line, slot.replica_id)
        unreadable = _is_unreadable(slot)
        if unreadable and slot.replica_id in (*line.in_sync, *line.eligible):
            raise FailedPrecondition(
                f"{slot.replica_id} of volume {request.name} may hold what no other replica has.",
                hint="Bring its files back, or go on without them: `sparrow volume recover --from-stale`.",
            )
        if ask is None and not unreadable and not _is_quarantined(line, slot):
            raise FailedPrecondition(
                f"{slot.replica_id} of volume {request.name} is neither set aside nor unreadable.",
                hint=f"`sparrow volume show {request.name}` shows the state of every replica.",
            )
        detail = f"the files of {slot.replica_id} on {slot.node_id} are not wanted any more"
        if ask is not None:
            line = self._mint(ask, verb="discard-divergent", who=request.who, detail=detail)
        else:
            self._note(request.name, "discard-divergent", request.who, detail)
        try:
            await self._release(line, slot.replica_id, ReplicaState.REBUILDING, request.who)
        except SparrowError as error:
            self._log.warning(events.CALL_FAILED, call="release replica", cause=str(error))
            return DiscardDivergentAnswer(line=line, released=False)
        return DiscardDivergentAnswer(line=line, released=True)

    # ---------------------------------------------------------------- helpers

    def _look(self, what: str, name: str) -> VolumeSnapshot:
        """A volume with a line that is believed and wanted. Raises: InvalidArgument, NotFound, FailedPrecondition."""
        check_name(name)
        volume_id = VolumeId(name)
        snapshot = self._authority.snapshot(volume_id, self._driver.clock.now())
        if self._authority.publisher.quarantined(volume_id):
            raise FailedPrecondition(
                f"The record of volume {name} is not believed: {what} refused.",
                hint="`sparrow authority recover` or `repair` comes first.",
            )
        if snapshot.live_line is None:
            raise NotFound(f"There is no volume {name!r} with a line.")
        if snapshot.desired is not None and snapshot.desired.phase is VolumePhase.DELETING:
            raise FailedPrecondition(f"Volume {name} is being deleted: {what} refused.")
        return snapshot

    def _mint(self, ask: Ask, *, verb: str, who: str, detail: str) -> Line:
        self._note(ask.volume_id, verb, who, detail)
        result = self._driver.plan(ask)
        if not isinstance(result, Minted):
            cause = getattr(result, "message", None) or getattr(result, "cause", "nothing changed")
            raise FailedPrecondition(
                f"The line of volume {ask.volume_id} was not minted: {cause}.", hint="Try again."
            )
        return result.line

    def _note(self, volume_id: str, verb: str, who: str, detail: str) -> None:
        """Raises: StorageError; then nothing is done either."""
        self._store.append_audit(
            AuditEntry(verb=verb, volume_id=VolumeId(volume_id), who=who, detail=detail)
        )
        self._log.warning(
            events.AUTHORITY_OVERRIDDEN, verb=verb, volume=volume_id, who=who, detail=detail
        )

    async def _release(self, line: Line, replica_id: str, state: ReplicaState, who: str) -> None:
        """Tell a replica's node, once it has acted on the line, what to think of its files. Raises: SparrowError."""
        member = line.member(ReplicaId(replica_id))
        assert member is not None, "checked"

        def slot() -> Slot | None:
            now = self._driver.clock.now()
            return self._authority.snapshot(line.volume_id, now).slot(member.replica_id)

        def acted() -> bool:
            found = slot()
            if found is not None and _is_unreadable(found):
                return True  # what cannot be opened acts on nothing; its node knows which line it was told
            fact = None if found is None or not found.sight.up else found.fact
            return fact is not None and fact.lineage is not None and fact.lineage >= line.lineage

        await self._driver.until(acted, timeout_s=ACTS_S)
        found = slot()
        told = None if found is None else found.fact or found.stranger
        address = member.ctrl_addr if told is None else told.ctrl_addr
        channel = Channel(address, who=f"node {member.node_id}", keys=self._keys)
        request = ReleaseReplicaRequest(
            line=line, replica_id=member.replica_id, uuid=member.uuid, state=state, who=who
        )
        try:
            await channel.call(methods.RELEASE_REPLICA, request, timeout_s=RELEASE_S)
        finally:
            await channel.close()


def _is_quarantined(line: Line, slot: Slot) -> bool:
    """Set aside by its own node: what it had applied is not in the primary's log."""
    counted = slot.replica_id in (*line.in_sync, *line.eligible)
    quarantined = slot.fact is not None and slot.fact.state is ReplicaState.QUARANTINED
    return quarantined and not counted


def _is_unreadable(slot: Slot) -> bool:
    """Its node says, now, that it has such files and cannot open them."""
    return (
        slot.fact is None
        and slot.sight.up
        and slot.stranger is not None
        and slot.stranger.unreadable
    )


def _check_texts(what: str, who: str, replica_id: str, node_id: str = "") -> None:
    for field, value in (("who", who), ("replica_id", replica_id), ("old_primary_is_off", node_id)):
        if len(value.encode()) > TEXT_BYTES_MAX:
            raise InvalidArgument(f"{what} refused: {field} is longer than {TEXT_BYTES_MAX} bytes")
    if not replica_id:
        raise InvalidArgument(f"{what} refused: replica_id is missing")


def _check_confirmed(what: str, name: str, confirm: str) -> None:
    if confirm != name:
        raise InvalidArgument(
            f"{what} refused: confirm is {confirm[:64]!r}, not the volume's name",
            hint="What may lose data needs the volume's name once more.",
        )
