"""DH-HMAC-CHAP against a host's side of our own: both directions, with a group and without, and what fails."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
import zlib

import pytest

from sparrow.base.access import Secret
from sparrow.formats import nvme
from sparrow.frontends.nvme.auth import Authentication, Names, host_key, read_secret
from sparrow.frontends.nvme.connection import Command
from sparrow.frontends.nvme.dh_groups import dh_group
from sparrow.frontends.nvme.status import CommandRefused
from tests.support.nvme_auth import FFDHE2048, HostSide, Unproven, auth_entry
from tests.support.nvme_machine import admin_entry

HOST, SUBSYSTEM = "nqn.2024-01.x:host", "nqn.2024-01.x:sub"
KEY, OTHER = b"k" * 32, b"o" * 48
DNR = 0x4000
NOT_PROVEN, PROTOCOL, CONCATENATION, HASH, GROUP, PAYLOAD, MESSAGE = range(1, 8)


def exchange(*, target: bytes | None = OTHER, value: bytes = KEY) -> Authentication:
    return Authentication(
        Names(host=HOST, subsystem=SUBSYSTEM),
        secret=Secret(name="h", value=value),
        target_secret=None if target is None else Secret(name="t", value=target),
        random_bytes=lambda size: hashlib.shake_256(b"seed").digest(size),
    )


def play(side: HostSide, ours: Authentication) -> None:
    ours.send(side.negotiate())
    ours.send(side.reply(ours.receive(4096)))
    last = side.finish(ours.receive(4096))
    assert ours.done == (not last)
    if last:
        ours.send(last)


@pytest.mark.parametrize("asks", [b"", OTHER])
@pytest.mark.parametrize("groups", [(0,), (0, 1)])
@pytest.mark.parametrize(
    ("hashes", "chosen"), [((1,), "sha256"), ((2, 1), "sha384"), ((1, 2, 3), "sha512")]
)
def test_who_knows_the_secrets_is_let_in(
    asks: bytes, groups: tuple[int, ...], hashes: tuple[int, ...], chosen: str
) -> None:
    side = HostSide(KEY, HOST, SUBSYSTEM, asks=asks, groups=groups, hashes=hashes)
    ours = exchange()
    play(side, ours)
    assert ours.done
    assert not ours.failed
    assert side.hash == chosen
    assert side.group == max(groups), "a group where there is one"


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        (HostSide(b"x" * 32, HOST, SUBSYSTEM), NOT_PROVEN),
        (HostSide(KEY, HOST + "2", SUBSYSTEM), NOT_PROVEN),
        (HostSide(KEY, HOST, SUBSYSTEM + "2"), NOT_PROVEN),
        (HostSide(KEY, HOST, SUBSYSTEM, hashes=(9,)), HASH),
        (HostSide(KEY, HOST, SUBSYSTEM, groups=(9,)), GROUP),
        (HostSide(KEY, HOST, SUBSYSTEM, concatenation=1), CONCATENATION),
    ],
)
def test_who_does_not_is_told_why_and_no_more(side: HostSide, reason: int) -> None:
    ours = exchange()
    with pytest.raises(Unproven) as raised:
        play(side, ours)
    assert raised.value.args == (reason,)
    assert ours.failed
    assert not ours.done
    with pytest.raises(CommandRefused):
        ours.receive(4096)


def test_without_a_secret_of_ours_nobody_may_ask_us() -> None:
    ours = exchange(target=None)
    with pytest.raises(Unproven):
        play(HostSide(KEY, HOST, SUBSYSTEM, asks=OTHER), ours)
    assert ours.failed


def test_our_own_challenge_is_not_answered() -> None:
    side, ours = HostSide(KEY, HOST, SUBSYSTEM, asks=OTHER, groups=(0,), hashes=(1,)), exchange()
    ours.send(side.negotiate())
    challenge = ours.receive(4096)
    reply = bytearray(side.reply(challenge))
    reply[16 + 32 : 16 + 64] = challenge[16 : 16 + 32]
    ours.send(bytes(reply))
    assert ours.receive(4096)[:2] == b"\0\xf1"
    assert ours.failed


@pytest.mark.parametrize("value", [0, 1, FFDHE2048 - 1, FFDHE2048])
def test_a_public_value_that_gives_the_secret_away_is_refused(value: int) -> None:
    side, ours = HostSide(KEY, HOST, SUBSYSTEM), exchange()
    ours.send(side.negotiate())
    reply = side.reply(ours.receive(4096))
    ours.send(reply[:-256] + value.to_bytes(256, "big"))
    assert ours.receive(4096)[7] == PAYLOAD


def test_messages_out_of_place_or_cut_short_fail_it() -> None:
    side = HostSide(KEY, HOST, SUBSYSTEM)
    for message, reason in [
        (b"", PAYLOAD),
        (side.negotiate()[:40], PAYLOAD),
        (struct.pack("<BBHHBB", 0, 0, 0, 1, 0, 0), PROTOCOL),
        (struct.pack("<BBHH10x", 1, 4, 0, 0), MESSAGE),
        (struct.pack("<BBHH10x", 1, 2, 0, 0), MESSAGE),
    ]:
        ours = exchange()
        ours.send(message)
        assert ours.receive(4096)[7] == reason
    ours = exchange()
    ours.send(side.negotiate())
    reply = side.reply(ours.receive(4096))
    for cut in (8, 15, 60, len(reply) - 1):
        ours = exchange()
        ours.send(side.negotiate())
        ours.receive(4096)
        ours.send(reply[:cut])
        assert ours.receive(4096)[7] == PAYLOAD
    ours = exchange()
    ours.send(struct.pack("<BBHHBB8x", 0, 0xF0, 0, 0, 1, 1))
    assert ours.failed


def test_only_its_commands_are_taken_and_only_in_turn() -> None:
    def run(entry: bytes, data: bytes = b"") -> tuple[int, bytes]:
        try:
            return 0, ours.execute(Command(entry, nvme.NVME_SQE.unpack(entry), data))
        except CommandRefused as refusal:
            return refusal.status, b""

    side, ours = HostSide(KEY, HOST, SUBSYSTEM), exchange()
    message = side.negotiate()
    assert run(admin_entry(0x06, 1, length=4096))[0] == 0x191 | DNR
    assert run(auth_entry(2, 6, 4096))[0] == 0x0C | DNR, "nothing to receive yet"
    assert run(auth_entry(3, 5, len(message), secp=1), message)[0] == 0x02 | DNR
    assert run(auth_entry(4, 5, len(message) + 1), message)[0] == 0x02 | DNR
    assert run(auth_entry(5, 5, len(message)), message)[0] == 0
    assert run(auth_entry(6, 5, len(message)), message)[0] == 0x0C | DNR, "it is our turn"
    assert run(auth_entry(7, 6, 100))[0] == 0x02 | DNR, "no room"
    status, challenge = run(auth_entry(8, 6, 4096))
    assert status == 0
    assert len(challenge) == 16 + 64 + 256


def test_secrets_of_the_standards_form_are_transformed_with_the_name() -> None:
    checked = base64.b64encode(KEY + struct.pack("<I", zlib.crc32(KEY))).decode()
    plain = Secret(name="h", value=f"DHHC-1:00:{checked}:".encode())
    assert host_key(plain, HOST) == KEY
    hashed = Secret(name="h", value=f"DHHC-1:01:{checked}:\n".encode())
    assert (
        host_key(hashed, HOST)
        == hmac.new(KEY, HOST.encode() + b"NVMe-over-Fabrics", "sha256").digest()
    )
    for odd in (b"DHHC-1:04:AAAA:", b"DHHC-1:00:!:", f"DHHC-1:00:{checked[4:]}:".encode(), KEY):
        assert read_secret(odd) == (odd, 0)
    ours = exchange(value=hashed.value)
    play(HostSide(host_key(hashed, HOST), HOST, SUBSYSTEM), ours)
    assert ours.done


def test_groups_are_those_of_the_rfc() -> None:
    group = dh_group(1)
    assert group is not None
    assert group.prime == FFDHE2048
    for identifier, bits in ((2, 3072), (3, 4096)):
        group = dh_group(identifier)
        assert group is not None
        assert group.prime.bit_length() == bits
        # A safe prime passes Fermat's test to two bases, and so does half of it.
        for number in (group.prime, group.prime // 2):
            assert pow(3, number - 1, number) == pow(5, number - 1, number) == 1
    assert dh_group(0) is None
    assert dh_group(4) is None
