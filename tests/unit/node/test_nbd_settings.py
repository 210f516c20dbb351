"""Settings of the NBD portal: what would let anybody in is refused before the node starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparrow.node.config import NodeSettings, validate

CERTIFICATE = {"tls_certificate": "c.pem", "tls_key": "k.pem"}
GUARDED = {"nbd_tls": "required", **CERTIFICATE, "tls_client_ca": "ca.pem"}


def faults(**changes: object) -> list[str]:
    settings = {
        "node_id": "n1",
        "pool": Path("pool"),
        "cluster_key": Path("key"),
        "master": "127.0.0.1:1",
        **changes,
    }
    return validate(NodeSettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"listen_nbd": ""},
        {"listen_nbd": "[::1]:10809"},
        {"listen_nbd": "localhost:0", "nbd_tls": "allowed", **CERTIFICATE},
        {"listen_nbd": "10.0.0.5:10809", **GUARDED},
        {"listen_nbd": "0.0.0.0:10809", "advertise_host": "n1.lan", **GUARDED},
        {"listen_nbd": "n1.lan:10809", **GUARDED},
    ],
)
def test_good_settings_have_no_fault(changes: dict[str, object]) -> None:
    assert faults(**changes) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"listen_nbd": "10.0.0.5:10809"}, "no loopback address"),
        ({"listen_nbd": "n1.lan:10809"}, "no loopback address"),
        ({"listen_nbd": "10.0.0.5:1", **GUARDED, "tls_client_ca": ""}, "no loopback address"),
        ({"listen_nbd": "10.0.0.5:1", **GUARDED, "nbd_tls": "allowed"}, "no loopback address"),
        ({"listen_nbd": "::1"}, "listen_nbd"),
        ({"listen_nbd": "0.0.0.0:10809", **GUARDED}, "advertise_host"),
        ({"nbd_tls": "yes"}, "not one of off, allowed, required"),
        ({"nbd_tls": "allowed"}, "tls_certificate and tls_key must be given"),
        ({"nbd_tls": "required", "tls_certificate": "c.pem"}, "tls_key must be given"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], fault: str) -> None:
    assert any(fault in one for one in faults(**changes))
