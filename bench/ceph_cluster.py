"""A throw-away Ceph cluster: one monitor, one manager, three OSDs, a pool of three replicas, one RBD image.

Everything lies in one folder, the configuration too; nothing of /etc/ceph or /var/lib/ceph is read or written, and no
service is started. All daemons listen on loopback and end with the context. Authentication is off, which Ceph is the
faster for. librbd's cache is off, so a write is answered when all three OSDs have it on the disk, as with sparrow.

Each OSD is BlueStore on a file that is written in full before: no hole, and nothing for ext4 to allocate later.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from bench.cpus import on_server_cpu
from bench.servers import HOST, find_program
from sparrow.runtime.supervisor import how_it_ended, tail
from tests.support.ports import free_ports

MIB: Final = 1 << 20
OSDS: Final = 3
#: Of each OSD beside its copy of the image: RocksDB's logs and tables.
SPARE_BYTES: Final = 1536 * MIB
POOL: Final = "rbd"
IMAGE: Final = "bench"
#: Some ten to an OSD, as Ceph's documentation has it for a small cluster.
GROUPS: Final = 32
COMMAND_S: Final = 60.0
READY_S: Final = 90.0
#: Between two looks; one look is a start of Ceph's command line, which takes longer.
LOOK_S: Final = 0.2
#: What the kernel says of the disk decides Ceph's settings; a virtual disk is called rotating whatever is below it.
#: These are what Ceph takes for a disk that is not, see its `_ssd` options.
MEDIA: Final[Mapping[str, str]] = {
    "hdd": "",
    "ssd": "bluestore debug enforce settings = ssd\nosd op num shards = 8\nosd op num threads per shard = 2\n",
}


class CephFailed(RuntimeError):
    """A step of the cluster's life failed; the message names it and ends with what was said."""


