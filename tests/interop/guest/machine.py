"""One run of a script in a guest: QEMU, bounded in time, gone afterwards whatever happens.

    with machine.Tap(network) as tap:
        result = machine.run_script(image(), script, tap=tap, timeout_s=120, asked=lambda words: "ok")

The script and its files travel in an archive behind the initrd; output, exit status, what it left in /out and lines of
questions and answers come back over virtio-serial. The root file system is read only with memory over it, so a guest
changes nothing. KVM is used where a guest really comes up with it; elsewhere QEMU translates (TCG), ten times slower.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.interop.guest.image import PATH, Image, RigError, pack, run
from tests.support.namespaces import PREFIX, Network

HERE: Final = Path(__file__).resolve().parent
MEMORY_MIB: Final = 1024
#: For a guest under KVM to run an empty script. Where KVM is emulated itself, it never does.
KVM_PROBE_S: Final = 15.0
#: Which accelerator works is looked for once per boot of the host.
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
ACCEL_VARIABLE: Final = "SPARROW_GUEST_ACCEL"
END_S: Final = 5.0
ACCELERATORS: Final[Mapping[str, tuple[str, ...]]] = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    # Not `max`: it has instructions whose translation is slow. cx16 crashes newer kernels under QEMU 7.2.
    "tcg": ("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "Westmere,cx16=off,+rdrand"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a script left."""

    status: int
    output: str
    #: What it put into /out, and `dmesg`.
    files: Path


class GuestError(AssertionError):
    """The guest did not end as a guest should: in time, with a status."""


