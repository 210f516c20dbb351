"""The servers of the table: each a context that starts real processes on the server's processor and ends them.

All keep their data in files of the same file system, written in full before anything is measured, and all are asked
for durable writes in their protocol's own way. How each keeps that promise is said at its class.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.client.run import compile_c
from bench.cpus import on_server_cpu
from sparrow.runtime.config import split_address
from tests.support.cluster import Cluster
from tests.support.ports import free_ports

CEILING = Path(__file__).parent / "client" / "ceiling.c"
HOST = "127.0.0.1"
READY_S = 10.0
LOOK_S = 0.02


class ServerFailed(RuntimeError):
    """A server did not come up; the message ends with what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server.

    Attributes:
        target: arguments that tell the load generator where it is.
        pids: every process whose processor time the server costs.
        defers: it goes on working after a write was answered; a run ends when that work is done.
    """

    name: str
    target: tuple[str, ...]
    pids: tuple[int, ...]
    defers: bool = False


@contextlib.contextmanager
def tgt(folder: Path, *, size_bytes: int) -> Iterator[Server]:
    """Debian's tgt over iSCSI with ``bstype rdwr``.

    pread and pwrite in the page cache, and fdatasync(2) for a write with FUA. Its other store, ``aio``, answers
    SYNCHRONIZE CACHE without any sync and is not measured.
    """
    image = make_image(folder / "tgt.img", size_bytes)
    (port,) = free_ports(1)
    environment = {**os.environ, "TGT_IPC_SOCKET": str(folder / "tgt.sock")}
    name = "iqn.2024-01.bench:tgt"

    def tgtadm(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [find_program("tgtadm"), "--lld", "iscsi", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    arguments = [find_program("tgtd"), "-f", "--iscsi", f"portal={HOST}:{port}"]
    with _process(arguments, folder / "tgt.log", environment) as process:
        _wait("tgtd", lambda: tgtadm("--op", "show", "--mode", "sys").returncode == 0, folder)
        for words in (
            ("--op", "new", "--mode", "target", "--tid", "1", "-T", name),
            (
                *("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1"),
                *("--bstype", "rdwr", "-b", str(image)),
            ),
            ("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"),
        ):
            done = tgtadm(*words)
            if done.returncode != 0:
                raise ServerFailed(f"tgtadm {' '.join(words)}: {done.stderr.strip()}")
        url = f"iscsi://{HOST}:{port}/{name}/1"
        yield Server(name="tgt", target=("--proto", "iscsi", "--url", url), pids=(process.pid,))


@contextlib.contextmanager
def ceiling(folder: Path, *, size_bytes: int) -> Iterator[Server]:
    """``client/ceiling.c``: an NBD server that keeps nothing but memory, in C on io_uring.

    Its durable writes are not durable: it shows what the sockets of this machine let any NBD server do.
    """
    program = compile_c(CEILING, folder, "-luring")
    (port,) = free_ports(1)
    arguments = [str(program), "--port", str(port), "--size", str(size_bytes)]
    with _nbd_server("in memory", arguments, folder, port) as server:
        yield server


@contextlib.contextmanager
def nbdkit(folder: Path, *, size_bytes: int) -> Iterator[Server]:
    """``nbdkit`` with its file plugin: pread and pwrite in the page cache, and fdatasync(2) for a write with FUA."""
    image = make_image(folder / "nbdkit.img", size_bytes)
    (port,) = free_ports(1)
    arguments = [
        *(find_program("nbdkit"), "--foreground", "--exit-with-parent"),
        *(f"--ipaddr={HOST}", f"--port={port}", "file", str(image)),
    ]
    with _nbd_server("nbdkit", arguments, folder, port) as server:
        yield server


@contextlib.contextmanager
def qemu_storage_daemon(folder: Path, *, size_bytes: int) -> Iterator[Server]:
    """qemu-storage-daemon over NBD, on a file in the page cache, with fdatasync(2) for a write with FUA.

    No iothread: 7.2 aborts when a client of an export with one goes away.
    """
    image = make_image(folder / "qsd.img", size_bytes)
    (port,) = free_ports(1)
    arguments = [
        find_program("qemu-storage-daemon"),
        *("--blockdev", f"driver=file,node-name=file,filename={image}"),
        *("--blockdev", "driver=raw,node-name=disk,file=file"),
        *("--nbd-server", f"addr.type=inet,addr.host={HOST},addr.port={port}"),
        *("--export", "type=nbd,id=bench,node-name=disk,name=bench,writable=on"),
    ]
    with _nbd_server("qemu-storage-daemon", arguments, folder, port, export="bench") as server:
        yield server


@contextlib.contextmanager
def sparrow(folder: Path, *, size_bytes: int, replicas: int) -> Iterator[Sequence[Server]]:
    """A master and one node per replica; one volume, over iSCSI and over NBD.

    Every write, FUA or not, is answered when its log entry is on the disk of every replica (O_DIRECT, RWF_DSYNC).
    Extents are written later, past the page cache; reads come from the read cache, or from the page cache.
    """
    path = folder / f"rf{replicas}"
    path.mkdir()
    with on_server_cpu():
        cluster = Cluster(path, nodes=replicas).start()
    try:
        cluster.create_volume("bench", size=size_bytes, replicas=replicas)
        cluster.wait_healthy("bench")
        host, port = split_address(cluster.primary("bench").nbd_addr)
        targets = {
            "iSCSI": ("--proto", "iscsi", "--url", cluster.url("bench")),
            "NBD": ("--proto", "nbd", "--host", host, "--port", str(port), "--export", "bench"),
        }
        yield [
            Server(
                name=f"sparrow RF {replicas} {protocol}",
                target=target,
                pids=(cluster.master.pid, *(node.pid for node in cluster.nodes.values())),
                defers=True,
            )
            for protocol, target in targets.items()
        ]
    finally:
        cluster.stop()


@contextlib.contextmanager
def alone(server: AbstractContextManager[Server]) -> Iterator[Sequence[Server]]:
    """A column's server as a starter of one."""
    with server as started:
        yield (started,)


