"""fio as a client: what it is asked, and what it says as the other columns' client says it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.client.run import Load, LoadFailed, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class FioRun:
    """What came of it.

    Attributes:
        used_s: processor seconds of the threads that submit; an engine's own threads are not in it.
        longest_us: the slowest request.
    """

    outcome: Outcome
    used_s: float
    longest_us: float


def run_fio_job(
    engine: Sequence[str],
    load: Load,
    *,
    cpu: int,
    bound: Sequence[str],
    environment: Mapping[str, str] | None = None,
    longest_s: float,
) -> FioRun:
    """One run on one processor.

    Args:
        engine: the I/O engine and what it works on.
        bound: what ends the run: a time, or the size of the span.
        environment: None for this process's own.
        longest_s: fio is ended after that.
    Raises:
        LoadFailed: fio said no, or did not end.
    """
    operation = ("" if load.sequential else "rand") + ("write" if load.write else "read")
    arguments = [
        *("fio", "--name=bench", *engine, f"--size={load.span}"),
        *(f"--rw={operation}", f"--bs={load.block}", f"--iodepth={load.depth}", *bound),
        *(f"--cpus_allowed={cpu}", "--randrepeat=0", "--norandommap"),
        *(f"--numjobs={load.connections}", "--group_reporting"),
        *("--percentile_list=50:99", "--output-format=json"),
    ]
    try:
        done = subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            check=False,
            timeout=longest_s,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"fio did not end within {longest_s:.0f} s") from None
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
    return FioRun(outcome=outcome, used_s=used_s, longest_us=side["clat_ns"]["max"] / 1000)
