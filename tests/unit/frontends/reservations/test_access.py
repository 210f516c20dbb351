"""What a reservation forbids: every type, every role, every sort of command."""

from __future__ import annotations

import pytest

from sparrow.formats.reservations import (
    ALL_HOLD,
    ReservationNexus,
    ReservationRegistrant,
    ReservationTable,
)
from sparrow.frontends.reservations.access import Need, conflicts

HOLDER, REGISTRANT, OTHER = (
    ReservationNexus(kind=1, identifier=bytes(16), name=name) for name in ("h", "r", "o")
)
ROLES = {"holder": HOLDER, "registrant": REGISTRANT, "other": OTHER}

#: What each role may do under each type: SPC-4, table 66.
ALLOWED = {
    0: {"holder": "rw", "registrant": "rw", "other": "rw"},
    1: {"holder": "rw", "registrant": "r", "other": "r"},
    3: {"holder": "rw", "registrant": "", "other": ""},
    5: {"holder": "rw", "registrant": "rw", "other": "r"},
    6: {"holder": "rw", "registrant": "rw", "other": ""},
    7: {"holder": "rw", "registrant": "rw", "other": "r"},
    8: {"holder": "rw", "registrant": "rw", "other": ""},
}


def table_of(kind: int) -> ReservationTable:
    return ReservationTable(
        registrants=(
            ReservationRegistrant(nexus=HOLDER, key=1),
            ReservationRegistrant(nexus=REGISTRANT, key=2),
        ),
        type=kind,
        holder=None if kind in ALL_HOLD or kind == 0 else HOLDER,
    )


@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_what_the_type_says(kind: int, role: str) -> None:
    table, allowed = table_of(kind), ALLOWED[kind][role]
    assert conflicts(table, ROLES[role], Need.READ) is ("r" not in allowed)
    assert conflicts(table, ROLES[role], Need.WRITE) is ("w" not in allowed)
    assert not conflicts(table, ROLES[role], Need.NOTHING)


def test_reserve_6_keeps_everybody_else_out() -> None:
    table = ReservationTable(
        registrants=(ReservationRegistrant(nexus=HOLDER, key=0),),
        type=3,
        holder=HOLDER,
        by_reserve=True,
    )
    assert not conflicts(table, HOLDER, Need.WRITE)
    assert conflicts(table, OTHER, Need.READ)


def test_one_name_with_another_isid_is_another_initiator() -> None:
    other = ReservationNexus(kind=1, identifier=bytes(15) + b"\1", name=HOLDER.name)
    assert conflicts(table_of(3), other, Need.READ)
