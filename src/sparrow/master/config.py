"""Settings of the master's process."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from sparrow.runtime.config import setting, split_address


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterSettings:
    """Everything else about the cluster is in the store."""

    data: Path = setting("directory of the authority store; only one master may use it")
    cluster_key: Path = setting("file with the cluster's key; the same on every machine of it")
    listen: str = setting("address of the control API, host:port", default="127.0.0.1:7400")
    recover_from_nodes: bool = setting(
        "rebuild a lost master: begin on an empty store with what the nodes hold", default=False
    )
    nodes: str = setting(
        "with recover_from_nodes: control addresses of all nodes, host:port,host:port,...",
        default="",
    )
    from_copy: str = setting(
        "start elsewhere: begin on an empty store with the newest copy that these nodes keep, host:port,...",
        default="",
    )
    rebalance_skew: int = setting(
        "a node may lead this many volumes more than another before one of its primaries moves; 0: none ever moves",
        default=1,
    )
    log_level: str = setting("debug, info, warning or error", default="info")


def node_addresses(settings: MasterSettings) -> tuple[str, ...]:
    """The nodes to ask, each once."""
    return addresses(settings.nodes)


def addresses(text: str) -> tuple[str, ...]:
    """A list of addresses, each once."""
    return tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))


def validate(settings: MasterSettings) -> list[str]:
    """One sentence per setting that cannot be used."""
    faults = []
    try:
        split_address(settings.listen)
    except ValueError as error:
        faults.append(f"listen: {error}.")
    if settings.recover_from_nodes != bool(settings.nodes):
        faults.append("recover_from_nodes and nodes are given together or not at all.")
    if settings.recover_from_nodes and settings.from_copy:
        faults.append(
            "from_copy and recover_from_nodes are two ways to the same thing: choose one."
        )
    for name in ("nodes", "from_copy"):
        for address in addresses(getattr(settings, name)):
            try:
                split_address(address)
            except ValueError as error:
                faults.append(f"{name}: {error}.")
    if settings.rebalance_skew < 0:
        faults.append("rebalance_skew: it is 0 or more.")
    if settings.log_level.upper() not in logging.getLevelNamesMapping():
        faults.append(f"log_level: {settings.log_level!r} is no level.")
    return faults
