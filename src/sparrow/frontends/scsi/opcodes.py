"""REPORT SUPPORTED OPERATION CODES: the command table told to the initiator.

Source: SPC-4, 6.35.
"""

from __future__ import annotations

import struct
from typing import Final

from sparrow.frontends.scsi.cdb import COMMANDS, SERVICE_ACTION_OPCODES, Command, find
from sparrow.frontends.scsi.sense import INVALID_FIELD_IN_CDB, ScsiError

_RCTD: Final = 0x80
_UNSUPPORTED: Final = 0x01
_SUPPORTED: Final = 0x03
_SERVACTV: Final = 0x01
_CTDP_ALL: Final = 0x02
_CTDP_ONE: Final = 0x80
#: Command timeouts descriptor with neither a nominal nor a recommended time. Source: SPC-4, table 301.
_TIMEOUTS: Final = struct.pack(">HxxII", 0x0A, 0, 0)


def report_supported_operation_codes(cdb: bytes) -> bytes:
    """All commands, or one asked for by opcode, or by opcode and service action."""
    timeouts = bool(cdb[2] & _RCTD)
    options, opcode = cdb[2] & 0x07, cdb[3]
    service_action = int.from_bytes(cdb[4:6], "big")
    has_actions = opcode in SERVICE_ACTION_OPCODES
    match options:
        case 0:
            body = b"".join(_descriptor(command, timeouts=timeouts) for command in COMMANDS)
            return struct.pack(">I", len(body)) + body
        case 1:
            if has_actions:
                raise ScsiError(INVALID_FIELD_IN_CDB.at(2, 2))
            return _one(find(opcode), timeouts=timeouts)
        case 2:
            if not has_actions and find(opcode) is not None:
                raise ScsiError(INVALID_FIELD_IN_CDB.at(2, 2))
            return _one(find(opcode, service_action) if has_actions else None, timeouts=timeouts)
        case 3:
            # An opcode without service actions is only that command when the action asked for is 0.
            command = find(opcode, service_action) if has_actions or not service_action else None
            return _one(command, timeouts=timeouts)
        case _:
            raise ScsiError(INVALID_FIELD_IN_CDB.at(2, 2))


def _descriptor(command: Command, *, timeouts: bool) -> bytes:
    action = command.op.service_action
    flags = (_SERVACTV if action is not None else 0) | (_CTDP_ALL if timeouts else 0)
    head = struct.pack(">BxHxBH", command.op.opcode, action or 0, flags, len(command.usage))
    return head + (_TIMEOUTS if timeouts else b"")


def _one(command: Command | None, *, timeouts: bool) -> bytes:
    if command is None:
        return struct.pack(">BBH", 0, _UNSUPPORTED, 0)
    flags = _SUPPORTED | (_CTDP_ONE if timeouts else 0)
    head = struct.pack(">BBH", 0, flags, len(command.usage))
    return head + command.usage + (_TIMEOUTS if timeouts else b"")
