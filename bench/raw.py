"""The disk itself, by fio on io_uring with O_DIRECT: what no server beats unless it answers from memory."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.client.run import Load, LoadFailed, Outcome
from bench.cpus import placement

RAMP_S = 0.3


def run_fio(image: Path, load: Load, *, seconds: float) -> tuple[Outcome, float]:
    """One run on a file that is written in full; also the microseconds of fio's own processor time per request.

    Durable writes are O_DSYNC. Reads come from the disk, not from the page cache.

    Raises:
        LoadFailed: fio said no.
    """
    operation = ("" if load.sequential else "rand") + ("write" if load.write else "read")
    done = subprocess.run(
        [
            *("fio", "--name=raw", f"--filename={image}", f"--size={load.span}"),
            *("--ioengine=io_uring", "--direct=1", f"--rw={operation}", f"--bs={load.block}"),
            *(f"--iodepth={load.depth}", "--time_based", f"--runtime={round(seconds * 1000)}ms"),
            *(f"--ramp_time={round(RAMP_S * 1000)}ms", f"--cpus_allowed={placement().server}"),
            *("--randrepeat=0", "--norandommap", "--overwrite=1", "--percentile_list=50:99"),
            *(("--sync=dsync",) if load.write and load.durable else ()),
            *(f"--numjobs={load.connections}", "--group_reporting"),
            "--output-format=json",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 60,
    )
    if done.returncode != 0:
        raise LoadFailed(f"fio: {(done.stderr or done.stdout).strip()}")
    # fio may print notes before the object.
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = job["write" if load.write else "read"]
    # clat: from submission to completion, what the other columns' client measures too.
    percentile = side["clat_ns"]["percentile"]
    # Of all jobs together: fio adds their run times up and gives the shares as means.
    used_s = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    outcome = Outcome(
        iops=side["iops"],
        p50_us=percentile["50.000000"] / 1000,
        p99_us=percentile["99.000000"] / 1000,
        ios_all=side["total_ios"],
        client_load=used_s / (job["job_runtime"] / 1000),
    )
    return outcome, used_s / max(outcome.ios_all, 1) * 1e6
