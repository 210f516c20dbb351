"""The error table: complete, and an error survives the wire as its own class."""

from __future__ import annotations

import grpc
import pytest

from sparrow.base import errors
from sparrow.base.errors import SparrowError
from sparrow.rpc.errors import CODE_KEY, TABLE, details_of, from_wire, metadata_of, row_of


def every_error(root: type[SparrowError] = SparrowError) -> list[type[SparrowError]]:
    found = [root]
    for child in root.__subclasses__():
        found += every_error(child)
    return found


def own_errors() -> list[type[SparrowError]]:
    return [cls for cls in every_error() if cls.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", own_errors(), ids=lambda cls: cls.code)
def test_every_class_of_the_tree_has_its_own_row(cls: type[SparrowError]) -> None:
    assert cls.code in TABLE


def test_no_row_is_for_a_code_that_does_not_exist() -> None:
    assert set(TABLE) == {cls.code for cls in own_errors()}


def test_a_success_or_a_usage_fault_is_never_the_status_of_a_failure_by_accident() -> None:
    assert all(row.exit_status != 0 for row in TABLE.values())
    assert all(row.status is not grpc.StatusCode.OK for row in TABLE.values())


def test_a_class_without_a_row_takes_that_of_the_class_above() -> None:
    class PoolGone(errors.Unavailable, code="test.pool_gone"):
        pass

    assert row_of(PoolGone("x")) == TABLE["unavailable"]


@pytest.mark.parametrize("cls", own_errors(), ids=lambda cls: cls.code)
def test_an_error_crosses_the_wire_as_its_own_class(cls: type[SparrowError]) -> None:
    sent = cls("Volume größe is off.", hint="Use 1 MiB → or more.")
    got = from_wire(row_of(sent).status, str(sent), metadata_of(sent), peer="the master")
    assert type(got) is cls
    assert got.sentence() == sent.sentence()


def test_a_class_with_its_own_arguments_crosses_too() -> None:
    class Odd(errors.Refused, code="test.odd"):
        def __init__(self, *, seen: int, held: int) -> None:
            super().__init__(f"seen {seen}, held {held}")

    sent = Odd(seen=7, held=9)
    got = from_wire(row_of(sent).status, str(sent), metadata_of(sent), peer="n1")
    assert isinstance(got, Odd)
    assert str(got) == "seen 7, held 9"


def test_a_class_that_only_the_other_process_knows_is_raised_as_its_kind() -> None:
    class Elsewhere(errors.FailedPrecondition, code="test.elsewhere"):
        pass

    sent = Elsewhere("It is used elsewhere.", hint="Detach it.")
    metadata = {**dict(metadata_of(sent)), CODE_KEY: "test.never_imported_here"}
    got = from_wire(row_of(sent).status, str(sent), metadata.items(), peer="the master")
    assert type(got) is errors.FailedPrecondition
    assert got.sentence() == sent.sentence()
    assert row_of(got).exit_status == 5


def test_a_code_of_a_newer_version_is_still_an_error_with_its_sentence() -> None:
    got = from_wire(grpc.StatusCode.INTERNAL, "Too new.", [(CODE_KEY, "future.code")], peer="n1")
    assert type(got) is SparrowError
    assert str(got) == "Too new."


@pytest.mark.parametrize(
    ("status", "cls", "words"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable, "Cannot reach the master at h:1."),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.TimedOut, "No answer in time"),
        (grpc.StatusCode.UNIMPLEMENTED, errors.FailedPrecondition, "does not know this call"),
        (grpc.StatusCode.CANCELLED, errors.Unavailable, "cancelled"),
        (grpc.StatusCode.UNKNOWN, SparrowError, "unknown"),
    ],
)
def test_a_failure_of_the_transport_names_the_peer(
    status: grpc.StatusCode, cls: type[SparrowError], words: str
) -> None:
    got = from_wire(status, "raw", [], peer="the master at h:1")
    assert type(got) is cls
    assert words in str(got)
    assert "the master at h:1" in str(got)


def test_an_error_that_names_everything_fits_into_headers_and_says_that_it_goes_on() -> None:
    """gRPC takes 8 KiB of headers; a byte of the message may take three there, three of the hint take four."""
    error = errors.FailedPrecondition("\u00fc" * 100_000, hint="n1: full; " * 1000)
    details, metadata = details_of(error), dict(metadata_of(error))
    hint = metadata["sparrow-hint-bin"]
    assert isinstance(hint, bytes)
    assert len(details.encode()) * 3 + len(hint) * 4 / 3 < 8192 - 1024
    assert details.endswith("...")
    assert hint.endswith(b"...")
    again = from_wire(row_of(error).status, details, metadata.items(), peer="p")
    assert type(again) is errors.FailedPrecondition


def test_an_ordinary_error_is_whole() -> None:
    error = errors.NotFound("There is no volume 'a'.", hint="Look.")
    assert details_of(error) == str(error)
    assert dict(metadata_of(error))["sparrow-hint-bin"] == b"Look."
