"""Log pages. Source: NVMe base 2.0, 5.16.1."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from sparrow._version import VERSION
from sparrow.formats import nvme as entries
from sparrow.formats import nvme_admin as layouts
from sparrow.frontends.nvme.identify import NSID
from sparrow.frontends.nvme.naming import DISCOVERY_NQN
from sparrow.frontends.nvme.reservations import DATA_BYTES
from sparrow.frontends.nvme.subsystem import Counters, Subsystem
from sparrow.frontends.reservations import SERVED

LOG_ERROR: Final = 0x01
LOG_SMART: Final = 0x02
LOG_FIRMWARE: Final = 0x03
LOG_CHANGED_NAMESPACES: Final = 0x04
LOG_EFFECTS: Final = 0x05
LOG_ANA: Final = 0x0C
LOG_DISCOVERY: Final = 0x70
LOG_RESERVATION: Final = 0x80

ADMIN_SUPPORTED: Final = (0x02, 0x06, 0x08, 0x09, 0x0A, 0x0C, 0x18, 0x7F)
_IO_SUPPORTED: Final = {
    int(entries.NVME_FLUSH): 0x1,
    # Bit 1: content of a namespace changes.
    int(entries.NVME_WRITE): 0x3,
    int(entries.NVME_READ): 0x1,
    int(entries.NVME_COMPARE): 0x1,
    int(entries.NVME_WRITE_ZEROES): 0x3,
    int(entries.NVME_DATASET): 0x3,
    int(entries.NVME_VERIFY): 0x1,
    int(entries.NVME_FABRICS): 0x1,
} | (dict.fromkeys(DATA_BYTES, 0x1) if SERVED else {})
_TCP: Final = 3
_ADRFAM: Final = {False: 1, True: 2}
_NVM_SUBSYSTEM: Final = 2
_THIS_DISCOVERY: Final = 3
_DATA_UNIT: Final = 512_000


def error_log() -> bytes:
    """One entry, unused: errors are told where they happen."""
    return bytes(64)


def smart_log(subsystem: Subsystem, counters: Counters) -> bytes:
    def wide(value: int) -> bytes:
        return value.to_bytes(16, "little")

    return layouts.NVME_LOG_SMART.pack(
        {
            # Bit 2: reliability degraded, when the only copy's disk failed.
            "critical_warning": 0x04 if subsystem.failed else 0,
            "temperature": 0,
            "available_spare": 100,
            "spare_threshold": 0,
            "percentage_used": 0,
            "endurance_warning": 0,
            "data_units_read": wide(-(-counters.read_bytes // _DATA_UNIT)),
            "data_units_written": wide(-(-counters.written_bytes // _DATA_UNIT)),
            "host_reads": wide(counters.reads),
            "host_writes": wide(counters.writes),
            "busy_minutes": wide(0),
            "power_cycles": wide(0),
            "power_on_hours": wide(0),
            "unsafe_shutdowns": wide(0),
            "media_errors": wide(0),
            "error_entries": wide(0),
        }
    )


def firmware_log() -> bytes:
    return layouts.NVME_LOG_FIRMWARE.pack(
        {"afi": 1, "frs1": VERSION.encode("ascii", "replace")[:8].ljust(8)}
    )


def changed_namespaces_log(*, changed: bool) -> bytes:
    return struct.pack("<I", NSID if changed else 0).ljust(4096, b"\0")


def reservation_log(kind: int, *, count: int, waiting: int) -> bytes:
    """The oldest notification that was not read; ``kind`` 0 when there is none."""
    return layouts.NVME_LOG_RESERVATION.pack(
        {"lpcnt": count, "type": kind, "nalp": min(waiting, 0xFF), "nsid": NSID if kind else 0}
    )


def effects_log(*, discovery: bool) -> bytes:
    admin = [0] * 256
    for opcode in ADMIN_SUPPORTED:
        admin[opcode] = 1
    io = [0 if discovery else _IO_SUPPORTED.get(opcode, 0) for opcode in range(256)]
    return struct.pack("<512I2048x", *admin, *io)


def ana_log(subsystem: Subsystem, *, changes: int, groups_only: bool) -> bytes:
    """The one group of this controller; ``groups_only`` leaves the namespaces out."""
    nsids = () if groups_only else (NSID,)
    header = layouts.NVME_LOG_ANA_HEADER.pack({"chgcnt": changes, "ngrps": 1})
    group = layouts.NVME_LOG_ANA_GROUP.pack(
        {
            "grpid": subsystem.ana_group,
            "nnsids": len(nsids),
            "chgcnt": changes,
            "state": int(subsystem.ana_state),
        }
    )
    return header + group + struct.pack(f"<{len(nsids)}I", *nsids)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryEntry:
    """Where a subsystem can be reached: numeric address and port."""

    nqn: str
    host: str
    port: int
    port_id: int


def discovery_log(found: tuple[DiscoveryEntry, ...], *, generation: int) -> bytes:
    """All that a host may connect to through this node, the discovery subsystem itself included."""
    header = layouts.NVME_LOG_DISCOVERY_HEADER.pack(
        {"genctr": generation, "numrec": len(found), "recfmt": 0}
    )
    return header + b"".join(_entry(entry) for entry in found)


def _entry(entry: DiscoveryEntry) -> bytes:
    own = entry.nqn == DISCOVERY_NQN
    return layouts.NVME_LOG_DISCOVERY_ENTRY.pack(
        {
            "trtype": _TCP,
            "adrfam": _ADRFAM[":" in entry.host],
            "subtype": _THIS_DISCOVERY if own else _NVM_SUBSYSTEM,
            # Not specified; flow control may be switched off.
            "treq": 0x04,
            "portid": entry.port_id,
            "cntlid": 0xFFFF,
            "asqsz": 32,
            "eflags": 0x02 if own else 0,
            "trsvcid": str(entry.port).encode().ljust(32),
            "subnqn": entry.nqn.encode().ljust(256, b"\0"),
            "traddr": entry.host.encode().ljust(256),
            "sectype": 0,
        }
    )
