"""Who may use a volume: every row of the decision, and every list that is refused before it is recorded."""

from __future__ import annotations

import pytest

from sparrow.base.access import AccessEntry, AccessList, Frontend, Secret
from sparrow.base.errors import InvalidArgument
from sparrow.frontends.access import Admitted, Asker, Denied, VolumeAccess, decide, needed
from sparrow.lifecycle.access import check_access, check_secret

HOST = "iqn.2004-10.com.example:host1"
NQN = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"
ONE = Secret(name="one", value=b"a" * 16)
TWO = Secret(name="two", value=b"b" * 16)


def _entry(name: str = HOST, protocol: Frontend = Frontend.ISCSI, **more: str) -> AccessEntry:
    return AccessEntry(protocol=protocol, name=name, **more)


def _decide(allowed: AccessList, *secrets: Secret, name: str = HOST, **more: object):
    asker = Asker(protocol=more.pop("protocol", Frontend.ISCSI), name=name, **more)
    return decide(VolumeAccess(allowed=allowed, secrets=secrets), asker)


def _list(*entries: AccessEntry, allow_none: bool = False) -> AccessList:
    return AccessList(revision=1, entries=entries, allow_none=allow_none)


@pytest.mark.parametrize("loopback", [False, True])
def test_nobody_comes_in_before_the_list_is_known(loopback):
    asker = Asker(protocol=Frontend.ISCSI, name=HOST, loopback=loopback)
    assert isinstance(decide(None, asker), Denied)


def test_without_any_list_only_this_machine_comes_in():
    assert _decide(AccessList(), loopback=True) == Admitted()
    assert isinstance(_decide(AccessList()), Denied)


@pytest.mark.parametrize("loopback", [False, True])
def test_an_empty_list_lets_nobody_in_on_any_portal(loopback):
    assert isinstance(_decide(_list(allow_none=True), loopback=loopback), Denied)


def test_an_entry_counts_for_its_name_and_protocol_only():
    allowed = _list(_entry(), allow_none=True)
    assert _decide(allowed) == Admitted()
    assert isinstance(_decide(allowed, name=HOST + "x"), Denied)
    assert isinstance(_decide(allowed, protocol=Frontend.NVME), Denied)


def test_without_a_secret_the_list_must_allow_none():
    assert isinstance(_decide(_list(_entry())), Denied)


def test_a_certificate_is_proof_enough():
    allowed = _list(_entry("CN=host1", Frontend.NBD))
    assert _decide(allowed, name="CN=host1", protocol=Frontend.NBD) == Admitted()


def test_the_entry_of_a_name_goes_before_the_entry_of_everyone():
    allowed = _list(_entry("*"), _entry(secret="one"), allow_none=True)
    assert _decide(allowed, ONE) == Admitted(secret=ONE)
    assert _decide(allowed, ONE, name="iqn.2004-10.com.example:other") == Admitted()


def test_both_secrets_are_told_when_both_are_named():
    allowed = _list(_entry(secret="one", target_secret="two"))
    assert _decide(allowed, ONE, TWO) == Admitted(secret=ONE, target_secret=TWO)


@pytest.mark.parametrize("known", [(), (ONE,), (TWO,)])
def test_a_secret_that_was_not_delivered_lets_nobody_in(known):
    allowed = _list(_entry(secret="one", target_secret="two"), allow_none=True)
    assert isinstance(_decide(allowed, *known), Denied)


def test_only_the_secrets_of_the_list_are_needed():
    assert needed(_list(_entry(secret="two")), [TWO, ONE]) == (TWO,)


def test_the_value_of_a_secret_is_in_no_text():
    access = VolumeAccess(allowed=_list(_entry(secret="one")), secrets=(ONE,))
    for shown in (repr(ONE), str(ONE), repr(access), repr(decide(access, _asker()))):
        assert "aaaa" not in shown


def _asker() -> Asker:
    return Asker(protocol=Frontend.ISCSI, name=HOST)


@pytest.mark.parametrize(
    ("allowed", "what"),
    [
        (_list(_entry("host1"), allow_none=True), "no iSCSI name"),
        (_list(_entry("iqn.2004-10.com.example:a b"), allow_none=True), "no iSCSI name"),
        (_list(_entry("iqn.2004-10.com.example:" + "x" * 250), allow_none=True), "no iSCSI name"),
        (_list(_entry(HOST, Frontend.NVME), allow_none=True), "no host NQN"),
        (_list(_entry("", Frontend.NBD)), "no subject"),
        (_list(_entry("CN=a\nb", Frontend.NBD)), "no subject"),
        (_list(_entry("CN=a", Frontend.NBD, secret="one")), "by their certificate"),
        (_list(_entry(), _entry(), allow_none=True), "twice"),
        (_list(_entry()), "names no secret"),
        (_list(_entry(NQN, Frontend.NVME)), "names no secret"),
        (_list(_entry(secret="three")), "does not exist"),
        (_list(_entry(target_secret="one"), allow_none=True), "no secret of its own"),
        (_list(_entry(secret="one", target_secret="same")), "same value"),
        (_list(_entry(secret="one", target_secret="one")), "same value"),
        (_list(*[_entry(f"{HOST}{n}") for n in range(257)], allow_none=True), "at most 256"),
    ],
)
def test_a_list_that_cannot_be_is_refused(allowed, what):
    with pytest.raises(InvalidArgument, match=what):
        check_access(allowed, [ONE, TWO, Secret(name="same", value=ONE.value)])


def test_a_list_of_every_kind_is_taken():
    check_access(
        _list(
            _entry(secret="one", target_secret="two"),
            _entry("eui.0123456789abcdef", secret="one"),
            _entry("naa.0123456789abcdef", secret="one"),
            _entry(NQN, Frontend.NVME, secret="one"),
            _entry("CN=host1,O=Example", Frontend.NBD),
            _entry("*", Frontend.NBD),
        ),
        [ONE, TWO],
    )


@pytest.mark.parametrize(
    ("secret", "what"),
    [
        (Secret(name="a b", value=b"x" * 16), "no name"),
        (Secret(name="", value=b"x" * 16), "no name"),
        (Secret(name="a", value=b"x" * 11), "11 bytes"),
        (Secret(name="a", value=b"x" * 256), "256 bytes"),
    ],
)
def test_a_secret_that_cannot_be_is_refused_without_repeating_it(secret, what):
    with pytest.raises(InvalidArgument, match=what) as refused:
        check_secret(secret)
    assert "xxx" not in str(refused.value) + refused.value.hint
