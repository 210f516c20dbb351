"""The guest's disk and kernel: Debian packages, put together once and kept under build/guest by what goes in.

    python -m tests.interop.guest.image     build it if it is not there, print where it lies

    rootfs.ext4      root file system: Debian's essential packages and PACKAGES, modules of the kernel; never written to
    vmlinuz          Debian's kernel, unpacked from its package
    initrd.cpio.zst  busybox and the modules that reach the disk; `inside/stage1.sh` is added to it by each run
    packages.txt     packages and versions

The generic kernel, because of scsi_dh_alua: dm-multipath needs it to tell a standby path from a dead one, and the one
made for clouds is without. The name of the directory is a hash of this file's code, so a change here builds anew;
Debian's own updates do not: remove build/guest to get them.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
CACHE: Final = ROOT / "build" / "guest"
#: A whole Debian mirror, where the machine's own sources are not Debian's.
MIRROR_VARIABLE: Final = "SPARROW_GUEST_MIRROR"
SUITE: Final = "bookworm"
BUILD_S: Final = 900
#: The guest's iSCSI name.
INITIATOR: Final = "iqn.2026-01.test:guest"

PACKAGES: Final = (
    # Of the system.
    *("busybox-static", "kmod", "udev", "iproute2", "procps", "mount", "util-linux"),
    # Initiators.
    *("open-iscsi", "nvme-cli", "nbd-client", "multipath-tools", "sg3-utils", "dmsetup"),
    # What uses their disks.
    *("e2fsprogs", "xfsprogs", "fio", "sqlite3"),
)
#: Loaded before the root file system is there. The generic kernel's ext4 asks for crc32c by name only.
STAGE1_MODULES: Final = ("virtio_pci", "virtio_blk", "crc32c_generic", "overlay", "ext4")
MODULES: Final = (
    *("virtio_net", "virtio_console", "virtio_rng"),
    *("iscsi_tcp", "sd_mod", "sg", "scsi_dh_alua"),
    *("dm_mod", "dm_multipath", "dm_service_time", "dm_round_robin", "dm_queue_length"),
    *("nvme_tcp", "nvme_fabrics", "nbd", "xfs", "crc32c_intel"),
)
#: What building and running take, and the packages that have it.
PROGRAMS: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "cpio": "cpio",
    "zstd": "zstd",
    "mke2fs": "e2fsprogs",
    "modprobe": "kmod",
    "dpkg-deb": "dpkg",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "nft": "nftables",
    "setpriv": "util-linux",
    "strip": "binutils",
}
PATH: Final = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"


class RigError(Exception):
    """The rig itself cannot work here; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image."""

    directory: Path

    @property
    def root(self) -> Path:
        return self.directory / "rootfs.ext4"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.cpio.zst"


def image() -> Image:
    """The image; built first if it is not there.

    Raises:
        RigError: something is missing, or the build failed.
    """
    check_machine()
    CACHE.mkdir(parents=True, exist_ok=True)
    place = CACHE / hashlib.sha256(_what_goes_in().encode()).hexdigest()[:16]
    # Two runs at once build it once.
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            for old in CACHE.iterdir():
                if old.is_dir() and len(old.name.partition(".")[0]) == len(place.name):
                    shutil.rmtree(old)
            _build(place)
    return Image(place)


def check_machine() -> None:
    """Raises RigError when this machine cannot build or run a guest."""
    if platform.machine() != "x86_64":
        raise RigError(f"the guest is built for x86_64, this is {platform.machine()}")
    if os.geteuid() != 0:
        raise RigError("taps, namespaces and the image need root: run `sudo make guest`")
    if not Path("/dev/net/tun").exists():
        raise RigError(
            "there is no /dev/net/tun: run `modprobe tun`, or start the container with it"
        )
    missing = sorted({PROGRAMS[name] for name in PROGRAMS if shutil.which(name, path=PATH) is None})
    if missing:
        raise RigError(f"missing packages: apt-get install -y {' '.join(missing)}")


def run(*command: str | Path, timeout_s: float = BUILD_S, **more: str) -> str:
    """Standard output of a program. Raises RigError with the end of what it said."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env={**os.environ, "PATH": PATH, **more},
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise RigError(f"{command[0]} did not end within {timeout_s} s") from None
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RigError(f"{' '.join(map(str, command))[:200]} ended with {done.returncode}:\n{said}")
    return done.stdout


# -------------------------------------------------------------------- building


def _what_goes_in() -> str:
    """The code of this file: without comments, line breaks and its first words."""
    module = ast.parse(Path(__file__).read_text())
    return "".join(ast.dump(statement) for statement in module.body[1:])


def _build(place: Path) -> None:
    began = time.monotonic()
    work = place.with_suffix(f".{os.getpid()}")
    try:
        made = work / "made"
        made.mkdir(parents=True)
        print(f"guest: building an image in {place} (about a minute)", file=sys.stderr)
        root = _root(work, made)
        modules = _kernel(work, made)
        version = modules.name
        _copy_modules(modules, root / "usr/lib/modules" / version, (*STAGE1_MODULES, *MODULES))
        run("depmod", "-b", root, version)
        _initrd(work, made, modules)
        _disk(root, made / "rootfs.ext4")
        made.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"guest: built in {time.monotonic() - began:.0f} s", file=sys.stderr)


