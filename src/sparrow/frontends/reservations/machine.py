"""What each command makes of the table of reservations: one rule for PERSISTENT RESERVE OUT and for NVMe.

NVMe took its reservations from SCSI, so both protocols are front doors of these functions. Each takes the newest table
and who asks, and gives a :class:`Change`; ``table`` is None when there is nothing to log. Who is refused gets a
:class:`Refusal`, and the table stays.

The generation grows with every command that registers, clears or preempts and succeeds, changed or not, and with no
other; one that gives up a registration that is not there does nothing at all. Source: SPC-4, 5.13.2 and table 67.

Source: SPC-4, 5.13 and 6.16; NVMe base 2.0, 8.19.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from sparrow.formats.reservations import (
    ALL_HOLD,
    ONE_HOLDER,
    RESERVATION_EXCLUSIVE_ACCESS,
    RESERVATION_EXCLUSIVE_ACCESS_RO,
    RESERVATION_NONE,
    RESERVATION_REGISTRANTS_MAX,
    RESERVATION_WRITE_EXCLUSIVE_RO,
    ReservationNexus,
    ReservationRegistrant,
    ReservationTable,
)

TYPES: Final = (*ONE_HOLDER, *ALL_HOLD)
#: Registrants may do what the holder may, so they are told when the reservation ends.
SHARED: Final = (RESERVATION_WRITE_EXCLUSIVE_RO, RESERVATION_EXCLUSIVE_ACCESS_RO, *ALL_HOLD)
_GENERATIONS: Final = 1 << 32


class Notice(Enum):
    """What an initiator is told that did not ask."""

    RESERVATIONS_PREEMPTED = "reservations preempted"
    RESERVATIONS_RELEASED = "reservations released"
    REGISTRATIONS_PREEMPTED = "registrations preempted"


class Reason(Enum):
    """Why a command was refused."""

    CONFLICT = "reservation conflict"
    #: All places of the table are taken.
    FULL = "no place for another registrant"
    #: The holder releases another type than it holds.
    OTHER_TYPE = "the reservation is of another type"
    #: A key of 0 where it names nobody.
    NO_KEY = "a key is needed"
    #: There is no reservation to move.
    NOTHING_HELD = "nothing is reserved"
    #: Who moves a reservation named itself.
    OWN_NEXUS = "the reservation would stay where it is"


class Refusal(Exception):
    """The command changes nothing."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What came of a command.

    Attributes:
        table: to be logged in place of the one that was looked at; None when that stays.
        notices: whom to tell what, once it is committed.
        aborted: whose commands to end then, before it is answered.
    """

    table: ReservationTable | None = None
    notices: tuple[tuple[ReservationNexus, Notice], ...] = ()
    aborted: tuple[ReservationNexus, ...] = ()


def notices(
    before: ReservationTable, table: ReservationTable
) -> tuple[tuple[ReservationNexus, Notice], ...]:
    """Whom a change concerns, for a node that did not make it: from the table before it and the one it left.

    The same as ``Change.notices``, but that whoever asked for the change is told too where the table does not name it:
    after CLEAR, and where all registrants hold the reservation. For SCSI that is meant so: its other paths are other
    I_T nexuses (SPC-4, 5.13.11).
    """
    kept = {one.nexus for one in table.registrants}
    others = [one.nexus for one in table.registrants if one.nexus != table.holder]
    told: list[tuple[ReservationNexus, Notice]] = []
    if table.by_preempt:
        told += [
            (one.nexus, Notice.REGISTRATIONS_PREEMPTED)
            for one in before.registrants
            if one.nexus not in kept
        ]
        if before.type not in (RESERVATION_NONE, table.type):
            told += [(nexus, Notice.RESERVATIONS_RELEASED) for nexus in others]
    elif not kept and len(before.registrants) > 1:
        told = [(one.nexus, Notice.RESERVATIONS_PREEMPTED) for one in before.registrants]
    elif before.type in SHARED and table.type == RESERVATION_NONE:
        told = [(nexus, Notice.RESERVATIONS_RELEASED) for nexus in others]
    return tuple(told)


def holds(table: ReservationTable, nexus: ReservationNexus) -> bool:
    """Is it this initiator that holds the reservation, alone or as all registrants do?"""
    if table.type in ALL_HOLD:
        return table.find(nexus) is not None
    return table.holder == nexus


# ---------------------------------------------------------------- registrations


def register(
    table: ReservationTable,
    nexus: ReservationNexus,
    *,
    key: int | None,
    new_key: int,
    aptpl: bool | None = None,
    port: int = 0,
) -> Change:
    """Register, take another key, or (``new_key`` 0) unregister.

    Args:
        key: what the initiator says its key is, 0 for none; None when that is not to be looked at.
        aptpl: whether all of it is to persist through a loss of power; None leaves that as it is.
        port: relative target port the command came through.
    Raises: Refusal: CONFLICT, FULL.
    """
    _refuse_reserved(table)
    own = table.find(nexus)
    if key is not None and key != (0 if own is None else own.key):
        raise Refusal(Reason.CONFLICT)
    if aptpl is not None:
        table = replace(table, aptpl=aptpl)
    if new_key == 0:
        # Who has nothing to give up is granted that, and nothing is done: SPC-4, 5.13.7, table 67.
        return Change() if own is None else _without(table, nexus)
    made = ReservationRegistrant(nexus=nexus, key=new_key, port=port)
    if own is not None:
        rows = tuple(made if one.nexus == nexus else one for one in table.registrants)
    elif len(table.registrants) >= RESERVATION_REGISTRANTS_MAX:
        raise Refusal(Reason.FULL)
    else:
        rows = (*table.registrants, made)
    return Change(table=_grown(replace(table, registrants=rows)))


def registered_too(
    table: ReservationTable, others: Iterable[ReservationNexus], *, key: int, port: int
) -> ReservationTable:
    """The table after a registration that was meant for others too; who has a key keeps it. Raises: Refusal: FULL.

    It counts as one command with that registration, so the generation stays. Source: SPC-4, 5.13.7.
    """
    missing = dict.fromkeys(nexus for nexus in others if table.find(nexus) is None)
    rows = tuple(ReservationRegistrant(nexus=nexus, key=key, port=port) for nexus in missing)
    if len(table.registrants) + len(rows) > RESERVATION_REGISTRANTS_MAX:
        raise Refusal(Reason.FULL)
    return replace(table, registrants=(*table.registrants, *rows))


def register_and_move(
    table: ReservationTable,
    nexus: ReservationNexus,
    *,
    key: int,
    new_key: int,
    to: ReservationNexus,
    port: int,
    unregister: bool = False,
    aptpl: bool = False,
) -> Change:
    """The holder gives its reservation to another nexus, which is registered with ``new_key`` whether it was or not.

    Args:
        port: relative target port that nexus is registered with.
        unregister: the one who gives it away is no registrant any more.
    Raises: Refusal: CONFLICT (it is not the holder alone), NOTHING_HELD, NO_KEY, OWN_NEXUS, FULL.
    Source: SPC-4, 5.13.8.
    """
    _registered(table, nexus, key)
    if table.type == RESERVATION_NONE:
        raise Refusal(Reason.NOTHING_HELD)
    if table.holder != nexus:
        raise Refusal(Reason.CONFLICT)
    if new_key == 0:
        raise Refusal(Reason.NO_KEY)
    if to == nexus:
        raise Refusal(Reason.OWN_NEXUS)
    made = ReservationRegistrant(nexus=to, key=new_key, port=port)
    rows = tuple(
        made if one.nexus == to else one
        for one in table.registrants
        if not (unregister and one.nexus == nexus)
    )
    if made not in rows:
        rows = (*rows, made)
    if len(rows) > RESERVATION_REGISTRANTS_MAX:
        raise Refusal(Reason.FULL)
    return Change(table=_grown(replace(table, registrants=rows, holder=to, aptpl=aptpl)))


def clear(table: ReservationTable, nexus: ReservationNexus, *, key: int) -> Change:
    """Drop the reservation and every registration. Raises: Refusal: CONFLICT."""
    _registered(table, nexus, key)
    cleared = replace(table, registrants=(), type=int(RESERVATION_NONE), holder=None)
    return Change(
        table=_grown(cleared),
        notices=_tell(table, nexus, Notice.RESERVATIONS_PREEMPTED),
    )


def _without(table: ReservationTable, nexus: ReservationNexus) -> Change:
    """The initiator unregisters; what it alone holds ends with that. Source: SPC-4, 5.13.11.2.3."""
    rows = tuple(one for one in table.registrants if one.nexus != nexus)
    ends = table.holder == nexus or (table.type in ALL_HOLD and not rows)
    notices: tuple[tuple[ReservationNexus, Notice], ...] = ()
    if ends and table.type in SHARED:
        notices = _tell(table, nexus, Notice.RESERVATIONS_RELEASED)
    table = replace(table, registrants=rows)
    return Change(table=_grown(_released(table) if ends else table), notices=notices)


# ---------------------------------------------------------------- the reservation


def reserve(table: ReservationTable, nexus: ReservationNexus, *, key: int, kind: int) -> Change:
    """Hold the volume; ``kind`` is a type of SPC-4. Raises: Refusal: CONFLICT."""
    assert kind in TYPES
    _registered(table, nexus, key)
    if table.type != RESERVATION_NONE:
        if table.type == kind and holds(table, nexus):
            return Change()
        raise Refusal(Reason.CONFLICT)
    return Change(table=_held(table, nexus, kind))


def release(table: ReservationTable, nexus: ReservationNexus, *, key: int, kind: int) -> Change:
    """Hold it no more; whoever does not hold it has released it already. Raises: Refusal: CONFLICT, OTHER_TYPE."""
    _registered(table, nexus, key)
    if not holds(table, nexus):
        return Change()
    if table.type != kind:
        raise Refusal(Reason.OTHER_TYPE)
    notices: tuple[tuple[ReservationNexus, Notice], ...] = ()
    if table.type in SHARED:
        notices = _tell(table, nexus, Notice.RESERVATIONS_RELEASED)
    return Change(table=_released(table), notices=notices)


def preempt(
    table: ReservationTable,
    nexus: ReservationNexus,
    *,
    key: int,
    victim: int,
    kind: int,
    abort: bool = False,
) -> Change:
    """Take registrations away, and the reservation where ``victim`` holds it.

    Args:
        victim: the key of those who lose theirs; 0 means everybody else, where all registrants hold the reservation.
        kind: type of the reservation that comes instead of one that is taken over.
        abort: end the commands of those who lose something too.
    Raises: Refusal: CONFLICT (nobody has that key), NO_KEY.
    Source: SPC-4, 5.13.11.2.4 to 5.13.11.2.6.
    """
    assert kind in TYPES
    _registered(table, nexus, key)
    everybody = table.type in ALL_HOLD and victim == 0
    if victim == 0 and not everybody:
        raise Refusal(Reason.NO_KEY)
    lost = {
        one.nexus
        for one in table.registrants
        if (one.nexus != nexus if everybody else one.key == victim)
    }
    if not lost and not everybody:
        raise Refusal(Reason.CONFLICT)
    takes_over = everybody or (table.holder is not None and table.holder in lost)
    if takes_over:
        lost.discard(nexus)
    kept = tuple(one for one in table.registrants if one.nexus not in lost)
    told = tuple(
        (one.nexus, Notice.REGISTRATIONS_PREEMPTED)
        for one in table.registrants
        if one.nexus in lost and one.nexus != nexus
    )
    after = replace(table, registrants=kept)
    if takes_over:
        if kind != table.type:
            told += _tell(after, nexus, Notice.RESERVATIONS_RELEASED)
        after = _held(after, nexus, kind)
    elif table.type in ALL_HOLD and not kept:
        after = _released(after)
    return Change(
        table=replace(_grown(after), by_preempt=True),
        notices=told,
        aborted=tuple(one.nexus for one in table.registrants if abort and one.nexus in lost),
    )


# ---------------------------------------------------------------- RESERVE(6) and RELEASE(6)


def reserve_unit(table: ReservationTable, nexus: ReservationNexus) -> Change:
    """RESERVE(6): keep everybody else out until RELEASE(6), a reset, or the end of the session.

    Where initiators have registered, the command is granted to those whom the reservation lets in, and does nothing
    (CRH). Raises: Refusal: CONFLICT. Source: SPC-2, 5.5 and 7.21; SPC-4, 5.13.3.
    """
    if table.by_reserve:
        if table.holder == nexus:
            return Change()
        raise Refusal(Reason.CONFLICT)
    if table.registrants:
        _refuse_outsider(table, nexus)
        return Change()
    row = ReservationRegistrant(nexus=nexus, key=0)
    return Change(
        table=replace(
            table,
            registrants=(row,),
            type=int(RESERVATION_EXCLUSIVE_ACCESS),
            holder=nexus,
            by_reserve=True,
            by_preempt=False,
        )
    )


def release_unit(table: ReservationTable, nexus: ReservationNexus) -> Change:
    """RELEASE(6); from anybody but the holder it is granted and does nothing. Raises: Refusal: CONFLICT."""
    if table.by_reserve:
        return reserve_ended(table) if table.holder == nexus else Change()
    if table.registrants:
        _refuse_outsider(table, nexus)
    return Change()


def reserve_ended(table: ReservationTable) -> Change:
    """What RESERVE(6) made ends by itself: a reset, or its holder's session ended. Source: SPC-2, 5.5.1."""
    if not table.by_reserve:
        return Change()
    return Change(table=replace(_released(table), registrants=(), by_reserve=False))


