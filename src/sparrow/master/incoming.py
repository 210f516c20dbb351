"""Whether a node's request makes sense by itself, field by field, and comes from whom it says.

One that does not is refused as a whole, naming the field, before anything of it is looked at.
"""

from __future__ import annotations

import re
from typing import Final

from sparrow.base.constants import VOLUME_NAME_BYTES_MAX
from sparrow.base.errors import InvalidArgument
from sparrow.rpc.messages import AskIntent, AskRequest, SubscribeRequest

TEXT_BYTES_MAX: Final = 1024
#: Session ids have room for so many starts of one node's process (``authority.adapter.SessionIds``).
INCARNATION_END: Final = 1 << 31
#: The store's integers are signed.
COUNTER_END: Final = 1 << 63
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UUID: Final = re.compile(r"[0-9a-f]{32}")


def check_sender(what: str, node_id: str, sender: str) -> None:
    """Raises InvalidArgument when a node speaks in another node's name."""
    if sender != node_id:
        raise _off(what, "node_id", f"is {node_id[:64]!r}, but {sender[:64]!r} sent it")


def check_incarnation(what: str, incarnation: int) -> None:
    """Raises InvalidArgument for one that no process can have; believing it would shut the real one out."""
    if incarnation <= 0:
        raise _off(what, "incarnation", "is missing")
    if incarnation >= INCARNATION_END:
        raise _off(what, "incarnation", f"is {incarnation}, at most {INCARNATION_END - 1}")


def check_subscribe(request: SubscribeRequest, sender: str) -> None:
    """Raises InvalidArgument naming the first field that is off."""
    _identifier("subscription", "node_id", request.node_id)
    check_sender("subscription", request.node_id, sender)
    check_incarnation("subscription", request.incarnation)


def check_ask(request: AskRequest, sender: str) -> None:
    """Raises InvalidArgument naming the first field that is off; whether the ask may be is the publisher's business."""
    what = "ask"
    _identifier(what, "sender", sender)
    for field in ("volume_id", "replica_id", "asker"):
        _identifier(what, field, getattr(request, field))
    if not request.basis.valid:
        raise _off(what, "basis", "has a zero in it")
    if max(request.basis.epoch, request.basis.endpoint_version) >= COUNTER_END:
        raise _off(what, "basis", "is beyond every line")
    if len(request.reason.encode()) > TEXT_BYTES_MAX:
        raise _off(what, "reason", f"is longer than {TEXT_BYTES_MAX} bytes")
    if request.uuid is not None and _UUID.fullmatch(request.uuid) is None:
        raise _off(what, "uuid", f"is {request.uuid[:64]!r}, not 32 lower-case hex digits")
    if request.uuid is not None and request.intent is not AskIntent.GROW_IN_SYNC:
        raise _off(what, "uuid", "belongs to a grow only")
    if request.clear_eligible and request.intent is not AskIntent.SHRINK_IN_SYNC:
        raise _off(what, "clear_eligible", "belongs to a shrink only")


def check_move(to: str) -> None:
    """Raises InvalidArgument for what names neither a node nor a replica."""
    _identifier("move", "to", to)


def check_host(what: str, host: str) -> None:
    """Raises InvalidArgument for what is no name of a machine."""
    _identifier(what, "host", host)


def check_text(what: str, field: str, value: str) -> None:
    """Raises InvalidArgument for an empty text, and for one nobody would send."""
    if not value:
        raise _off(what, field, "is missing")
    if len(value.encode()) > TEXT_BYTES_MAX:
        raise _off(what, field, f"is longer than {TEXT_BYTES_MAX} bytes")


def _identifier(what: str, field: str, value: str) -> None:
    check_text(what, field, value)
    if len(value.encode()) > VOLUME_NAME_BYTES_MAX or _ID.fullmatch(value) is None:
        raise _off(what, field, f"is {value[:64]!r}, which is no id")


def _off(what: str, field: str, fault: str) -> InvalidArgument:
    return InvalidArgument(f"{what} refused: {field} {fault}")
