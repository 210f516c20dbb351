"""The login machine against the key sets of real initiators, against bad ones, and against noise."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparrow.base.errors import LocalProtocolError, RemoteProtocolError
from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.directory import Portal, TargetDirectory, TargetEntry
from sparrow.frontends.iscsi.errors import IscsiError, LoginRejected, LoginStatus
from sparrow.frontends.iscsi.keys import TEXT_BYTES_MAX, decode_pairs, encode_pairs
from sparrow.frontends.iscsi.login import (
    REQUESTS_MAX,
    LoginAccepted,
    LoginMachine,
    LoginProgress,
)
from sparrow.frontends.iscsi.naming import target_name
from sparrow.frontends.iscsi.pdu import BHS_BYTES, SEGMENT_BYTES_DEFAULT, frame
from sparrow.frontends.iscsi.requests import LoginRequest, NopOut, Stage
from sparrow.frontends.iscsi.security import AuthPolicy, SecurityStep
from sparrow.frontends.iscsi.session import SessionType
from tests.support.iscsi_peer import (
    INITIATOR,
    ISID,
    LIBISCSI_OPERATIONAL,
    OPEN_ISCSI_OPERATIONAL,
    LoginPair,
    keys_of,
    responses,
    who,
)

DEMO = target_name(VolumeId("demo"))
CLOSED = target_name(VolumeId("closed"))
MOVED = target_name(VolumeId("moved"))
LOCKED = target_name(VolumeId("locked"))
PORTAL = Portal(host="127.0.0.1", port=3260, group_tag=2)
SECURITY, OPERATIONAL, FULL = Stage.SECURITY, Stage.OPERATIONAL, Stage.FULL_FEATURE


@dataclass(frozen=True)
class RiddleMethod:
    """A stand-in for CHAP: the initiator must send X-answer=42 after seeing X-riddle."""

    name: str = "RIDDLE"

    def start(self, initiator_name):
        return RiddleExchange(initiator_name)


class RiddleExchange:
    def __init__(self, initiator_name):
        self.initiator_name = initiator_name

    def step(self, pairs):
        said = dict(pairs)
        if not said:
            return SecurityStep(answers=(("X-riddle", self.initiator_name),))
        if said != {"X-answer": "42"}:
            raise LoginRejected(LoginStatus.AUTHENTICATION_FAILURE, "wrong answer")
        return SecurityStep(complete=True)


def _entry(name, **more):
    return TargetEntry(
        name=name,
        volume_id=VolumeId(name.rpartition(":")[2]),
        group_tag=2,
        portals=(PORTAL,),
        **more,
    )


DIRECTORY = TargetDirectory(
    (
        _entry(DEMO, alias="demo"),
        _entry(CLOSED, initiators=frozenset({"iqn.2000-01.com.example:friend"})),
        _entry(MOVED, redirect=Portal(host="fd00::1", port=3261, group_tag=1)),
        _entry(LOCKED, auth=AuthPolicy(allow_none=False, methods=(RiddleMethod(),))),
    )
)


def _machine(**more):
    return LoginMachine(directory=DIRECTORY, tsih=77, **more)


@pytest.fixture(params=[0, 1, 47], ids=["whole", "byte by byte", "47 bytes"])
def pair(request):
    return LoginPair(_machine(), chunk_bytes=request.param)


# What real initiators do


def test_libiscsi_without_a_user_logs_in_with_one_request(pair):
    response = pair.say(who(DEMO) | LIBISCSI_OPERATIONAL)
    assert response.transit
    assert response.next_stage is FULL
    assert response.tsih == 77
    answers = keys_of(response)
    assert answers["TargetPortalGroupTag"] == "2"
    assert answers["TargetAlias"] == "demo"
    assert answers["HeaderDigest"] == "None"
    assert answers["InitialR2T"] == "No"
    assert answers["FirstBurstLength"] == "262144"
    assert answers["MaxRecvDataSegmentLength"] == "262144"
    session = pair.accepted.session
    assert session.session_type is SessionType.NORMAL
    assert (session.target_name, session.volume_id, session.group_tag) == (DEMO, "demo", 2)
    assert (session.initiator_name, session.isid, session.tsih) == (INITIATOR, ISID, 77)
    assert session.nexus == (INITIATOR, ISID, DEMO, 2)
    assert (session.exp_cmd_sn, session.max_cmd_sn) == (7, 7 + 127)
    assert session.stat_sn == response.stat_sn + 1
    parameters = session.parameters
    assert parameters.initiator_segment_bytes_max == 262144
    assert parameters.target_segment_bytes_max == 262144
    assert parameters.burst_bytes_max == 262144
    assert parameters.first_burst_bytes_max == 262144
    assert (parameters.initial_r2t, parameters.immediate_data) == (False, True)


def test_libiscsi_with_a_user_goes_through_the_security_stage(pair):
    response = pair.say(
        who(DEMO, AuthMethod="CHAP,None"), SECURITY, OPERATIONAL, isid=ISID, cmd_sn=7
    )
    assert (response.transit, response.next_stage, response.tsih) == (True, OPERATIONAL, 0)
    assert keys_of(response)["AuthMethod"] == "None"
    # It names itself and the target again in the operational stage.
    response = pair.say(who(DEMO) | LIBISCSI_OPERATIONAL)
    assert response.tsih == 77
    assert "TargetPortalGroupTag" not in keys_of(response)
    assert pair.accepted.session.target_name == DEMO


def test_open_iscsi_logs_in_through_both_stages(pair):
    response = pair.say(who(DEMO, AuthMethod="None"), SECURITY, OPERATIONAL)
    # It gives up on any other key in this stage.
    assert keys_of(response).keys() <= {"AuthMethod", "TargetAlias", "TargetPortalGroupTag"}
    answers = keys_of(pair.say(OPEN_ISCSI_OPERATIONAL))
    # It gives up on any other value of these two, and on keys it does not know.
    assert (answers["MaxOutstandingR2T"], answers["MaxConnections"]) == ("1", "1")
    assert answers["ErrorRecoveryLevel"] == "0"
    assert answers.keys() == OPEN_ISCSI_OPERATIONAL.keys()
    assert pair.accepted.session.parameters.burst_bytes_max == 1048576


def test_open_iscsi_discovery_goes_straight_from_security_to_full_feature(pair):
    response = pair.say(who("", AuthMethod="None"), SECURITY, FULL)
    assert keys_of(response) == {"AuthMethod": "None"}
    session = pair.accepted.session
    assert session.session_type is SessionType.DISCOVERY
    assert (session.target_name, session.volume_id) == ("", None)
    assert session.parameters.target_segment_bytes_max == SEGMENT_BYTES_DEFAULT


def test_libiscsi_discovery_gets_irrelevant_for_data_keys(pair):
    answers = keys_of(pair.say(who("") | LIBISCSI_OPERATIONAL))
    assert answers["MaxBurstLength"] == "Irrelevant"
    assert answers["HeaderDigest"] == "None"
    assert "TargetPortalGroupTag" not in answers
    assert pair.accepted.session.session_type is SessionType.DISCOVERY


def test_a_session_type_left_out_is_normal(pair):
    pair.say({"InitiatorName": INITIATOR, "TargetName": DEMO})
    assert pair.accepted.session.session_type is SessionType.NORMAL


def test_bytes_behind_the_last_request_are_handed_over(pair):
    ping = NopOut(immediate=True, task_tag=2, cmd_sn=7, exp_stat_sn=1).encode()
    pair.say(who(DEMO), then=ping + b"half")
    assert pair.accepted.session.residual == ping + b"half"


def test_the_initiator_may_take_its_time_in_a_stage(pair):
    response = pair.say(who(DEMO), to=None)
    assert not response.transit
    response = pair.say({"MaxBurstLength": "65536"}, to=None)
    assert keys_of(response) == {"MaxBurstLength": "65536"}
    assert pair.say({}).next_stage is FULL
    assert pair.accepted.session.parameters.burst_bytes_max == 65536


def test_a_security_stage_without_auth_method_means_none(pair):
    pair.say(who(DEMO), SECURITY, OPERATIONAL)
    pair.say({})
    assert pair.accepted.session.target_name == DEMO


# Text over several PDUs


def test_text_over_several_requests_is_acted_on_when_it_is_whole(pair):
    text = encode_pairs((who(DEMO) | LIBISCSI_OPERATIONAL).items())
    for piece in (text[:11], text[11:100]):
        response = pair.say(piece, to=None, continued=True)
        assert response.text == b""
        assert not response.transit
    assert pair.say(text[100:]).tsih == 77
    assert pair.accepted.session.initiator_name == INITIATOR


def test_an_answer_longer_than_a_segment_is_asked_for_piece_by_piece(pair):
    unknown = {f"X-{number:04d}-{'k' * 50}": "v" for number in range(240)}
    asked = encode_pairs((who(DEMO) | unknown).items())
    for at in range(0, len(asked), 8192):
        last = at + 8192 >= len(asked)
        response = pair.say(asked[at : at + 8192], to=FULL if last else None, continued=not last)
    text = b""
    while response.continued:
        assert len(response.text) <= SEGMENT_BYTES_DEFAULT
        assert not response.transit
        text += response.text
        response = pair.say(b"")
    assert response.next_stage is FULL
    answers = dict(decode_pairs(text + response.text))
    assert {key: answers[key] for key in unknown} == dict.fromkeys(unknown, "NotUnderstood")


def test_text_sent_into_an_unfinished_answer_is_refused():
    pair = LoginPair(_machine())
    unknown = {f"X-{number:04d}-{'k' * 50}": "v" for number in range(200)}
    asked = encode_pairs((who(DEMO) | unknown).items())
    pair.say(asked[:8192], to=None, continued=True)
    assert pair.say(asked[8192:]).continued
    _refused(pair, LoginStatus.INITIATOR_ERROR, {"MaxBurstLength": "65536"})


def test_endless_text_is_refused():
    pair = LoginPair(_machine())
    for _ in range(TEXT_BYTES_MAX // 8192):
        pair.say(b"A=" + b"x" * 8190, to=None, continued=True)
    _refused(pair, LoginStatus.INITIATOR_ERROR, b"x", to=None, continued=True)


def test_an_endless_login_is_refused():
    pair = LoginPair(_machine())
    pair.say(who(DEMO), to=None)
    for _ in range(REQUESTS_MAX - 1):
        pair.say({}, to=None)
    _refused(pair, LoginStatus.INITIATOR_ERROR, {}, to=None)


# Refusals


def _refused(pair, status, keys, *arguments, **changes):
    """Say something, be refused with this status; the machine is done afterwards."""
    with pytest.raises(IscsiError) as refused:
        pair.say(keys, *arguments, **changes)
    response = responses(refused.value.reply)[-1]
    assert response.status is status
    assert not response.transit
    with pytest.raises(LocalProtocolError):
        pair.machine.feed(b"")
    return response


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({"TargetName": DEMO}, LoginStatus.MISSING_PARAMETER),
        ({"InitiatorName": "", "TargetName": DEMO}, LoginStatus.MISSING_PARAMETER),
        ({"InitiatorName": INITIATOR}, LoginStatus.MISSING_PARAMETER),
        ({"InitiatorName": "me", "TargetName": DEMO}, LoginStatus.INITIATOR_ERROR),
        ({"InitiatorName": "iqn.2008-11." + "x" * 223}, LoginStatus.INITIATOR_ERROR),
        (who("iqn.2026-01.io.sparrow:none"), LoginStatus.NOT_FOUND),
        (who(DEMO.upper()), LoginStatus.NOT_FOUND),
        (who(CLOSED), LoginStatus.FORBIDDEN),
        (who(DEMO) | {"SessionType": "Other"}, LoginStatus.SESSION_TYPE_UNSUPPORTED),
        (who(LOCKED), LoginStatus.AUTHENTICATION_FAILURE),
        (who(DEMO, SendTargets="All"), LoginStatus.INITIATOR_ERROR),
        (who(DEMO, TargetPortalGroupTag="1"), LoginStatus.INITIATOR_ERROR),
        (who(DEMO, TargetAlias="x"), LoginStatus.INITIATOR_ERROR),
        (who(DEMO, AuthMethod="None"), LoginStatus.INITIATOR_ERROR),
        (who(DEMO, CHAP_A="5"), LoginStatus.INITIATOR_ERROR),
        (b"InitiatorName", LoginStatus.INITIATOR_ERROR),
        (b"A=1\0A=2\0", LoginStatus.INITIATOR_ERROR),
    ],
    ids=str,
)
def test_a_bad_first_request_is_refused_with_its_reason(pair, keys, status):
    _refused(pair, status, keys)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"version_min": 1, "version_max": 1}, LoginStatus.UNSUPPORTED_VERSION),
        ({"tsih": 5}, LoginStatus.NO_SUCH_SESSION),
    ],
)
def test_a_bad_first_header_is_refused_with_its_reason(pair, changes, status):
    _refused(pair, status, who(DEMO), **changes)


def test_an_operational_key_in_the_security_stage_is_refused(pair):
    _refused(
        pair, LoginStatus.INITIATOR_ERROR, who(DEMO, MaxBurstLength="65536"), SECURITY, OPERATIONAL
    )


def test_an_authentication_we_do_not_know_is_refused(pair):
    _refused(
        pair,
        LoginStatus.AUTHENTICATION_FAILURE,
        who(DEMO, AuthMethod="KRB5,SRP"),
        SECURITY,
        OPERATIONAL,
    )


def test_a_moved_target_says_where_it_is(pair):
    response = _refused(pair, LoginStatus.MOVED_TEMPORARILY, who(MOVED))
    assert keys_of(response) == {"TargetAddress": "[fd00::1]:3261"}


@pytest.mark.parametrize(
    "changes",
    [{"isid": b"\x80other"}, {"cid": 3}, {"task_tag": 9}, {"tsih": 1}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_request_of_another_login_is_refused(pair, changes):
    pair.say(who(DEMO), to=None)
    _refused(pair, LoginStatus.INITIATOR_ERROR, {}, **changes)


def test_a_stage_is_never_gone_back_to(pair):
    pair.say(who(DEMO), to=None)
    _refused(pair, LoginStatus.INITIATOR_ERROR, {}, SECURITY, OPERATIONAL)


def test_a_stage_is_not_entered_before_it_was_agreed_on(pair):
    pair.say(who(DEMO), SECURITY, None)
    _refused(pair, LoginStatus.INITIATOR_ERROR, {})


def test_names_cannot_change_after_the_first_request(pair):
    pair.say(who(DEMO), to=None)
    _refused(pair, LoginStatus.INITIATOR_ERROR, {"TargetName": CLOSED})


def test_a_name_left_out_first_cannot_be_given_later(pair):
    pair.say(who(DEMO), to=None)
    _refused(pair, LoginStatus.INITIATOR_ERROR, {"InitiatorAlias": "late"})


def test_a_key_negotiated_twice_is_refused(pair):
    pair.say(who(DEMO, MaxBurstLength="65536"), to=None)
    _refused(pair, LoginStatus.INITIATOR_ERROR, {"MaxBurstLength": "65536"})


def test_any_other_pdu_during_login_is_refused(pair):
    pair.say(who(DEMO), to=None)
    with pytest.raises(LoginRejected) as refused:
        pair.deliver(NopOut(immediate=True, task_tag=2, cmd_sn=7, exp_stat_sn=0).encode())
    assert responses(refused.value.reply)[-1].status is LoginStatus.INVALID_DURING_LOGIN


def test_a_connection_that_never_began_a_login_gets_no_answer():
    with pytest.raises(LoginRejected) as refused:
        _machine().feed(NopOut(immediate=True, task_tag=2, cmd_sn=7, exp_stat_sn=0).encode())
    assert refused.value.reply == b""


def test_an_oversized_segment_is_refused_at_its_header():
    with pytest.raises(IscsiError):
        _machine().feed(b"\x43\x87\0\0\0\xff\xff\xff" + bytes(40))


def test_an_http_client_is_shown_the_door():
    with pytest.raises(RemoteProtocolError):
        _machine().feed(b"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: something\r\n\r\n")


def test_a_finished_login_takes_no_more_bytes(pair):
    pair.say(who(DEMO))
    with pytest.raises(LocalProtocolError):
        pair.machine.feed(b"")


# The security stage as a plug


def test_a_method_that_asks_questions_runs_in_the_security_stage(pair):
    response = pair.say(who(LOCKED, AuthMethod="RIDDLE,None"), SECURITY, OPERATIONAL)
    assert keys_of(response)["AuthMethod"] == "RIDDLE"
    assert keys_of(response)["X-riddle"] == INITIATOR
    assert not response.transit, "authentication is not over"
    response = pair.say({"X-answer": "42"}, SECURITY, OPERATIONAL)
    assert response.next_stage is OPERATIONAL
    pair.say({})
    assert pair.accepted.session.target_name == LOCKED


def test_a_method_that_is_not_satisfied_ends_the_login(pair):
    pair.say(who(LOCKED, AuthMethod="RIDDLE"), SECURITY, OPERATIONAL)
    _refused(pair, LoginStatus.AUTHENTICATION_FAILURE, {"X-answer": "41"}, SECURITY, OPERATIONAL)


def test_none_is_refused_where_authentication_is_wanted(pair):
    _refused(
        pair,
        LoginStatus.AUTHENTICATION_FAILURE,
        who(LOCKED, AuthMethod="None"),
        SECURITY,
        OPERATIONAL,
    )


def test_leaving_the_security_stage_unasked_is_refused_where_authentication_is_wanted(pair):
    _refused(pair, LoginStatus.AUTHENTICATION_FAILURE, who(LOCKED), SECURITY, OPERATIONAL)


def test_the_operational_stage_cannot_be_reached_around_an_unfinished_method(pair):
    pair.say(who(LOCKED, AuthMethod="RIDDLE"), SECURITY, OPERATIONAL)
    _refused(pair, LoginStatus.INITIATOR_ERROR, {})


# Anything else that can arrive

_pieces = st.lists(
    st.one_of(
        st.binary(max_size=80),
        st.builds(
            lambda flags, text: frame(
                bytes([0x43, flags]) + bytes(6) + ISID + bytes(5) + b"\1" + bytes(28), text
            ),
            st.integers(0, 255),
            st.one_of(
                st.binary(max_size=60),
                st.dictionaries(
                    st.sampled_from(
                        [
                            "InitiatorName",
                            "TargetName",
                            "SessionType",
                            "AuthMethod",
                            "CHAP_A",
                            "X-a",
                            *LIBISCSI_OPERATIONAL,
                        ]
                    ),
                    st.sampled_from(
                        [INITIATOR, DEMO, LOCKED, "Discovery", "None", "Yes", "65536", "", "Reject"]
                    ),
                ).map(lambda keys: encode_pairs(keys.items())),
                st.just(encode_pairs(who(DEMO).items())),
            ),
        ),
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(_pieces, st.integers(0, 5))
def test_any_bytes_end_in_accepted_needs_more_or_the_peers_fault(pieces, cut):
    machine = _machine()
    for piece in pieces:
        for part in (piece[:cut], piece[cut:]):
            try:
                outcome = machine.feed(part)
            except RemoteProtocolError as error:
                responses(error.reply)
                return
            responses(outcome.send)
            if isinstance(outcome, LoginAccepted):
                assert outcome.session.tsih == 77
                assert outcome.session.initiator_name == INITIATOR
                return
            assert isinstance(outcome, LoginProgress)
            assert machine._reader.buffered_bytes < BHS_BYTES + SEGMENT_BYTES_DEFAULT + 4


def test_every_prefix_of_a_good_login_needs_more():
    pair = LoginPair(_machine())
    wire = LoginRequest(
        transit=True,
        continued=False,
        current_stage=OPERATIONAL,
        next_stage=FULL,
        isid=ISID,
        task_tag=1,
        cid=0,
        cmd_sn=1,
        exp_stat_sn=0,
        text=encode_pairs(who(DEMO).items()),
    ).encode()
    for at in range(len(wire) - 1):
        assert pair.machine.feed(wire[at : at + 1]) == LoginProgress(send=b"")
    assert isinstance(pair.machine.feed(wire[-1:]), LoginAccepted)


def test_every_single_bit_of_a_login_may_be_flipped():
    """Header, keys and values alike: the login is taken, waits, or is refused with an answer that can be read."""
    request = LoginRequest(
        transit=True,
        continued=False,
        current_stage=OPERATIONAL,
        next_stage=FULL,
        isid=ISID,
        task_tag=1,
        cid=0,
        cmd_sn=1,
        exp_stat_sn=0,
        text=encode_pairs((who(DEMO) | LIBISCSI_OPERATIONAL).items()),
    )
    wire = request.encode()
    ends = set()
    for place in range(len(wire) * 8):
        flipped = bytearray(wire)
        flipped[place // 8] ^= 1 << place % 8
        try:
            outcome = _machine().feed(bytes(flipped))
        except RemoteProtocolError as error:
            responses(error.reply)
            ends.add(type(error))
        else:
            responses(outcome.send)
            ends.add(type(outcome))
    assert {LoginAccepted, LoginProgress, LoginRejected} < ends
