"""The one error tree.

Every error a user or a peer can meet has a stable ``code`` ("volume.not_found"), says whether trying again
can help, and carries a hint: what to do now. A code is registered once; a duplicate fails at import.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Retry(StrEnum):
    """Whether the same call may succeed later."""

    NEVER = "never"
    SAME = "same"
    AFTER_REFRESH = "after_refresh"


_registered: dict[str, type[SparrowError]] = {}


class SparrowError(Exception):
    """Base of every error of ours; ``str()`` is one sentence, ``hint`` says what to do."""

    code: ClassVar[str] = "error"
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __init_subclass__(
        cls, *, code: str = "", retry: Retry = Retry.NEVER, **kwargs: object
    ) -> None:
        super().__init_subclass__(**kwargs)
        if code:
            if code in _registered:
                raise TypeError(
                    f"error code {code!r} belongs to {_registered[code].__name__} already"
                )
            _registered[code] = cls
            cls.code = code
            cls.retry = retry

    def sentence(self) -> str:
        """Message and hint as one text for a person."""
        return f"{self} {self.hint}".strip()


def error_class(code: str) -> type[SparrowError]:
    """The class registered under a code, or ``SparrowError`` for one this version does not know."""
    return _registered.get(code, SparrowError)


class Refused(SparrowError, code="refused"):
    """A rule said no; part of normal life."""


class StaleEpoch(Refused, code="authority.stale_epoch", retry=Retry.AFTER_REFRESH):
    """The caller's line is older than the one held here."""


class StaleBasis(Refused, code="authority.stale_basis", retry=Retry.AFTER_REFRESH):
    """An ask was decided against a line that is not the recorded one any more."""


class EpochConflict(Refused, code="authority.epoch_conflict"):
    """Two primaries claim one epoch: never happens unless authority was forged or restored."""


class Unproven(Refused, code="peer.unproven"):
    """A process did not prove that it knows the cluster key."""


class Withdrawn(Refused, code="command.withdrawn"):
    """Whoever asked has taken it back, or is gone; nothing was done."""


class NotPrimary(Refused, code="volume.not_primary", retry=Retry.AFTER_REFRESH):
    """The replica asked does not serve the volume."""


class InvalidArgument(SparrowError, code="argument.invalid"):
    """The caller's words are off."""


class NotFound(SparrowError, code="not_found"):
    """Nothing by that name."""


class AlreadyExists(SparrowError, code="already_exists"):
    """The name is taken by something else."""


class FailedPrecondition(SparrowError, code="precondition.failed"):
    """The request is fine, the state of the cluster is not."""


class Unavailable(SparrowError, code="unavailable", retry=Retry.SAME):
    """Cannot be answered now."""


class TimedOut(Unavailable, code="timed_out", retry=Retry.SAME):
    """Not done in the time the caller allowed; it may still be under way."""


class OutcomeUnknown(SparrowError, code="outcome_unknown", retry=Retry.AFTER_REFRESH):
    """It was begun and may still be carried out; nobody here knows whether it will be."""


class LocalProtocolError(SparrowError, code="protocol.local"):
    """We were about to break a protocol ourselves: a bug here."""


class RemoteProtocolError(SparrowError, code="protocol.remote"):
    """The peer sent something the protocol forbids."""


class StorageError(SparrowError, code="storage"):
    """A disk did not do what it was asked to."""


class DamagedData(StorageError, code="storage.damaged"):
    """What was read is not what was written."""


class UnknownFormat(StorageError, code="storage.format"):
    """Files of another version of this program, whole as they are."""


class ReplicasDiffer(DamagedData, code="storage.replicas_differ"):
    """Replicas that must be equal are not."""


class ConfigError(SparrowError, code="config"):
    """A setting is missing, unknown or contradicts another one."""


class MachineUnfit(SparrowError, code="machine.unfit"):
    """The machine lacks something sparrow cannot run without."""
