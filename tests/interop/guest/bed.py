"""A cluster with a guest on its network: what a scenario plays on.

Each node has a namespace of its own on one bridge, the guest's network card is a tap on it, so that any path can be cut
where it ends. The guest has no way out.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sparrow.base.access import AccessEntry
from tests.interop.guest.image import CACHE, ROOT, Image, image
from tests.interop.guest.machine import GuestError, Result, Tap, run_script
from tests.support.certificates import Authority
from tests.support.cluster import Cluster, NodeProc
from tests.support.namespaces import Network
from tests.support.places import disk_directory
from tests.support.replica_files import wait_applied

NODES: Final = ("n1", "n2", "n3")
VOLUME: Final = "guest"
#: mkfs.xfs makes nothing smaller than 300 MB.
VOLUME_BYTES: Final = 384 << 20
SCRIPTS: Final = Path(__file__).resolve().parent / "scripts"
LOGS: Final = CACHE / "logs"
#: For space that was given back to go from the files of every replica.
PUNCHED_S: Final = 30.0
#: For a node that was killed to be in sync again.
HEAL_S: Final = 120.0


@dataclass(kw_only=True)
class Bed:
    """One volume on three nodes, and what the guest may ask of the host."""

    cluster: Cluster
    network: Network
    tap: Tap
    image: Image
    certificates: Path
    used: dict[str, int] = field(default_factory=dict)
    asks: dict[str, Callable[[str], str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.asks |= {"used": self.note_used, "trimmed": self.check_trimmed}

    def play(
        self, script: str, *, timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> Result:
        """Run one of the scripts to its end; raises GuestError with its output unless it ended with 0."""
        out = LOGS / script.removesuffix(".sh")
        result = run_script(
            self.image,
            (SCRIPTS / script).read_text(),
            out=out,
            tap=self.tap,
            files={"initiator": ROOT / "deploy" / "initiator", "tls": self.certificates},
            environment=environment,
            timeout_s=timeout_s,
            asked=self.answer,
        )
        print(result.output)
        if result.status != 0:
            raise GuestError(f"{script} ended with {result.status}; everything it left is in {out}")
        return result

    def answer(self, words: str) -> str:
        """One question of the guest: the name of what to do and its argument."""
        name, _, argument = words.strip().partition(" ")
        return f"ok {self.asks[name](argument)}"

    # ------------------------------------------------------------ the volume

    def allow(self, *entries: AccessEntry, allow_none: bool = False) -> None:
        """Replace the access list, and wait until every node has it."""
        held = self.cluster.volume(VOLUME).access
        wanted = replace(held, entries=entries, allow_none=allow_none)
        changed = self.cluster.api(lambda api: api.set_access(VOLUME, wanted)).access
        for node in self.cluster.nodes.values():
            node.wait_log("volume.access_changed", revision=changed.revision)

    def target(self, protocol: str) -> str:
        """What an initiator of this protocol calls the volume."""
        (found,) = (
            one for one in self.cluster.volume(VOLUME).frontends if one.protocol == protocol
        )
        return found.name

    def another(self, node: NodeProc) -> NodeProc:
        return next(other for other in self.cluster.nodes.values() if other is not node)

    def usurp(
        self, new: NodeProc, address: Callable[[NodeProc], str]
    ) -> dict[str, Callable[[str], str]]:
        """What a script may ask whose old primaries must refuse; answers are addresses of the new ones.

        ``move``: the operator makes ``new`` the primary. ``part``: nobody hears ``new`` any more but the guest, and
        another takes over. ``mend``: everybody hears everybody, all replicas are in sync.
        """

        def move(_: str) -> str:
            old = self.cluster.primary(VOLUME)
            self.cluster.move(VOLUME, new.node_id)
            return address(self.cluster.wait_serving(VOLUME, not_on=old))

        def part(_: str) -> str:
            self.network.seclude(new.node_id, self.tap.address)
            return address(self.cluster.wait_serving(VOLUME, not_on=new))

        def mend(_: str) -> str:
            self.network.mend(new.node_id)
            self.cluster.wait_healthy(VOLUME)
            return ""

        return {"move": move, "part": part, "mend": mend}

    def kills(
        self, address: Callable[[NodeProc], str] | None = None
    ) -> dict[str, Callable[[str], str]]:
        """``strike``: SIGKILL of the primary's node, answered when another serves. ``mend``: it is back and in sync.

        The answer to ``strike`` is a line for people, or the ``address`` of the new primary.
        """
        struck: list[NodeProc] = []

        def strike(_: str) -> str:
            node = self.cluster.primary(VOLUME)
            began = time.monotonic()
            node.kill()
            struck.append(node)
            serving = self.cluster.wait_serving(VOLUME, not_on=node)
            if address is not None:
                return address(serving)
            return f"{serving.node_id} serves after {time.monotonic() - began:.1f} s"

        def mend(_: str) -> str:
            struck[-1].start()
            self.cluster.wait_healthy(VOLUME, HEAL_S)
            return ""

        return {"strike": strike, "mend": mend}

    def note_used(self, _: str = "") -> str:
        wait_applied([node.pool for node in self.cluster.nodes.values()], VOLUME)
        self.used = {name: self.extents_used(name) for name in NODES}
        return " ".join(f"{used >> 20}M" for used in self.used.values())

    def check_trimmed(self, mib: str) -> str:
        """Wait until the files of every replica are shorter by most of what was removed."""
        deadline = time.monotonic() + PUNCHED_S
        for name, before in self.used.items():
            while self.extents_used(name) > before - (int(mib) << 20) * 8 // 10:
                assert time.monotonic() < deadline, (
                    f"{name} holds {self.extents_used(name)} bytes, {before} before {mib} MiB were trimmed"
                )
                # Places are given back in the background, and nothing tells when.
                time.sleep(0.05)
        return self.note_used()

    def extents_used(self, name: str) -> int:
        """Bytes that a node's file system holds for the pages of its replica."""
        (extents,) = (self.cluster.nodes[name].pool / "volumes" / VOLUME).glob("*/extents")
        return extents.stat().st_blocks * 512

    # ------------------------------------------------------------ connections

    def connections(self, address: str) -> list[str]:
        """Peers of the living connections to a node's port, as its own kernel lists them."""
        host, _, port = address.rpartition(":")
        (name,) = (node for node in NODES if self.network.address(node) == host)
        done = subprocess.run(
            [
                *(*self.network.prefix(name), "ss", "-Htn", "state", "established"),
                f"( sport = :{port} )",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split()[-1] for line in done.stdout.splitlines()]


@contextmanager
def bed(volume_bytes: int = VOLUME_BYTES) -> Iterator[Bed]:
    """The cluster with its volume in sync everywhere, the network and the guest's tap; all gone afterwards."""
    found = image()
    LOGS.mkdir(exist_ok=True)
    with (
        disk_directory("guest") as place,
        Network(NODES) as network,
        Tap(network) as tap,
        Cluster(place, network=network, node_arguments=_nbd_tls(place / "tls")) as cluster,
    ):
        cluster.create_volume(VOLUME, size=volume_bytes)
        cluster.wait_healthy(VOLUME)
        yield Bed(
            cluster=cluster, network=network, tap=tap, image=found, certificates=place / "tls"
        )


def _nbd_tls(place: Path) -> tuple[str, ...]:
    """Beyond loopback NBD is served with TLS only, to clients with a certificate. One for all nodes."""
    authority = Authority(place)
    node = authority.issue("server", "localhost")
    authority.issue("client", "guest")
    return (
        *("--nbd-tls", "required", "--tls-certificate", str(node.certificate)),
        *("--tls-key", str(node.key), "--tls-client-ca", str(authority.certificate)),
    )
