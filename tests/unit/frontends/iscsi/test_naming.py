"""iSCSI names: ours for a volume, and the check of those peers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.base.constants import VOLUME_NAME_BYTES_MAX
from sparrow.base.errors import LocalProtocolError
from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.naming import (
    ISCSI_NAME_BYTES_MAX,
    is_legal_name,
    target_name,
    volume_of_target,
)


def test_a_plain_volume_id_appears_as_it_is():
    assert target_name(VolumeId("pvc-1.a")) == "iqn.2026-01.io.sparrow:pvc-1.a"


def test_other_characters_are_spelt_out():
    assert target_name(VolumeId("My_vol")) == "iqn.2026-01.io.sparrow::4dy:5fvol"


_ids = st.text(min_size=1, max_size=20)


@given(_ids, _ids)
def test_two_volumes_never_share_a_name(one, other):
    assert (target_name(VolumeId(one)) == target_name(VolumeId(other))) == (one == other)


@given(_ids)
def test_a_name_tells_its_volume(volume_id):
    assert volume_of_target(target_name(VolumeId(volume_id))) == volume_id


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2026-01.io.sparrow:",
        "iqn.2026-01.io.sparrow::61",  # an "a" that is never spelt out
        "iqn.2026-01.io.sparrow::4D",
        "iqn.2026-01.io.sparrow::ff",
        "iqn.2026-01.io.sparrow:A",
        "iqn.2026-01.io.sparrow::4",
        "iqn.2004-10.com.example:a",
        "iqn.2026-01.io.sparrow:" + "x" * 300,
        "",
    ],
)
def test_a_name_that_is_no_volumes_tells_none(name):
    assert volume_of_target(name) is None


@given(st.binary(min_size=1, max_size=VOLUME_NAME_BYTES_MAX))
def test_every_volume_name_makes_a_legal_target_name(raw):
    name = target_name(VolumeId(raw.decode("latin-1")[: VOLUME_NAME_BYTES_MAX // 2]))
    assert is_legal_name(name)
    assert len(name) <= ISCSI_NAME_BYTES_MAX


@pytest.mark.parametrize("volume_id", ["", "x" * 300])
def test_an_impossible_volume_id_is_our_mistake(volume_id):
    with pytest.raises(LocalProtocolError):
        target_name(VolumeId(volume_id))


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("iqn.1993-08.org.debian:01:abc", True),
        ("iqn.2008-11.org.linux-kvm", True),
        ("iqn.2005-03.org.open-iscsi:my_host", True),
        ("eui.02004567A425678D", True),
        ("naa.52004567BA64678D", True),
        ("naa.62004567BA64678D0123456789ABCDEF", True),
        ("iqn.93-08.org.debian", False),
        ("iqn.1993-08.org.de bian", False),
        ("iqn.1993-08.", False),
        ("eui.02004567A42567", False),
        ("demo", False),
        ("", False),
        ("iqn.1993-08." + "x" * 212, False),
    ],
)
def test_peers_names_are_checked(name, legal):
    assert is_legal_name(name) == legal
