"""A peer of a core that a test plays by hand: needed for commits, asked for grants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sparrow.authority.types import Term
from sparrow.base.ids import Lsn, ReplicaId
from sparrow.ports.dataplane import JoinOutcome, Membership, RebuildKind, RebuildPlan
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, CoreCluster, CoreNode
from tests.support.core_files import batches
from tests.support.grant_peer import GrantPeer, granting
from tests.support.ship_peer import link

OTHER = ReplicaId("r9")
#: Slot and node key of a peer that a test plays.
PEER = 5
#: Long enough for anything that wrongly happens at once.
MOMENT_S = 0.2


async def alone(cluster: CoreCluster, node: CoreNode) -> Term:
    """Primary by itself, with an open gate."""
    return await cluster.open_term(node)


async def needs_peer(node: CoreNode) -> None:
    await node.plane.set_membership(DEMO, Membership(needed=(PEER,), writable=True))


async def shipping(cluster: CoreCluster, node: CoreNode, theirs: int, *, rebuild: bool) -> Term:
    """A primary with a link to a peer that the test plays."""
    term = await alone(cluster, node)
    joined = Lsn(0) if rebuild else (await node.plane.status(DEMO)).log.last_lsn
    plan = RebuildPlan(kind=RebuildKind.FULL) if rebuild else None
    await node.plane.ship(DEMO, PEER, PEER, theirs, joined_lsn=joined, rebuild=plan)
    return term


async def joined(node: CoreNode, term: Term) -> None:
    """To a primary that the test plays, whose log ends where its own does: only then does it take a link."""
    outcome, _, _ = await node.plane.join(DEMO, term, (await node.plane.status(DEMO)).log)
    assert outcome is JoinOutcome.JOINED


async def a_log(cluster: CoreCluster, node: CoreNode, versions: tuple[int, ...]) -> list[bytes]:
    """Its batches one by one: the term start, then one write of page 1 for each version."""
    await alone(cluster, node)
    client = await cluster.connect(node)
    for version in versions:
        assert (await client.write(1, page_of(1, version))).status == 0
    await node.plane.close_replica(DEMO)
    log = (node.files() / "wal").read_bytes()
    return [log[batch.offset : batch.offset + batch.size] for batch in batches(node.files())]


async def granted(node: CoreNode) -> GrantPeer:
    """The other end of the grant link to the played peer; nothing is granted yet."""
    peer = GrantPeer(DEMO)
    await node.plane.grant_ask_link(PEER, peer.theirs)
    with link() as ship:
        # A peer is on a node once it was shipped to.
        head = (await node.plane.status(DEMO)).log.last_lsn
        await node.plane.ship(DEMO, PEER, PEER, ship.theirs, joined_lsn=head, rebuild=None)
    return peer


@contextlib.contextmanager
def held_open(peer: GrantPeer) -> Iterator[None]:
    """Grants whatever is asked until the end of the block, and then the peer is gone."""
    try:
        with granting(peer):
            yield
    finally:
        peer.close()
