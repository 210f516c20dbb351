"""Discovery sessions: SendTargets, pings, logout, and everything that has no place in one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparrow.base.errors import LocalProtocolError, RemoteProtocolError
from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.directory import Portal, TargetDirectory, TargetEntry
from sparrow.frontends.iscsi.discovery import answer_text
from sparrow.frontends.iscsi.discovery_session import DiscoverySession
from sparrow.frontends.iscsi.errors import IscsiError
from sparrow.frontends.iscsi.keys import decode_pairs, encode_pairs
from sparrow.frontends.iscsi.login import LoginMachine
from sparrow.frontends.iscsi.pdu import RESERVED_TAG, Opcode, frame
from sparrow.frontends.iscsi.requests import LogoutReason, LogoutRequest, NopOut, Stage, TextRequest
from sparrow.frontends.iscsi.responses import (
    LogoutOutcome,
    LogoutResponse,
    NopIn,
    Reject,
    RejectReason,
    TextResponse,
)
from tests.support.iscsi_peer import INITIATOR, LoginPair, pdus, who

FRIEND = "iqn.2000-01.com.example:friend"


def _entry(name, *, replicas=3, initiators=None):
    return TargetEntry(
        name=f"iqn.2026-01.io.sparrow:{name}",
        volume_id=VolumeId(name),
        group_tag=1,
        portals=tuple(
            Portal(host=f"10.0.0.{n}", port=3260, group_tag=n) for n in range(1, replicas + 1)
        ),
        initiators=initiators,
    )


DIRECTORY = TargetDirectory(
    (_entry("beta"), _entry("alpha"), _entry("secret", initiators=frozenset({FRIEND})))
)
ALPHA = [
    ("TargetName", "iqn.2026-01.io.sparrow:alpha"),
    ("TargetAddress", "10.0.0.1:3260,1"),
    ("TargetAddress", "10.0.0.2:3260,2"),
    ("TargetAddress", "10.0.0.3:3260,3"),
]


class Conversation:
    """A discovery session after its login, and the initiator's numbers."""

    def __init__(self, directory=DIRECTORY, *, chunk_bytes=0, **login):
        pair = LoginPair(LoginMachine(directory=directory, tsih=1))
        pair.say(who("") | login)
        self.session = DiscoverySession(pair.accepted.session, directory)
        self.chunk_bytes = chunk_bytes
        self.stat_sn = pair.accepted.session.stat_sn
        self.cmd_sn = 7

    def send(self, wire):
        """Feed bytes; gives the PDUs that came back, StatSN checked."""
        size = self.chunk_bytes or len(wire) or 1
        out = b"".join(
            self.session.feed(wire[at : at + size]).send for at in range(0, len(wire), size)
        )
        found = pdus(out)
        for pdu in found:
            assert int.from_bytes(pdu.bhs[24:28], "big") == self.stat_sn
            self.stat_sn += 1
        return found

    def text(self, text, **changes):
        values = {"final": True, "task_tag": 9, "cmd_sn": self.cmd_sn, "exp_stat_sn": 0} | changes
        self.cmd_sn += 1
        (pdu,) = self.send(TextRequest(text=text, **values).encode())
        response = TextResponse.decode(pdu)
        assert response.exp_cmd_sn == self.cmd_sn
        return response

    def ask(self, value):
        return pairs_of(self.text(encode_pairs([("SendTargets", value)])).text)


def pairs_of(text):
    """Pairs of an answer; unlike a request it may name TargetAddress more than once."""
    return [tuple(part.decode().split("=", 1)) for part in text.split(b"\0") if part]


@pytest.fixture(params=[0, 1], ids=["whole", "byte by byte"])
def conversation(request):
    return Conversation(chunk_bytes=request.param)


def test_all_targets_are_told_with_every_portal_of_every_replica(conversation):
    answer = conversation.ask("All")
    assert answer[:4] == ALPHA
    assert [value for key, value in answer if key == "TargetName"] == [
        "iqn.2026-01.io.sparrow:alpha",
        "iqn.2026-01.io.sparrow:beta",
    ]


def test_one_target_is_told_by_name(conversation):
    assert conversation.ask("iqn.2026-01.io.sparrow:alpha") == ALPHA


