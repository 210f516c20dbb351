"""Many volumes in one cluster."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.support.cluster import Cluster

MAKERS: Final = 4
HEALTHY_S: Final = 120.0


def name_of(number: int) -> str:
    return f"v{number}"


def make_many(cluster: Cluster, count: int, *, size: int) -> None:
    """Make volumes of ``size`` bytes with three replicas, a few at a time, and wait until all are served by all."""

    with ThreadPoolExecutor(MAKERS) as makers:
        made = [
            makers.submit(cluster.create_volume, name_of(number), size=size)
            for number in range(count)
        ]
        for done in made:
            done.result()
    for number in range(count):
        cluster.wait_healthy(name_of(number), timeout_s=HEALTHY_S)
