"""Target port groups: how good the path through this node is. One group, this replica's own.

A node whose gate is closed never reports a group as optimized, its own or another's; it knows nothing certain of
the others, so it names only itself, and an initiator asks each path.

Source: SPC-4, 5.15 and 6.37 (REPORT TARGET PORT GROUPS).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sparrow.frontends.scsi.sense import INVALID_FIELD_IN_CDB, ScsiError
from sparrow.frontends.scsi.unit import LogicalUnit, UnitState


class AccessState(IntEnum):
    """Source: SPC-4, table 304."""

    OPTIMIZED = 0x0
    NON_OPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3
    TRANSITIONING = 0xF


ACCESS_STATES: Final = {
    UnitState.OPTIMIZED: AccessState.OPTIMIZED,
    UnitState.STANDBY: AccessState.STANDBY,
    UnitState.TRANSITIONING: AccessState.TRANSITIONING,
    UnitState.WRITES_HELD: AccessState.TRANSITIONING,
    UnitState.NO_SPACE: AccessState.OPTIMIZED,
    UnitState.FAILED: AccessState.UNAVAILABLE,
}
assert set(ACCESS_STATES) == set(UnitState), "every state has its answer"

#: T_SUP U_SUP S_SUP AO_SUP: the states a group can be in. Source: SPC-4, table 303.
_STATES_SUPPORTED: Final = 0x80 | 0x08 | 0x04 | 0x01
#: Implicit change only: the volume moves by decision of the cluster, SET TARGET PORT GROUPS is refused.
_STATUS_IMPLICIT: Final = 0x02
_SETTING_IMPLICIT_TRANSITION_S: Final = 2

_FORMAT_LENGTH_ONLY: Final = 0x00
_FORMAT_EXTENDED: Final = 0x01


@dataclass(frozen=True, slots=True, kw_only=True)
class PortGroup:
    """One target port group and its ports."""

    group: int
    state: AccessState
    relative_ports: tuple[int, ...]

    def encode(self) -> bytes:
        """One target port group descriptor. Source: SPC-4, table 303."""
        return struct.pack(
            ">BBHxBxB",
            self.state,
            _STATES_SUPPORTED,
            self.group,
            _STATUS_IMPLICIT,
            len(self.relative_ports),
        ) + b"".join(struct.pack(">2xH", port) for port in self.relative_ports)


def port_groups(unit: LogicalUnit) -> tuple[PortGroup, ...]:
    """The groups this node vouches for."""
    return (
        PortGroup(
            group=unit.port_group,
            state=ACCESS_STATES[unit.state],
            relative_ports=(unit.relative_port,),
        ),
    )


def report_target_port_groups(cdb: bytes, groups: Sequence[PortGroup]) -> bytes:
    """Parameter data in the format byte 1 asks for."""
    parameter_format = cdb[1] >> 5
    body = b"".join(group.encode() for group in groups)
    if parameter_format == _FORMAT_EXTENDED:
        body = struct.pack(">BB2x", 0x10, _SETTING_IMPLICIT_TRANSITION_S) + body
    elif parameter_format != _FORMAT_LENGTH_ONLY:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(1, 7))
    return struct.pack(">I", len(body)) + body
