"""The disk itself, by fio on io_uring with O_DIRECT: what no server beats unless it answers from memory."""

from __future__ import annotations

from pathlib import Path

from bench.client.fio import run_fio_job
from bench.client.run import Load, Outcome
from bench.cpus import placement

RAMP_S = 0.3


def run_fio(image: Path, load: Load, *, seconds: float) -> tuple[Outcome, float]:
    """One run on a file that is written in full; also the microseconds of fio's own processor time per request.

    Durable writes are O_DSYNC. Reads come from the disk, not from the page cache.

    Raises:
        LoadFailed: fio said no.
    """
    found = run_fio_job(
        (
            *(f"--filename={image}", "--ioengine=io_uring", "--direct=1", "--overwrite=1"),
            *(("--sync=dsync",) if load.write and load.durable else ()),
        ),
        load,
        cpu=placement().server,
        bound=(
            *("--time_based", f"--runtime={round(seconds * 1000)}ms"),
            f"--ramp_time={round(RAMP_S * 1000)}ms",
        ),
        longest_s=seconds + 60,
    )
    return found.outcome, found.used_s / max(found.outcome.ios_all, 1) * 1e6
