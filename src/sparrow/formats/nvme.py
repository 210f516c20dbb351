"""Submission and completion queue entries of NVMe, with the views that commands of fabrics and of I/O queues take.

A submission queue entry is 64 bytes whatever the command; ``nvme_sqe`` is what all have in common, the other layouts
are views of the same bytes. Bits the standard reserves are not looked at. A status as these constants and
``nvme_cqe`` have it is SCT << 8 | SC; on the wire it stands one bit higher, with DNR in bit 15.

Source: NVM Express Base Specification 2.0, sections 3.3.3 and 6; NVM Command Set Specification 1.0, section 3.
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Constant, Field, Layout

NVME_FLUSH: Final = Constant("nvme_flush", 0x00, "I/O opcode: Flush")
NVME_WRITE: Final = Constant("nvme_write", 0x01, "I/O opcode: Write")
NVME_READ: Final = Constant("nvme_read", 0x02, "I/O opcode: Read")
NVME_COMPARE: Final = Constant("nvme_compare", 0x05, "I/O opcode: Compare")
NVME_WRITE_ZEROES: Final = Constant("nvme_write_zeroes", 0x08, "I/O opcode: Write Zeroes")
NVME_DATASET: Final = Constant("nvme_dataset", 0x09, "I/O opcode: Dataset Management")
NVME_VERIFY: Final = Constant("nvme_verify", 0x0C, "I/O opcode: Verify")
NVME_RESERVATION_REGISTER: Final = Constant(
    "nvme_reservation_register", 0x0D, "I/O opcode: Reservation Register"
)
NVME_RESERVATION_REPORT: Final = Constant(
    "nvme_reservation_report", 0x0E, "I/O opcode: Reservation Report"
)
NVME_RESERVATION_ACQUIRE: Final = Constant(
    "nvme_reservation_acquire", 0x11, "I/O opcode: Reservation Acquire"
)
NVME_RESERVATION_RELEASE: Final = Constant(
    "nvme_reservation_release", 0x15, "I/O opcode: Reservation Release"
)
NVME_FABRICS: Final = Constant("nvme_fabrics", 0x7F, "opcode of every fabrics command")

NVME_FABRICS_PROPERTY_SET: Final = Constant(
    "nvme_fabrics_property_set", 0x00, "fctype: Property Set"
)
NVME_FABRICS_CONNECT: Final = Constant("nvme_fabrics_connect", 0x01, "fctype: Connect")
NVME_FABRICS_PROPERTY_GET: Final = Constant(
    "nvme_fabrics_property_get", 0x04, "fctype: Property Get"
)
NVME_FABRICS_AUTH_SEND: Final = Constant(
    "nvme_fabrics_auth_send", 0x05, "fctype: Authentication Send"
)
NVME_FABRICS_AUTH_RECEIVE: Final = Constant(
    "nvme_fabrics_auth_receive", 0x06, "fctype: Authentication Receive"
)
NVME_FABRICS_DISCONNECT: Final = Constant("nvme_fabrics_disconnect", 0x08, "fctype: Disconnect")

NVME_SGL_CAPSULE: Final = Constant(
    "nvme_sgl_capsule", 0x01, "SGL data block descriptor, address is an offset: data in the capsule"
)
NVME_SGL_TRANSPORT: Final = Constant(
    "nvme_sgl_transport", 0x5A, "transport SGL data block descriptor: data by PDUs of its own"
)

NVME_SC_SUCCESS: Final = Constant("nvme_sc_success", 0x000, "Successful Completion")
NVME_SC_OPCODE: Final = Constant("nvme_sc_opcode", 0x001, "Invalid Command Opcode")
NVME_SC_FIELD: Final = Constant("nvme_sc_field", 0x002, "Invalid Field in Command")
NVME_SC_CONFLICT: Final = Constant("nvme_sc_conflict", 0x003, "Command ID Conflict")
NVME_SC_INTERNAL: Final = Constant("nvme_sc_internal", 0x006, "Internal Error")
NVME_SC_ABORTED: Final = Constant("nvme_sc_aborted", 0x007, "Command Abort Requested")
NVME_SC_FUSED_FAILED: Final = Constant(
    "nvme_sc_fused_failed", 0x009, "Command Aborted due to Failed Fused Command"
)
NVME_SC_FUSED_MISSING: Final = Constant(
    "nvme_sc_fused_missing", 0x00A, "Command Aborted due to Missing Fused Command"
)
NVME_SC_NAMESPACE: Final = Constant("nvme_sc_namespace", 0x00B, "Invalid Namespace or Format")
NVME_SC_SEQUENCE: Final = Constant("nvme_sc_sequence", 0x00C, "Command Sequence Error")
NVME_SC_SGL_LENGTH: Final = Constant("nvme_sc_sgl_length", 0x00F, "Data SGL Length Invalid")
NVME_SC_SGL_TYPE: Final = Constant("nvme_sc_sgl_type", 0x011, "SGL Descriptor Type Invalid")
NVME_SC_ATOMIC: Final = Constant("nvme_sc_atomic", 0x014, "Atomic Write Unit Exceeded")
NVME_SC_SGL_OFFSET: Final = Constant("nvme_sc_sgl_offset", 0x016, "SGL Offset Invalid")
NVME_SC_PREEMPTED: Final = Constant(
    "nvme_sc_preempted", 0x01B, "Command Aborted due to Preempt and Abort"
)
NVME_SC_INTERRUPTED: Final = Constant(
    "nvme_sc_interrupted", 0x021, "Command Interrupted: try again"
)
NVME_SC_TRANSIENT: Final = Constant("nvme_sc_transient", 0x022, "Transient Transport Error")
NVME_SC_RANGE: Final = Constant("nvme_sc_range", 0x080, "LBA Out of Range")
NVME_SC_CAPACITY: Final = Constant("nvme_sc_capacity", 0x081, "Capacity Exceeded")
NVME_SC_RESERVATION: Final = Constant("nvme_sc_reservation", 0x083, "Reservation Conflict")
NVME_SC_WRITE_FAULT: Final = Constant("nvme_sc_write_fault", 0x280, "Write Fault")
NVME_SC_READ_ERROR: Final = Constant("nvme_sc_read_error", 0x281, "Unrecovered Read Error")
NVME_SC_COMPARE: Final = Constant("nvme_sc_compare", 0x285, "Compare Failure")
NVME_SC_ANA_INACCESSIBLE: Final = Constant(
    "nvme_sc_ana_inaccessible", 0x302, "Asymmetric Access Inaccessible"
)
NVME_SC_ANA_TRANSITION: Final = Constant(
    "nvme_sc_ana_transition", 0x303, "Asymmetric Access Transition"
)
NVME_SC_DNR: Final = Constant("nvme_sc_dnr", 0x4000, "Do Not Retry, beside SCT and SC")

_HEAD: Final = (
    Field("opcode", "u8", "opcode"),
    Field("flags", "u8", "bits 0 and 1 FUSE, bits 6 and 7 PSDT"),
    Field("cid", "u16", "command identifier, unique among the commands outstanding on the queue"),
)
_NSID: Final = Field("nsid", "u32", "namespace identifier")
_FCTYPE: Final = (
    Field("fctype", "u8", "fabrics command type"),
    Field("unused", "bytes19", "reserved"),
)
_SGL: Final = (
    Field("sgl_address", "u64", "address, or offset in the capsule"),
    Field("sgl_length", "u32", "bytes of data"),
    Field("sgl_unused", "bytes3", "reserved"),
    Field("sgl_type", "u8", "type in bits 4 to 7, subtype in bits 0 to 3"),
)

NVME_SQE = Layout(
    "nvme_sqe",
    order="le",
    size=64,
    doc="Any command. Source: NVMe base 2.0, 3.3.3.1; SGL descriptors: 4.1.2.1.",
    fields=(
        *_HEAD,
        _NSID,
        Field("cdw2", "u32", "command dword 2"),
        Field("cdw3", "u32", "command dword 3"),
        Field("mptr", "u64", "metadata pointer; none here"),
        *_SGL,
        Field("cdw10", "u32", "command dword 10"),
        Field("cdw11", "u32", "command dword 11"),
        Field("cdw12", "u32", "command dword 12"),
        Field("cdw13", "u32", "command dword 13"),
        Field("cdw14", "u32", "command dword 14"),
        Field("cdw15", "u32", "command dword 15"),
    ),
)

NVME_RW = Layout(
    "nvme_rw",
    order="le",
    size=64,
    doc="""Read, Write, Compare, Write Zeroes and Verify. Source: NVM command set 1.0, 3.2.""",
    fields=(
        *_HEAD,
        _NSID,
        Field("unused", "bytes8", "reserved, or expected initial logical block tag"),
        Field("mptr", "u64", "metadata pointer; none here"),
        *_SGL,
        Field("slba", "u64", "first logical block"),
        Field("nlb", "u16", "logical blocks, minus one"),
        Field(
            "control",
            "u16",
            "bit 15 LR, bit 14 FUA, bits 10 to 13 PRINFO, bit 9 DEAC (Write Zeroes)",
        ),
        Field("cdw13", "u32", "dataset management hints"),
        Field("cdw14", "u32", "protection information"),
        Field("cdw15", "u32", "protection information"),
    ),
)

NVME_DATASET_RANGE = Layout(
    "nvme_dataset_range",
    order="le",
    size=16,
    doc="One range of Dataset Management. Source: NVM command set 1.0, 3.2.3, figure 36.",
    fields=(
        Field("attributes", "u32", "context attributes: hints"),
        Field("blocks", "u32", "logical blocks"),
        Field("slba", "u64", "first logical block"),
    ),
)

NVME_CONNECT = Layout(
    "nvme_connect",
    order="le",
    size=64,
    doc="Connect. Source: NVMe base 2.0, 6.3.",
    fields=(
        *_HEAD,
        *_FCTYPE,
        *_SGL,
        Field("recfmt", "u16", "record format; 0"),
        Field("qid", "u16", "queue; 0 is the admin queue"),
        Field("sqsize", "u16", "entries of the queue, minus one"),
        Field("cattr", "u8", "bit 2: no submission queue flow control"),
        Field("cattr_unused", "bytes1", "reserved"),
        Field("kato", "u32", "keep alive timeout, milliseconds; admin queue only"),
        Field("tail", "bytes12", "reserved"),
    ),
)

NVME_CONNECT_DATA = Layout(
    "nvme_connect_data",
    order="le",
    size=1024,
    doc="Data of Connect. Source: NVMe base 2.0, 6.3, figure 384.",
    fields=(
        Field("hostid", "bytes16", "host identifier"),
        Field("cntlid", "u16", "controller; 0xFFFF asks for any"),
        Field("unused", "bytes238", "reserved"),
        Field("subnqn", "bytes256", "name of the subsystem, NUL-terminated"),
        Field("hostnqn", "bytes256", "name of the host, NUL-terminated"),
        Field("tail", "bytes256", "reserved"),
    ),
)

NVME_PROPERTY = Layout(
    "nvme_property",
    order="le",
    size=64,
    doc="Property Get and Property Set. Source: NVMe base 2.0, 6.5 and 6.6.",
    fields=(
        *_HEAD,
        *_FCTYPE,
        Field("unused2", "bytes16", "reserved"),
        Field("attrib", "u8", "bits 0 to 2: 0 for 4 bytes, 1 for 8"),
        Field("unused3", "bytes3", "reserved"),
        Field("property_offset", "u32", "which property"),
        Field("value", "u64", "Property Set: the new value"),
        Field("tail", "bytes8", "reserved"),
    ),
)

NVME_AUTH = Layout(
    "nvme_auth",
    order="le",
    size=64,
    doc="Authentication Send and Receive. Source: NVMe base 2.0, 6.1 and 6.2.",
    fields=(
        *_HEAD,
        *_FCTYPE,
        *_SGL,
        Field("unused2", "bytes1", "reserved"),
        Field("spsp0", "u8", "security protocol specific, 1"),
        Field("spsp1", "u8", "security protocol specific, 1"),
        Field("secp", "u8", "security protocol: 0xE9"),
        Field("length", "u32", "bytes sent, or that may be received"),
        Field("tail", "bytes16", "reserved"),
    ),
)

NVME_CQE = Layout(
    "nvme_cqe",
    order="le",
    size=16,
    doc="Completion queue entry. Source: NVMe base 2.0, 3.3.3.2.",
    fields=(
        Field("result", "u64", "by command"),
        Field("sqhd", "u16", "submission queue head pointer; reserved without flow control"),
        Field("sqid", "u16", "reserved on fabrics"),
        Field("cid", "u16", "command identifier"),
        Field(
            "status",
            "u16",
            "bit 15 DNR, bit 14 M, bits 9 to 11 SCT, bits 1 to 8 SC; bit 0 reserved",
        ),
    ),
)
