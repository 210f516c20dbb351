"""Basic header segments of iSCSI in full-feature phase, as the native core reads and builds them.

Every PDU starts with 48 bytes. What is common to all of them is ``iscsi_bhs``; each other layout here is one opcode's
view of the same 48 bytes. After them come additional header segments (four times ``ahs_words`` bytes), the header
digest if negotiated, the data segment, zero bytes up to a multiple of four, and the data digest if negotiated. Bits
the standard reserves are sent as zero and not looked at, which is why they are plain bytes here and not ``reserved``.

The conversation before full-feature phase is ``sparrow.frontends.iscsi``'s. Source: RFC 7143, section 11.
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Constant, Field, Layout

ISCSI_NOP_OUT: Final = Constant("iscsi_nop_out", 0x00, "opcode: NOP-Out")
ISCSI_COMMAND: Final = Constant("iscsi_command", 0x01, "opcode: SCSI Command")
ISCSI_TASK_MANAGEMENT: Final = Constant(
    "iscsi_task_management", 0x02, "opcode: Task Management Function Request"
)
ISCSI_LOGIN: Final = Constant("iscsi_login", 0x03, "opcode: Login Request")
ISCSI_TEXT: Final = Constant("iscsi_text", 0x04, "opcode: Text Request")
ISCSI_DATA_OUT: Final = Constant("iscsi_data_out", 0x05, "opcode: SCSI Data-Out")
ISCSI_LOGOUT: Final = Constant("iscsi_logout", 0x06, "opcode: Logout Request")
ISCSI_SNACK: Final = Constant("iscsi_snack", 0x10, "opcode: SNACK Request")
ISCSI_NOP_IN: Final = Constant("iscsi_nop_in", 0x20, "opcode: NOP-In")
ISCSI_RESPONSE: Final = Constant("iscsi_response", 0x21, "opcode: SCSI Response")
ISCSI_TASK_MANAGEMENT_RESPONSE: Final = Constant(
    "iscsi_task_management_response", 0x22, "opcode: Task Management Function Response"
)
ISCSI_TEXT_RESPONSE: Final = Constant("iscsi_text_response", 0x24, "opcode: Text Response")
ISCSI_DATA_IN: Final = Constant("iscsi_data_in", 0x25, "opcode: SCSI Data-In")
ISCSI_LOGOUT_RESPONSE: Final = Constant("iscsi_logout_response", 0x26, "opcode: Logout Response")
ISCSI_R2T: Final = Constant("iscsi_r2t", 0x31, "opcode: Ready To Transfer")
ISCSI_REJECT: Final = Constant("iscsi_reject", 0x3F, "opcode: Reject")

ISCSI_NO_TAG: Final = Constant("iscsi_no_tag", 0xFFFFFFFF, "the tag that means no tag")

_DATA_BYTES: Final = Field("data_bytes", "u24", "DataSegmentLength, padding not counted")
_AHS_WORDS: Final = Field("ahs_words", "u8", "TotalAHSLength in words of four bytes")
_ITT: Final = Field("itt", "u32", "Initiator Task Tag")
_TTT: Final = Field("ttt", "u32", "Target Transfer Tag, or no tag")
_LUN: Final = Field("lun", "bytes8", "LUN field")
_NUMBERS_IN: Final = (
    Field("stat_sn", "u32", "StatSN"),
    Field("exp_cmd_sn", "u32", "ExpCmdSN"),
    Field("max_cmd_sn", "u32", "MaxCmdSN"),
)
_NUMBERS_OUT: Final = (
    Field("cmd_sn", "u32", "CmdSN"),
    Field("exp_stat_sn", "u32", "ExpStatSN"),
)


def _head(third: Field, fourth: Field) -> tuple[Field, ...]:
    """Bytes 0 to 7, the same in every PDU but for bytes 2 and 3."""
    return (
        Field("opcode", "u8", "bit 6: immediate (requests); bits 0 to 5: opcode"),
        Field("flags", "u8", "by opcode; bit 7 is mostly F, the final PDU"),
        third,
        fourth,
        _AHS_WORDS,
        _DATA_BYTES,
    )


_PLAIN: Final = _head(Field("byte2", "u8", "by opcode"), Field("byte3", "u8", "by opcode"))
_ANSWERED: Final = _head(
    Field("response", "u8", "iSCSI response code"), Field("status", "u8", "SCSI status")
)

ISCSI_BHS = Layout(
    "iscsi_bhs",
    order="be",
    size=48,
    doc="What every PDU has. Source: RFC 7143, 11.2.1.",
    fields=(
        *_PLAIN,
        _LUN,
        _ITT,
        Field("word20", "u32", "by opcode: transfer tag, or expected length"),
        Field("word24", "u32", "requests: CmdSN; answers: StatSN"),
        Field("word28", "u32", "requests: ExpStatSN; answers: ExpCmdSN"),
        Field("specific", "bytes16", "by opcode"),
    ),
)

ISCSI_SCSI_COMMAND = Layout(
    "iscsi_scsi_command",
    order="be",
    size=48,
    doc="SCSI Command; flags: F, R, W, task attribute. Source: RFC 7143, 11.3.",
    fields=(
        *_PLAIN,
        _LUN,
        _ITT,
        Field("expected_bytes", "u32", "Expected Data Transfer Length"),
        *_NUMBERS_OUT,
        Field("cdb", "bytes16", "command descriptor block, zero-padded"),
    ),
)

ISCSI_SCSI_RESPONSE = Layout(
    "iscsi_scsi_response",
    order="be",
    size=48,
    doc="SCSI Response; flags: residual overflow and underflow. Source: RFC 7143, 11.4.",
    fields=(
        *_ANSWERED,
        Field("lun", "bytes8", "reserved"),
        _ITT,
        Field("snack_tag", "u32", "zero"),
        *_NUMBERS_IN,
        Field("exp_data_sn", "u32", "Data-In and R2T PDUs sent for the command"),
        Field("read_residual", "u32", "bidirectional commands only"),
        Field("residual", "u32", "bytes not transferred, or that did not fit"),
    ),
)

ISCSI_TASK_REQUEST = Layout(
    "iscsi_task_request",
    order="be",
    size=48,
    doc="Task Management Function Request; flags: F and function. Source: RFC 7143, 11.5.",
    fields=(
        *_PLAIN,
        _LUN,
        _ITT,
        Field("task_itt", "u32", "tag of the task to be managed"),
        *_NUMBERS_OUT,
        Field("ref_cmd_sn", "u32", "CmdSN of that task"),
        Field("exp_data_sn", "u32", "task reassign only"),
        Field("spare", "bytes8", "reserved"),
    ),
)

ISCSI_SCSI_DATA_OUT = Layout(
    "iscsi_scsi_data_out",
    order="be",
    size=48,
    doc="SCSI Data-Out; flags: F. Source: RFC 7143, 11.7.",
    fields=(
        *_PLAIN,
        _LUN,
        _ITT,
        _TTT,
        Field("spare24", "u32", "reserved"),
        Field("exp_stat_sn", "u32", "ExpStatSN"),
        Field("spare32", "u32", "reserved"),
        Field("data_sn", "u32", "DataSN in its sequence"),
        Field("offset", "u32", "buffer offset of the first byte"),
        Field("spare44", "u32", "reserved"),
    ),
)

ISCSI_SCSI_DATA_IN = Layout(
    "iscsi_scsi_data_in",
    order="be",
    size=48,
    doc="SCSI Data-In; flags: F, A, O, U, S. Source: RFC 7143, 11.7.",
    fields=(
        *_ANSWERED,
        _LUN,
        _ITT,
        _TTT,
        *_NUMBERS_IN,
        Field("data_sn", "u32", "DataSN of the command"),
        Field("offset", "u32", "buffer offset of the first byte"),
        Field("residual", "u32", "valid with S"),
    ),
)

ISCSI_READY = Layout(
    "iscsi_ready",
    order="be",
    size=48,
    doc="Ready To Transfer. Source: RFC 7143, 11.8.",
    fields=(
        *_PLAIN,
        _LUN,
        _ITT,
        _TTT,
        *_NUMBERS_IN,
        Field("r2t_sn", "u32", "R2TSN of the command"),
        Field("offset", "u32", "buffer offset of the first byte wanted"),
        Field("desired_bytes", "u32", "bytes wanted"),
    ),
)

ISCSI_LOGOUT_REQUEST = Layout(
    "iscsi_logout_request",
    order="be",
    size=48,
    doc="Logout Request; flags: reason. Source: RFC 7143, 11.14.",
    fields=(
        *_PLAIN,
        Field("spare8", "bytes8", "reserved"),
        _ITT,
        Field("cid", "u16", "connection to be closed, by reason"),
        Field("spare22", "bytes2", "reserved"),
        *_NUMBERS_OUT,
        Field("spare32", "bytes16", "reserved"),
    ),
)

ISCSI_ANSWER = Layout(
    "iscsi_answer",
    order="be",
    size=48,
    doc="What the other answers have in common: NOP-In, Text, Task Management, Logout, Reject.",
    fields=(
        *_ANSWERED,
        _LUN,
        _ITT,
        _TTT,
        *_NUMBERS_IN,
        Field("specific", "bytes12", "by opcode"),
    ),
)
