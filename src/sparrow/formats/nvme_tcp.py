"""PDUs of NVMe/TCP, as both the conversation in Python and the native core read and build them.

Every PDU starts with the 8 bytes of ``nvme_ch``. After the header (``hlen`` bytes) come the header digest if it was
negotiated, padding up to ``pdo``, the data, and the data digest if it was negotiated. Bits the standard reserves are
sent as zero and not looked at, which is why they are plain bytes here and not ``reserved``.

Source: NVM Express TCP Transport Specification 1.0, section 3.6.
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Constant, Field, Layout

NVME_ICREQ: Final = Constant("nvme_icreq", 0x00, "PDU type: ICReq")
NVME_ICRESP: Final = Constant("nvme_icresp", 0x01, "PDU type: ICResp")
NVME_H2C_TERM: Final = Constant("nvme_h2c_term", 0x02, "PDU type: H2CTermReq")
NVME_C2H_TERM: Final = Constant("nvme_c2h_term", 0x03, "PDU type: C2HTermReq")
NVME_CAPSULE_CMD: Final = Constant("nvme_capsule_cmd", 0x04, "PDU type: CapsuleCmd")
NVME_CAPSULE_RESP: Final = Constant("nvme_capsule_resp", 0x05, "PDU type: CapsuleResp")
NVME_H2C_DATA: Final = Constant("nvme_h2c_data", 0x06, "PDU type: H2CData")
NVME_C2H_DATA: Final = Constant("nvme_c2h_data", 0x07, "PDU type: C2HData")
NVME_R2T: Final = Constant("nvme_r2t", 0x09, "PDU type: R2T")

NVME_FLAG_HDGST: Final = Constant(
    "nvme_flag_hdgst", 0x01, "PDU flag: a header digest follows the header"
)
NVME_FLAG_DDGST: Final = Constant(
    "nvme_flag_ddgst", 0x02, "PDU flag: a data digest follows the data"
)
NVME_FLAG_LAST: Final = Constant(
    "nvme_flag_last", 0x04, "PDU flag: the last data PDU of the transfer"
)
NVME_FLAG_SUCCESS: Final = Constant(
    "nvme_flag_success",
    0x08,
    "PDU flag of C2HData: the command is complete, no response capsule follows",
)

NVME_FES_HEADER: Final = Constant("nvme_fes_header", 0x01, "fatal error: invalid PDU header field")
NVME_FES_SEQUENCE: Final = Constant("nvme_fes_sequence", 0x02, "fatal error: PDU sequence error")
NVME_FES_DIGEST: Final = Constant("nvme_fes_digest", 0x03, "fatal error: header digest error")
NVME_FES_RANGE: Final = Constant("nvme_fes_range", 0x04, "fatal error: data transfer out of range")
NVME_FES_LIMIT: Final = Constant(
    "nvme_fes_limit", 0x05, "fatal error: data transfer limit exceeded"
)
NVME_FES_UNSUPPORTED: Final = Constant(
    "nvme_fes_unsupported", 0x06, "fatal error: unsupported parameter"
)

NVME_CAPSULE_DATA_MAX: Final = Constant(
    "nvme_capsule_data_max", 8192, "bytes of data a command capsule may carry"
)
NVME_H2C_DATA_MAX: Final = Constant(
    "nvme_h2c_data_max", 131072, "MAXH2CDATA: bytes of data of one H2CData PDU"
)
NVME_TERM_HEADER_MAX: Final = Constant(
    "nvme_term_header_max",
    128,
    "bytes of the offending header that a termination PDU repeats at most",
)

_CH: Final = (
    Field("pdu_type", "u8", "PDU-Type"),
    Field("flags", "u8", "by type; bit 0 HDGSTF, bit 1 DDGSTF, bit 2 LAST_PDU, bit 3 SUCCESS"),
    Field("hlen", "u8", "bytes of the header, digest not counted"),
    Field("pdo", "u8", "where data begins, from byte 0 of the PDU; 0 when there is none"),
    Field("plen", "u32", "bytes of the whole PDU, digests and padding included"),
)

NVME_CH = Layout(
    "nvme_ch",
    order="le",
    size=8,
    doc="Common header. Source: NVMe/TCP 1.0, 3.6.1.",
    fields=_CH,
)

NVME_IC_REQUEST = Layout(
    "nvme_ic_request",
    order="le",
    size=128,
    doc="Initialize Connection Request. Source: NVMe/TCP 1.0, 3.6.2.2.",
    fields=(
        *_CH,
        Field("pfv", "u16", "PDU Format Version; 0"),
        Field(
            "hpda",
            "u8",
            "Host PDU Data Alignment: data for the host begins at multiples of 4 * (hpda + 1)",
        ),
        Field("dgst", "u8", "bit 0: header digest wanted; bit 1: data digest wanted"),
        Field("maxr2t", "u32", "R2Ts the host takes for one command at one time, minus one"),
        Field("unused", "bytes112", "reserved"),
    ),
)

NVME_IC_RESPONSE = Layout(
    "nvme_ic_response",
    order="le",
    size=128,
    doc="Initialize Connection Response. Source: NVMe/TCP 1.0, 3.6.2.3.",
    fields=(
        *_CH,
        Field("pfv", "u16", "PDU Format Version; 0"),
        Field("cpda", "u8", "Controller PDU Data Alignment; 0 means 4 bytes"),
        Field("dgst", "u8", "bit 0: header digest on; bit 1: data digest on"),
        Field("maxh2cdata", "u32", "bytes of data of one H2CData PDU at most"),
        Field("unused", "bytes112", "reserved"),
    ),
)

NVME_TERM = Layout(
    "nvme_term",
    order="le",
    size=24,
    doc="""H2CTermReq and C2HTermReq; what follows as data is the beginning of the header that was wrong.
    Source: NVMe/TCP 1.0, 3.6.2.4 and 3.6.2.5.""",
    fields=(
        *_CH,
        Field("fes", "u16", "Fatal Error Status"),
        Field(
            "fei", "u32", "Fatal Error Information: offset of the wrong field, or the wrong digest"
        ),
        Field("unused", "bytes10", "reserved"),
    ),
)

NVME_CAPSULE_COMMAND = Layout(
    "nvme_capsule_command",
    order="le",
    size=72,
    doc="CapsuleCmd. Source: NVMe/TCP 1.0, 3.6.2.6.",
    fields=(*_CH, Field("sqe", "bytes64", "submission queue entry, see ``nvme_sqe``")),
)

NVME_CAPSULE_RESPONSE = Layout(
    "nvme_capsule_response",
    order="le",
    size=24,
    doc="CapsuleResp. Source: NVMe/TCP 1.0, 3.6.2.7.",
    fields=(*_CH, Field("cqe", "bytes16", "completion queue entry, see ``nvme_cqe``")),
)

NVME_DATA = Layout(
    "nvme_data",
    order="le",
    size=24,
    doc="H2CData and C2HData. Source: NVMe/TCP 1.0, 3.6.2.8 and 3.6.2.9.",
    fields=(
        *_CH,
        Field("cccid", "u16", "command identifier of the command"),
        Field("ttag", "u16", "H2CData: transfer tag of the R2T it answers; C2HData: reserved"),
        Field("datao", "u32", "offset of the data in the command's, bytes"),
        Field("datal", "u32", "bytes of data"),
        Field("unused", "bytes4", "reserved"),
    ),
)

NVME_READY = Layout(
    "nvme_ready",
    order="le",
    size=24,
    doc="R2T. Source: NVMe/TCP 1.0, 3.6.2.10.",
    fields=(
        *_CH,
        Field("cccid", "u16", "command identifier of the command"),
        Field("ttag", "u16", "transfer tag"),
        Field("r2to", "u32", "offset of the data that is wanted, bytes"),
        Field("r2tl", "u32", "bytes of data that are wanted"),
        Field("unused", "bytes4", "reserved"),
    ),
)
