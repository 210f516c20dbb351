"""Data of Identify. Source: NVMe base 2.0, 5.17; NVM command set 1.0, 4.1.5."""

from __future__ import annotations

import struct
from typing import Final

from sparrow._version import VERSION
from sparrow.base.constants import PAGE_BYTES
from sparrow.formats import nvme_admin as layouts
from sparrow.formats import nvme_tcp as wire
from sparrow.frontends.nvme.connection import QUEUE_ENTRIES_MAX
from sparrow.frontends.nvme.subsystem import Subsystem
from sparrow.frontends.reservations import SERVED

MODEL: Final = "sparrow"
#: NVMe 2.0.0, as property VS has it.
VERSION_2_0: Final = 0x00020000
#: MDTS: 2 to the 7th pages of 4 KiB, 512 KiB; a transfer that begins within a page still fits what the core moves.
MDTS: Final = 7
TRANSFER_BYTES_MAX: Final = PAGE_BYTES << MDTS
#: Fused Compare and Write: one page.
COMPARE_BYTES_MAX: Final = PAGE_BYTES
ASYNC_EVENTS_MAX: Final = 4
ABORTS_MAX: Final = 4
#: Seconds a change of ANA states takes at most; a host that sees "change" for longer resets its controller.
ANA_TRANSITION_S: Final = 30
NSID: Final = 1
NSID_ALL: Final = 0xFFFFFFFF
DEALLOCATE_RANGES_MAX: Final = 255

# OAES. Source: NVMe base 2.0, 5.17.2.1, figure 275.
NOTICE_NAMESPACE: Final = 1 << 8
NOTICE_ANA: Final = 1 << 11
NOTICE_DISCOVERY: Final = 1 << 31

_CMIC: Final = 0x01 | 0x02 | 0x08
_HOST_ID_128: Final = 0x01
#: Compare, Dataset Management, Write Zeroes, Verify, and reservations.
_ONCS: Final = 0x01 | 0x04 | 0x08 | 0x80 | (0x20 if SERVED else 0)
#: Reservations persist through a loss of power; every type; IEKEY as of NVMe 1.3. Source: NVMe base 2.0, figure 280.
_RESCAP: Final = 0x01 | 0x7E | 0x80 if SERVED else 0
#: Optimized, inaccessible, persistent loss, change; the group of a namespace never changes while it is attached.
_ANACAP: Final = 0x01 | 0x04 | 0x08 | 0x10 | 0x40
#: SGLs without alignment, address as an offset in the capsule, transport data blocks.
_SGLS: Final = 0x01 | 1 << 20 | 1 << 21
_LPA_EFFECTS_EXTENDED: Final = 0x02 | 0x04
_FUSED_COMPARE_AND_WRITE: Final = 0x01
_FLUSH_ALL_NAMESPACES: Final = 0x06
_DISCONNECT: Final = 0x01
#: Thin provisioning, own atomic units, preferred granularities.
_NSFEAT: Final = 0x01 | 0x02 | 0x10
_ZEROS_AFTER_DEALLOCATE: Final = 0x01 | 0x08


def _text(value: str, size: int) -> bytes:
    return value.encode("ascii", "replace")[:size].ljust(size)


def _name(value: str) -> bytes:
    return value.encode().ljust(256, b"\0")


def _controller(
    *, subsystem_nqn: str, serial: str, cntlid: int
) -> dict[str, int | bytes | tuple[int, ...]]:
    """What I/O and discovery controllers have in common; everything else zero."""
    values: dict[str, int | bytes | tuple[int, ...]] = {
        field.name: bytes(field.size) if field.kind == "bytes" else 0
        for field in layouts.NVME_ID_CTRL.fields
        if field.kind != "reserved"
    }
    values |= {
        "sn": _text(serial, 20),
        "mn": _text(MODEL, 40),
        "fr": _text(VERSION, 8),
        "mdts": MDTS,
        "cntlid": cntlid,
        "ver": VERSION_2_0,
        "ctratt": _HOST_ID_128,
        "crdt": (1, 1, 1),
        "acl": ABORTS_MAX - 1,
        "aerl": ASYNC_EVENTS_MAX - 1,
        "lpa": _LPA_EFFECTS_EXTENDED,
        "kas": 10,
        "maxcmd": QUEUE_ENTRIES_MAX,
        "sgls": _SGLS,
        "subnqn": _name(subsystem_nqn),
    }
    return values