class Tap:
    """The guest's network card on the bridge of a test's network; the nodes' namespaces cut each path.

    A tap goes with the last link that holds it only if it is removed: a run that was killed leaves its tap to the next,
    as it does its bridge.
    """

    def __init__(self, network: Network) -> None:
        self.name = f"{PREFIX}{os.getpid()}-t"
        self.address = f"{network.host.rpartition('.')[0]}.200"
        self._bridge = f"{PREFIX}{os.getpid()}"

    def __enter__(self) -> Tap:
        run("ip", "tuntap", "add", "dev", self.name, "mode", "tap")
        try:
            run("ip", "link", "set", self.name, "master", self._bridge, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        run("ip", "link", "del", self.name)


def run_script(
    image: Image,
    script: str,
    *,
    out: Path,
    tap: Tap | None = None,
    files: Mapping[str, Path] | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 300.0,
    asked: Callable[[str], str] | None = None,
    accelerator: str | None = None,
) -> Result:
    """Boot, run, wait for the end.

    Args:
        image: what to boot.
        script: text for bash; `inside/lib.sh` lies at /rig/lib.sh.
        out: an empty directory for the guest's files and its logs.
        tap: its network; none without.
        files: host files and directories by their name below /rig.
        environment: variables of the script.
        timeout_s: of the whole run, from the start of QEMU.
        asked: answers a line of the guest's `ask`; what it raises ends the guest and comes out here.
        accelerator: "kvm" or "tcg" instead of what works.

    Raises:
        GuestError: over time, or the guest died without a status.
        RigError: QEMU did not start.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sparrow-guest-") as name:
        place = Path(name)
        initrd = _archive(
            image,
            place,
            script=script,
            tap=tap,
            files=files or {},
            environment=environment or {},
        )
        with contextlib.ExitStack() as stack:
            ports = {port: stack.enter_context(_listen(place / port)) for port in ("out", "events")}
            command = _command(
                image,
                place,
                initrd,
                out,
                tap=tap,
                accelerator=accelerator or best_accelerator(image),
            )
            qemu = stack.enter_context(_process(command, out / "qemu.log"))
            try:
                output = _attend(qemu, ports, out / "output", asked, time.monotonic() + timeout_s)
            except TimeoutError:
                raise GuestError(
                    f"the guest ran longer than {timeout_s:.0f} s{_end_of(out)}"
                ) from None
        status = place / "status"
        if not status.exists() or not status.read_text().strip():
            raise GuestError(f"the guest died, QEMU ended with {qemu.returncode}{_end_of(out)}")
        with tarfile.open(place / "files") as archive:
            archive.extractall(out, filter="data")
        return Result(status=int(status.read_text()), output=output, files=out)


@functools.cache
def best_accelerator(image: Image) -> str:
    """KVM if a guest comes up with it, TCG otherwise; SPARROW_GUEST_ACCEL decides if it is set."""
    told = os.environ.get(ACCEL_VARIABLE)
    if told:
        if told not in ACCELERATORS:
            raise RigError(f"{ACCEL_VARIABLE} is {' or '.join(ACCELERATORS)}, not {told}")
        return told
    kept = image.directory / f"accelerator.{BOOT_ID.read_text().strip()}"
    if not kept.exists():
        kept.write_text("kvm" if _kvm_works(image) else "tcg")
    return kept.read_text()


def _kvm_works(image: Image) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory(prefix="sparrow-guest-") as name:
        try:
            result = run_script(
                image, "exit 0", out=Path(name), timeout_s=KVM_PROBE_S, accelerator="kvm"
            )
        except GuestError as error:
            print(
                f"guest: no KVM here, QEMU translates: {str(error).splitlines()[0]}",
                file=sys.stderr,
            )
            return False
    return result.status == 0


# -------------------------------------------------------------------- inside


def _archive(
    image: Image,
    place: Path,
    *,
    script: str,
    tap: Tap | None,
    files: Mapping[str, Path],
    environment: Mapping[str, str],
) -> Path:
    """The image's initrd and, behind it, what this run adds: the kernel unpacks both over each other."""
    tree = place / "tree"
    rig = tree / "rig"
    rig.mkdir(parents=True)
    shutil.copy(HERE / "inside/stage1.sh", tree / "init")
    for name in ("init.sh", "lib.sh", "work.sh"):
        shutil.copy(HERE / "inside" / name, rig / name)
    for path in (tree / "init", rig / "init.sh"):
        path.chmod(0o755)
    (rig / "script").write_text(script)
    for name, source in files.items():
        if source.is_dir():
            shutil.copytree(source, rig / name)
        else:
            shutil.copy(source, rig / name)
    settings = {"GUEST_ADDRESS": f"{tap.address}/24" if tap else "127.0.0.2/8", **environment}
    (rig / "env").write_text(
        "".join(f"export {key}='{value}'\n" for key, value in settings.items())
    )
    pack(tree, place / "tree.cpio")
    initrd = place / "initrd"
    first = image.initrd.read_bytes()
    # An archive begins at a multiple of four.
    padding = bytes(-len(first) % 4)
    initrd.write_bytes(first + padding + (place / "tree.cpio").read_bytes())
    return initrd


def _command(
    image: Image, place: Path, initrd: Path, out: Path, *, tap: Tap | None, accelerator: str
) -> list[str]:
    network: tuple[str, ...] = ("-nic", "none")
    if tap is not None:
        network = (
            *("-netdev", f"tap,id=net,ifname={tap.name},script=no,downscript=no"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        )
    ports = []
    for port, backend in (
        ("out", f"socket,path={place / 'out'}"),
        ("events", f"socket,path={place / 'events'}"),
        ("status", f"file,path={place / 'status'}"),
        ("files", f"file,path={place / 'files'}"),
    ):
        kind, _, rest = backend.partition(",")
        ports += ["-chardev", f"{kind},id={port},{rest}"]
        ports += ["-device", f"virtserialport,chardev={port},name={port}"]
    arguments = (
        "console=ttyS0 loglevel=5 panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable "
        "no_timer_check net.ifnames=0 rcupdate.rcu_expedited=1 cryptomgr.notests"
    )
    # setpriv: the kernel ends QEMU when this process dies.
    return [
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-name", "sparrow-guest"),
        *("-machine", "q35,hpet=off,smbus=off,sata=off,usb=off,vmport=off"),
        *(*ACCELERATORS[accelerator], "-smp", "2", "-m", str(MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-rtc", "base=utc"),
        *("-device", "virtio-rng-pci", "-kernel", str(image.kernel), "-initrd", str(initrd)),
        *("-append", arguments),
        *("-drive", f"file={image.root},format=raw,if=virtio,readonly=on,file.locking=off"),
        *(*network, "-chardev", f"file,id=console,path={out / 'console'}"),
        *("-serial", "chardev:console", "-device", "virtio-serial-pci", *ports),
    ]


@contextmanager
def _listen(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        yield listener


@contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU; ended at the end of the block if it still runs."""
    with log.open("wb") as said:
        qemu = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env={**os.environ, "PATH": PATH},
        )
    try:
        yield qemu
    finally:
        if qemu.poll() is None:
            qemu.send_signal(signal.SIGTERM)
            try:
                qemu.wait(END_S)
            except subprocess.TimeoutExpired:
                qemu.kill()
        qemu.wait()


def _attend(
    qemu: subprocess.Popen[bytes],
    ports: Mapping[str, socket.socket],
    log: Path,
    asked: Callable[[str], str] | None,
    deadline: float,
) -> str:
    """Write down what the guest says and answer what it asks, until QEMU ends. Raises TimeoutError at the deadline."""
    output = bytearray()
    pending = bytearray()
    with selectors.DefaultSelector() as selector, log.open("wb") as kept:
        for name, listener in ports.items():
            selector.register(listener, selectors.EVENT_READ, name)
        connections: list[socket.socket] = []
        try:
            while qemu.poll() is None:
                if time.monotonic() > deadline:
                    raise TimeoutError
                for key, _ in selector.select(0.1):
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    if sock in ports.values():
                        connection, _ = sock.accept()
                        connections.append(connection)
                        selector.unregister(sock)
                        selector.register(connection, selectors.EVENT_READ, key.data)
                        continue
                    try:
                        data = sock.recv(1 << 16)
                    except ConnectionResetError:
                        data = b""
                    if not data:
                        selector.unregister(sock)
                    elif key.data == "out":
                        output += data
                        kept.write(data)
                        kept.flush()
                    else:
                        pending += data
                        while b"\n" in pending:
                            line, _, rest = pending.partition(b"\n")
                            pending[:] = rest
                            answer = asked(line.decode()) if asked is not None else "ok"
                            sock.sendall(answer.encode() + b"\n")
        finally:
            for connection in connections:
                connection.close()
    return output.decode(errors="replace").replace("\r\n", "\n")


def _end_of(out: Path) -> str:
    """The last lines of everything the guest and QEMU said."""
    shown = ""
    for name in ("output", "qemu.log", "console"):
        path = out / name
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()[-15:]
            shown += "\n".join((f"\n--- {path}", *lines))
    return shown
