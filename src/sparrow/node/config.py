"""Settings of a node's process."""

from __future__ import annotations

import ipaddress
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sparrow.base.errors import ConfigError
from sparrow.frontends.nbd.exports import TlsPolicy
from sparrow.runtime.config import setting, split_address

WAL_PIN_PERCENT_MIN: Final = 60
#: A log of the smallest size needs the rest for batches under way.
WAL_PIN_PERCENT_MAX: Final = 80
#: Half a dozen volumes that write as fast as they can, each with all that may be unapplied of one.
BUFFER_MIB_MIN: Final = 96
BUFFER_MIB_MAX: Final = 16 << 10
READ_CACHE_MIB_MAX: Final = 256 << 10
#: What is taken without a word.
READ_CACHE_MIB_USUAL: Final = 1024
NODE_ID: Final = re.compile("[a-z0-9][a-z0-9.-]{0,62}")
#: Portals of one protocol.
PORTALS_MAX: Final = 8
#: Hosts that mean "every address of this machine"; nobody can connect to them.
WILDCARDS: Final = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - recognised, not bound


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """One node: who it is, where its data is, whom it listens to. Port 0 in an address means any free port."""

    node_id: str = setting("name of this node in the cluster; never given to another one")
    pool: Path = setting("directory for replicas; one node's alone")
    cluster_key: Path = setting("file with the cluster's key; the same on every machine of it")
    wal_device: str = setting(
        "partition or logical volume for the replicas' logs, this node's alone; empty keeps them in the pool",
        default="",
    )
    master: str = setting("address of the master, host:port")
    listen_ctrl: str = setting("address for calls of other nodes, host:port", default="127.0.0.1:0")
    listen_data: str = setting("address for replication links, host:port", default="127.0.0.1:0")
    listen_iscsi: str = setting(
        "addresses of the iSCSI portals, host:port, comma between them", default="127.0.0.1:3260"
    )
    listen_nvme: str = setting(
        "address of the NVMe/TCP portal, host:port", default="127.0.0.1:4420"
    )
    listen_nbd: str = setting(
        "address of the NBD portal, host:port; empty for none", default="127.0.0.1:10809"
    )
    nbd_socket: str = setting(
        "path of a Unix socket for NBD besides, for this user and root; empty for none", default=""
    )
    nbd_tls: str = setting(
        "TLS of the NBD portal: off, allowed or required; over the Unix socket it is never required",
        default="off",
    )
    tls_certificate: str = setting("certificate of this node for clients, a PEM file", default="")
    tls_key: str = setting("its private key, a PEM file", default="")
    tls_client_ca: str = setting(
        "PEM file of the authorities whose certificates clients must show; empty asks for none",
        default="",
    )
    advertise_host: str = setting(
        "host name or address others reach this node at; empty means the hosts listened on",
        default="",
    )
    zone: str = setting(
        "what fails with this node as a whole, such as its rack; replicas go to different ones while there are any",
        default="",
    )
    scrub_days: float = setting(
        "days after which a replica is scrubbed again by itself; 0 means only when asked",
        default=7.0,
    )
    scrub_mib_per_s: int = setting("MiB per second that scrubs may read at most", default=20)
    rebuild_rate_mib: int = setting(
        "MiB per second that all rebuilds from this node may copy; 0 for no cap", default=0
    )
    rebuild_stretch_percent: int = setting(
        "what a rebuild may make of the usual 99th percentile of clients' writes, percent",
        default=130,
    )
    wal_pin_percent: int = setting(
        "how full a log may get for a peer that is still read from it, percent; past that the peer is rebuilt",
        default=80,
    )
    buffer_mib: int = setting(
        "MiB of memory for what is received, sent and not yet applied; taken as it is used, and never more",
        default=384,
    )
    read_cache_mib: int = setting(
        "MiB of memory that pages of volumes are kept in for reads; 0 for none, -1 for a sixteenth of what the node "
        "may use, at most 1024",
        default=-1,
    )
    log_level: str = setting("debug, info, warning or error", default="info")


