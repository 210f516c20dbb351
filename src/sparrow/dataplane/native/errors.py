"""What the core refuses, as errors."""

from __future__ import annotations

import errno
import os

from sparrow.base.errors import (
    DamagedData,
    EpochConflict,
    NotFound,
    OutcomeUnknown,
    SparrowError,
    StaleEpoch,
    StorageError,
    Unavailable,
    Withdrawn,
)
from sparrow.base.ids import VolumeId
from sparrow.dataplane.events import Mail


def error_of(command: str, volume_id: VolumeId, answer: Mail) -> SparrowError:
    """The error for a command that was answered with a negative errno."""
    code = -answer.rc
    if code == errno.ESTALE:
        return StaleEpoch(
            f"Volume {volume_id!r}: {command} refused, epoch {answer.a} is promised here."
        )
    if code == errno.EPROTO and command in ("fence", "begin_term"):
        return EpochConflict(
            f"Volume {volume_id!r}: epoch {answer.a} is promised to another primary here."
        )
    if code == errno.EBUSY and command == "log_reservations":
        return OutcomeUnknown(
            f"Volume {volume_id!r}: a change of reservations is logged and has not committed in time."
        )
    if code == errno.ECANCELED and command == "log_reservations":
        return Withdrawn(f"Volume {volume_id!r}: the command was taken back, or it is too late.")
    if code == errno.ENOENT:
        return NotFound(f"Volume {volume_id!r}: {command} asked for what is not here any more.")
    if code in (errno.EPIPE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC):
        return Unavailable(
            f"Volume {volume_id!r}: {command} cannot be done now ({os.strerror(code)})."
        )
    if code in (errno.EBADMSG, errno.EPROTO):
        return DamagedData(f"Volume {volume_id!r}: {command} met bytes that do not belong there.")
    return StorageError(f"Volume {volume_id!r}: {command} failed: {os.strerror(code)}.")
