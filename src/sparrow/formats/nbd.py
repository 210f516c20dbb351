"""What goes over an NBD connection: the handshake, the haggling over options, and the transmission phase.

The server greets with ``nbd_greeting``; the client answers with ``nbd_client_flags``. Then the client sends options
(``nbd_option`` and its data), each answered by one or more ``nbd_option_reply`` with their data, until it chooses an
export. From there on it sends ``nbd_request``, a WRITE followed by its data, and gets for each either one
``nbd_simple_reply`` (followed by the data of a READ) or, when structured replies were agreed on, chunks that begin with
``nbd_chunk`` of which the last carries ``nbd_reply_flag_done``.

Strings have their length before them and are at most 4096 bytes of UTF-8. Everything is big-endian.
Source: doc/proto.md of the NBD project.
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Constant, Field, Layout

NBD_MAGIC: Final = Constant(
    "nbd_magic", 0x4E42444D41474943, "NBDMAGIC, the first bytes of a server"
)
NBD_OPTION_MAGIC: Final = Constant("nbd_option_magic", 0x49484156454F5054, "IHAVEOPT")
NBD_OPTION_REPLY_MAGIC: Final = Constant(
    "nbd_option_reply_magic", 0x0003E889045565A9, "of an option reply"
)
NBD_REQUEST_MAGIC: Final = Constant("nbd_request_magic", 0x25609513, "of a request")
NBD_SIMPLE_REPLY_MAGIC: Final = Constant("nbd_simple_reply_magic", 0x67446698, "of a simple reply")
NBD_CHUNK_MAGIC: Final = Constant("nbd_chunk_magic", 0x668E33EF, "of a chunk of a structured reply")

NBD_STRING_BYTES_MAX: Final = Constant(
    "nbd_string_bytes_max", 4096, "longest string either side may send"
)
NBD_BLOCK_MIN: Final = Constant("nbd_block_min", 1, "smallest block a request may address, bytes")
NBD_BLOCK_PREFERRED: Final = Constant(
    "nbd_block_preferred", 4096, "a page: anything smaller is merged with what is there"
)
NBD_BLOCK_MAX: Final = Constant(
    "nbd_block_max", 1 << 25, "longest READ, WRITE, CACHE and WRITE_ZEROES, bytes"
)

NBD_FLAG_FIXED_NEWSTYLE: Final = Constant(
    "nbd_flag_fixed_newstyle", 1, "handshake flag, of both sides"
)
NBD_FLAG_NO_ZEROES: Final = Constant("nbd_flag_no_zeroes", 2, "handshake flag, of both sides")

NBD_FLAG_HAS_FLAGS: Final = Constant("nbd_flag_has_flags", 0x001, "transmission flag")
NBD_FLAG_READ_ONLY: Final = Constant("nbd_flag_read_only", 0x002, "transmission flag")
NBD_FLAG_SEND_FLUSH: Final = Constant("nbd_flag_send_flush", 0x004, "transmission flag")
NBD_FLAG_SEND_FUA: Final = Constant("nbd_flag_send_fua", 0x008, "transmission flag")
NBD_FLAG_SEND_TRIM: Final = Constant("nbd_flag_send_trim", 0x020, "transmission flag")
NBD_FLAG_SEND_WRITE_ZEROES: Final = Constant(
    "nbd_flag_send_write_zeroes", 0x040, "transmission flag"
)
NBD_FLAG_SEND_DF: Final = Constant(
    "nbd_flag_send_df", 0x080, "transmission flag, with structured replies only"
)
NBD_FLAG_CAN_MULTI_CONN: Final = Constant("nbd_flag_can_multi_conn", 0x100, "transmission flag")
NBD_FLAG_SEND_CACHE: Final = Constant("nbd_flag_send_cache", 0x400, "transmission flag")
NBD_FLAG_SEND_FAST_ZERO: Final = Constant("nbd_flag_send_fast_zero", 0x800, "transmission flag")

NBD_OPT_EXPORT_NAME: Final = Constant("nbd_opt_export_name", 1, "option")
NBD_OPT_ABORT: Final = Constant("nbd_opt_abort", 2, "option")
NBD_OPT_LIST: Final = Constant("nbd_opt_list", 3, "option")
NBD_OPT_STARTTLS: Final = Constant("nbd_opt_starttls", 5, "option")
NBD_OPT_INFO: Final = Constant("nbd_opt_info", 6, "option")
NBD_OPT_GO: Final = Constant("nbd_opt_go", 7, "option")
NBD_OPT_STRUCTURED_REPLY: Final = Constant("nbd_opt_structured_reply", 8, "option")
NBD_OPT_LIST_META_CONTEXT: Final = Constant("nbd_opt_list_meta_context", 9, "option")
NBD_OPT_SET_META_CONTEXT: Final = Constant("nbd_opt_set_meta_context", 10, "option")

NBD_REP_ACK: Final = Constant("nbd_rep_ack", 1, "option reply")
NBD_REP_SERVER: Final = Constant("nbd_rep_server", 2, "option reply: one export")
NBD_REP_INFO: Final = Constant("nbd_rep_info", 3, "option reply: one thing about an export")
NBD_REP_META_CONTEXT: Final = Constant(
    "nbd_rep_meta_context", 4, "option reply: one metadata context"
)
NBD_REP_ERR_UNSUP: Final = Constant("nbd_rep_err_unsup", 0x80000001, "option reply: unknown option")
NBD_REP_ERR_POLICY: Final = Constant(
    "nbd_rep_err_policy", 0x80000002, "option reply: not allowed here"
)
NBD_REP_ERR_INVALID: Final = Constant("nbd_rep_err_invalid", 0x80000003, "option reply: malformed")
NBD_REP_ERR_PLATFORM: Final = Constant(
    "nbd_rep_err_platform", 0x80000004, "option reply: not on this machine"
)
NBD_REP_ERR_TLS_REQD: Final = Constant(
    "nbd_rep_err_tls_reqd", 0x80000005, "option reply: TLS first"
)
NBD_REP_ERR_UNKNOWN: Final = Constant(
    "nbd_rep_err_unknown", 0x80000006, "option reply: no such export"
)
NBD_REP_ERR_SHUTDOWN: Final = Constant(
    "nbd_rep_err_shutdown", 0x80000007, "option reply: shutting down"
)
NBD_REP_ERR_BLOCK_SIZE_REQD: Final = Constant(
    "nbd_rep_err_block_size_reqd", 0x80000008, "option reply"
)
NBD_REP_ERR_TOO_BIG: Final = Constant(
    "nbd_rep_err_too_big", 0x80000009, "option reply: request too large"
)

NBD_INFO_EXPORT: Final = Constant("nbd_info_export", 0, "information: size and transmission flags")
NBD_INFO_NAME: Final = Constant("nbd_info_name", 1, "information: canonical name")
NBD_INFO_DESCRIPTION: Final = Constant("nbd_info_description", 2, "information: for a human being")
NBD_INFO_BLOCK_SIZE: Final = Constant("nbd_info_block_size", 3, "information: sizes of blocks")

NBD_CMD_READ: Final = Constant("nbd_cmd_read", 0, "request type")
NBD_CMD_WRITE: Final = Constant("nbd_cmd_write", 1, "request type")
NBD_CMD_DISC: Final = Constant("nbd_cmd_disc", 2, "request type")
NBD_CMD_FLUSH: Final = Constant("nbd_cmd_flush", 3, "request type")
NBD_CMD_TRIM: Final = Constant("nbd_cmd_trim", 4, "request type")
NBD_CMD_CACHE: Final = Constant("nbd_cmd_cache", 5, "request type")
NBD_CMD_WRITE_ZEROES: Final = Constant("nbd_cmd_write_zeroes", 6, "request type")
NBD_CMD_BLOCK_STATUS: Final = Constant("nbd_cmd_block_status", 7, "request type")

NBD_CMD_FLAG_FUA: Final = Constant(
    "nbd_cmd_flag_fua", 0x01, "request flag: durable before the reply"
)
NBD_CMD_FLAG_NO_HOLE: Final = Constant(
    "nbd_cmd_flag_no_hole", 0x02, "request flag: zeros that have a place"
)
NBD_CMD_FLAG_DF: Final = Constant(
    "nbd_cmd_flag_df", 0x04, "request flag: one chunk of data at most"
)
NBD_CMD_FLAG_REQ_ONE: Final = Constant("nbd_cmd_flag_req_one", 0x08, "request flag: one extent")
NBD_CMD_FLAG_FAST_ZERO: Final = Constant(
    "nbd_cmd_flag_fast_zero", 0x10, "request flag: quickly or not at all"
)

NBD_REPLY_FLAG_DONE: Final = Constant(
    "nbd_reply_flag_done", 1, "chunk flag: the last one of the reply"
)
NBD_REPLY_NONE: Final = Constant("nbd_reply_none", 0, "chunk type")
NBD_REPLY_OFFSET_DATA: Final = Constant("nbd_reply_offset_data", 1, "chunk type")
NBD_REPLY_OFFSET_HOLE: Final = Constant("nbd_reply_offset_hole", 2, "chunk type")
NBD_REPLY_BLOCK_STATUS: Final = Constant("nbd_reply_block_status", 5, "chunk type")
NBD_REPLY_ERROR: Final = Constant("nbd_reply_error", 0x8001, "chunk type")

NBD_STATE_HOLE: Final = Constant("nbd_state_hole", 1, "base:allocation: no place is taken")
NBD_STATE_ZERO: Final = Constant("nbd_state_zero", 2, "base:allocation: reads as zeros")

NBD_EPERM: Final = Constant("nbd_eperm", 1, "error")
NBD_EIO: Final = Constant("nbd_eio", 5, "error")
NBD_ENOMEM: Final = Constant("nbd_enomem", 12, "error")
NBD_EINVAL: Final = Constant("nbd_einval", 22, "error")
NBD_ENOSPC: Final = Constant("nbd_enospc", 28, "error")
NBD_EOVERFLOW: Final = Constant("nbd_eoverflow", 75, "error")
NBD_ENOTSUP: Final = Constant("nbd_enotsup", 95, "error")
NBD_ESHUTDOWN: Final = Constant("nbd_eshutdown", 108, "error")

_COOKIE: Final = Field("cookie", "bytes8", "the client's own, the same in request and reply")

NBD_GREETING = Layout(
    "nbd_greeting",
    order="be",
    size=18,
    doc="The server's first bytes.",
    fields=(
        Field("magic", "u64", "nbd_magic"),
        Field("option_magic", "u64", "nbd_option_magic"),
        Field("flags", "u16", "handshake flags"),
    ),
)

NBD_CLIENT_FLAGS = Layout(
    "nbd_client_flags",
    order="be",
    size=4,
    doc="The client's first bytes; a flag the server did not offer ends the connection.",
    fields=(Field("flags", "u32", "handshake flags"),),
)

NBD_OPTION = Layout(
    "nbd_option",
    order="be",
    size=16,
    doc="Before the data of an option.",
    fields=(
        Field("magic", "u64", "nbd_option_magic"),
        Field("option", "u32", "which"),
        Field("data_bytes", "u32", "of the data that follows"),
    ),
)

NBD_OPTION_REPLY = Layout(
    "nbd_option_reply",
    order="be",
    size=20,
    doc="Before the data of an option reply.",
    fields=(
        Field("magic", "u64", "nbd_option_reply_magic"),
        Field("option", "u32", "the one that is answered"),
        Field("type", "u32", "which reply; errors have bit 31 set"),
        Field(
            "data_bytes",
            "u32",
            "of the data that follows; of an error, a message for a human being",
        ),
    ),
)

NBD_EXPORT_REPLY = Layout(
    "nbd_export_reply",
    order="be",
    size=10,
    doc="Answers nbd_opt_export_name; 124 zero bytes follow unless both sides set nbd_flag_no_zeroes.",
    fields=(
        Field("size_bytes", "u64", "of the export"),
        Field("flags", "u16", "transmission flags"),
    ),
)

NBD_EXPORT_INFO = Layout(
    "nbd_export_info",
    order="be",
    size=12,
    doc="Data of nbd_rep_info about nbd_info_export.",
    fields=(
        Field("type", "u16", "nbd_info_export"),
        Field("size_bytes", "u64", "of the export"),
        Field("flags", "u16", "transmission flags"),
    ),
)

NBD_BLOCK_SIZE_INFO = Layout(
    "nbd_block_size_info",
    order="be",
    size=14,
    doc="Data of nbd_rep_info about nbd_info_block_size.",
    fields=(
        Field("type", "u16", "nbd_info_block_size"),
        Field("min_bytes", "u32", "smallest block"),
        Field("preferred_bytes", "u32", "smallest efficient block"),
        Field("max_bytes", "u32", "longest request"),
    ),
)

NBD_REQUEST = Layout(
    "nbd_request",
    order="be",
    size=28,
    doc="One request; a WRITE has its data behind it.",
    fields=(
        Field("magic", "u32", "nbd_request_magic"),
        Field("flags", "u16", "request flags"),
        Field("type", "u16", "request type"),
        _COOKIE,
        Field("offset", "u64", "bytes"),
        Field("length", "u32", "bytes"),
    ),
)

NBD_SIMPLE_REPLY = Layout(
    "nbd_simple_reply",
    order="be",
    size=16,
    doc="One reply; the data of a READ that succeeded follows.",
    fields=(
        Field("magic", "u32", "nbd_simple_reply_magic"),
        Field("error", "u32", "0 or an error"),
        _COOKIE,
    ),
)

NBD_CHUNK = Layout(
    "nbd_chunk",
    order="be",
    size=20,
    doc="Before the payload of a chunk.",
    fields=(
        Field("magic", "u32", "nbd_chunk_magic"),
        Field("flags", "u16", "chunk flags"),
        Field("type", "u16", "chunk type"),
        _COOKIE,
        Field("length", "u32", "of the payload"),
    ),
)

NBD_CHUNK_DATA = Layout(
    "nbd_chunk_data",
    order="be",
    size=8,
    doc="Payload of nbd_reply_offset_data, before the data.",
    fields=(Field("offset", "u64", "of the data in the export, bytes"),),
)

NBD_CHUNK_STATUS = Layout(
    "nbd_chunk_status",
    order="be",
    size=4,
    doc="Payload of nbd_reply_block_status, before the extents.",
    fields=(Field("context", "u32", "id of the metadata context"),),
)

NBD_EXTENT = Layout(
    "nbd_extent",
    order="be",
    size=8,
    doc="One extent of nbd_reply_block_status; they follow each other from the offset of the request on.",
    fields=(
        Field("length", "u32", "bytes, not 0"),
        Field("status", "u32", "nbd_state_hole, nbd_state_zero"),
    ),
)

NBD_CHUNK_ERROR = Layout(
    "nbd_chunk_error",
    order="be",
    size=6,
    doc="Payload of nbd_reply_error, before the message.",
    fields=(
        Field("error", "u32", "not 0"),
        Field("message_bytes", "u16", "of the message for a human being that follows"),
    ),
)
