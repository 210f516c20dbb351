"""A whole cluster on one machine: one master and some nodes as children of this process, on loopback.

Everything lives under one directory: ``master/`` (the authority store), ``<node>/`` (a pool each), ``logs/``,
``cluster.key`` (made at the first start), ``cluster.json`` (addresses and process ids, for the command line and for
tests) and the lock.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sparrow.base.errors import ConfigError, FailedPrecondition
from sparrow.base.ids import NodeId
from sparrow.runtime.cluster_key import create_key_file
from sparrow.runtime.supervisor import Child, Children, ChildSpec, write_atomically

HOST: Final = "127.0.0.1"
BASE_PORT: Final = 7400
#: Ports of one node: control, data, iSCSI, NVMe/TCP, NBD.
PORTS_PER_NODE: Final = 5
NODES_MAX: Final = 16
LOGS: Final = "logs"
CLUSTER_FILE: Final = "cluster.json"
LOCK_FILE: Final = ".lock"
KEY_FILE: Final = "cluster.key"
CLUSTER_FILE_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node's id, pool and addresses (``host:port``)."""

    node_id: NodeId
    pool: Path
    ctrl_addr: str
    data_addr: str
    iscsi_addr: str
    nvme_addr: str
    nbd_addr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """What is started where."""

    directory: Path
    master_addr: str
    nodes: tuple[NodePlan, ...]

    @property
    def cluster_key(self) -> Path:
        return self.directory / KEY_FILE

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address of the cluster, the master's first."""
        own = [self.master_addr]
        for node in self.nodes:
            own += [node.ctrl_addr, node.data_addr, node.iscsi_addr]
            own += [node.nvme_addr, node.nbd_addr]
        return tuple(own)


def plan_cluster(directory: Path, *, nodes: int, base_port: int = BASE_PORT) -> ClusterPlan:
    """Master on ``base_port``; node ``n<i>`` on the five ports from ``base_port + 10 * i``.

    Raises: ConfigError: no such number of nodes, or ports outside 1024 to 65535.
    """
    if not 1 <= nodes <= NODES_MAX:
        raise ConfigError(
            f"{nodes} nodes are not possible.", hint=f"Choose 1 to {NODES_MAX} with --nodes."
        )
    last = base_port + 10 * nodes + PORTS_PER_NODE - 1
    if base_port < 1024 or last > 65535:
        raise ConfigError(
            f"Base port {base_port} leads to ports outside 1024 to 65535.",
            hint=f"Choose 1024 to {65535 - (last - base_port)} with --base-port.",
        )
    plans = []
    for number in range(1, nodes + 1):
        first = base_port + 10 * number
        plans.append(
            NodePlan(
                node_id=NodeId(f"n{number}"),
                pool=directory / f"n{number}",
                ctrl_addr=f"{HOST}:{first}",
                data_addr=f"{HOST}:{first + 1}",
                iscsi_addr=f"{HOST}:{first + 2}",
                nvme_addr=f"{HOST}:{first + 3}",
                nbd_addr=f"{HOST}:{first + 4}",
            )
        )
    return ClusterPlan(directory=directory, master_addr=f"{HOST}:{base_port}", nodes=tuple(plans))


def master_arguments(plan: ClusterPlan) -> tuple[str, ...]:
    """The command line of the master process."""
    data = str(plan.directory / "master")
    own = (
        *("master", "run", "--listen", plan.master_addr, "--data", data),
        *("--cluster-key", str(plan.cluster_key)),
    )
    return (sys.executable, "-m", "sparrow", *own)


def node_arguments(plan: ClusterPlan, node: NodePlan) -> tuple[str, ...]:
    """The command line of one node process."""
    own = (
        *("node", "run", "--node-id", node.node_id, "--pool", str(node.pool)),
        *("--master", plan.master_addr, "--listen-ctrl", node.ctrl_addr),
        *("--listen-data", node.data_addr, "--listen-iscsi", node.iscsi_addr),
        *("--listen-nvme", node.nvme_addr),
        *("--listen-nbd", node.nbd_addr),
        *("--cluster-key", str(plan.cluster_key)),
    )
    return (sys.executable, "-m", "sparrow", *own)


