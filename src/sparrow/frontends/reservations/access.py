"""What a reservation forbids to whom: the tables "commands allowed in the presence of reservations" as one rule.

Commands fall into three sorts, by what they need. Holders may do all; the others as the type says:

    type                            registrants       others
    write exclusive                 read              read
    exclusive access                nothing           nothing
    ... registrants only            read and write    write exclusive: read; exclusive access: nothing
    ... all registrants             (all hold it)     write exclusive: read; exclusive access: nothing

The core holds block commands against the same rule when it gives them their LSN; here it is for commands that Python
answers. Source: SPC-4, 5.13.1, tables 66 and 67; SBC-3, 4.17; NVMe base 2.0, 8.19.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from sparrow.formats.reservations import (
    RESERVATION_NONE,
    RESERVATION_WRITE_EXCLUSIVE,
    RESERVATION_WRITE_EXCLUSIVE_AR,
    RESERVATION_WRITE_EXCLUSIVE_RO,
    ReservationNexus,
    ReservationTable,
)
from sparrow.frontends.reservations.machine import SHARED, holds

_READERS_WELCOME: Final = (
    RESERVATION_WRITE_EXCLUSIVE,
    RESERVATION_WRITE_EXCLUSIVE_RO,
    RESERVATION_WRITE_EXCLUSIVE_AR,
)


class Need(Enum):
    """What a command does to the volume, as reservations see it."""

    NOTHING = "allowed to everybody"
    READ = "reads, or tells what only readers may know"
    WRITE = "writes, or changes how the volume works for others"


def conflicts(table: ReservationTable, nexus: ReservationNexus, need: Need) -> bool:
    """Is the command of this initiator to be refused?"""
    if need is Need.NOTHING or table.type == RESERVATION_NONE or holds(table, nexus):
        return False
    if table.type in SHARED and table.find(nexus) is not None:
        return False
    return need is Need.WRITE or table.type not in _READERS_WELCOME
