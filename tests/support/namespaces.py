"""Nodes on a network of their own: a namespace each, on one bridge, so that a node can be cut off in either direction.

    with Network(("n1", "n2", "n3")) as network:
        cluster = Cluster(path, network=network)
        network.mute("n1")      # what it sends is lost; it hears everything
        network.mend("n1")

Packets are dropped by nftables inside the node's namespace: connections stay open and hear nothing, as when a cable or
a switch fails. Needs root, ip and nft. Names carry the process id; what a killed run has left is removed by the next.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

#: In a namespace's own table: nothing from these addresses, nothing to them.
APART: Final = (
    "table inet apart {{ chain in {{ type filter hook input priority 0; ip saddr {{ {addresses} }} drop; }};"
    " chain out {{ type filter hook output priority 0; ip daddr {{ {addresses} }} drop; }}; }}"
)
NAMESPACES: Final = Path("/run/netns")
PREFIX: Final = "spd"
#: In a namespace's own table: what comes in, what goes out; its loopback is left alone.
DEAF: Final = (
    "table inet deaf { chain in { type filter hook input priority 0; iif lo accept; drop; }; }"
)
MUTE: Final = (
    "table inet mute { chain out { type filter hook output priority 0; oif lo accept; drop; }; }"
)
SECLUDED: Final = (
    "table inet secluded {{"
    " chain in {{ type filter hook input priority 0; iif lo accept; ip saddr {friend} accept; drop; }};"
    " chain out {{ type filter hook output priority 0; oif lo accept; ip daddr {friend} accept; drop; }};"
    " }}"
)
PARTED: Final = (
    "table inet parted {{"
    " chain in {{ type filter hook input priority 0; ip saddr {other} drop; }};"
    " chain out {{ type filter hook output priority 0; ip daddr {other} drop; }};"
    " }}"
)


class Network:
    """A bridge with an address for this process, and a namespace with one for each node."""

    def __init__(self, nodes: tuple[str, ...]) -> None:
        self._nodes = nodes
        self._net = f"10.{77 + os.getpid() // 250 % 100}.{os.getpid() % 250}"
        self._stack = ExitStack()

    @property
    def host(self) -> str:
        """This process's address on the bridge; the master's and the clients'."""
        return f"{self._net}.1"

    def address(self, node: str) -> str:
        return f"{self._net}.{10 + self._nodes.index(node)}"

    def prefix(self, node: str) -> tuple[str, ...]:
        """In front of a command that is to run as the node. The process is replaced, not forked."""
        return ("nsenter", f"--net={NAMESPACES / self.name(node)}")

    # ---------------------------------------------------------------- faults

    def keep_apart(self, node: str, others: Sequence[str]) -> None:
        """It and these nodes hear each other no more; everybody else is heard as before."""
        addresses = ", ".join(self.address(other) for other in others)
        self._nft(node, APART.format(addresses=addresses))

    def deafen(self, node: str) -> None:
        """It hears nobody; others hear it."""
        self._nft(node, DEAF)

    def mute(self, node: str) -> None:
        """Nobody hears it; it hears others."""
        self._nft(node, MUTE)

    def cut(self, node: str) -> None:
        self._nft(node, f"{DEAF}\n{MUTE}")

    def seclude(self, node: str, friend: str) -> None:
        """Cut off from everybody but one address."""
        self._nft(node, SECLUDED.format(friend=friend))

    def part(self, node: str, other: str) -> None:
        """Nothing goes between the node and one address; everybody else is heard."""
        self._nft(node, PARTED.format(other=other))

    def mend(self, node: str) -> None:
        self._nft(node, "flush ruleset")

    # ---------------------------------------------------------------- life

    def __enter__(self) -> Self:
        remove_stale()
        with ExitStack() as stack:
            bridge = f"{PREFIX}{os.getpid()}"
            _run("ip", "link", "add", bridge, "type", "bridge")
            stack.callback(_run, "ip", "link", "del", bridge)
            _run("ip", "addr", "add", f"{self.host}/24", "dev", bridge)
            _run("ip", "link", "set", bridge, "up")
            for node in self._nodes:
                self._add(node, bridge, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _add(self, node: str, bridge: str, stack: ExitStack) -> None:
        name = self.name(node)
        outside = name.replace("-", "v")
        _run("ip", "netns", "add", name)
        stack.callback(_run, "ip", "netns", "del", name)
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        # Both ends go at once; the namespace stays as long as a socket of it.
        stack.callback(_run, "ip", "link", "del", outside)
        _run("ip", "link", "set", outside, "master", bridge, "up")
        _run("ip", "-n", name, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")

    def name(self, node: str) -> str:
        """Of its name space."""
        return f"{PREFIX}{os.getpid()}-{self._nodes.index(node)}"

    def _nft(self, node: str, rules: str) -> None:
        _run(*self.prefix(node), "nft", "-f", "-", given=rules)


def remove_stale() -> None:
    """Namespaces and bridges of runs that are no more."""
    found = [path.name for path in NAMESPACES.glob(f"{PREFIX}*")]
    found += [path.name for path in Path("/sys/class/net").glob(f"{PREFIX}*")]
    for name in found:
        pid = name.removeprefix(PREFIX).partition("-")[0]
        if not pid.isdecimal() or Path(f"/proc/{pid}").exists():
            continue
        kind = "netns" if (NAMESPACES / name).exists() else "link"
        try:
            _run("ip", kind, "del", name)
        except AssertionError:
            # Another run may have come first, and an end of a pair goes with the other.
            if (NAMESPACES / name).exists() or Path("/sys/class/net", name).exists():
                raise


def _run(*command: str, given: str = "") -> None:
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    program = shutil.which(command[0], path=path)
    assert program is not None, f"{command[0]} is missing"
    done = subprocess.run(
        [program, *command[1:]],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
