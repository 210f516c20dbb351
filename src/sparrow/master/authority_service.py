"""AuthorityService: the recorded lines, what is not believed, and an operator's word about it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.authority import recovery as rules
from sparrow.authority.ordered import walk
from sparrow.authority.recovery import AuditEntry, Finding, MarkKind, Recovered
from sparrow.authority.types import Line, SkippedRecord
from sparrow.base import events
from sparrow.base.errors import FailedPrecondition, InvalidArgument, NotFound
from sparrow.base.ids import VolumeId
from sparrow.lifecycle.spec import check_name
from sparrow.master.driver import Driver
from sparrow.master.incoming import check_text
from sparrow.master.recover import Recovery
from sparrow.master.skips import Skips
from sparrow.ports.store import AuthorityStore
from sparrow.rpc import methods
from sparrow.rpc.messages import (
    AuthorityStatus,
    AuthorityStatusRequest,
    BackupChunk,
    BackupRequest,
    GiveUpNodeAnswer,
    GiveUpNodeRequest,
    RecoverAnswer,
    RecoverRequest,
    RecoveryPlan,
    RecoveryPlanRequest,
    RecoveryVerb,
    StoreCopyView,
    UnconfirmedVolume,
)
from sparrow.rpc.paging import Walk, paged
from sparrow.rpc.server import Call, Route, stream, unary

#: Audit entries shown with the status.
AUDIT_SHOWN: Final = 50
WHO_BYTES_MAX: Final = 256
CHUNK_BYTES: Final = 1 << 20
#: Sorts before every character of a name.
NAMELESS: Final = "!"


class AuthorityService:
    """Looking at authority, and the few verbs that overrule what it would do by itself.

    Args:
        volume_skips: desired volumes whose rows were damaged at start.
        copies: nodes that keep a copy of the store.
    """

    def __init__(
        self,
        driver: Driver,
        recovery: Recovery,
        store: AuthorityStore,
        *,
        master_generation: int,
        volume_skips: tuple[SkippedRecord, ...],
        copies: Callable[[], tuple[StoreCopyView, ...]] = tuple,
        log: FilteringBoundLogger,
    ) -> None:
        self._driver = driver
        self._publisher = driver.authority.publisher
        self._recovery = recovery
        self._store = store
        self._generation = master_generation
        self._volume_skips = volume_skips
        self._damaged_wishes = {one.volume_id for one in volume_skips if one.volume_id}
        self._copies = copies
        self._skips = Skips((), ())
        self._log = log

    def routes(self) -> tuple[Route, ...]:
        return (
            paged(methods.AUTHORITY_STATUS, self.status),
            unary(methods.RECOVERY_PLAN, self.plan),
            unary(methods.RECOVER, self.recover),
            unary(methods.GIVE_UP_NODE, self.give_up_node),
            stream(methods.BACKUP, self.backup),
        )

    async def status(self, _request: AuthorityStatusRequest, after: str) -> Walk[AuthorityStatus]:
        """By volume, behind the records of which not even the name could be read."""
        head = AuthorityStatus(master_generation=self._generation, skipped=(), lines=())
        if not after:
            head = replace(
                head,
                awaited_nodes=self._recovery.awaited,
                audit=self._store.audit(AUDIT_SHOWN),
                copies=self._copies(),
            )
        return Walk(head, self._entries(after))

    def _entries(self, after: str) -> Iterator[tuple[str, AuthorityStatus | None]]:
        """Keys are names; of a record without one ``!``, which sorts before every name, and its place among those."""
        part = AuthorityStatus(master_generation=self._generation, skipped=(), lines=())
        skips = self._skips_now()
        if not after or after.startswith(NAMELESS):
            for place, skip in enumerate(skips.nameless):
                key = f"{NAMELESS}{place:08d}"
                if key > after:
                    yield key, replace(part, skipped=(skip,))
            after = ""
        authority = self._driver.authority
        for volume_id in walk(
            after,
            self._publisher.names,
            self._publisher.unconfirmed_names,
            authority.unheard_names,
            skips.names,
        ):
            line = self._publisher.line(volume_id)
            found = replace(
                part,
                skipped=tuple(self._skipped(volume_id)),
                lines=() if line is None else (line,),
                unconfirmed=tuple(self._unconfirmed(volume_id)),
            )
            shown = found.skipped or found.lines or found.unconfirmed
            yield volume_id, found if shown else None

    async def plan(self, request: RecoveryPlanRequest, _call: Call) -> RecoveryPlan:
        """What is known of a volume now and what the verb would do to it by force."""
        finding = await self._look(request.volume_id)
        loss = rules.loss(finding)
        if request.verb is RecoveryVerb.RESET:
            loss = "The volume ends: its record becomes a tombstone, and every node deletes its files of it."
        return RecoveryPlan(
            volume_id=finding.volume_id,
            newest=finding.newest,
            missing=finding.missing,
            loss=loss,
            previous=self._store.previous_records([finding.volume_id]).get(finding.volume_id, ""),
        )

    async def recover(self, request: RecoverRequest, _call: Call) -> RecoverAnswer:
        """Let a volume go on, or end it, on an operator's word.

        Raises:
            InvalidArgument: force without the volume's name.
            NotFound: nobody knows such a volume.
            FailedPrecondition: its record is believed; or nodes are missing and force was not asked for.
        """
        if len(request.who.encode()) > WHO_BYTES_MAX:
            raise InvalidArgument(f"recover refused: who is longer than {WHO_BYTES_MAX} bytes")
        if request.force and request.confirm != request.volume_id:
            raise InvalidArgument(
                f"recover refused: confirm is {request.confirm[:64]!r}, not the volume's name",
                hint="Force needs the volume's name once more.",
            )
        if request.verb is RecoveryVerb.RESET and not request.force:
            raise InvalidArgument(
                "recover refused: force is missing", hint="A reset deletes the volume's data."
            )
        if request.verb is RecoveryVerb.REPAIR and self._has_only_a_damaged_wish(request.volume_id):
            return RecoverAnswer(line=self._repair_wish(request))
        finding = await self._look(request.volume_id)
        self._check_verb(request, finding)
        line = self._line_for(request, finding)
        what = "forced" if request.force else "confirmed"
        missing = "; ".join(finding.missing) or "nothing missing"
        detail = f"{what}: {missing}. {rules.loss(finding)}"
        self._recovery.take_over(
            finding, line, verb=request.verb.name.lower(), who=request.who, detail=detail
        )
        if request.verb is RecoveryVerb.RESET:
            self._forget_wish(request.volume_id)
        if request.force:
            self._log.warning(
                events.AUTHORITY_OVERRIDDEN,
                verb=request.verb.name.lower(),
                volume=request.volume_id,
                who=request.who,
                detail=detail,
            )
        return RecoverAnswer(line=line)

    async def give_up_node(self, request: GiveUpNodeRequest, _call: Call) -> GiveUpNodeAnswer:
        """Stop waiting for a node that was named when the master was rebuilt."""
        if len(request.who.encode()) > WHO_BYTES_MAX:
            raise InvalidArgument(f"give up refused: who is longer than {WHO_BYTES_MAX} bytes")
        check_text("give up", "address", request.address)
        if request.address not in self._recovery.awaited:
            raise NotFound(
                f"No answer is awaited from {request.address[:64]!r}.",
                hint="`sparrow authority status` lists the nodes that are awaited.",
            )
        if request.confirm != request.address:
            raise InvalidArgument("give up refused: confirm is not the node's address")
        self._recovery.give_up(request.address, request.who)
        return GiveUpNodeAnswer(awaited_nodes=self._recovery.awaited)

    async def backup(self, _request: BackupRequest, _call: Call) -> AsyncGenerator[BackupChunk]:
        """A copy of the whole store as it is at one moment."""
        with tempfile.TemporaryDirectory(prefix="sparrow-backup-") as directory:
            path = Path(directory) / "authority.db"
            # Read before the copy is made: what is counted then is in it.
            revision = self._store.revision
            await asyncio.to_thread(self._store.backup_to, path)
            with path.open("rb") as file:
                while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield BackupChunk(
                        data=data, master_generation=self._generation, revision=revision
                    )

    # ---------------------------------------------------------------- helpers

    async def _look(self, name: str) -> Finding:
        """Ask all nodes once more and weigh what is known. Raises: NotFound, FailedPrecondition."""
        check_name(name)
        volume_id = VolumeId(name)
        self._refuse_believed(volume_id)
        await self._recovery.ask()
        self._refuse_believed(volume_id)
        finding = self._recovery.find(volume_id)
        if not self._publisher.quarantined(volume_id):
            known = self._driver.authority.desired(volume_id) is not None
            nobody = not finding.holders and volume_id not in self._damaged_wishes
            if finding.newest is None and (known or nobody):
                raise NotFound(
                    f"Neither the master nor any node that answered knows a volume {name!r}."
                )
            if finding.newest is not None:
                self._recovery.doubt(volume_id)
        return finding

    def _refuse_believed(self, volume_id: VolumeId) -> None:
        line = self._publisher.line(volume_id)
        if line is not None:
            at = f"({line.lineage.epoch},{line.lineage.endpoint_version})"
            raise FailedPrecondition(
                f"The record of volume {volume_id} is believed, its line is {at}.",
                hint="There is nothing to recover.",
            )

    def _has_only_a_damaged_wish(self, volume_id: VolumeId) -> bool:
        """Whether the record of what was asked for is damaged, and the line is not."""
        return volume_id in self._damaged_wishes and not self._publisher.quarantined(volume_id)

    def _repair_wish(self, request: RecoverRequest) -> Line:
        """Record what is wanted as the volume's line says it. Raises: FailedPrecondition: it has no line."""
        volume_id = request.volume_id
        line = self._publisher.line(volume_id)
        if line is None:
            raise FailedPrecondition(
                f"What was asked for as volume {volume_id} is damaged, and the volume never had a line.",
                hint="`sparrow authority reset` frees the name.",
            )
        detail = "what is wanted is recorded as the line says"
        audit = AuditEntry(verb="repair", volume_id=volume_id, who=request.who, detail=detail)
        if line.retired:
            self._store.append_audit(audit)
            self._forget_wish(volume_id)
            return line
        wanted = rules.desired_of(line, None)
        self._publisher.record_wish(
            Recovered(volume_id=volume_id, basis=None, line=None, desired=wanted, audit=audit)
        )
        assert wanted is not None, "of a living line something is wanted"
        self._mended(volume_id)
        self._recovery.wanted_again(wanted)
        self._log.warning(
            events.LINE_RECOVERED,
            volume=volume_id,
            verb="repair",
            who=request.who,
            epoch=line.lineage.epoch,
            detail=detail,
        )
        return line

    def _wanted_again(self, volume_id: VolumeId | None) -> bool:
        """Whether a recovery has recorded anew what a damaged row said."""
        return volume_id is not None and self._driver.authority.desired(volume_id) is not None

    def _forget_wish(self, volume_id: VolumeId) -> None:
        """Of a volume that has ended nothing is wanted, whatever a damaged row said. Raises: StorageError."""
        if volume_id in self._damaged_wishes:
            self._store.delete_volume(volume_id)
            self._mended(volume_id)

    def _mended(self, volume_id: VolumeId) -> None:
        self._damaged_wishes.discard(volume_id)
        self._volume_skips = tuple(one for one in self._volume_skips if one.volume_id != volume_id)

    def _skips_now(self) -> Skips:
        """Put in order anew when they changed."""
        if not self._skips.are_of(self._publisher.skips, self._volume_skips):
            self._skips = Skips(self._publisher.skips, self._volume_skips)
        return self._skips

    def _skipped(self, volume_id: VolumeId) -> Iterator[SkippedRecord]:
        skips = self._skips_now()
        yield from skips.lines.get(volume_id, ())
        if not self._wanted_again(volume_id):
            yield from skips.volumes.get(volume_id, ())

    def _unheard(self, volume_id: VolumeId) -> Iterator[UnconfirmedVolume]:
        """Files that were made for a volume nothing is recorded of, and that never served."""
        heard = self._driver.authority.unheard(volume_id)
        if heard and volume_id not in self._skips_now().volumes:
            yield UnconfirmedVolume(
                volume_id=volume_id,
                kind=MarkKind.UNKNOWN,
                cause="nothing is recorded of it; `sparrow authority reset` removes its files from "
                + ", ".join(f"{one.sight.node_id} ({one.fact.replica_id})" for one in heard),
                newest=None,
                missing=(),
            )

    def _check_verb(self, request: RecoverRequest, finding: Finding) -> None:
        mark = self._publisher.unconfirmed.get(request.volume_id)
        damaged = mark is not None and mark.kind is MarkKind.DAMAGED
        if request.verb is RecoveryVerb.REPAIR and not damaged:
            raise FailedPrecondition(
                f"The record of volume {request.volume_id} is not damaged.",
                hint="`sparrow authority recover` is for volumes that are unconfirmed.",
            )
        if request.verb is RecoveryVerb.RECOVER and finding.newest is None and mark is None:
            raise FailedPrecondition(
                f"Nobody acted on a line of volume {request.volume_id}; files that never served are on"
                f" {', '.join(finding.holders) or 'no node'}.",
                hint="`sparrow authority reset` removes what there is of it.",
            )
        if request.verb is RecoveryVerb.RECOVER and damaged:
            raise FailedPrecondition(
                f"The record of volume {request.volume_id} is damaged.",
                hint="`sparrow authority repair` is for damaged records.",
            )

    def _line_for(self, request: RecoverRequest, finding: Finding) -> Line | None:
        nothing = finding.confirmed and finding.newest is None
        # The damaged row was of a line that no node has: the volume goes on above it, never at the first epoch again.
        if request.verb is RecoveryVerb.RESET or (nothing and request.verb is RecoveryVerb.REPAIR):
            return rules.reset_line(
                finding,
                self._driver.authority.desired(finding.volume_id),
                self._store.recorded_epoch(finding.volume_id),
                self._generation,
                epoch_floor=self._publisher.epoch_floor,
            )
        if nothing:
            return None
        if finding.confirmed:
            return rules.confirmed_line(finding, self._generation)
        if not request.force:
            raise FailedPrecondition(
                f"Volume {finding.volume_id} cannot be confirmed: {'; '.join(finding.missing)}.",
                hint=f"Bring them back, or use --force. {rules.loss(finding)}",
            )
        return rules.forced_line(finding, self._generation)

    def _unconfirmed(self, volume_id: VolumeId) -> Iterator[UnconfirmedVolume]:
        mark = self._publisher.unconfirmed.get(volume_id)
        if mark is None:
            yield from self._unheard(volume_id)
            return
        finding = self._recovery.find(volume_id)
        yield UnconfirmedVolume(
            volume_id=volume_id,
            kind=mark.kind,
            cause=mark.cause,
            newest=None if finding.newest is None else finding.newest.lineage,
            missing=finding.missing,
        )
