"""The machine a table was measured on: without this a number means nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fio", "tgt", "qemu-utils", "libiscsi7")


def describe_machine(folder: Path) -> dict[str, str]:
    """Facts by name; ``folder`` is where the data lies."""
    source, kind, options = _first(
        ["findmnt", "-no", "SOURCE,FSTYPE,OPTIONS", "-T", str(folder)]
    ).split(maxsplit=2)
    return {
        "cpu": cpu_model(),
        "cpus": str(os.cpu_count()),
        "memory": _grep("/proc/meminfo", r"MemTotal:\s+(.*)"),
        "kernel": platform.release(),
        "disk": f"{source} {kind} {options}",
        "disk queue": _queue(source),
        "hypervisor": _first(["systemd-detect-virt", "--vm"]) or "unknown",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {package_version(name)}" for name in PACKAGES),
        "sparrow": git_commit(),
        "load before": " ".join(Path("/proc/loadavg").read_text().split()[:3]),
    }


def cpu_model() -> str:
    return _grep("/proc/cpuinfo", r"model name\s*: (.*)")


def machine_name() -> str:
    """Short and fit for a file name; tells kinds of machines apart, not machines."""
    words = re.sub(r"\(.*?\)|@.*", "", cpu_model().lower())
    return "-".join([*re.findall(r"[a-z0-9.]+", words), f"{os.cpu_count()}cpu"])


def git_commit() -> str:
    """Commit of this checkout, with a plus sign when sources differ from it."""
    commit = _first(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]) or "unknown"
    changed = _first(["git", "-C", str(ROOT), "status", "--porcelain", "-uno", "--", "src"])
    return f"{commit}+" if changed else commit


def _queue(source: str) -> str:
    folder = Path("/sys/class/block") / Path(source).name / "queue"
    facts = ("scheduler", "nr_requests", "write_cache", "fua")
    found = ((name, folder / name) for name in facts)
    words = [f"{name} {path.read_text().strip()}" for name, path in found if path.exists()]
    # "none [mq-deadline] kyber": the one in brackets is in force.
    return re.sub(r"scheduler .*\[(\S+)\].*?(?=,|$)", r"scheduler \1", ", ".join(words))


def package_version(package: str) -> str:
    """Of an installed Debian package."""
    return _first(["dpkg-query", "-W", "-f", "${Version}", package]) or "not a package"


def _grep(path: str, pattern: str) -> str:
    found = re.search(pattern, Path(path).read_text())
    return found[1].strip() if found else "unknown"


def _first(arguments: list[str]) -> str:
    """First line a command prints; empty when there is no such command."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip().partition("\n")[0]
