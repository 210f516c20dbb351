"""What can happen to a primary's node, and how it is put right again.

A ``Fault`` is struck while clients are busy, stands while they go on elsewhere, and is taken back; then the node must
be in sync again without any other help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.support.cluster import Cluster, NodeProc
from tests.support.namespaces import Network
from tests.support.places import Disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where the drill takes place. Without a network or disks some faults cannot be struck."""

    cluster: Cluster
    network: Network | None = None
    disks: Mapping[str, Disk]

    def disk(self, node: NodeProc) -> Disk:
        return self.disks[node.node_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """``silent``: nothing closes, so that only the lack of answers tells of it."""

    name: str
    strike: Callable[[Ground, NodeProc], None]
    mend: Callable[[Ground, NodeProc], None]
    silent: bool = False
    needs_network: bool = False
    needs_disks: bool = False


def _kill(_ground: Ground, node: NodeProc) -> None:
    node.kill()


def _start(_ground: Ground, node: NodeProc) -> None:
    node.start()


def _kill_full(ground: Ground, node: NodeProc) -> None:
    """The pool was full for a while; the process starts again in it before there is room."""
    node.kill()
    ground.disk(node).fill()


def _start_full(ground: Ground, node: NodeProc) -> None:
    node.start()
    ground.disk(node).empty()


def _fail_disk(ground: Ground, node: NodeProc) -> None:
    ground.disk(node).fail()


def _replace_disk(ground: Ground, node: NodeProc) -> None:
    if node.running:
        node.kill()
    ground.disk(node).replace()
    node.start()


def _network(ground: Ground) -> Network:
    assert ground.network is not None, "the fault needs namespaces"
    return ground.network


def _mend_network(ground: Ground, node: NodeProc) -> None:
    _network(ground).mend(node.node_id)


FAULTS: Final = {
    fault.name: fault
    for fault in (
        Fault(name="kill", strike=_kill, mend=_start),
        Fault(
            name="freeze",
            strike=lambda _ground, node: node.freeze(),
            mend=lambda _ground, node: node.thaw(),
            silent=True,
        ),
        Fault(
            name="deaf",
            strike=lambda ground, node: _network(ground).deafen(node.node_id),
            mend=_mend_network,
            silent=True,
            needs_network=True,
        ),
        Fault(
            name="mute",
            strike=lambda ground, node: _network(ground).mute(node.node_id),
            mend=_mend_network,
            silent=True,
            needs_network=True,
        ),
        Fault(
            name="cut",
            strike=lambda ground, node: _network(ground).cut(node.node_id),
            mend=_mend_network,
            silent=True,
            needs_network=True,
        ),
        Fault(name="full", strike=_kill_full, mend=_start_full, needs_disks=True),
        Fault(name="eio", strike=_fail_disk, mend=_replace_disk, needs_disks=True),
    )
}
