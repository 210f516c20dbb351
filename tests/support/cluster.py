"""A cluster of real processes that a test may hurt: kill, freeze, restart, one by one, by process id.

    with Cluster(tmp_path, nodes=3) as cluster:
        cluster.create_volume("a", size=256 << 20)
        cluster.primary("a").kill()
        cluster.wait_serving("a", not_on=...)

Nothing is restarted unless the test says so. Every wait has a deadline and fails with the end of every log. All
methods block and may be called from any thread; call ``start`` from the main thread, because the kernel ends the
processes when the thread that started them ends (they must not outlive the test).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sparrow.base.access import ANYONE, AccessEntry, AccessList, Frontend
from sparrow.base.errors import FailedPrecondition, NotPrimary, SparrowError, Unavailable
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.messages import CreateVolumeRequest, MoveProgress, NodeView, VolumeView
from sparrow.runtime.cluster_key import create_key_file
from sparrow.runtime.parent import PARENT_VARIABLE
from sparrow.runtime.supervisor import how_it_ended, parse_ready, tail
from tests.support.namespaces import Network
from tests.support.ports import HOST, free_ports

T = TypeVar("T")

READY_S = 60.0
STOP_S = 15.0
#: Between two looks at the API; it has no watch.
LOOK_S = 0.02
#: For a volume to come to rest that is to be compared.
VERIFY_S = 30.0
#: A replica that stood still is fit to take over again when it has been heard and has what was written meanwhile.
TRUST_S = 20.0
SERVING = ("healthy", "degraded")
#: Of a node that is passed over when a volume is placed.
UNHEARD = "not heard from lately"


class ClusterError(AssertionError):
    """The cluster did not do what the test waited for; the message ends with its logs."""


class Proc:
    """One process of the cluster; the same arguments, ports and log at every start."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log_path: Path,
        environment: Mapping[str, str],
        *,
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.arguments = tuple(arguments)
        self.prefix = tuple(prefix)
        self.log_path = log_path
        self.environment = dict(environment)
        self.ready: Mapping[str, Any] = {}
        #: Called after each start, when the ready line has come.
        self.on_ready: Callable[[], object] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Of the newest process; 0 before the first start."""
        return 0 if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait for its ready line. Raises ClusterError when it ends or stays silent."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start it without waiting."""
        assert not self.running, f"{self.name} runs already"
        self._ready_lines: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "sparrow", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self.environment, PARENT_VARIABLE: str(os.getpid())},
                start_new_session=True,
            )
        self._reader = threading.Thread(
            target=self._read, args=(self._process, self._ready_lines), daemon=True
        )
        self._reader.start()

    def await_ready(self, timeout_s: float = READY_S) -> None:
        """Wait for the ready line after :meth:`launch`."""
        try:
            ready = self._ready_lines.get(timeout=timeout_s)
        except queue.Empty:
            raise ClusterError(
                f"{self.name} was not ready after {timeout_s} s{self.tail()}"
            ) from None
        if ready is None:
            assert self._process is not None
            how = how_it_ended(self._process.wait())
            raise ClusterError(f"{self.name} ended with {how} before it was ready{self.tail()}")
        self.ready = ready
        if self.on_ready is not None:
            self.on_ready()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit status (negative: a signal ended it). Raises ClusterError when it does not end."""
        self.send_signal(signal.SIGTERM)
        return self.wait()

    def freeze(self) -> None:
        """SIGSTOP: it does nothing any more, its connections stay.

        Returns when every thread has stopped: the signal alone leaves them time for a last answer.
        """
        self.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """SIGCONT."""
        self.send_signal(signal.SIGCONT)

    def stop_cont(self, seconds: float) -> None:
        """Freeze it for a while; the time is the point of it."""
        self.freeze()
        time.sleep(seconds)
        self.thaw()

    def restart(self) -> None:
        """Kill it if it runs, start it again, wait until it is ready."""
        if self.running:
            self.kill()
        self.start()

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for its end; the exit status."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"{self.name} did not end within {timeout_s} s{self.tail()}"
            ) from None
        if self._reader is not None:
            self._reader.join(timeout_s)
        return status

    def log_events(self, event: str | None = None, **facts: object) -> list[dict[str, Any]]:
        """Log events so far, of one name and with these facts if given."""
        found = []
        with self.log_path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if (
                        isinstance(entry, dict)
                        and event in (None, entry.get("event"))
                        and all(entry.get(key) == value for key, value in facts.items())
                    ):
                        found.append(entry)
        return found

    def wait_log(
        self, event: str, *, timeout_s: float = READY_S, after: int = 0, **facts: object
    ) -> dict[str, Any]:
        """The first such log event, waited for; ``after``: so many of them were there before.

        A log goes on where the process before left it: what that one said is in it too.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.log_events(event, **facts)[after:]
            if found:
                return found[0]
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} logged no {event} {facts}{self.tail()}")
            time.sleep(LOOK_S)

    def tail(self, lines: int = 25) -> str:
        return "\n".join((f"\n--- {self.log_path}", *tail(self.log_path, lines=lines)))

    def _read(
        self,
        process: subprocess.Popen[bytes],
        ready_lines: queue.Queue[Mapping[str, Any] | None],
    ) -> None:
        assert process.stdout is not None
        with process.stdout, self.log_path.open("ab") as log:
            for line in process.stdout:
                found = parse_ready(line)
                if found is None:
                    log.write(line)
                    log.flush()
                else:
                    ready_lines.put(found)
        ready_lines.put(None)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it one, if it was ever started; nothing is waited for."""
        if self._process is not None:
            # Popen knows whether the process was reaped, so a recycled pid is never hit.
            self._process.send_signal(number)


class NodeProc(Proc):
    """A storage node's process."""

    node_id: str
    pool: Path
    ctrl_addr: str
    data_addr: str
    iscsi_addr: str
    nvme_addr: str
    nbd_addr: str

    @property
    def portal(self) -> tuple[str, int]:
        """Host and port of its iSCSI portal."""
        host, _, port = self.iscsi_addr.rpartition(":")
        return host, int(port)

    def kill_to_rest(self) -> None:
        """SIGKILL, and wait until what it had handed to its disk has come there: nobody writes its files any more.

        On a slow disk that takes longer than the end of the process (``sparrow.node.pool``).
        """
        self.kill()
        pool = os.open(self.pool, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(pool, fcntl.LOCK_EX)
        finally:
            os.close(pool)


class Cluster:
    """One master, some nodes, one API client.

    Args:
        path: an empty directory; ``logs``, ``master`` and a pool per node are made in it.
        pools: directories for some nodes' pools instead, by node id (a small file system, for example).
        node_arguments: more arguments for every node's process.
        environment: added to the environment of every process.
        network: gives each node a network namespace of its own.
    """

    def __init__(
        self,
        path: Path,
        *,
        nodes: int = 3,
        pools: Mapping[str, Path] | None = None,
        node_arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        network: Network | None = None,
    ) -> None:
        self.path = path
        self._network = network
        ports = iter(free_ports(1 + 5 * nodes))
        (path / "logs").mkdir(parents=True, exist_ok=True)
        self.master_addr = f"{network.host if network else HOST}:{next(ports)}"
        self.environment = dict(environment or {})
        self.cluster_key = path / "cluster.key"
        if not self.cluster_key.exists():
            create_key_file(self.cluster_key)
        self.master = Proc(
            "master",
            self.master_arguments(path / "master"),
            path / "logs" / "master.log",
            self.environment,
        )
        self.master.on_ready = self._find_master
        self.nodes: dict[str, NodeProc] = {}
        for number in range(1, nodes + 1):
            pool = (pools or {}).get(f"n{number}", path / f"n{number}")
            host = network.address(f"n{number}") if network else HOST
            addresses = [f"{host}:{next(ports)}" for _ in range(4)]
            # Without TLS it listens on loopback only.
            nbd_host = host if "--nbd-tls" in node_arguments else HOST
            addresses.append(f"{nbd_host}:{next(ports)}")
            self.nodes[f"n{number}"] = self._node(f"n{number}", pool, addresses, node_arguments)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api", daemon=True)
        self._api: ApiClient | None = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, ClusterError):
            print(self.logs(), file=sys.stderr)
        self.stop()

    # ---------------------------------------------------------------- processes

    def start(self) -> Self:
        """Start everything; returns when the master has heard from every node."""
        self._thread.start()
        self._api = self._do(self._connect())
        self.start_all()
        return self

    def start_all(self) -> None:
        """Start what does not run, and wait until the master knows every node."""
        if not self.master.running:
            self.master.start()
        resting = [node for node in self.nodes.values() if not node.running]
        for node in resting:
            node.launch()
        for node in resting:
            node.await_ready()
        self.wait_nodes()

    def kill_all(self) -> None:
        """SIGKILL of every process, as close together as signals can be."""
        procs = self._running()
        for proc in procs:
            proc.send_signal(signal.SIGKILL)
        for proc in procs:
            proc.wait()

    def stop(self) -> None:
        """Leave nothing behind, whatever state things are in."""
        for proc in self._running():
            proc.send_signal(signal.SIGCONT)
            proc.send_signal(signal.SIGKILL)
        for proc in self._running():
            proc.wait()
        if self._thread.is_alive():
            if self._api is not None:
                self._do(self._api.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_S)
        if not self._loop.is_running():
            self._loop.close()

    def logs(self) -> str:
        """The end of every log."""
        return "".join(proc.tail() for proc in (self.master, *self.nodes.values()))

    # ---------------------------------------------------------------- volumes

    def create_volume(
        self,
        name: str,
        *,
        size: int,
        replicas: int = 3,
        min_in_sync: int = 0,
        block_size: int = 0,
        ack: str = "",
    ) -> VolumeView:
        """Create a volume and wait until it serves; ``size`` in bytes."""
        request = CreateVolumeRequest(
            name=name,
            size_bytes=size,
            replication_factor=replicas,
            block_size=block_size,
            min_in_sync=min_in_sync,
            ack=ack,
        )
        made = self._create(request)
        if self._network is not None:
            # Its portals are not on loopback, where everybody is let in by itself.
            everyone = tuple(AccessEntry(protocol=one, name=ANYONE) for one in Frontend)
            access = AccessList(entries=everyone, allow_none=True)
            made = self.api(lambda api: api.set_access(name, access))
        return made

    def _create(self, request: CreateVolumeRequest) -> VolumeView:
        """A node that stood still is not heard from for a moment: the volume is asked for until that is over."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                return self.api(lambda api: api.create_volume(request))
            except FailedPrecondition as error:
                if UNHEARD not in error.hint or time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_S)

    def volume(self, name: str) -> VolumeView:
        return self.api(lambda api: api.get_volume(name))

    def delete_volume(self, name: str) -> None:
        self.api(lambda api: api.delete_volume(name))

    def primary(self, name: str) -> NodeProc:
        """The node the line names as primary, whether it runs or not."""
        line = self.volume(name).line
        if line is None:
            raise ClusterError(f"volume {name} has no line yet{self.logs()}")
        return self.nodes[line.primary_member.node_id]

    def url(self, name: str) -> str:
        """``iscsi://host:port/iqn/0`` of where it is served now."""
        target = self.volume(name).frontends[0]
        return f"iscsi://{target.addr}/{target.name}/{target.lun}"

    def nbd_url(self, name: str, node: NodeProc | None = None) -> str:
        """``nbd://host:port/name`` of where it is served now, or of a node."""
        return f"nbd://{(node or self.primary(name)).nbd_addr}/{name}"

    def move(self, name: str, to: str) -> MoveProgress:
        """Let another replica, by its id or its node's, be primary; the last word on it.

        To one that stood still a moment ago it is refused: the move is asked for until it is taken.
        """

        async def run(api: ApiClient) -> MoveProgress:
            async with contextlib.aclosing(api.move_volume(name, to)) as progress:
                told = [one async for one in progress]
            assert told[-1].finished
            return told[-1]

        deadline = time.monotonic() + TRUST_S
        while True:
            try:
                return self.api(run)
            except FailedPrecondition:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_S)

    def verify(self, name: str) -> list[int]:
        """Pages that differ between in-sync replicas. Raises ClusterError when the comparison did not finish.

        One that ends because the volume moves is begun again; what it found counts. So is one without a replica that
        the master counts in sync: its primary may hear of that a moment later.
        """
        pages: set[int] = set()
        compared: set[str] = set()

        async def run(api: ApiClient) -> None:
            finished = False
            compared.clear()
            async with contextlib.aclosing(api.verify_volume(name)) as progress:
                async for one in progress:
                    pages.update(one.different_pages)
                    compared.update(one.replicas)
                    finished = one.finished
            if not finished:
                raise ClusterError(f"the comparison of {name} ended early{self.logs()}")

        deadline = time.monotonic() + VERIFY_S
        while True:
            try:
                line = self.volume(name).line
                self.api(run)
                if line is not None and compared.issuperset(line.in_sync):
                    return sorted(pages)
                assert time.monotonic() < deadline, f"{compared} of {line} were compared"
            except (NotPrimary, Unavailable, FailedPrecondition):
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_S)

    # ---------------------------------------------------------------- waiting

    def wait_healthy(self, name: str, timeout_s: float = 60.0) -> VolumeView:
        """Wait until every replica is in sync and the primary serves."""
        return self.wait_volume(name, lambda volume: volume.state == "healthy", timeout_s)

    def wait_serving(
        self, name: str, timeout_s: float = 30.0, *, not_on: NodeProc | None = None
    ) -> NodeProc:
        """Wait until a primary serves, on another node than ``not_on`` if given; that primary's node."""

        def serves(volume: VolumeView) -> bool:
            away = not_on is None or (
                volume.line is not None and volume.line.primary_member.node_id != not_on.node_id
            )
            return away and volume.state in SERVING and bool(volume.frontends)

        line = self.wait_volume(name, serves, timeout_s).line
        assert line is not None
        return self.nodes[line.primary_member.node_id]

    def wait_volume(
        self, name: str, holds: Callable[[VolumeView], bool], timeout_s: float
    ) -> VolumeView:
        """Wait until something holds of a volume. Errors of the API count as "not yet"."""
        return self._wait(lambda: self.volume(name), holds, timeout_s, f"volume {name}")

    def wait_nodes(self, timeout_s: float = READY_S) -> None:
        """Wait until the master hears from every node whose process runs."""
        running = {name for name, node in self.nodes.items() if node.running}

        def all_ready(nodes: Sequence[NodeView]) -> bool:
            return running <= {node.node_id for node in nodes if node.state == "ready"}

        self._wait(lambda: self.api(lambda api: api.list_nodes()), all_ready, timeout_s, "nodes")

    def api(self, work: Callable[[ApiClient], Coroutine[Any, Any, T]]) -> T:
        """One conversation with the master; raises what it raises."""
        assert self._api is not None, "the cluster was not started"
        return self._do(work(self._api))

    # ---------------------------------------------------------------- inside

    def _wait(
        self, look: Callable[[], T], holds: Callable[[T], bool], timeout_s: float, what: str
    ) -> T:
        deadline = time.monotonic() + timeout_s
        last: object = None
        while True:
            try:
                found = look()
            except SparrowError as error:
                last = error
            else:
                if holds(found):
                    return found
                last = found
            if time.monotonic() > deadline:
                raise ClusterError(f"{what} after {timeout_s} s: {last!r}{self.logs()}")
            time.sleep(LOOK_S)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _find_master(self) -> None:
        """A client that lost its master looks for it again in its own time: until then its calls fail."""
        if self._api is not None:
            self._wait(
                lambda: self.api(lambda api: api.list_volumes()),
                lambda _found: True,
                READY_S,
                "an answer of the master",
            )

    async def _connect(self) -> ApiClient:
        return ApiClient(self.master_addr)

    def _running(self) -> list[Proc]:
        return [proc for proc in (*self.nodes.values(), self.master) if proc.running]

    def master_arguments(self, data: Path, *more: str) -> tuple[str, ...]:
        """The command line of a master on this cluster's address and key."""
        return (
            *("master", "run", "--listen", self.master_addr, "--data", str(data)),
            *("--cluster-key", str(self.cluster_key), *more),
        )

    def _node(
        self, name: str, pool: Path, addresses: Sequence[str], more: Sequence[str]
    ) -> NodeProc:
        pool.mkdir(exist_ok=True)
        ctrl, data, iscsi, nvme, nbd = addresses
        arguments = (
            *("node", "run", "--node-id", name, "--pool", str(pool)),
            *("--master", self.master_addr, "--listen-ctrl", ctrl),
            *("--listen-data", data, "--listen-iscsi", iscsi, "--listen-nvme", nvme),
            *("--listen-nbd", nbd),
            *("--cluster-key", str(self.cluster_key), *more),
        )
        node = NodeProc(
            name,
            arguments,
            self.path / "logs" / f"{name}.log",
            self.environment,
            prefix=self._network.prefix(name) if self._network else (),
        )
        node.node_id, node.pool = name, pool
        node.ctrl_addr, node.data_addr = ctrl, data
        node.iscsi_addr, node.nvme_addr = iscsi, nvme
        node.nbd_addr = nbd
        return node