@pytest.mark.parametrize("name", ["iqn.2026-01.io.sparrow:none", "iqn.2026-01.io.sparrow:secret"])
def test_a_target_that_is_not_there_or_not_for_us_is_an_empty_answer(conversation, name):
    assert conversation.ask(name) == []


def test_an_initiator_sees_what_it_may_use():
    names = [
        value
        for key, value in answer_text(
            [("SendTargets", "All")], directory=DIRECTORY, initiator_name=FRIEND
        )
        if key == "TargetName"
    ]
    assert "iqn.2026-01.io.sparrow:secret" in names


def test_the_empty_value_is_for_normal_sessions_only(conversation):
    assert conversation.ask("") == [("SendTargets", "Reject")]


@pytest.mark.parametrize("value", ["", "iqn.2026-01.io.sparrow:alpha"])
def test_a_normal_session_is_told_of_its_own_target(value):
    answer = answer_text(
        [("SendTargets", value)],
        directory=DIRECTORY,
        initiator_name=INITIATOR,
        own_target="iqn.2026-01.io.sparrow:alpha",
    )
    assert list(answer) == ALPHA


@pytest.mark.parametrize("value", ["All", "iqn.2026-01.io.sparrow:beta"])
def test_a_normal_session_is_told_of_no_other_target(value):
    answer = answer_text(
        [("SendTargets", value)],
        directory=DIRECTORY,
        initiator_name=INITIATOR,
        own_target="iqn.2026-01.io.sparrow:alpha",
    )
    assert answer == (("SendTargets", "Reject"),)


def test_ipv6_portals_stand_in_brackets():
    portal = Portal(host="fd00::1", port=3261, group_tag=1)
    assert portal.authority == "[fd00::1]:3261"


def test_unknown_keys_are_not_understood_and_settled_ones_stay(conversation):
    answer = conversation.text(b"X-a=1\0MaxBurstLength=512\0InitiatorAlias=me\0")
    assert pairs_of(answer.text) == [("X-a", "NotUnderstood"), ("MaxBurstLength", "Irrelevant")]


def test_a_long_answer_is_asked_for_piece_by_piece():
    directory = TargetDirectory(tuple(_entry(f"volume-{n:03d}") for n in range(200)))
    conversation = Conversation(directory, MaxRecvDataSegmentLength="512")
    text = b""
    response = conversation.text(b"SendTargets=All\0")
    while not response.final:
        assert response.continued
        assert len(response.text) <= 512
        assert response.transfer_tag != RESERVED_TAG
        text += response.text
        response = conversation.text(b"", transfer_tag=response.transfer_tag)
    text += response.text
    assert response.transfer_tag == RESERVED_TAG
    assert sum(key == "TargetName" for key, _ in pairs_of(text)) == 200


def test_a_question_may_come_in_pieces(conversation):
    response = conversation.text(b"SendTar", final=False, continued=True)
    assert not response.final
    assert response.text == b""
    response = conversation.text(b"gets=All\0", transfer_tag=response.transfer_tag)
    assert response.final
    assert pairs_of(response.text)[:4] == ALPHA


def test_a_new_question_drops_what_was_left_of_the_old(conversation):
    conversation.text(b"SendTar", final=False, continued=True)
    assert pairs_of(conversation.text(b"SendTargets=All\0").text)[:4] == ALPHA


def test_a_ping_comes_back(conversation):
    wire = NopOut(immediate=True, task_tag=5, cmd_sn=7, exp_stat_sn=0, ping=b"hello").encode()
    (pdu,) = conversation.send(wire)
    answer = NopIn.decode(pdu)
    assert (answer.task_tag, answer.ping, answer.exp_cmd_sn) == (5, b"hello", 7)


def test_a_nop_without_a_tag_is_not_answered(conversation):
    wire = NopOut(immediate=True, task_tag=RESERVED_TAG, cmd_sn=7, exp_stat_sn=0).encode()
    assert conversation.send(wire) == []


def test_a_command_out_of_its_turn_is_ignored(conversation):
    wire = TextRequest(final=True, task_tag=5, cmd_sn=6, exp_stat_sn=0, text=b"SendTargets=All\0")
    assert conversation.send(wire.encode()) == []