def make_image(path: Path, size_bytes: int) -> Path:
    """A file of random bytes, on the disk: no holes, and nothing for a server to allocate later."""
    chunk = os.urandom(1 << 20)
    with path.open("xb") as file:
        for _ in range(size_bytes // len(chunk)):
            file.write(chunk)
        os.fsync(file.fileno())
    return path


def find_program(name: str, *, verb: str = "bench") -> str:
    """Its path; Debian keeps servers in /usr/sbin, which not every user's path has.

    ``verb`` is what tools/test_deps.sh installs it with. Raises ServerFailed when it is not there.
    """
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if found is None:
        raise ServerFailed(f"{name} is not installed: tools/test_deps.sh {verb} installs it")
    return found


@contextlib.contextmanager
def _nbd_server(
    name: str, arguments: Sequence[str], folder: Path, port: int, *, export: str = ""
) -> Iterator[Server]:
    with _process(arguments, folder / f"{name}.log", None) as process:
        _wait(name, lambda: _listens(port), folder)
        yield Server(
            name=name,
            target=("--proto", "nbd", "--host", HOST, "--port", str(port), "--export", export),
            pids=(process.pid,),
        )


@contextlib.contextmanager
def _process(
    arguments: Sequence[str], log_path: Path, environment: dict[str, str] | None
) -> Iterator[subprocess.Popen[bytes]]:
    with log_path.open("wb") as log, on_server_cpu():
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    try:
        yield process
    finally:
        # SIGKILL: tgtd ignores SIGTERM while it has targets, and nothing of these is kept.
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    # Looked up, not tried: a connection would be a client to the server. 0A is LISTEN, see proc(5).
    with Path("/proc/net/tcp").open() as table:
        rows = [line.split() for line in table]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows[1:])


def _wait(name: str, holds: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not holds():
        if time.monotonic() > deadline:
            said = "\n".join(path.read_text() for path in folder.glob("*.log"))
            raise ServerFailed(f"{name} was not ready after {READY_S:.0f} s:\n{said}")
        time.sleep(LOOK_S)
