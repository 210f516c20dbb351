"""What was asked for and is not seen yet: confirmed, superseded or stuck.

Confirmation needs both sides: the publisher's line and the primary's own words about it. Going stuck is evidence;
it never repeats an ask. Only a store that failed is tried again, with growing pauses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparrow.authority.builder import VolumeSnapshot
from sparrow.authority.types import Ask, Intent, Line, Lineage, RoleClaim
from sparrow.base.constants import RETRY_WINDOW_S
from sparrow.base.ids import VolumeId

PUT_RETRY_FIRST_S = 1.0
PUT_RETRY_MAX_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """One ask on its way. Transient: recomputed after a restart, never persisted."""

    ask: Ask
    desired_at: float
    stuck: bool = False
    #: Put failures so far, and when to try again; None while nothing is to be repeated.
    failures: int = 0
    retry_at: float | None = None
    last_evaluated_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """Asked for, minted or not, and not seen within the window."""

    volume_id: VolumeId
    ask: Ask
    proposed_basis: Lineage | None
    desired_at: float
    stuck_at: float
    reason: str = "ConvergenceStuck"


def confirmed(desired: Desired, line: Line | None, snapshot: VolumeSnapshot | None) -> bool:
    """Whether the line says what was asked and the primary itself says that it acts on it."""
    ask = desired.ask
    if line is None or not _newer(line.lineage, ask.basis):
        return False
    if ask.intent is Intent.RETIRE:
        return line.retired
    if ask.intent is Intent.SET_MEMBERS:
        files = {(member.replica_id, member.uuid) for member in line.members}
        return {(member.replica_id, member.uuid) for member in ask.members} <= files
    if line.primary != ask.replica_id or snapshot is None:
        return False
    slot = snapshot.slot(line.primary)
    if slot is None or not slot.covered or slot.fact is None or slot.fact.lineage is None:
        return False
    fact, seen = slot.fact, slot.fact.lineage
    if ask.intent is Intent.REFRESH_ENDPOINT:
        wanted = ask.members[0]
        addresses = (fact.data_addr, fact.ctrl_addr) == (wanted.data_addr, wanted.ctrl_addr)
        return addresses and _newer(seen, ask.basis)
    return (
        seen.epoch == line.lineage.epoch and fact.role_claim is RoleClaim.PRIMARY and fact.gate_open
    )


def superseded(desired: Desired, line: Line | None) -> bool:
    """Whether the line moved on to somebody else. The basis itself, or lag, is no reason."""
    ask = desired.ask
    basis_epoch = 0 if ask.basis is None else ask.basis.epoch
    return line is not None and line.lineage.epoch > basis_epoch and line.primary != ask.replica_id


def stuck_evidence(desired: Desired, volume_id: VolumeId, now: float) -> Stuck | None:
    """New evidence when the window has passed; None before, and after it was given once."""
    if desired.stuck or now < desired.desired_at + RETRY_WINDOW_S:
        return None
    return Stuck(
        volume_id=volume_id,
        ask=desired.ask,
        proposed_basis=desired.ask.basis,
        desired_at=desired.desired_at,
        stuck_at=now,
    )


def after_failure(desired: Desired, now: float) -> Desired:
    """The same ask again, later each time."""
    pause = min(PUT_RETRY_FIRST_S * 2**desired.failures, PUT_RETRY_MAX_S)
    return replace(desired, failures=desired.failures + 1, retry_at=now + pause)


def _newer(lineage: Lineage, basis: Lineage | None) -> bool:
    return basis is None or lineage > basis