def _refuse_outsider(table: ReservationTable, nexus: ReservationNexus) -> None:
    shared = table.type in SHARED and table.find(nexus) is not None
    if not shared and not holds(table, nexus):
        raise Refusal(Reason.CONFLICT)


# ---------------------------------------------------------------- parts of them


def _refuse_reserved(table: ReservationTable) -> None:
    """While RESERVE(6) holds the unit nobody registers, not its holder either. Source: SPC-2, 5.5.1."""
    if table.by_reserve:
        raise Refusal(Reason.CONFLICT)


def _registered(table: ReservationTable, nexus: ReservationNexus, key: int) -> None:
    _refuse_reserved(table)
    own = table.find(nexus)
    if own is None or own.key != key:
        raise Refusal(Reason.CONFLICT)


def _grown(table: ReservationTable) -> ReservationTable:
    generation = (table.generation + 1) % _GENERATIONS
    return replace(table, generation=generation, by_preempt=False)


def _held(table: ReservationTable, nexus: ReservationNexus, kind: int) -> ReservationTable:
    holder = None if kind in ALL_HOLD else nexus
    return replace(table, type=kind, holder=holder, by_preempt=False)


def _released(table: ReservationTable) -> ReservationTable:
    return replace(table, type=int(RESERVATION_NONE), holder=None, by_preempt=False)


def _tell(
    table: ReservationTable, asker: ReservationNexus, notice: Notice
) -> tuple[tuple[ReservationNexus, Notice], ...]:
    """Every registrant but the one who asked."""
    return tuple(_others(table.registrants, asker, notice))


def _others(
    registrants: Iterable[ReservationRegistrant], asker: ReservationNexus, notice: Notice
) -> Iterable[tuple[ReservationNexus, Notice]]:
    return ((one.nexus, notice) for one in registrants if one.nexus != asker)