class EmbeddedCluster:
    """The children of one ``sparrow up``, and the file that describes them.

    Args:
        on_change: called after each change of a child's state.
    """

    def __init__(self, plan: ClusterPlan, on_change: Callable[[Child], None]) -> None:
        self.plan = plan
        self.demo_made = False
        self._tell = on_change
        self._children = Children(self._changed)
        self._lock = -1

    @property
    def children(self) -> tuple[Child, ...]:
        return tuple(self._children.children)

    def claim(self) -> None:
        """Make the directory and take its lock; see that every port is free.

        Raises:
            FailedPrecondition: another ``sparrow up`` has the directory.
            ConfigError: the directory cannot be made, or a port is taken.
        """
        directory = self.plan.directory
        try:
            (directory / LOGS).mkdir(parents=True, exist_ok=True)
            for node in self.plan.nodes:
                node.pool.mkdir(exist_ok=True)
            self._lock = os.open(
                directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise ConfigError(
                f"{directory} cannot hold the cluster: {error.strerror}.",
                hint="Choose another directory with --data.",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                f"A cluster is running in {directory} already.",
                hint="Stop that one, or choose another directory with --data and other ports with --base-port.",
            ) from None
        if not self.plan.cluster_key.exists():
            create_key_file(self.plan.cluster_key)
        self.demo_made = bool((read_cluster_file(directory) or {}).get("demo_made", False))
        for address in self.plan.addresses:
            _check_free(address)

    async def start(self) -> None:
        """Start the master, then all nodes at once; returns when all are ready. Raises ChildFailed, TimedOut."""
        await self._children.start(self._spec("master", master_arguments(self.plan)))
        starting = [
            asyncio.ensure_future(
                self._children.start(self._spec(node.node_id, node_arguments(self.plan, node)))
            )
            for node in self.plan.nodes
        ]
        try:
            await asyncio.gather(*starting)
        finally:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)

    async def stop(self) -> None:
        """Nodes first, so that they can still say goodbye to the master; bounded, see ``supervisor.STOP_S``."""
        started = [child.spec.name for child in self.children]
        await self._children.stop([name for name in started if name != "master"])
        await self._children.stop([name for name in started if name == "master"])
        if self._lock >= 0:
            self.write_file()
            os.close(self._lock)
            self._lock = -1

    def write_file(self) -> None:
        """Write ``cluster.json`` as things are now; a process that does not run has process id 0."""
        pids = {child.spec.name: child.pid for child in self.children}
        content = {
            "version": CLUSTER_FILE_VERSION,
            "supervisor_pid": os.getpid(),
            "demo_made": self.demo_made,
            "master": {"addr": self.plan.master_addr, "pid": pids.get("master", 0)},
            "nodes": [
                {
                    "node_id": node.node_id,
                    "pid": pids.get(node.node_id, 0),
                    "pool": str(node.pool),
                    "ctrl_addr": node.ctrl_addr,
                    "data_addr": node.data_addr,
                    "iscsi_addr": node.iscsi_addr,
                    "nvme_addr": node.nvme_addr,
                    "nbd_addr": node.nbd_addr,
                }
                for node in self.plan.nodes
            ],
        }
        write_atomically(self.plan.directory / CLUSTER_FILE, json.dumps(content, indent=2) + "\n")

    def _spec(self, name: str, arguments: tuple[str, ...]) -> ChildSpec:
        log_path = self.plan.directory / LOGS / f"{name}.log"
        return ChildSpec(name=name, arguments=arguments, log_path=log_path)

    def _changed(self, child: Child) -> None:
        self.write_file()
        self._tell(child)


def read_cluster_file(directory: Path) -> dict[str, Any] | None:
    """The content of ``cluster.json``; None when there is none that this version can read."""
    try:
        content = json.loads((directory / CLUSTER_FILE).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("version") != CLUSTER_FILE_VERSION:
        return None
    return content


def _check_free(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise ConfigError(
                f"Port {port} on {host} is needed but cannot be used: {error.strerror}.",
                hint="Stop what listens there, or choose another range with --base-port.",
            ) from error
