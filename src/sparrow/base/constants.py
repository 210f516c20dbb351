"""Cluster-wide constants, with the relations between them asserted at import.

Times are in seconds unless the name says otherwise. They are constants of the cluster, not options:
two nodes that disagree on the length of a grant could both believe they may serve.
"""

from __future__ import annotations

from typing import Final

PAGE_BYTES: Final = 4096

HEARTBEAT_S: Final = 0.5
#: A fact older than this is no evidence any more.
FRESHNESS_S: Final = 2.0
#: How long a peer promises not to serve in another epoch.
GRANT_S: Final = 1.0
#: Grants are renewed this often, so one lost exchange costs nothing.
GRANT_RENEW_S: Final = GRANT_S / 4
#: A right ends earlier than the promise behind it: 1 % clock drift and 5 ms.
GRANT_DRIFT: Final = 0.01
GRANT_MARGIN_S: Final = 0.005
FENCE_DEADLINE_S: Final = 0.5
FENCE_RETRY_S: Final = (0.5, 1.0, 2.0)
#: How long a command without an LSN waits for a closed gate to open again.
FENCE_HOLD_S: Final = 1.5
#: For so long a read that meets damage waits for a page or a block of sums from a peer.
REPAIR_S: Final = 2.0
#: In-sync peers that heard nothing from the primary for this long are evidence of its death.
PEER_SILENCE_S: Final = 1.0
#: Expiry of the primary's own facts alone fails over only after this.
EXPIRY_ALONE_S: Final = 10.0
#: Desired but not observed for this long is reported as stuck.
RETRY_WINDOW_S: Final = 5.0

REPLICATION_FACTOR_MAX: Final = 3
MEMBERS_MAX: Final = 8
VOLUME_NAME_BYTES_MAX: Final = 63
VOLUME_BYTES_MIN: Final = 1 << 20
VOLUME_BYTES_MAX: Final = 64 << 40
#: Volume sizes are whole multiples of this, so that every granule of a rebuild is full.
VOLUME_BYTES_STEP: Final = 1 << 20
#: Newest entry kinds known here, and the oldest peer that can be spoken to.
FEATURE_LEVEL: Final = 2
FEATURE_LEVEL_MIN: Final = 1


def hold_off_s(grant_s: float) -> float:
    """How long a process that starts opens nothing: no promise of the one before it runs longer, clocks drifting."""
    return grant_s * (1 + GRANT_DRIFT) + GRANT_MARGIN_S


assert GRANT_RENEW_S * 3 < GRANT_S * (1 - GRANT_DRIFT) - GRANT_MARGIN_S, (
    "two lost renewals must not close a gate"
)
assert HEARTBEAT_S * 3 < FRESHNESS_S, "two late heartbeats must not look like a death"
assert FENCE_HOLD_S < 2.0, "held longer than this, initiators time the path out themselves"
