"""CHAP by the standard's own words: an independent initiator computes its answers here."""

from __future__ import annotations

import base64
import hashlib

import pytest

from sparrow.base.access import Secret
from sparrow.frontends.access import Admitted
from sparrow.frontends.iscsi.chap import Chap
from sparrow.frontends.iscsi.errors import LoginRejected, LoginStatus
from sparrow.frontends.iscsi.security import AuthPolicy, SecurityStage

OURS = Secret(name="array", value=b"fedcba9876543210")
HOST = Secret(name="host", value=b"0123456789abcdef")
RANDOM = bytes(range(100, 180))
HASHES = {"5": hashlib.md5, "7": hashlib.sha256, "8": hashlib.sha3_256}


def _stage(*admitted: Admitted, allow_none: bool = False) -> SecurityStage:
    methods = (Chap(admitted or (Admitted(secret=HOST),), random_bytes=lambda n: RANDOM[:n]),)
    return SecurityStage(AuthPolicy(allow_none=allow_none, methods=methods), initiator_name="iqn.x")


def _challenged(stage: SecurityStage, algorithms: str = "5") -> dict[str, str]:
    chosen = dict(stage.step([("AuthMethod", "CHAP,None")], transit=False).answers)
    assert chosen == {"AuthMethod": "CHAP"}
    return dict(stage.step([("CHAP_A", algorithms)], transit=False).answers)


def _answer(asked: dict[str, str], value: bytes = HOST.value) -> bytes:
    identifier = bytes([int(asked["CHAP_I"])])
    challenge = bytes.fromhex(asked["CHAP_C"][2:])
    return HASHES[asked["CHAP_A"]](identifier + value + challenge).digest()


def _prove(stage, answer: str, name: str = "host", **more: str):
    return stage.step([("CHAP_N", name), ("CHAP_R", answer), *more.items()], transit=True)


@pytest.mark.parametrize("algorithm", ["5", "7", "8"])
def test_who_knows_the_secret_comes_in(algorithm):
    stage = _stage()
    asked = _challenged(stage, algorithm)
    assert asked["CHAP_A"] == algorithm
    assert len(bytes.fromhex(asked["CHAP_C"][2:])) == HASHES[algorithm]().digest_size
    assert not stage.complete
    step = _prove(stage, "0x" + _answer(asked).hex())
    assert (step.complete, step.answers) == (True, ())
    assert stage.complete


def test_an_answer_in_base64_or_capitals_is_the_same_answer():
    for write in (
        lambda b: "0b" + base64.b64encode(b).decode(),
        lambda b: "0B" + base64.b64encode(b).decode(),
        lambda b: "0X" + b.hex().upper(),
    ):
        stage = _stage()
        _prove(stage, write(_answer(_challenged(stage))))
        assert stage.complete


def test_the_first_algorithm_of_the_initiator_that_we_know_is_taken():
    assert _challenged(_stage(), "9,6,8,5")["CHAP_A"] == "8"


@pytest.mark.parametrize("algorithms", ["6", "", "05", "5 "])
def test_an_algorithm_we_do_not_know_ends_the_login(algorithms):
    with pytest.raises(LoginRejected) as refused:
        _challenged(_stage(), algorithms)
    assert refused.value.status is LoginStatus.AUTHENTICATION_FAILURE


def test_a_wrong_secret_and_a_wrong_name_are_told_the_same():
    said = set()
    for value, name in ((b"wrong", "host"), (HOST.value, "nobody"), (bytes(16), "")):
        stage = _stage()
        asked = _challenged(stage)
        with pytest.raises(LoginRejected) as refused:
            _prove(stage, "0x" + _answer(asked, value).hex(), name)
        said.add((refused.value.status, str(refused.value)))
        assert not stage.complete
    assert len(said) == 1


def test_nobody_comes_in_by_skipping_the_stage_or_the_answer():
    stage = _stage()
    with pytest.raises(LoginRejected):
        stage.require_skippable()
    _challenged(stage)
    assert not stage.step([], transit=True).complete
    assert not stage.complete


@pytest.mark.parametrize(
    "pairs",
    [
        [("CHAP_R", "0x00")],
        [("CHAP_N", "host")],
        [("CHAP_N", "host"), ("CHAP_R", "0x")],
        [("CHAP_N", "host"), ("CHAP_R", "12")],
        [("CHAP_N", "host"), ("CHAP_R", "0x" + "00" * 17)],
        [("CHAP_N", "host"), ("CHAP_R", "0bAAA")],
        [("CHAP_N", "host"), ("CHAP_R", "0x00"), ("CHAP_I", "1")],
        [("CHAP_N", "host"), ("CHAP_R", "0x00"), ("CHAP_X", "1")],
        [("CHAP_A", "5")],
    ],
)
def test_keys_that_are_off_end_the_login(pairs):
    stage = _stage()
    _challenged(stage)
    with pytest.raises(LoginRejected):
        stage.step(pairs, transit=True)
    assert not stage.complete


def test_the_target_proves_its_own_secret_when_asked():
    stage = _stage(Admitted(secret=HOST, target_secret=OURS))
    asked = _challenged(stage)
    challenge = bytes(range(16))
    step = _prove(stage, "0x" + _answer(asked).hex(), CHAP_I="0x7f", CHAP_C="0x" + challenge.hex())
    wanted = hashlib.md5(b"\x7f" + OURS.value + challenge).hexdigest()
    assert dict(step.answers) == {"CHAP_N": "array", "CHAP_R": "0x" + wanted}
    assert stage.complete


def test_our_own_challenge_is_never_answered():
    """Else who knows nothing has us compute, on a second login, what the first one asks for."""
    stage = _stage(Admitted(secret=HOST, target_secret=OURS))
    asked = _challenged(stage)
    with pytest.raises(LoginRejected, match="our own challenge"):
        _prove(stage, "0x" + _answer(asked).hex(), CHAP_I=asked["CHAP_I"], CHAP_C=asked["CHAP_C"])


def test_we_prove_nothing_before_the_initiator_has():
    stage = _stage(Admitted(secret=HOST, target_secret=OURS))
    _challenged(stage)
    with pytest.raises(LoginRejected, match="wrong"):
        _prove(stage, "0x" + "00" * 16, CHAP_I="1", CHAP_C="0x" + "11" * 16)


@pytest.mark.parametrize("identifier", ["256", "-1", "x"])
def test_an_identifier_of_more_than_a_byte_ends_the_login(identifier):
    stage = _stage(Admitted(secret=HOST, target_secret=OURS))
    asked = _challenged(stage)
    with pytest.raises(LoginRejected):
        _prove(stage, "0x" + _answer(asked).hex(), CHAP_I=identifier, CHAP_C="0x11")


def test_without_a_secret_of_ours_mutual_authentication_is_refused():
    stage = _stage()
    asked = _challenged(stage)
    with pytest.raises(LoginRejected, match="no secret for it"):
        _prove(stage, "0x" + _answer(asked).hex(), CHAP_I="1", CHAP_C="0x" + "11" * 16)


def test_none_is_not_taken_where_a_secret_is_demanded():
    with pytest.raises(LoginRejected) as refused:
        _stage().step([("AuthMethod", "None")], transit=True)
    assert refused.value.status is LoginStatus.AUTHENTICATION_FAILURE


def test_one_of_several_secrets_is_proven_by_its_name():
    stage = _stage(Admitted(secret=HOST), Admitted(secret=OURS), allow_none=True)
    asked = _challenged(stage)
    _prove(stage, "0x" + _answer(asked, OURS.value).hex(), "array")
    assert stage.complete