class Daemon:
    """A process of Ceph in the foreground on the servers' processor, and its log.

    In a session of its own: Ctrl-C is for the bench, which ends it. Should the bench be killed, the kernel ends it.
    """

    def __init__(
        self, kind: str, number: str, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = f"ceph-{kind} {number}"
        self.log = folder / f"{kind}.{number}.out"
        program = find_program(f"ceph-{kind}", verb="ceph")
        self._arguments = ("setpriv", "--pdeathsig", "KILL", program, "-f", "-i", number)
        self._environment = environment
        self.process = self._start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raises CephFailed when it has ended."""
        status = self.process.poll()
        if status is not None:
            raise CephFailed(f"{self.name} ended with {how_it_ended(status)}{self.said()}")

    def said(self) -> str:
        return "\n".join((f"\n--- {self.log}", *tail(self.log, lines=15)))

    def kill(self) -> None:
        """SIGKILL, which a stopped one hears too, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """After :meth:`kill`."""
        assert self.process.poll() is not None
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as file, on_server_cpu():
            return subprocess.Popen(
                self._arguments,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )


class CephCluster:
    """The running cluster. ``osds`` in order of their numbers."""

    def __init__(self, folder: Path, port: int, media: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, "CEPH_CONF": str(folder / "ceph.conf")}
        # Arguments from outside would reach every command.
        self.environment.pop("CEPH_ARGS", None)
        self.fsid = str(uuid.uuid4())
        self.daemons: list[Daemon] = []
        self.osds: list[Daemon] = []
        self._address = f"v2:{HOST}:{port}"
        (folder / "ceph.conf").write_text(configuration(folder, self.fsid, self._address, media))

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(daemon.pid for daemon in self.daemons)

    @property
    def fio_engine(self) -> tuple[str, ...]:
        """What fio needs to reach the image; the cluster comes by ``environment``.

        ``--thread``: a job in a process of its own would outlive fio when that is killed, waiting for the cluster.
        """
        return (
            *("--thread", "--ioengine=rbd", "--clientname=admin"),
            *(f"--pool={POOL}", f"--rbdname={IMAGE}"),
        )

    def command(self, program: str, *words: str) -> str:
        """Standard output of one of Ceph's programs. Raises CephFailed with what it said."""
        shown = " ".join((program, *words))
        try:
            done = subprocess.run(
                [find_program(program, verb="ceph"), *words],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=COMMAND_S,
            )
        except subprocess.TimeoutExpired:
            said = "".join(daemon.said() for daemon in self.daemons[:1])
            raise CephFailed(f"`{shown}` did not end within {COMMAND_S:.0f} s{said}") from None
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise CephFailed(f"`{shown}` ended with {done.returncode}:\n{said}")
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What ``ceph status`` knows."""
        found: dict[str, Any] = json.loads(self.command("ceph", "status", "--format", "json"))
        return found

    def wait(self, what: str, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Until the status has it. Raises CephFailed with the status, or when a daemon has ended meanwhile."""
        deadline = time.monotonic() + READY_S
        while not holds(status := self.status()):
            for daemon in self.daemons:
                daemon.check()
            if time.monotonic() > deadline:
                raise CephFailed(f"no {what} after {READY_S:.0f} s: {json.dumps(status)}")
            time.sleep(LOOK_S)

    def wait_up(self) -> None:
        """Until the monitor counts every OSD as up."""
        self.wait("three OSDs", lambda status: status["osdmap"]["num_up_osds"] == OSDS)

    def wait_clean(self) -> None:
        """Until every placement group has its three replicas."""
        self.wait("clean placement groups", lambda status: groups_are_clean(status["pgmap"]))

    @contextmanager
    def daemon(self, kind: str, number: str) -> Iterator[Daemon]:
        """One daemon; nothing of it is kept, so it ends with a SIGKILL."""
        started = Daemon(kind, number, self.folder, self.environment)
        self.daemons.append(started)
        try:
            yield started
        finally:
            started.kill()

    def start_monitor(self, stack: ExitStack) -> None:
        monmap = str(self.folder / "monmap")
        self.command(
            "monmaptool",
            "--create",
            "--addv",
            "a",
            f"[{self._address}]",
            "--fsid",
            self.fsid,
            monmap,
        )
        (self.folder / "mon").mkdir()
        self.command("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        stack.enter_context(self.daemon("mon", "a"))
        self.wait("quorum", lambda status: bool(status["quorum"]))
        # It would make a pool of its own, for facts about disks. The monitor knows no module's options before there was
        # a manager, hence --force.
        option = "mgr/devicehealth/enable_monitoring"
        self.command("ceph", "config", "set", "mgr", option, "false", "--force")

    def start_manager(self, stack: ExitStack) -> None:
        (self.folder / "mgr").mkdir()
        stack.enter_context(self.daemon("mgr", "x"))

    def start_osd(self, stack: ExitStack, number: int, size_bytes: int) -> None:
        folder = self.folder / f"osd.{number}"
        folder.mkdir()
        write_in_full(folder / "block", size_bytes)
        name = str(uuid.uuid4())
        given = self.command("ceph", "osd", "new", name).strip()
        if given != str(number):
            raise CephFailed(f"`ceph osd new` gave the number {given} instead of {number}")
        self.command("ceph-osd", "-i", str(number), "--mkfs", "--osd-uuid", name)
        self.osds.append(stack.enter_context(self.daemon("osd", str(number))))

    def make_image(self, size_bytes: int) -> None:
        self.command(
            *("ceph", "osd", "pool", "create", POOL, str(GROUPS), str(GROUPS), "replicated"),
            "--autoscale-mode=off",
        )
        self.command("ceph", "osd", "pool", "application", "enable", POOL, "rbd")
        self.wait_clean()
        self.command("rbd", "create", "--pool", POOL, "--size", f"{size_bytes // MIB}M", IMAGE)


@contextmanager
def ceph_cluster(folder: Path, *, size_bytes: int, media: str = "hdd") -> Iterator[CephCluster]:
    """A cluster with an image of that size, not written yet.

    Raises:
        CephFailed: a step did not succeed.
        ServerFailed: a program is missing.
    """
    folder.mkdir()
    (port,) = free_ports(1)
    cluster = CephCluster(folder, port, media)
    with ExitStack() as stack:
        cluster.start_monitor(stack)
        cluster.start_manager(stack)
        for number in range(OSDS):
            cluster.start_osd(stack, number, 2 * size_bytes + SPARE_BYTES)
        cluster.wait(
            "three OSDs and a manager",
            lambda status: (
                status["osdmap"]["num_up_osds"] == OSDS and status["mgrmap"]["available"]
            ),
        )
        cluster.make_image(size_bytes)
        yield cluster


def groups_are_clean(pgmap: Mapping[str, Any]) -> bool:
    """Whether every placement group there is has its three replicas."""
    clean = {entry["state_name"]: entry["count"] for entry in pgmap["pgs_by_state"]}
    return pgmap["num_pgs"] >= GROUPS and clean == {"active+clean": pgmap["num_pgs"]}


def configuration(folder: Path, fsid: str, address: str, media: str) -> str:
    """ceph.conf: defaults but for where things are, and no cache in the client.

    Replicas and reports of failures are told apart by OSD, where the defaults tell machines apart: two reporters are
    needed, and three OSDs on one machine would be one, so a silent OSD would never be marked down.
    """
    return f"""\
[global]
fsid = {fsid}
mon host = [{address}]
public addr = {HOST}
cluster addr = {HOST}
auth cluster required = none
auth service required = none
auth client required = none
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
crash dir = {folder}
pid file =
keyring = {folder}/keyring
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd.$id
mgr initial modules =
osd objectstore = bluestore
osd pool default size = {OSDS}
osd pool default min size = 2
osd crush chooseleaf type = 0
mon osd reporter subtree level = osd
rbd cache = false
{MEDIA[media]}"""


def write_in_full(path: Path, size_bytes: int) -> None:
    """A file of zeros, on the disk."""
    chunk = bytes(8 * MIB)
    with path.open("xb") as file:
        for _ in range(size_bytes // len(chunk)):
            file.write(chunk)
        os.fsync(file.fileno())