def _root(work: Path, made: Path) -> Path:
    """The root file system as a directory, and the kernel's package beside it."""
    root = work / "root"
    (work / "kernel").mkdir()
    # Taken with the new system's own sources, but not installed: it would make an initrd that nobody boots.
    fetch = (
        f"cd {work / 'kernel'} && export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG && "
        "apt-get -q download $(apt-cache depends linux-image-amd64 | awk '/Depends:/{print $2; exit}')"
    )
    unread = ("man", "doc", "locale", "info", "zoneinfo")
    run(
        *("mmdebstrap", "--mode=root", "--variant=essential", "--architectures=amd64"),
        *("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--include={','.join(PACKAGES)}"),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in unread),
        *("--aptopt=APT::Install-Recommends false", "--aptopt=APT::Sandbox::User root"),
        *(f"--customize-hook={fetch}", SUITE, str(root), *_sources()),
        DEBIAN_FRONTEND="noninteractive",
    )
    listed = run("chroot", root, "dpkg-query", "-W", "-f=${Package} ${Version}\n")
    kernel = next((work / "kernel").glob("linux-image-*.deb")).name
    (made / "packages.txt").write_text(f"{listed}{kernel}\n")
    for name in ("rig", "out", "mnt"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc/iscsi/initiatorname.iscsi").write_text(f"InitiatorName={INITIATOR}\n")
    return root


def _sources() -> list[str]:
    """Lines of sources.list: what SPARROW_GUEST_MIRROR says, or else where this machine gets its own packages."""
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:
        return [f"deb {mirror} {SUITE} main"]
    shown = run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"
    )
    lines = {
        f"deb {address} {release} main"
        for address, _, release in (line.partition(" ") for line in shown.splitlines())
        if release in (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    }
    if not any(line.endswith(f" {SUITE} main") for line in lines):
        raise RigError(
            f"this machine's apt has no Debian {SUITE}: set {MIRROR_VARIABLE} to a Debian mirror's address"
        )
    return sorted(lines)


def _kernel(work: Path, made: Path) -> Path:
    """Unpack the kernel's package; the directory of its modules."""
    (package,) = (work / "kernel").glob("*.deb")
    unpacked = work / "kernel" / "x"
    run("dpkg-deb", "-x", package, unpacked)
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, made / "vmlinuz")
    (modules,) = (unpacked / "lib/modules").iterdir()
    run("depmod", "-b", unpacked, modules.name)
    return modules


def _copy_modules(source: Path, target: Path, names: Iterable[str]) -> None:
    """These modules and what they need, without what debuggers read."""
    for name in names:
        shown = run("modprobe", "-d", source.parents[2], "-S", source.name, "--show-depends", name)
        for line in shown.splitlines():
            kind, _, path = line.partition(" ")
            if kind == "insmod":
                found = Path(path.strip())
                place = target / found.relative_to(source)
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    run("strip", "--strip-debug", "-o", place, found)
    for path in source.glob("modules.builtin*"):
        shutil.copy(path, target)
    shutil.copy(source / "modules.order", target)


def _initrd(work: Path, made: Path, modules: Path) -> None:
    tree = work / "initrd"
    for name in ("bin", "sbin"):
        (tree / name).mkdir(parents=True)
    busybox = shutil.which("busybox", path=PATH)
    assert busybox is not None
    shutil.copy(busybox, tree / "bin/busybox")
    (tree / "sbin/modprobe").symlink_to("../bin/busybox")
    _copy_modules(modules, tree / "lib/modules" / modules.name, STAGE1_MODULES)
    run("depmod", "-b", tree, modules.name)
    pack(tree, made / "initrd.cpio")
    run("zstd", "-q", "--rm", made / "initrd.cpio", "-o", made / "initrd.cpio.zst")


def _disk(root: Path, disk: Path) -> None:
    for junk in ("var/lib/apt/lists", "var/cache/apt", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(root / junk, ignore_errors=True)
    mib = int(run("du", "-sm", root).split()[0])
    # Read only: no journal, and nothing that a slow processor would have to check.
    run(
        *("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum,^64bit", "-m", "0"),
        *("-L", "guest"),
        *("-d", str(root), str(disk), f"{mib * 11 // 10 + 32}M"),
    )


def pack(tree: Path, archive: Path) -> None:
    """A directory as an archive that the kernel unpacks. Source: initramfs-buffer-format.rst."""
    run("sh", "-c", f"cd {tree} && find . | sort | cpio --quiet -R 0:0 -o -H newc > {archive}")


if __name__ == "__main__":
    try:
        print(image().directory)
    except RigError as error:
        sys.exit(f"guest: {error}")