def read_cache_bytes(settings: NodeSettings, usable_bytes: int) -> int:
    """What the read cache may keep where a node may use so much memory."""
    if settings.read_cache_mib >= 0:
        return settings.read_cache_mib << 20
    return min(usable_bytes // 16, READ_CACHE_MIB_USUAL << 20)


def check_memory(settings: NodeSettings, usable_bytes: int) -> None:
    """Refuse at the start what would end in the kernel killing the node when it is busy. Raises: ConfigError."""
    cache = read_cache_bytes(settings, usable_bytes) >> 20
    if settings.buffer_mib + cache < usable_bytes >> 20:
        return
    raise ConfigError(
        f"buffer_mib of {settings.buffer_mib} and a read cache of {cache} MiB do not fit in the"
        f" {usable_bytes >> 20} MiB of memory that this process may use.",
        hint=f"Give it more memory, or less to use: --read-cache-mib 0, --buffer-mib {BUFFER_MIB_MIN} at least.",
    )


def iscsi_portals(settings: NodeSettings) -> tuple[str, ...]:
    """The addresses of ``listen_iscsi``, in order."""
    return tuple(one.strip() for one in settings.listen_iscsi.split(",") if one.strip())


def validate(settings: NodeSettings) -> list[str]:
    """One sentence for each setting that cannot be used."""
    faults = [
        f"{name} {value!r} is not 1 to 63 lower-case letters, digits, dots or hyphens."
        for name, value in (("node_id", settings.node_id), ("zone", settings.zone or "none"))
        if not NODE_ID.fullmatch(value)
    ]
    faults += _address_faults(settings)
    faults += _tls_faults(settings)
    if settings.scrub_days < 0:
        faults.append("scrub_days is below 0.")
    if settings.scrub_mib_per_s < 1:
        faults.append("scrub_mib_per_s is below 1.")
    if settings.rebuild_rate_mib < 0:
        faults.append("rebuild_rate_mib is less than 0.")
    if settings.rebuild_stretch_percent <= 100:
        faults.append("rebuild_stretch_percent must be above 100, or no rebuild would ever get on.")
    if not WAL_PIN_PERCENT_MIN <= settings.wal_pin_percent <= WAL_PIN_PERCENT_MAX:
        faults.append(
            f"wal_pin_percent is not {WAL_PIN_PERCENT_MIN} to {WAL_PIN_PERCENT_MAX}: "
            "below that no peer ever catches up, above it writes wait for the slowest peer."
        )
    if not BUFFER_MIB_MIN <= settings.buffer_mib <= BUFFER_MIB_MAX:
        faults.append(f"buffer_mib is not {BUFFER_MIB_MIN} to {BUFFER_MIB_MAX}.")
    if not -1 <= settings.read_cache_mib <= READ_CACHE_MIB_MAX:
        faults.append(f"read_cache_mib is not -1 to {READ_CACHE_MIB_MAX}.")
    if settings.log_level.upper() not in logging.getLevelNamesMapping():
        faults.append(f"log_level {settings.log_level!r} is not a level.")
    return faults


def _tls_faults(settings: NodeSettings) -> list[str]:
    """An NBD client is whoever can connect, unless it must show a certificate: nothing less leaves this machine."""
    faults = []
    if settings.nbd_tls not in {*TlsPolicy}:
        faults.append(f"nbd_tls {settings.nbd_tls!r} is not one of {', '.join(TlsPolicy)}.")
    elif settings.nbd_tls != TlsPolicy.OFF and not (settings.tls_certificate and settings.tls_key):
        faults.append(
            f"nbd_tls is {settings.nbd_tls}, so tls_certificate and tls_key must be given."
        )
    guarded = settings.nbd_tls == TlsPolicy.REQUIRED and settings.tls_client_ca
    if settings.listen_nbd and not guarded and not _is_loopback(settings.listen_nbd):
        faults.append(
            "listen_nbd is no loopback address, so nbd_tls must be required and tls_client_ca given: "
            "otherwise nobody would have to prove who it is."
        )
    return faults


def _is_loopback(address: str) -> bool:
    """An address that is not one of this machine's own alone counts as open; so does what cannot be read."""
    try:
        host, _port = split_address(address)
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address_faults(settings: NodeSettings) -> list[str]:
    portals = iscsi_portals(settings)
    faults = _portal_faults(portals)
    for name, address in (
        *(
            (name, getattr(settings, name))
            for name in ("master", "listen_ctrl", "listen_data", "listen_nvme", "listen_nbd")
        ),
        *(("listen_iscsi", one) for one in portals),
    ):
        if name == "listen_nbd" and not address:
            continue
        try:
            host, port = split_address(address)
        except ValueError as error:
            faults.append(f"{name}: {error}.")
            continue
        if name == "master" and port == 0:
            faults.append("master: port 0 cannot be connected to.")
        if name != "master" and host in WILDCARDS and not settings.advertise_host:
            faults.append(
                f"{name} listens everywhere, so advertise_host must say where others find it."
            )
    return faults


def _portal_faults(portals: tuple[str, ...]) -> list[str]:
    """Port 0 may be asked for more than once; nothing else may."""
    fixed = [one for one in portals if not one.endswith(":0")]
    if not 1 <= len(portals) <= PORTALS_MAX:
        return [f"listen_iscsi has {len(portals)} addresses, not 1 to {PORTALS_MAX}."]
    if len(set(fixed)) != len(fixed):
        return ["listen_iscsi has an address twice."]
    return []
