"""Reservations: who registered which key with a volume, and who holds it for what. One fixed blob per change.

The table is state of the log: an entry of kind *table* carries all of it, as 16,384 bytes, so a change is one entry and
the newest entry is the whole truth. A volume that never had a registrant has no table; that means the same as one whose
type is 0 and whose count is 0.

The header is followed by 63 places for registrants, of which the first ``count`` are used; the others are zero, all of
each. A registrant is an initiator as the rest of the world names it, never a path to it: an iSCSI initiator port is its
name and ISID, an NVMe host its NQN and Host Identifier. So a registration holds on every path and on every replica.
``kind``, ``identifier`` and ``name`` together are the nexus; two registrants never share one. The place of a registrant
means nothing between two tables.

A table is valid if and only if: magic and version are as here, the count is at most 63, the type is one of those below,
the flags are known, the holder is a used place or none; types 7 and 8 have no holder of their own, types 1, 3, 5 and 6
have one, type 0 has none; every used place has a known kind, a name of 1 to 223 bytes without a zero byte, padded with
zeros, and a nexus of its own; every reserved and unused byte is zero.

A registrant with key 0 stands only in a table with the RESERVE flag: that is a reservation by the older command
RESERVE(6) (SPC-2, 5.5), which keeps everybody else out as type 3 does, by somebody who registered nothing. Its table
has this one registrant and the type 3.

The flag 04h, PREEMPT, says how the table came about, for those who are told of it: who is missing, compared with the
table before, lost its registration to another initiator, and did not give it up.

Source: SPC-4, 5.13 and 6.15; NVMe base 2.0, 8.19.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sparrow.base.errors import DamagedData, LocalProtocolError, SparrowError
from sparrow.formats.layout import Constant, Field, Layout

RESERVATION_BYTES: Final = Constant("reservation_bytes", 16384, "one table, unused places included")
RESERVATION_MAGIC: Final = Constant("reservation_magic", 0x54525053, "SPRT in ASCII, as u32")
RESERVATION_VERSION: Final = Constant("reservation_version", 1, "of the layout")
RESERVATION_REGISTRANTS_MAX: Final = Constant(
    "reservation_registrants_max", 63, "places of one table"
)
RESERVATION_NAME_BYTES_MAX: Final = Constant(
    "reservation_name_bytes_max", 223, "name of one registrant"
)
RESERVATION_NO_HOLDER: Final = Constant(
    "reservation_no_holder", 0xFFFF, "nobody holds it, or all registrants do"
)

RESERVATION_NONE: Final = Constant("reservation_none", 0, "type: not reserved")
RESERVATION_WRITE_EXCLUSIVE: Final = Constant(
    "reservation_write_exclusive", 1, "type: the holder writes"
)
RESERVATION_EXCLUSIVE_ACCESS: Final = Constant(
    "reservation_exclusive_access", 3, "type: the holder reads and writes"
)
RESERVATION_WRITE_EXCLUSIVE_RO: Final = Constant(
    "reservation_write_exclusive_ro", 5, "type: registrants write; one of them holds it"
)
RESERVATION_EXCLUSIVE_ACCESS_RO: Final = Constant(
    "reservation_exclusive_access_ro", 6, "type: registrants read and write; one of them holds it"
)
RESERVATION_WRITE_EXCLUSIVE_AR: Final = Constant(
    "reservation_write_exclusive_ar", 7, "type: registrants write; each of them holds it"
)
RESERVATION_EXCLUSIVE_ACCESS_AR: Final = Constant(
    "reservation_exclusive_access_ar", 8, "type: registrants read and write; each of them holds it"
)

RESERVATION_FLAG_APTPL: Final = Constant(
    "reservation_flag_aptpl", 0x01, "an initiator asked that it persists through a loss of power"
)
RESERVATION_FLAG_RESERVE: Final = Constant(
    "reservation_flag_reserve", 0x02, "made by RESERVE(6): the registrant has no key"
)
#: Made by PREEMPT: whoever is missing was preempted. The core does not look at it.
RESERVATION_FLAG_PREEMPT: Final = 0x04

RESERVATION_KIND_ISCSI: Final = Constant("reservation_kind_iscsi", 1, "kind: an iSCSI initiator")
RESERVATION_KIND_NVME: Final = Constant("reservation_kind_nvme", 2, "kind: an NVMe host")

RESERVATION_HEADER = Layout(
    "reservation_header",
    order="le",
    size=256,
    doc="The table but for its registrants.",
    fields=(
        Field("magic", "u32", "RESERVATION_MAGIC"),
        Field("version", "u16", "RESERVATION_VERSION"),
        Field("count", "u16", "registrants"),
        Field("generation", "u32", "PRgeneration: changes of registrations (SPC-4, 5.13.2)"),
        Field("type", "u8", "of the reservation, as SPC-4 has it "),
        Field("flags", "u8", "RESERVATION_FLAG_APTPL and RESERVATION_FLAG_RESERVE"),
        Field("holder", "u16", "place of the registrant that holds it, or RESERVATION_NO_HOLDER"),
        Field("reserved", "reserved240", "zero"),
    ),
)

RESERVATION_REGISTRANT = Layout(
    "reservation_registrant",
    order="le",
    size=256,
    doc="One place. With the key 0 it is also how a session tells the core which nexus it is of.",
    fields=(
        Field("key", "u64", "reservation key; 0 only with RESERVATION_FLAG_RESERVE"),
        Field("kind", "u8", "RESERVATION_KIND_ISCSI or RESERVATION_KIND_NVME"),
        Field("name_len", "u8", "bytes of the name, 1 to 223"),
        Field(
            "port",
            "u16",
            "relative target port it registered through; informational, no part of the nexus",
        ),
        Field("reserved", "reserved4", "zero"),
        Field("identifier", "bytes16", "ISID, padded with zeros to the right, or Host Identifier"),
        Field("name", "bytes223", "iSCSI name or host NQN, UTF-8, padded with zeros"),
        Field("end", "reserved1", "zero"),
    ),
)

assert (
    RESERVATION_HEADER.size + RESERVATION_REGISTRANTS_MAX * RESERVATION_REGISTRANT.size
    <= RESERVATION_BYTES
)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ReservationNexus:
    """Who an initiator is, over whichever path it comes.

    Attributes:
        kind: RESERVATION_KIND_ISCSI or RESERVATION_KIND_NVME.
        identifier: 16 bytes: ISID padded with zeros to the right, or Host Identifier.
        name: iSCSI name or host NQN, 1 to 223 bytes of UTF-8.
    """

    kind: int
    identifier: bytes
    name: str

    def record(self, *, key: int = 0, port: int = 0) -> bytes:
        """The 256 bytes of a place; with key 0, what a session is handed over with.

        Raises: LocalProtocolError: it is no nexus.
        """
        name = self.name.encode()
        if self.kind not in KINDS or not 0 < len(name) <= RESERVATION_NAME_BYTES_MAX:
            raise LocalProtocolError(f"No nexus can be {self!r}.")
        if b"\0" in name:
            raise LocalProtocolError(f"The name {self.name!r} has a zero byte.")
        return RESERVATION_REGISTRANT.pack(
            {
                "key": key,
                "kind": self.kind,
                "name_len": len(name),
                "port": port,
                "identifier": self.identifier,
                "name": name.ljust(RESERVATION_NAME_BYTES_MAX, b"\0"),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationRegistrant:
    """One used place of a table."""

    nexus: ReservationNexus
    key: int
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationTable:
    """One table; ``holder`` is the nexus that holds it, None when nobody or all registrants do.

    ``by_preempt`` tells how it came about and is no part of what it says.
    """

    registrants: tuple[ReservationRegistrant, ...] = ()
    generation: int = 0
    type: int = int(RESERVATION_NONE)
    holder: ReservationNexus | None = None
    aptpl: bool = False
    by_reserve: bool = False
    by_preempt: bool = field(default=False, compare=False)

    def find(self, nexus: ReservationNexus) -> ReservationRegistrant | None:
        """The registration of a nexus; not the place of who holds it by RESERVE(6)."""
        if self.by_reserve:
            return None
        return next((one for one in self.registrants if one.nexus == nexus), None)


KINDS: Final = (RESERVATION_KIND_ISCSI, RESERVATION_KIND_NVME)
#: Held by one registrant, and by all of them.
ONE_HOLDER: Final = (
    RESERVATION_WRITE_EXCLUSIVE,
    RESERVATION_EXCLUSIVE_ACCESS,
    RESERVATION_WRITE_EXCLUSIVE_RO,
    RESERVATION_EXCLUSIVE_ACCESS_RO,
)
ALL_HOLD: Final = (RESERVATION_WRITE_EXCLUSIVE_AR, RESERVATION_EXCLUSIVE_ACCESS_AR)


def encode_table(table: ReservationTable) -> bytes:
    """The blob of a table. Raises: LocalProtocolError: it would not be valid."""
    places = [one.nexus for one in table.registrants]
    flags = (
        (RESERVATION_FLAG_APTPL if table.aptpl else 0)
        | (RESERVATION_FLAG_RESERVE if table.by_reserve else 0)
        | (RESERVATION_FLAG_PREEMPT if table.by_preempt else 0)
    )
    if table.holder is not None and table.holder not in places:
        raise LocalProtocolError("The holder of a reservation has no place in its table.")
    head = RESERVATION_HEADER.pack(
        {
            "magic": RESERVATION_MAGIC,
            "version": RESERVATION_VERSION,
            "count": len(places),
            "generation": table.generation,
            "type": table.type,
            "flags": flags,
            "holder": RESERVATION_NO_HOLDER if table.holder is None else places.index(table.holder),
        }
    )
    rows = [one.nexus.record(key=one.key, port=one.port) for one in table.registrants]
    blob = b"".join([head, *rows]).ljust(RESERVATION_BYTES, b"\0")
    if _fault(table) is not None or len(blob) != RESERVATION_BYTES:
        raise LocalProtocolError(f"A reservation table is not valid: {_fault(table)}.")
    return blob


def decode_table(blob: bytes, *, error: type[SparrowError] = DamagedData) -> ReservationTable:
    """Read a blob. Raises: ``error``: it is not a valid table."""
    if len(blob) != RESERVATION_BYTES:
        raise error(f"A reservation table has {RESERVATION_BYTES} bytes, not {len(blob)}.")
    head = RESERVATION_HEADER.unpack(blob, error=error)
    magic, version = head.number("magic"), head.number("version")
    if magic != RESERVATION_MAGIC or version != RESERVATION_VERSION:
        raise error(f"No reservation table: magic {magic:#x}, version {version}.")
    count, flags, holder = head.number("count"), head.number("flags"), head.number("holder")
    if count > RESERVATION_REGISTRANTS_MAX:
        raise error(f"A reservation table of {count} registrants.")
    if flags & ~(RESERVATION_FLAG_APTPL | RESERVATION_FLAG_RESERVE | RESERVATION_FLAG_PREEMPT):
        raise error(f"A reservation table with unknown flags {flags:#x}.")
    if holder != RESERVATION_NO_HOLDER and holder >= count:
        raise error(f"Place {holder} holds a reservation and is not used.")
    end = RESERVATION_HEADER.size + count * RESERVATION_REGISTRANT.size
    if any(memoryview(blob)[end:]):
        raise error("An unused place of a reservation table is not zero.")
    registrants = tuple(
        decode_registrant(blob, offset=offset, error=error)
        for offset in range(RESERVATION_HEADER.size, end, RESERVATION_REGISTRANT.size)
    )
    table = ReservationTable(
        registrants=registrants,
        generation=head.number("generation"),
        type=head.number("type"),
        holder=None if holder == RESERVATION_NO_HOLDER else registrants[holder].nexus,
        aptpl=bool(flags & RESERVATION_FLAG_APTPL),
        by_reserve=bool(flags & RESERVATION_FLAG_RESERVE),
        by_preempt=bool(flags & RESERVATION_FLAG_PREEMPT),
    )
    fault = _fault(table)
    if fault is not None:
        raise error(f"A reservation table is not valid: {fault}.")
    return table


def decode_registrant(
    blob: bytes, *, offset: int = 0, error: type[SparrowError] = DamagedData
) -> ReservationRegistrant:
    """Read one place. Raises: ``error``."""
    row = RESERVATION_REGISTRANT.unpack(blob, offset=offset, error=error)
    size, raw = row.number("name_len"), row.blob("name")
    if not 0 < size <= RESERVATION_NAME_BYTES_MAX or any(raw[size:]) or b"\0" in raw[:size]:
        raise error(f"A registrant whose name is not {size} bytes, padded with zeros.")
    if row.number("kind") not in KINDS:
        raise error(f"A registrant of unknown kind {row.number('kind')}.")
    try:
        name = raw[:size].decode()
    except UnicodeDecodeError:
        raise error("A registrant whose name is not UTF-8.") from None
    nexus = ReservationNexus(kind=row.number("kind"), identifier=row.blob("identifier"), name=name)
    return ReservationRegistrant(nexus=nexus, key=row.number("key"), port=row.number("port"))


def _fault(table: ReservationTable) -> str | None:
    """What the text at the top forbids and single fields do not show."""
    nexuses = [one.nexus for one in table.registrants]
    if len(nexuses) > RESERVATION_REGISTRANTS_MAX:
        return "too many registrants"
    if len(set(nexuses)) != len(nexuses):
        return "two registrants are one nexus"
    if table.type in ONE_HOLDER:
        if table.holder is None:
            return f"nobody holds type {table.type}"
    elif table.type in ALL_HOLD:
        if table.holder is not None or not nexuses:
            return f"type {table.type} is held by all registrants, and there is one"
    elif table.type != RESERVATION_NONE:
        return f"unknown type {table.type}"
    elif table.holder is not None:
        return "somebody holds nothing"
    if table.by_reserve:
        keys = [one.key for one in table.registrants]
        if table.type != RESERVATION_EXCLUSIVE_ACCESS or keys != [0]:
            return "not what RESERVE(6) makes"
    elif not all(one.key for one in table.registrants):
        return "a registrant has no key"
    return None
