"""What anybody on the network can send a running master: old words, somebody else's words, garbage. Nothing moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from sparrow.authority.types import Line
from sparrow.rpc.gen import sparrow_pb2 as pb
from sparrow.rpc.server import SENDER_KEY
from tests.support.cluster import Cluster
from tests.support.needs import needs_io_uring
from tests.support.waiting import until

pytestmark = [needs_io_uring(), pytest.mark.timeout(120)]

CONTROL = "/sparrow.v1.NodeControl/"
SEED = 20
#: Messages of garbage for each method.
GARBAGE = 40


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    with Cluster(place) as made:
        made.create_volume("a", size=32 << 20)
        made.wait_healthy("a")
        yield made


class Stranger:
    """Sends bytes to the master in anybody's name."""

    def __init__(self, cluster: Cluster) -> None:
        self._channel = grpc.insecure_channel(cluster.master_addr)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def send(self, method: str, message: Message | bytes, sender: str) -> bytes:
        """Raises grpc.RpcError."""
        data = message if isinstance(message, bytes) else message.SerializeToString()
        call: Any = self._channel.unary_unary(method)
        answer: bytes = call(data, metadata=((SENDER_KEY, sender),), timeout=10)
        return answer


def line_of(cluster: Cluster) -> Line:
    (line,) = cluster.api(lambda api: api.authority_status()).lines
    return line


def heartbeats_pass(cluster: Cluster, count: int = 2) -> None:
    """Until every node has been heard so many times more."""
    for _ in range(count):
        began = time.monotonic()

        def heard(began: float = began) -> bool:
            nodes = cluster.api(lambda api: api.list_nodes())
            return all(one.last_heard_s < time.monotonic() - began for one in nodes)

        asyncio.run(until(heard))


def test_a_late_heartbeat_takes_nothing_back(cluster: Cluster) -> None:
    """Goal: STALE-HB-001, DELAYED-HB-001. Two old ones say that the primary's node is gone."""
    line = line_of(cluster)
    primary = line.primary_member.node_id
    incarnation = cluster.master.wait_log("node.seen", node=primary)["incarnation"]
    for which, sequence in ((incarnation, 1), (incarnation - 1, 1 << 30)):
        late = pb.HeartbeatRequest(
            node_id=primary,
            incarnation=which,
            sequence=sequence,
            reachable=False,
            eligible=False,
            data_addr="h:1",
            ctrl_addr="h:2",
            iscsi_addr="h:3",
        )
        with Stranger(cluster) as stranger:
            stranger.send(CONTROL + "Heartbeat", late, primary)
        volume = cluster.volume("a")
        assert volume.state == "healthy"
        assert volume.line == line
        node = next(
            one for one in cluster.api(lambda api: api.list_nodes()) if one.node_id == primary
        )
        assert node.data_addr == cluster.nodes[primary].data_addr
        assert node.replica_count == 1
    heartbeats_pass(cluster)
    assert cluster.volume("a").state == "healthy"
    assert line_of(cluster) == line


def test_an_ask_that_is_not_the_primarys_or_not_of_this_line_mints_nothing(
    cluster: Cluster,
) -> None:
    """Goal: C6, C9. Asks in the primary's name from elsewhere, by a follower, of another line, of no known kind."""
    line = line_of(cluster)
    primary, other = (
        line.primary_member,
        next(one for one in line.members if one.replica_id != line.primary),
    )
    now = line.lineage

    def ask(
        asker: str, epoch: int, version: int, intent: int = pb.ASK_SHRINK_IN_SYNC
    ) -> pb.AskRequest:
        return pb.AskRequest(
            volume_id="a",
            intent=intent,  # type: ignore[arg-type]
            replica_id=other.replica_id,
            asker=asker,
            basis=pb.Lineage(epoch=epoch, endpoint_version=version),
            reason="lost",
        )

    wrong = [
        (other.node_id, ask(primary.replica_id, now.epoch, now.endpoint_version)),
        (other.node_id, ask(other.replica_id, now.epoch, now.endpoint_version)),
        (primary.node_id, ask(primary.replica_id, now.epoch, now.endpoint_version + 1)),
        (primary.node_id, ask(primary.replica_id, now.epoch + 1, 1)),
        (primary.node_id, ask(primary.replica_id, now.epoch + 1, 1, pb.ASK_GROW_IN_SYNC)),
    ]
    with Stranger(cluster) as stranger:
        for sender, request in wrong:
            answer = pb.AskResponse.FromString(stranger.send(CONTROL + "Ask", request, sender))
            assert answer.WhichOneof("answer") == "refusal", request
            assert line_of(cluster) == line
        for intent in (0, 1, 3, 7):
            with pytest.raises(grpc.RpcError):
                stranger.send(
                    CONTROL + "Ask",
                    ask(primary.replica_id, now.epoch, now.endpoint_version, intent),
                    primary.node_id,
                )
            assert line_of(cluster) == line
    assert cluster.volume("a").state == "healthy"


def test_garbage_on_every_method_neither_mints_nor_ends_the_process(cluster: Cluster) -> None:
    """Goal: STUFFING-001. Whatever a message's bytes are, the answer is a refusal or changes nothing."""
    line, pid, rng = line_of(cluster), cluster.master.pid, Random(SEED)
    methods = [
        f"/{service.full_name}/{method.name}"
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if service.name != "NodePeer"
    ]
    with Stranger(cluster) as stranger:
        for method in methods:
            for _ in range(GARBAGE):
                # Field 15 with wire type 7 does not exist, so no garbage is by chance a message.
                data = b"\x7f" + rng.randbytes(rng.randrange(200))
                with pytest.raises(grpc.RpcError) as caught:
                    stranger.send(method, data, "n1")
                error: Any = caught.value
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (method, error)
    assert cluster.master.running
    assert cluster.master.pid == pid
    heartbeats_pass(cluster)
    assert line_of(cluster) == line
    assert cluster.volume("a").state == "healthy"