def identify_controller(subsystem: Subsystem, *, cntlid: int) -> bytes:
    """CNS 01h of a volume's controller."""
    values = _controller(
        subsystem_nqn=subsystem.nqn, serial=subsystem.identity.serial, cntlid=cntlid
    )
    atomic = TRANSFER_BYTES_MAX // subsystem.block_bytes - 1
    values |= {
        "cmic": _CMIC,
        "oaes": NOTICE_NAMESPACE | NOTICE_ANA,
        "cntrltype": 1,
        # One slot, read-only: what runs is what is installed.
        "frmw": 0x01 | 1 << 1,
        "wctemp": 0x0157,
        "cctemp": 0x0175,
        "anatt": ANA_TRANSITION_S,
        "anacap": _ANACAP,
        "anagrpmax": subsystem.ana_groups_max,
        "nanagrpid": subsystem.ana_groups_max,
        "sqes": 0x66,
        "cqes": 0x44,
        "nn": NSID,
        "mnan": NSID,
        "oncs": _ONCS,
        "fuses": _FUSED_COMPARE_AND_WRITE,
        # No volatile write cache: a write is acknowledged when it is durable.
        "vwc": _FLUSH_ALL_NAMESPACES,
        "awun": atomic,
        "awupf": atomic,
        "acwu": COMPARE_BYTES_MAX // subsystem.block_bytes - 1,
        "ioccsz": (64 + int(wire.NVME_CAPSULE_DATA_MAX)) // 16,
        "iorcsz": 1,
        "msdbd": 1,
        "ofcs": _DISCONNECT,
    }
    return layouts.NVME_ID_CTRL.pack(values)


def identify_discovery_controller(*, subsystem_nqn: str, cntlid: int) -> bytes:
    """CNS 01h of a discovery controller."""
    values = _controller(subsystem_nqn=subsystem_nqn, serial=MODEL, cntlid=cntlid)
    values |= {"oaes": NOTICE_DISCOVERY, "cntrltype": 2, "ioccsz": 4, "iorcsz": 1, "msdbd": 1}
    return layouts.NVME_ID_CTRL.pack(values)


def identify_namespace(subsystem: Subsystem) -> bytes:
    """CNS 00h of namespace 1."""
    block = subsystem.block_bytes
    page = PAGE_BYTES // block - 1
    atomic = TRANSFER_BYTES_MAX // block - 1
    return layouts.NVME_ID_NS.pack(
        {
            "nsze": subsystem.blocks,
            "ncap": subsystem.blocks,
            # How much of it is in use takes a look at all of the volume: what is not known is told as all of it.
            "nuse": subsystem.blocks,
            "nsfeat": _NSFEAT,
            "nlbaf": 0,
            "flbas": 0,
            "mc": 0,
            "dpc": 0,
            "dps": 0,
            "nmic": 1,
            "rescap": _RESCAP,
            "fpi": 0,
            "dlfeat": _ZEROS_AFTER_DEALLOCATE,
            "nawun": atomic,
            "nawupf": atomic,
            "nacwu": COMPARE_BYTES_MAX // block - 1,
            "noiob": 0,
            "nvmcap": subsystem.size_bytes.to_bytes(16, "little"),
            "npwg": page,
            "npwa": page,
            "npdg": page,
            "npda": page,
            "nows": page,
            "anagrpid": subsystem.ana_group,
            "nsattr": 0,
            "nguid": subsystem.identity.nguid,
            "eui64": bytes(8),
            "lbaf0": (block.bit_length() - 1) << 16,
        }
    )


def identify_namespace_independent(subsystem: Subsystem) -> bytes:
    """CNS 08h of namespace 1."""
    return layouts.NVME_ID_NS_INDEPENDENT.pack(
        {
            "nsfeat": 0,
            "nmic": 1,
            "rescap": _RESCAP,
            "fpi": 0,
            "anagrpid": subsystem.ana_group,
            "nsattr": 0,
            "nstat": 1,
        }
    )


def identify_controller_nvm() -> bytes:
    """CNS 06h of the NVM command set: Write Zeroes and Verify take any length, Dataset Management this much."""
    return layouts.NVME_ID_CTRL_NVM.pack(
        {"vsl": 0, "wzsl": 0, "wusl": 0, "dmrl": DEALLOCATE_RANGES_MAX, "dmrsl": 0, "dmsl": 0}
    )


def active_namespaces(after: int) -> bytes:
    """CNS 02h: identifiers above ``after``."""
    return struct.pack("<I", NSID if after < NSID else 0).ljust(layouts.NVME_IDENTIFY_BYTES, b"\0")


def namespace_descriptors(subsystem: Subsystem) -> bytes:
    """CNS 03h: NGUID, UUID and command set of namespace 1. Source: NVMe base 2.0, 5.17.2.3."""
    identity = subsystem.identity
    rows = ((2, identity.nguid), (3, identity.uuid), (4, b"\0"))
    out = b"".join(struct.pack("<BBxx", kind, len(value)) + value for kind, value in rows)
    return out.ljust(layouts.NVME_IDENTIFY_BYTES, b"\0")


def command_sets() -> bytes:
    """CNS 1Ch: one combination, the NVM command set alone."""
    return struct.pack("<Q", 1).ljust(layouts.NVME_IDENTIFY_BYTES, b"\0")
