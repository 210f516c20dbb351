"""Whether a heartbeat makes sense, field by field. One that does not is refused as a whole: nothing of it is taken."""

from __future__ import annotations

import re
from typing import Final

from sparrow.authority.types import FrontendTarget, Observation, SlotFact
from sparrow.base.errors import InvalidArgument
from sparrow.base.ids import is_identifier
from sparrow.master.incoming import check_incarnation, check_text
from sparrow.rpc.messages import Heartbeat
from sparrow.runtime.config import split_address

SLOTS_MAX: Final = 4096
TROUBLES_MAX: Final = 16
FRONTENDS_MAX: Final = 16
TEXT_BYTES_MAX: Final = 1024
#: "nbds" is NBD where clients must use TLS, as in its URLs.
PROTOCOLS: Final = ("iscsi", "nvme", "nbd", "nbds")
_UUID: Final = re.compile(r"[0-9a-f]{32}")


def check_heartbeat(heartbeat: Heartbeat) -> None:
    """Raises InvalidArgument naming the first field that is off."""
    check_node_id(heartbeat.node_id)
    check_incarnation("heartbeat", heartbeat.incarnation)
    _positive("sequence", heartbeat.sequence)
    for field in ("data_addr", "ctrl_addr", "iscsi_addr"):
        _address(field, getattr(heartbeat, field))
    if heartbeat.pool_free_bytes > heartbeat.pool_total_bytes:
        raise _off("pool_free_bytes", "is more than pool_total_bytes")
    if heartbeat.replica_used_bytes > heartbeat.pool_total_bytes:
        raise _off("replica_used_bytes", "is more than pool_total_bytes")
    if len(heartbeat.slots) > SLOTS_MAX:
        raise _off("slots", f"has {len(heartbeat.slots)} entries, at most {SLOTS_MAX}")
    if len(heartbeat.troubles) > TROUBLES_MAX:
        raise _off("troubles", f"has {len(heartbeat.troubles)} entries, at most {TROUBLES_MAX}")
    for index, trouble in enumerate(heartbeat.troubles):
        check_text("heartbeat", f"troubles[{index}]", trouble)
    if heartbeat.zone:
        _identifier("zone", heartbeat.zone)
    _check_revisions(heartbeat)
    seen: set[tuple[str, str]] = set()
    for index, slot in enumerate(heartbeat.slots):
        _check_slot(f"slots[{index}]", slot)
        key = (slot.volume_id, slot.replica_id)
        if key in seen:
            raise _off(f"slots[{index}]", f"repeats {slot.replica_id} of volume {slot.volume_id}")
        seen.add(key)
    for index, name in enumerate(heartbeat.removed):
        path = f"removed[{index}]"
        _identifier(f"{path}.volume_id", name.volume_id)
        _identifier(f"{path}.replica_id", name.replica_id)
        key = (name.volume_id, name.replica_id)
        if key in seen:
            raise _off(path, f"names {name.replica_id} of volume {name.volume_id} again")
        seen.add(key)


def check_node_id(node_id: str) -> None:
    """Raises InvalidArgument when no node can have this id."""
    _identifier("node_id", node_id)


def observation_of(heartbeat: Heartbeat, *, received_at: float) -> Observation:
    """The facts of a heartbeat that passed, dated by the master's clock."""
    return Observation(
        node_id=heartbeat.node_id,
        incarnation=heartbeat.incarnation,
        sequence=heartbeat.sequence,
        received_at=received_at,
        reachable=heartbeat.reachable,
        eligible=heartbeat.eligible,
        slots=heartbeat.slots,
        revision=heartbeat.revision,
        base_revision=heartbeat.base_revision,
        removed=heartbeat.removed,
    )


def _check_revisions(heartbeat: Heartbeat) -> None:
    """A delta names the inventory it changes and the one it makes; a whole heartbeat removes nothing."""
    base, revision = heartbeat.base_revision, heartbeat.revision
    if len(heartbeat.removed) > SLOTS_MAX:
        raise _off("removed", f"has {len(heartbeat.removed)} entries, at most {SLOTS_MAX}")
    if base is None:
        if heartbeat.removed:
            raise _off("removed", "has entries, but the heartbeat is no delta")
        return
    _positive("base_revision", base)
    if heartbeat.slots or heartbeat.removed:
        if revision <= base:
            raise _off("revision", f"is {revision}, not above base_revision {base}")
    elif revision != base:
        raise _off("revision", f"is {revision}, but nothing changed since base_revision {base}")


def _check_slot(path: str, slot: SlotFact) -> None:
    _identifier(f"{path}.volume_id", slot.volume_id)
    _identifier(f"{path}.replica_id", slot.replica_id)
    if _UUID.fullmatch(slot.uuid) is None:
        raise _off(f"{path}.uuid", f"is {slot.uuid[:64]!r}, not 32 lower-case hex digits")
    _address(f"{path}.data_addr", slot.data_addr)
    _address(f"{path}.ctrl_addr", slot.ctrl_addr)
    if slot.lineage is not None and not slot.lineage.valid:
        raise _off(f"{path}.lineage", "has a zero in it")
    if len(slot.frontends) > FRONTENDS_MAX:
        raise _off(
            f"{path}.frontends", f"has {len(slot.frontends)} entries, at most {FRONTENDS_MAX}"
        )
    for index, target in enumerate(slot.frontends):
        _check_frontend(f"{path}.frontends[{index}]", target)


def _check_frontend(path: str, target: FrontendTarget) -> None:
    if target.protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise _off(f"{path}.protocol", f"is {target.protocol[:64]!r}, not one of {known}")
    _address(f"{path}.addr", target.addr)
    _text(f"{path}.name", target.name)


def _identifier(path: str, value: str) -> None:
    if not value:
        raise _off(path, "is missing")
    if not is_identifier(value):
        raise _off(path, f"is {value[:64]!r}, which is no id")


def _text(path: str, value: str) -> None:
    if not value:
        raise _off(path, "is missing")
    if len(value.encode()) > TEXT_BYTES_MAX:
        raise _off(path, f"is longer than {TEXT_BYTES_MAX} bytes")


def _address(path: str, value: str) -> None:
    _text(path, value)
    try:
        _, port = split_address(value)
    except ValueError as error:
        raise _off(path, f"is off: {error}") from None
    if port == 0:
        raise _off(path, "has port 0, which nobody can connect to")


def _positive(path: str, value: int) -> None:
    if value <= 0:
        raise _off(path, "is missing")


def _off(path: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"heartbeat refused: {path} {what}")
