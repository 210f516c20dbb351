"""One table: what each error code becomes as a gRPC status and as an exit status of the command line.

An error crosses the wire as status and message, with its code, its kind and its hint as trailing metadata, and is
raised again on the other side as the same class, or as its kind where that process never imported the class. A code
without a row takes the row of the nearest class above it, which is its kind, so a new error never falls through; a
test keeps the table complete for the classes of ``base.errors``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import grpc

from sparrow.base import errors
from sparrow.base.errors import SparrowError, error_class

#: Metadata keys. The hint may hold any character, so its key ends in "-bin" and its value is UTF-8 (gRPC over HTTP/2).
CODE_KEY: Final = "sparrow-code"
KIND_KEY: Final = "sparrow-kind"
HINT_KEY: Final = "sparrow-hint-bin"

#: Status, message and metadata of an answer travel in headers, of which gRPC takes 8 KiB; beyond that the caller would
#: hear that they are too large, and nothing else. Percent- and Base64-encoded these are 3 KiB and 2.7 KiB at most.
MESSAGE_BYTES_MAX: Final = 1024
HINT_BYTES_MAX: Final = 2048

MetadataItems = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Row:
    """Status on the wire, exit status in the shell."""

    status: grpc.StatusCode
    exit_status: int


#: Of a bug of ours, and of commands whose arguments the parser itself refuses (typer's own number). 0 is done.
EXIT_BUG: Final = 1
EXIT_USAGE: Final = 2

TABLE: Final[dict[str, Row]] = {
    errors.SparrowError.code: Row(grpc.StatusCode.INTERNAL, EXIT_BUG),
    errors.InvalidArgument.code: Row(grpc.StatusCode.INVALID_ARGUMENT, EXIT_USAGE),
    errors.ConfigError.code: Row(grpc.StatusCode.INVALID_ARGUMENT, EXIT_USAGE),
    errors.NotFound.code: Row(grpc.StatusCode.NOT_FOUND, 3),
    errors.AlreadyExists.code: Row(grpc.StatusCode.ALREADY_EXISTS, 4),
    errors.FailedPrecondition.code: Row(grpc.StatusCode.FAILED_PRECONDITION, 5),
    errors.Refused.code: Row(grpc.StatusCode.FAILED_PRECONDITION, 5),
    errors.StaleEpoch.code: Row(grpc.StatusCode.ABORTED, 5),
    errors.StaleBasis.code: Row(grpc.StatusCode.ABORTED, 5),
    errors.EpochConflict.code: Row(grpc.StatusCode.FAILED_PRECONDITION, 5),
    errors.Unproven.code: Row(grpc.StatusCode.UNAUTHENTICATED, 5),
    errors.Withdrawn.code: Row(grpc.StatusCode.ABORTED, 5),
    errors.NotPrimary.code: Row(grpc.StatusCode.FAILED_PRECONDITION, 5),
    errors.Unavailable.code: Row(grpc.StatusCode.UNAVAILABLE, 6),
    errors.OutcomeUnknown.code: Row(grpc.StatusCode.ABORTED, 6),
    errors.TimedOut.code: Row(grpc.StatusCode.DEADLINE_EXCEEDED, 7),
    errors.StorageError.code: Row(grpc.StatusCode.INTERNAL, 8),
    errors.DamagedData.code: Row(grpc.StatusCode.DATA_LOSS, 9),
    errors.UnknownFormat.code: Row(grpc.StatusCode.FAILED_PRECONDITION, 8),
    errors.ReplicasDiffer.code: Row(grpc.StatusCode.DATA_LOSS, 9),
    errors.LocalProtocolError.code: Row(grpc.StatusCode.INTERNAL, EXIT_BUG),
    errors.RemoteProtocolError.code: Row(grpc.StatusCode.INVALID_ARGUMENT, EXIT_BUG),
    errors.MachineUnfit.code: Row(grpc.StatusCode.FAILED_PRECONDITION, 10),
}


def row_of(error: SparrowError | type[SparrowError]) -> Row:
    """The table's row for an error, or for the nearest class above it that has one."""
    return TABLE[_kind(error if isinstance(error, type) else type(error))]


def _kind(cls: type[SparrowError]) -> str:
    """The code of the nearest class that has a row; those are the classes that every process knows."""
    for candidate in cls.__mro__:
        if issubclass(candidate, SparrowError) and candidate.code in TABLE:
            return candidate.code
    raise AssertionError("SparrowError itself has a row")


def details_of(error: SparrowError) -> str:
    """The sentence that travels; one that names every node or volume of a large cluster ends with dots."""
    return _cut(str(error), MESSAGE_BYTES_MAX)


def metadata_of(error: SparrowError) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata that lets the other side raise the same class."""
    hint = _cut(error.hint, HINT_BYTES_MAX).encode()
    return ((CODE_KEY, error.code), (KIND_KEY, _kind(type(error))), (HINT_KEY, hint))


def _cut(text: str, bytes_max: int) -> str:
    data = text.encode()
    if len(data) <= bytes_max:
        return text
    # A character that would be cut in the middle is left out.
    return data[: bytes_max - 3].decode(errors="ignore") + "..."


def from_wire(
    status: grpc.StatusCode, details: str, metadata: MetadataItems, *, peer: str
) -> SparrowError:
    """The error to raise for a failed call.

    Args:
        peer: who was called, in words: ``"the master at 127.0.0.1:7400"``.
    """
    items = dict(metadata)
    if CODE_KEY not in items:
        return _from_transport(status, details, peer)
    hint = items.get(HINT_KEY, b"")
    cls = error_class(_text(items[CODE_KEY]))
    if cls is SparrowError:
        cls = error_class(_text(items.get(KIND_KEY, SparrowError.code)))
    # A subclass may take other arguments than the base; only what crossed the wire is known here.
    error = cls.__new__(cls)
    SparrowError.__init__(error, details, hint=_text(hint))
    return error


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


def _from_transport(status: grpc.StatusCode, details: str, peer: str) -> SparrowError:
    """For calls that no handler of ours answered."""
    match status:
        case grpc.StatusCode.UNAVAILABLE:
            return errors.Unavailable(
                f"Cannot reach {peer}.", hint="Is it running, and is the address right?"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.TimedOut(
                f"No answer in time from {peer}.", hint="Look at its log, then try again."
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return errors.FailedPrecondition(
                f"What answers as {peer} does not know this call.",
                hint="Another program listens there, or it is an older version of sparrow.",
            )
        case grpc.StatusCode.CANCELLED:
            return errors.Unavailable(
                f"The call was cancelled by {peer}.", hint="It may be stopping; try again."
            )
        case _:
            return SparrowError(f"Call to {peer} failed: {status.name.lower()}: {details}")
