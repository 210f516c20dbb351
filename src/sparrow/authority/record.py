"""The canonical text of a line and of a desired volume, as the master's store keeps it.

A record is one JSON object with exactly the fields below, keys sorted, no white space, so that one value has one
text and its checksum means something. Reading is strict: a missing, unknown or ill-typed field is damage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TypeVar

from sparrow.authority.invariants import BrokenInvariant, check
from sparrow.authority.types import (
    AckPolicy,
    DesiredVolume,
    LeavingSlot,
    Line,
    Lineage,
    Member,
    PlacedSlot,
    PlacementVerdict,
    VolumePhase,
    VolumeShape,
)
from sparrow.base.access import AccessEntry, AccessList, Frontend
from sparrow.base.errors import DamagedData
from sparrow.base.ids import EndpointVersion, Epoch, NodeId, ReplicaId, ReplicaUuid, VolumeId

RECORD_VERSION = 1

T = TypeVar("T")


class BadRecord(DamagedData, code="storage.bad_record"):
    """A record's text is not one this version could have written."""


def checksum(text: str) -> str:
    """Hex SHA-256 of a record's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def encode_line(line: Line) -> str:
    """The canonical text of a line. ``set_aside`` is there only when somebody is: others read as they always did."""
    rare = {"set_aside": list(line.set_aside)} if line.set_aside else {}
    return dump(
        {
            **rare,
            "volume_id": line.volume_id,
            "epoch": line.lineage.epoch,
            "endpoint_version": line.lineage.endpoint_version,
            "primary": line.primary,
            "members": [_member_body(member) for member in line.members],
            "in_sync": list(line.in_sync),
            "eligible": list(line.eligible),
            "size_bytes": line.size_bytes,
            "block_size": line.block_size,
            "replication_factor": line.replication_factor,
            "ack": line.ack.value,
            "min_in_sync": line.min_in_sync,
            "feature_level": line.feature_level,
            "master_generation": line.master_generation,
            "write_seq": line.write_seq,
            "retired": line.retired,
        }
    )


def decode_line(text: str) -> Line:
    """Read a line back.

    Raises:
        BadRecord: the text is not the canonical text of a line that holds together.
    """
    body = Body(load(text), "line")
    line = Line(
        volume_id=VolumeId(body.text("volume_id")),
        lineage=Lineage(
            epoch=Epoch(body.number("epoch")),
            endpoint_version=EndpointVersion(body.number("endpoint_version")),
        ),
        primary=ReplicaId(body.text("primary")),
        members=body.rows("members", _member),
        in_sync=body.rows("in_sync", _replica_id),
        eligible=body.rows("eligible", _replica_id),
        size_bytes=body.number("size_bytes"),
        block_size=body.number("block_size"),
        replication_factor=body.number("replication_factor"),
        ack=body.choice("ack", AckPolicy),
        min_in_sync=body.number("min_in_sync"),
        feature_level=body.number("feature_level"),
        master_generation=body.number("master_generation"),
        write_seq=body.number("write_seq"),
        retired=body.flag("retired"),
        set_aside=body.rows_if_any("set_aside", _replica_id),
    )
    body.end()
    try:
        check(line)
    except BrokenInvariant as broken:
        raise BadRecord(f"the line contradicts itself: {broken}") from broken
    return line


def encode_volume(volume: DesiredVolume) -> str:
    """The canonical text of a desired volume."""
    return dump(
        {
            "volume_id": volume.volume_id,
            "size_bytes": volume.shape.size_bytes,
            "block_size": volume.shape.block_size,
            "replication_factor": volume.shape.replication_factor,
            "ack": volume.shape.ack.value,
            "min_in_sync": volume.shape.min_in_sync,
            "slots": [
                {"replica_id": slot.replica_id, "node_id": slot.node_id} for slot in volume.slots
            ],
            "phase": volume.phase.value,
            # Left out where there is nothing to say, so that records of other volumes stay as they were.
            **({"size_wanted": volume.size_wanted} if volume.size_wanted else {}),
            **({"access": access_body(volume.access)} if volume.access.revision else {}),
            **({"attached_to": volume.attached_to} if volume.attached_to else {}),
            "leaving": [
                {
                    "replica_id": slot.replica_id,
                    "node_id": slot.node_id,
                    "successor": slot.successor,
                    "cause": slot.cause,
                }
                for slot in volume.leaving
            ],
            "verdicts": [
                {
                    "node_id": verdict.node_id,
                    "chosen": verdict.chosen,
                    "reason": verdict.reason,
                    "room_bytes": verdict.room_bytes,
                }
                for verdict in volume.verdicts
            ],
        }
    )


def decode_volume(text: str) -> DesiredVolume:
    """Read a desired volume back; raises ``BadRecord``."""
    body = Body(load(text), "volume")
    volume = DesiredVolume(
        volume_id=VolumeId(body.text("volume_id")),
        shape=VolumeShape(
            size_bytes=body.number("size_bytes"),
            block_size=body.number("block_size"),
            replication_factor=body.number("replication_factor"),
            ack=body.choice("ack", AckPolicy),
            min_in_sync=body.number("min_in_sync"),
        ),
        slots=body.rows("slots", _slot),
        phase=body.choice("phase", VolumePhase),
        # Records of the first version have neither.
        leaving=body.rows_if_any("leaving", _leaving),
        verdicts=body.rows_if_any("verdicts", _verdict),
        size_wanted=body.number_if_any("size_wanted"),
        access=body.value_if_any("access", access_of, AccessList()),
        attached_to=body.value_if_any("attached_to", _host, ""),
    )
    body.end()
    return volume


def _host(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise BadRecord("attached_to is no machine's name")
    return value


def access_body(access: AccessList) -> dict[str, object]:
    """The fields of an access list, as a record has them."""
    return {
        "revision": access.revision,
        "allow_none": access.allow_none,
        "entries": [
            {
                "protocol": entry.protocol.value,
                "name": entry.name,
                **({"secret": entry.secret} if entry.secret else {}),
                **({"target_secret": entry.target_secret} if entry.target_secret else {}),
            }
            for entry in access.entries
        ],
    }


def access_of(value: object) -> AccessList:
    """Read an access list back; raises ``BadRecord``."""
    body = Body(value, "access")
    access = AccessList(
        revision=body.number("revision"),
        entries=body.rows("entries", _access_entry),
        allow_none=body.flag("allow_none"),
    )
    body.end()
    return access


def _access_entry(value: object) -> AccessEntry:
    body = Body(value, "access entry")
    entry = AccessEntry(
        protocol=body.choice("protocol", Frontend),
        name=body.text("name"),
        secret=body.text_if_any("secret"),
        target_secret=body.text_if_any("target_secret"),
    )
    body.end()
    return entry


def dump(body: dict[str, object]) -> str:
    """The canonical text of a record's fields."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def load(text: str) -> object:
    """The JSON value of a record's text; raises ``BadRecord``."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON: {error}") from error


def _member_body(member: Member) -> dict[str, object]:
    return {
        "replica_id": member.replica_id,
        "node_id": member.node_id,
        "uuid": member.uuid,
        "data_addr": member.data_addr,
        "ctrl_addr": member.ctrl_addr,
    }


def _member(value: object) -> Member:
    body = Body(value, "member")
    member = Member(
        replica_id=ReplicaId(body.text("replica_id")),
        node_id=NodeId(body.text("node_id")),
        uuid=ReplicaUuid(body.text("uuid")),
        data_addr=body.text("data_addr"),
        ctrl_addr=body.text("ctrl_addr"),
    )
    body.end()
    return member


def _slot(value: object) -> PlacedSlot:
    body = Body(value, "slot")
    slot = PlacedSlot(
        replica_id=ReplicaId(body.text("replica_id")), node_id=NodeId(body.text("node_id"))
    )
    body.end()
    return slot


def _leaving(value: object) -> LeavingSlot:
    body = Body(value, "leaving")
    slot = LeavingSlot(
        replica_id=ReplicaId(body.text("replica_id")),
        node_id=NodeId(body.text("node_id")),
        successor=ReplicaId(body.text("successor")),
        cause=body.text("cause"),
    )
    body.end()
    return slot


def _verdict(value: object) -> PlacementVerdict:
    body = Body(value, "verdict")
    verdict = PlacementVerdict(
        node_id=NodeId(body.text("node_id")),
        chosen=body.flag("chosen"),
        reason=body.text("reason"),
        room_bytes=body.number("room_bytes"),
    )
    body.end()
    return verdict


def _replica_id(value: object) -> ReplicaId:
    if not isinstance(value, str) or not value:
        raise BadRecord("a replica id is not text")
    return ReplicaId(value)


class Body:
    """One JSON object read field by field; every field is taken once and none may be left."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise BadRecord(f"{what} is not an object")
        self._fields: dict[str, object] = dict(value)
        self._what = what

    def _take(self, name: str) -> object:
        if name not in self._fields:
            raise BadRecord(f"{self._what}.{name} is missing")
        return self._fields.pop(name)

    def text(self, name: str) -> str:
        value = self._take(name)
        if not isinstance(value, str) or not value:
            raise BadRecord(f"{self._what}.{name} is not text")
        return value

    def number(self, name: str) -> int:
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
            raise BadRecord(f"{self._what}.{name} is not an unsigned 64-bit number")
        return value

    def flag(self, name: str) -> bool:
        value = self._take(name)
        if not isinstance(value, bool):
            raise BadRecord(f"{self._what}.{name} is not true or false")
        return value

    def choice(self, name: str, of: Callable[[str], T]) -> T:
        value = self.text(name)
        try:
            return of(value)
        except ValueError as error:
            raise BadRecord(f"{self._what}.{name}: {error}") from error

    def rows(self, name: str, read: Callable[[object], T]) -> tuple[T, ...]:
        value = self._take(name)
        if not isinstance(value, list):
            raise BadRecord(f"{self._what}.{name} is not a list")
        return tuple(read(row) for row in value)

    def number_if_any(self, name: str) -> int:
        """0 where an older program left it out."""
        return self.number(name) if name in self._fields else 0

    def text_if_any(self, name: str) -> str:
        """Empty where it was left out."""
        return self.text(name) if name in self._fields else ""

    def value_if_any(self, name: str, read: Callable[[object], T], default: T) -> T:
        """One object, or what stands for it in records without."""
        return read(self._take(name)) if name in self._fields else default

    def rows_if_any(self, name: str, read: Callable[[object], T]) -> tuple[T, ...]:
        """As ``rows``, for a field that older records lack."""
        return self.rows(name, read) if name in self._fields else ()

    def end(self) -> None:
        """Raises ``BadRecord`` when a field was not read."""
        if self._fields:
            raise BadRecord(f"{self._what} has unknown fields: {', '.join(sorted(self._fields))}")
