"""Whether what another process asks of this node makes sense by itself; one that does not changes nothing here."""

from __future__ import annotations

import re
from typing import Final

from sparrow.authority.invariants import BrokenInvariant, check
from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base.constants import VOLUME_NAME_BYTES_MAX
from sparrow.base.errors import RemoteProtocolError
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.rpc.messages import ReleaseReplicaRequest

#: What is kept on disk as a signed number must fit it.
COUNTER_END: Final = 1 << 63
WHO_BYTES_MAX: Final = 256
_UUID: Final = re.compile(r"[0-9a-f]{32}")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_volume_id(volume_id: VolumeId) -> None:
    """Raises RemoteProtocolError when no volume can have this id."""
    if not volume_id:
        raise RemoteProtocolError("volume_id is missing")
    if len(volume_id.encode()) > VOLUME_NAME_BYTES_MAX or _ID.fullmatch(volume_id) is None:
        raise RemoteProtocolError(f"volume_id is {volume_id[:64]!r}, which is no id")


def check_term(term: Term) -> None:
    """Raises RemoteProtocolError for a term nobody can have."""
    for field, value in (("term.epoch", term.epoch), ("term.start", term.start)):
        if not 0 < value < COUNTER_END:
            raise RemoteProtocolError(f"{field} is {value}, which nobody counts to")


def check_release(request: ReleaseReplicaRequest) -> None:
    """Raises RemoteProtocolError naming the first field of an operator's word about files that is off."""
    _check_line(request.line.volume_id, request.line)
    if not request.replica_id:
        raise RemoteProtocolError("replica_id is missing")
    if _UUID.fullmatch(request.uuid) is None:
        raise RemoteProtocolError(f"uuid is {request.uuid[:64]!r}, not 32 lower-case hex digits")
    if request.state not in (ReplicaState.CLEAN, ReplicaState.REBUILDING):
        raise RemoteProtocolError(f"state is {request.state}, not clean or rebuilding")
    if len(request.who.encode()) > WHO_BYTES_MAX:
        raise RemoteProtocolError(f"who is longer than {WHO_BYTES_MAX} bytes")


def check_shown(volume_id: VolumeId, line: Line, term: Term, primary: ReplicaId) -> None:
    """What a primary shows must hold together before it is compared with what is known here.

    Raises: RemoteProtocolError.
    """
    _check_line(volume_id, line)
    check_term(term)
    if not primary:
        raise RemoteProtocolError("primary is missing")


def _check_line(volume_id: VolumeId, line: Line) -> None:
    check_volume_id(volume_id)
    if line.volume_id != volume_id:
        raise RemoteProtocolError("line.volume_id is another volume's")
    try:
        check(line)
    except BrokenInvariant as broken:
        raise RemoteProtocolError(f"line contradicts itself: {broken}") from broken
    if line.retired:
        raise RemoteProtocolError("line is a tombstone, which nobody is primary under")
    counters = (line.lineage.epoch, line.lineage.endpoint_version, line.write_seq)
    if max(*counters, line.master_generation) >= COUNTER_END:
        raise RemoteProtocolError("line is beyond every line")
