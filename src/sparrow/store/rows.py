"""Rows as they lie in a store, and whether they can be believed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sparrow.authority.record import (
    RECORD_VERSION,
    BadRecord,
    Body,
    checksum,
    decode_line,
    decode_volume,
    dump,
    encode_line,
    encode_volume,
    load,
)
from sparrow.authority.types import DesiredVolume, Line, SkippedRecord
from sparrow.base.access import Secret
from sparrow.base.ids import NodeId, VolumeId
from sparrow.lifecycle.nodes import NodeRecord, decode_node, encode_node
from sparrow.ports.store import LoadedSecrets

#: A column beyond this was damaged: no cluster has lived through so many epochs.
EPOCH_BELIEVED_MAX: Final = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record as read, before anything about it is believed: whatever was found, as bytes where it is text."""

    key: object
    version: object
    body: object
    checksum: object


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRow(Row):
    """A record of the authority table: the columns that the guard compares stand beside the text."""

    epoch: object
    endpoint_version: object
    write_seq: object


def line_row(line: Line) -> LineRow:
    """The row of a line, text as str."""
    body = encode_line(line)
    return LineRow(
        key=line.volume_id,
        version=RECORD_VERSION,
        body=body,
        checksum=checksum(body),
        epoch=line.lineage.epoch,
        endpoint_version=line.lineage.endpoint_version,
        write_seq=line.write_seq,
    )


def volume_row(volume: DesiredVolume) -> Row:
    body = encode_volume(volume)
    return Row(key=volume.volume_id, version=RECORD_VERSION, body=body, checksum=checksum(body))


def read_line_row(row: LineRow) -> Line | tuple[SkippedRecord, ...]:
    """The line of a row, or what to skip: every volume the row may have been about."""
    try:
        line = decode_line(_believed_text(row))
    except BadRecord as bad:
        return (_skip(row, str(bad)),)
    if _text(row.key) != line.volume_id:
        cause = f"the row of {_text(row.key)!r} holds the record of {line.volume_id!r}"
        return (_skip(row, cause), SkippedRecord(volume_id=line.volume_id, cause=cause))
    columns = (row.epoch, row.endpoint_version, row.write_seq)
    if columns != (line.lineage.epoch, line.lineage.endpoint_version, line.write_seq):
        return (_skip(row, f"columns {columns} differ from the record"),)
    return line


def read_volume_row(row: Row) -> DesiredVolume | SkippedRecord:
    try:
        volume = decode_volume(_believed_text(row))
    except BadRecord as bad:
        return _skip(row, str(bad))
    if _text(row.key) != volume.volume_id:
        return _skip(row, f"the row of {_text(row.key)!r} holds the record of {volume.volume_id!r}")
    return volume


def node_row(record: NodeRecord) -> Row:
    body = encode_node(record)
    return Row(key=record.node_id, version=RECORD_VERSION, body=body, checksum=checksum(body))


def read_node_row(row: Row) -> NodeRecord | tuple[NodeId, str]:
    """The wanted state of a row, or whose it seems to be and why it is not believed."""
    key = NodeId(_text(row.key) or "")
    try:
        record = decode_node(_believed_text(row))
    except BadRecord as bad:
        return key, str(bad)
    if record.node_id != key:
        return key, f"the row of {key!r} holds the record of {record.node_id!r}"
    return record


def secret_row(secret: Secret) -> Row:
    body = dump({"name": secret.name, "value": secret.value.hex()})
    return Row(key=secret.name, version=RECORD_VERSION, body=body, checksum=checksum(body))


def loaded_secrets(rows: Iterable[Row]) -> LoadedSecrets:
    """The secrets of rows that can be believed, and the names of the others. No cause repeats a value."""
    good: list[Secret] = []
    damaged: list[str] = []
    for row in rows:
        name = _text(row.key) or ""
        try:
            body = Body(load(_believed_text(row)), "secret")
            secret = Secret(name=body.text("name"), value=bytes.fromhex(body.text("value")))
            body.end()
        except (BadRecord, ValueError):
            damaged.append(name)
            continue
        if secret.name == name:
            good.append(secret)
        else:
            damaged.append(name)
    return LoadedSecrets(secrets=tuple(good), damaged=tuple(damaged))


def believable_epoch(column: object) -> int:
    """The epoch of a row that may be damaged, used only to stay above it; 0 when it says nothing sensible."""
    if isinstance(column, int) and 0 < column <= EPOCH_BELIEVED_MAX:
        return column
    return 0


def _believed_text(row: Row) -> str:
    if row.version != RECORD_VERSION:
        raise BadRecord(f"record version {row.version!r}, this program reads {RECORD_VERSION}")
    body, wanted = _text(row.body), _text(row.checksum)
    if body is None or wanted is None:
        raise BadRecord("the record is not text")
    found = checksum(body)
    if found != wanted:
        raise BadRecord(f"checksum {found[:16]}.. where {wanted[:16]}.. is recorded")
    return body


def _skip(row: Row, cause: str) -> SkippedRecord:
    key = _text(row.key)
    return SkippedRecord(volume_id=VolumeId(key) if key else None, cause=cause)


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return None
