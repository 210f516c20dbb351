"""The value a finished login becomes: everything the full-feature phase starts from.

For a normal session it is handed to the native core together with the socket; for a discovery session it starts
``DiscoverySession``. Nothing else of the login survives.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.negotiation import OperationalParameters


class SessionType(Enum):
    """Source: RFC 7143, 13.21."""

    NORMAL = "Normal"
    DISCOVERY = "Discovery"


#: What makes two sessions the same nexus: initiator name, ISID, target name, portal group tag (RFC 7143, 4.4.3).
Nexus = tuple[str, bytes, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class NegotiatedSession:
    """One session as its login left it.

    Attributes:
        target_name: empty in a discovery session, as are volume_id and group_tag 0.
        isid: 6 bytes chosen by the initiator.
        tsih: ours, never 0.
        exp_cmd_sn: CmdSN of the next non-immediate command.
        max_cmd_sn: last CmdSN the initiator was told it may use.
        stat_sn: StatSN of the next response.
        exp_stat_sn: what the initiator acknowledged last.
        parameters: segment, burst and R2T limits, digest flags.
        residual: bytes read from the socket after the last Login Request; the full-feature phase starts with them.
    """

    session_type: SessionType
    initiator_name: str
    initiator_alias: str
    target_name: str
    volume_id: VolumeId | None
    group_tag: int
    isid: bytes
    tsih: int
    cid: int
    exp_cmd_sn: int
    max_cmd_sn: int
    stat_sn: int
    exp_stat_sn: int
    parameters: OperationalParameters
    residual: bytes = b""

    @property
    def nexus(self) -> Nexus:
        """A new session with the nexus of a living one replaces it (session reinstatement, RFC 7143, 6.3.5)."""
        return (self.initiator_name, self.isid, self.target_name, self.group_tag)
