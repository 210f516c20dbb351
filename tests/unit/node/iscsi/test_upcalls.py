"""iSCSI commands that the core hands up: cold ones, task management, text."""

from __future__ import annotations

import struct

from sparrow.ports.dataplane import Upcall
from tests.support.iscsi_node import TARGET, Node, command
from tests.support.lines import VOLUME


async def session_of(node: Node) -> int:
    client = await node.log_in()
    (session,) = await node.adopted(1)
    client.close()
    return session.session_key


async def test_inquiry_is_answered_from_the_volume(node: Node) -> None:
    key = await session_of(node)
    node.upcalls.take(
        Upcall(
            volume_id=VOLUME,
            session_key=key,
            tag=3,
            header=command(bytes([0x12, 0, 0, 0, 96, 0])),
            data=b"",
        )
    )
    ((session_key, tag, status, sense, data),) = node.dataplane.answers
    assert (session_key, tag, status, sense) == (key, 3, 0, b"")
    assert data[0] & 0x1F == 0


async def test_an_unknown_command_is_an_illegal_request(node: Node) -> None:
    key = await session_of(node)
    node.upcalls.take(
        Upcall(volume_id=VOLUME, session_key=key, tag=3, header=command(b"\xee"), data=b"")
    )
    ((_key, _tag, status, sense, _data),) = node.dataplane.answers
    assert status == 2
    assert sense[2] & 0x0F == 5


async def test_task_management_the_core_does_not_know_is_not_supported(node: Node) -> None:
    key = await session_of(node)
    header = bytes([0x42, 0x80 | 7]).ljust(16, b"\0") + struct.pack(">I", 77)
    node.upcalls.take(
        Upcall(volume_id=VOLUME, session_key=key, tag=4, header=header.ljust(48, b"\0"), data=b"")
    )
    ((_key, tag, _raw, answer, data),) = node.dataplane.answers
    assert tag == 4
    assert len(answer) == 48
    assert (answer[0], answer[2], data) == (0x22, 5, b"")
    assert struct.unpack_from(">I", answer, 16) == (77,)


async def test_text_in_a_normal_session_lists_its_own_target(node: Node) -> None:
    key = await session_of(node)
    text = b"SendTargets=\0"
    header = bytearray(48)
    header[0], header[1] = 0x04, 0x80
    header[5:8] = len(text).to_bytes(3, "big")
    struct.pack_into(">II", header, 16, 9, 0xFFFFFFFF)
    node.upcalls.take(
        Upcall(volume_id=VOLUME, session_key=key, tag=5, header=bytes(header), data=text)
    )
    ((_key, _tag, _raw, answer, data),) = node.dataplane.answers
    assert answer[0] == 0x24
    assert f"TargetName={TARGET}".encode() in data


async def test_a_request_of_no_known_kind_is_rejected(node: Node) -> None:
    key = await session_of(node)
    header = bytes([0x10]).ljust(48, b"\0")
    node.upcalls.take(Upcall(volume_id=VOLUME, session_key=key, tag=6, header=header, data=b""))
    ((_key, _tag, _raw, answer, data),) = node.dataplane.answers
    assert answer[0] == 0x3F
    assert data == header


async def test_a_command_of_a_session_that_is_gone_is_dropped(node: Node) -> None:
    node.upcalls.take(
        Upcall(volume_id=VOLUME, session_key=99, tag=1, header=command(b"\x12"), data=b"")
    )
    assert not node.dataplane.answers
