"""Programs of others that use a volume at its primary, and cannot follow it when it moves."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Final

from tests.support.cluster import Cluster

#: A primary on a busy machine may be relieved for a slow disk, and not to and fro.
TRIES: Final = 4
RUN_S: Final = 120.0


def on_primary(
    cluster: Cluster,
    volume: str,
    url: Callable[[str], str],
    *command: str,
    timeout_s: float = RUN_S,
) -> str:
    """What a program says that ends well, {url} in its command replaced by ``url`` of the volume, {address} by its end.

    Where it does not, and a gate has closed meanwhile, it is done again: what it met is no fault of the volume.
    """
    for _ in range(TRIES):
        before = _closings(cluster)
        found = url(volume)
        address = found[found.index("://") :]
        done = subprocess.run(
            [part.replace("{url}", found).replace("{address}", address) for part in command],
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        shown = (done.stdout + done.stderr).decode(errors="replace")
        if done.returncode == 0:
            return shown
        assert _closings(cluster) > before, shown
        cluster.wait_serving(volume)
    raise AssertionError(f"the primary changes all the time: {shown}")


def _closings(cluster: Cluster) -> int:
    """How often a node has stopped serving, for good or until its grants were renewed."""
    return sum(
        len(node.log_events(event))
        for node in cluster.nodes.values()
        for event in ("gate.closed", "fence.fired")
    )