@pytest.mark.parametrize(
    ("reason", "cid", "outcome", "closed"),
    [
        (LogoutReason.CLOSE_SESSION, 0, LogoutOutcome.CLOSED, True),
        (LogoutReason.CLOSE_SESSION, 5, LogoutOutcome.CLOSED, True),
        (LogoutReason.CLOSE_CONNECTION, 0, LogoutOutcome.CLOSED, True),
        (LogoutReason.CLOSE_CONNECTION, 5, LogoutOutcome.CID_NOT_FOUND, False),
        (LogoutReason.REMOVE_FOR_RECOVERY, 0, LogoutOutcome.RECOVERY_UNSUPPORTED, False),
    ],
)
def test_logout(conversation, reason, cid, outcome, closed):
    wire = LogoutRequest(
        immediate=True, reason=reason, cid=cid, task_tag=5, cmd_sn=7, exp_stat_sn=0
    ).encode()
    (pdu,) = conversation.send(wire)
    assert LogoutResponse.decode(pdu).outcome is outcome
    assert conversation.session.closed == closed


def test_nothing_is_read_after_a_logout():
    conversation = Conversation()
    logout = LogoutRequest(
        immediate=True, reason=LogoutReason.CLOSE_SESSION, task_tag=5, cmd_sn=7, exp_stat_sn=0
    ).encode()
    assert len(conversation.send(logout + logout)) == 1
    with pytest.raises(LocalProtocolError):
        conversation.session.feed(b"")


@pytest.mark.parametrize(
    "opcode", [Opcode.SCSI_COMMAND, Opcode.DATA_OUT, Opcode.LOGIN_REQUEST, Opcode.SNACK, 0x1F]
)
def test_anything_else_is_rejected_and_the_session_goes_on(conversation, opcode):
    header = bytes([opcode, 0x80]) + bytes(46)
    (pdu,) = conversation.send(frame(header))
    reject = Reject.decode(pdu)
    assert reject.reason is RejectReason.COMMAND_NOT_SUPPORTED
    assert reject.header == header
    assert conversation.ask("All")[:4] == ALPHA


@pytest.mark.parametrize(
    "wire",
    [
        TextRequest(final=True, task_tag=5, cmd_sn=7, exp_stat_sn=0, text=b"no end").encode(),
        TextRequest(final=True, task_tag=5, cmd_sn=7, exp_stat_sn=0, transfer_tag=99).encode(),
        frame(bytes([0x04, 0xC0]) + bytes(46)),
    ],
    ids=["text without an end", "a tag never given", "F and C"],
)
def test_a_broken_request_ends_the_session_with_a_reject(conversation, wire):
    with pytest.raises(IscsiError) as broken:
        conversation.send(wire)
    assert Reject.decode(pdus(broken.value.reply)[-1]).reason is RejectReason.PROTOCOL_ERROR
    with pytest.raises(LocalProtocolError):
        conversation.session.feed(b"")


def test_requests_sent_along_with_the_login_are_answered():
    pair = LoginPair(LoginMachine(directory=DIRECTORY, tsih=1))
    ping = NopOut(immediate=True, task_tag=5, cmd_sn=7, exp_stat_sn=0, ping=b"early").encode()
    pair.say(who(""), Stage.OPERATIONAL, then=ping)
    session = DiscoverySession(pair.accepted.session, DIRECTORY)
    (pdu,) = pdus(session.feed(b"").send)
    assert NopIn.decode(pdu).ping == b"early"


@settings(max_examples=200)
@given(
    st.lists(
        st.builds(
            lambda opcode, flags, rest, text: frame(
                bytes([opcode, flags, 0, 0, 0, 0, 0, 0]) + rest, text
            ),
            st.sampled_from([0x00, 0x40, 0x04, 0x44, 0x06, 0x46, 0x01, 0x3F]),
            st.integers(0, 255),
            st.binary(min_size=40, max_size=40),
            st.one_of(st.binary(max_size=40), st.just(b"SendTargets=All\0")),
        )
        | st.binary(max_size=60),
        max_size=6,
    )
)
def test_any_bytes_are_answered_or_are_the_peers_fault(pieces):
    session = Conversation().session
    for piece in pieces:
        try:
            outcome = session.feed(piece)
        except RemoteProtocolError as error:
            pdus(error.reply)
            return
        pdus(outcome.send)
        if outcome.closed:
            return


def test_decode_pairs_refuses_what_answers_may_hold():
    """The helper of this file exists because an answer may repeat a key and a request may not."""
    with pytest.raises(RemoteProtocolError):
        decode_pairs(encode_pairs(ALPHA))
