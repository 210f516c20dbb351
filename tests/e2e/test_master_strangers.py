"""What may be sent to a running master: old words, somebody else's words, garbage. Nothing moves.

Who has no cluster key is not listened to at all; who has it may still be a node that is confused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.message import Message

from sparrow.authority.types import Line
from sparrow.rpc import methods, proof
from sparrow.rpc.gen import sparrow_pb2 as pb
from sparrow.rpc.proof import PROOF_KEY, Keys
from sparrow.rpc.server import SENDER_KEY
from sparrow.runtime.cluster_key import ClusterKeys
from tests.support.cluster import Cluster
from tests.support.keys import KeyRing
from tests.support.needs import needs_io_uring
from tests.support.waiting import until

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

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
    """Sends bytes to the master in anybody's name; ``keys`` are the ones it proves itself with."""

    def __init__(self, cluster: Cluster, keys: Keys | None = None) -> None:
        self._channel = grpc.insecure_channel(cluster.master_addr)
        self._keys = keys
        self._sessions: dict[str, proof.Session] = {}

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def send(self, method: str, message: Message | bytes, sender: str) -> bytes:
        """Raises grpc.RpcError."""
        data = message if isinstance(message, bytes) else message.SerializeToString()
        return self._call(method, data, ((SENDER_KEY, sender), *self._proof(method, data, sender)))

    def _call(self, method: str, data: bytes, metadata: tuple[tuple[str, Any], ...]) -> bytes:
        call: Any = self._channel.unary_unary(method)
        answer: bytes = call(data, metadata=metadata, timeout=30)
        return answer

    def _proof(self, method: str, data: bytes, sender: str) -> tuple[tuple[str, bytes], ...]:
        if self._keys is None:
            return ()
        session = self._sessions.get(sender)
        if session is None:
            key, request = proof.new_request(self._keys)
            answer = methods.CHALLENGE.answer.decode(
                self._call(
                    methods.CHALLENGE.path,
                    methods.CHALLENGE.request.encode(request),
                    ((SENDER_KEY, sender),),
                )
            )
            session = proof.accept(key, request, answer, "the master", sender)
            self._sessions[sender] = session
        return ((PROOF_KEY, session.prove(method, data)[1]),)


def insider(cluster: Cluster) -> Stranger:
    """A process that has the cluster's key, and so may call itself any node."""
    return Stranger(cluster, ClusterKeys(cluster.cluster_key, structlog.get_logger()))


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
        with insider(cluster) as stranger:
            stranger.send(CONTROL + "Heartbeat", late, primary)
        assert cluster.volume("a").line == line
        node = next(
            one for one in cluster.api(lambda api: api.list_nodes()) if one.node_id == primary
        )
        assert node.data_addr == cluster.nodes[primary].data_addr
        assert node.replica_count == 1
    heartbeats_pass(cluster)
    cluster.wait_healthy("a")
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
    with insider(cluster) as stranger:
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
    cluster.wait_healthy("a")


def test_s5_an_ask_that_comes_after_its_line_was_left_mints_nothing(cluster: Cluster) -> None:
    """Goal: S5. What a primary asked of its line arrives when the volume has moved on, twice and in any order."""
    line = line_of(cluster)
    other = next(one for one in line.members if one.replica_id != line.primary)
    third = next(one for one in line.members if one not in {other, line.primary_member})

    def ask(intent: pb.AskIntent, replica_id: str) -> pb.AskRequest:
        return pb.AskRequest(
            volume_id="a",
            intent=intent,
            replica_id=replica_id,
            asker=line.primary,
            basis=pb.Lineage(
                epoch=line.lineage.epoch, endpoint_version=line.lineage.endpoint_version
            ),
            reason="late",
        )

    late = [
        ask(pb.ASK_GROW_IN_SYNC, other.replica_id),
        ask(pb.ASK_SHRINK_IN_SYNC, other.replica_id),
        ask(pb.ASK_SHRINK_IN_SYNC, third.replica_id),
    ]

    cluster.move("a", other.node_id)
    moved = cluster.wait_healthy("a").line
    assert moved is not None
    assert moved.lineage > line.lineage
    with insider(cluster) as stranger:
        for request in (*late, *reversed(late)):
            answer = pb.AskResponse.FromString(
                stranger.send(CONTROL + "Ask", request, line.primary_member.node_id)
            )
            assert answer.WhichOneof("answer") == "refusal", request
            assert answer.refusal.basis == request.basis, "a refusal names the ask's own basis"
            now = line_of(cluster)
            assert now.lineage >= moved.lineage
            assert set(now.in_sync) == {one.replica_id for one in now.members}
    assert cluster.wait_healthy("a").line is not None
    assert not cluster.master.log_events("line.minted", volume="a", reason="late")


def test_who_has_no_cluster_key_cannot_speak_as_a_node(cluster: Cluster) -> None:
    """Goal: a heartbeat, an ask and a subscription in the primary's name, newer than its own, without its key."""
    line = line_of(cluster)
    primary, other = (
        line.primary_member,
        next(m for m in line.members if m.replica_id != line.primary),
    )
    incarnation = cluster.master.wait_log("node.seen", node=primary.node_id)["incarnation"]
    gone = pb.HeartbeatRequest(
        node_id=primary.node_id,
        incarnation=incarnation + 1,
        sequence=1,
        data_addr="h:1",
        ctrl_addr="h:2",
        iscsi_addr="h:3",
    )
    shrink = pb.AskRequest(
        volume_id="a",
        intent=pb.ASK_SHRINK_IN_SYNC,
        replica_id=other.replica_id,
        asker=line.primary,
        basis=pb.Lineage(epoch=line.lineage.epoch, endpoint_version=line.lineage.endpoint_version),
        reason="lost",
    )
    newer = pb.SubscribeRequest(node_id=primary.node_id, incarnation=incarnation + 1)
    words = (("Heartbeat", gone), ("Ask", shrink), ("Subscribe", newer))
    for keys in (None, KeyRing(b"not the cluster's")):
        with Stranger(cluster, keys) as stranger:
            for name, message in words:
                with pytest.raises(grpc.RpcError) as caught:
                    stranger.send(CONTROL + name, message, primary.node_id)
                error: Any = caught.value
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED, (name, error)
    told = {entry["cause"] for entry in cluster.master.log_events("call.unproven")}
    assert told == {
        "The call carries no proof that its sender knows the cluster key.",
        "unknown_key",
    }
    heartbeats_pass(cluster)
    cluster.wait_healthy("a")
    assert line_of(cluster) == line


def test_garbage_on_every_method_neither_mints_nor_ends_the_process(cluster: Cluster) -> None:
    """Goal: STUFFING-001. Whatever a message's bytes are, the answer is a refusal or changes nothing."""
    line, pid, rng = line_of(cluster), cluster.master.pid, Random(SEED)
    paths = [
        f"/{service.full_name}/{method.name}"
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if service.name != "NodePeer"
    ]
    with insider(cluster) as stranger:
        for method in paths:
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
    cluster.wait_healthy("a")
    assert line_of(cluster) == line
