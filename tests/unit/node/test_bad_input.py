"""Bad input on every call another process can make to a node: refused whole, the field named, nothing done.

A whole node on a model of the core, with a volume of one member it is primary of; bytes are made by hand.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
import structlog
from google.protobuf.message import Message

from sparrow.authority.types import AssignmentFact, Line, Lineage, Member
from sparrow.base.ids import EndpointVersion, Epoch, NodeId, ReplicaId, VolumeId
from sparrow.dataplane.model.links import Fabric
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.dataplane.model.state import ModelPool
from sparrow.frontends.scsi.persistent import nexus_of
from sparrow.node.app import Node
from sparrow.node.config import NodeSettings
from sparrow.node.found import Found
from sparrow.node.pool import Pool
from sparrow.rpc.gen import sparrow_pb2 as pb
from sparrow.rpc.messages import ChallengeAnswer
from sparrow.rpc.proof import PROOF_KEY, accept, new_request
from sparrow.runtime.cluster_key import ClusterKeys, create_key_file
from tests.support.waiting import WAIT_S

PEER = "/sparrow.v1.NodePeer/"
VOLUME = VolumeId("a")
SIZE = 1 << 20
INVALID = grpc.StatusCode.INVALID_ARGUMENT
LONG = "x" * 1025
HUGE = (1 << 64) - 1

Change = Callable[[Any], object]


def line() -> pb.Line:
    """A line that makes r2 primary in an epoch above the node's own: good, were it true."""
    members = [
        pb.Member(replica_id=f"r{one}", node_id=f"n{one}", uuid=f"{one:032x}",
                  data_addr="h:1", ctrl_addr="h:2")
        for one in (1, 2)
    ]  # fmt: skip
    return pb.Line(
        volume_id=VOLUME, lineage=pb.Lineage(epoch=9, endpoint_version=1), primary="r2",
        members=members, in_sync=["r1", "r2"], size_bytes=SIZE, block_size=4096,
        replication_factor=2, ack="sync", min_in_sync=1, feature_level=1, master_generation=1,
        write_seq=9,
    )  # fmt: skip


def term() -> pb.Term:
    return pb.Term(epoch=9, start=1)


def log() -> pb.LogSummary:
    return pb.LogSummary(uuid="0" * 32, state="clean", last_term=term())


def shown(kind: type[Any]) -> Callable[[], Message]:
    return lambda: kind(
        volume_id=VOLUME, replica_id="r1", term=term(), primary="r2", log=log(), line=line()
    )


GOOD: dict[str, Callable[[], Message]] = {
    "Fence": lambda: pb.FenceRequest(line=line(), term=term(), primary="r2"),
    "Join": shown(pb.JoinRequest),
    "PrepareRebuild": shown(pb.PrepareRebuildRequest),
    "ReadLog": lambda: pb.ReadLogRequest(volume_id=VOLUME, term=term(), from_lsn=1),
    "PageDigest": lambda: pb.PageDigestRequest(
        volume_id=VOLUME, at_lsn=1, first_page=0, page_count=1
    ),
    "ReadPage": lambda: pb.ReadPageRequest(volume_id=VOLUME, at_least_lsn=0, page=0),
    "ReadSums": lambda: pb.ReadSumsRequest(volume_id=VOLUME, block=0, at_lsn=1),
    "LookAtReservations": lambda: pb.LookAtReservationsRequest(volume_id=VOLUME),
    "ChangeReservations": lambda: pb.ChangeReservationsRequest(
        volume_id=VOLUME,
        ticket_ns=1,
        registrant=nexus_of("iqn.x", bytes(6)).record(port=1),
        cdb=b"\x5f".ljust(16, b"\0"),
        data=bytes(24),
    ),
    "Verify": lambda: pb.VerifyRequest(volume_id=VOLUME),
    "Scrub": lambda: pb.ScrubRequest(volume_id=VOLUME, start=True),
    "ReplicaLines": lambda: pb.ReplicaLinesRequest(master_generation=1),
    "KeepCopy": lambda: pb.KeepCopyRequest(cluster_id="c" * 32, master_generation=1, revision=1),
    "CopyInfo": pb.CopyInfoRequest,
    "Copy": pb.CopyRequest,
    "ReleaseReplica": lambda: pb.ReleaseReplicaRequest(
        line=line(), replica_id="r1", uuid=f"{1:032x}", state="clean", who="me"
    ),
    "Challenge": lambda: pb.ChallengeRequest(key_id=b"k" * 8, nonce=b"n" * 32),
}


def setting(path: str, value: Any) -> Change:
    def change(message: Any) -> None:
        *parents, last = path.split(".")
        for name in parents:
            message = message[int(name)] if name.isdigit() else getattr(message, name)
        if value is None:
            message.ClearField(last)
        elif isinstance(value, list):
            del getattr(message, last)[:]
            getattr(message, last).extend(value)
        else:
            setattr(message, last, value)

    return change


LINE_FAULTS: list[tuple[Change, str]] = [
    (setting("line", None), "line is missing"),
    (setting("term", None), "term is missing"),
    (setting("term.epoch", 0), "term.epoch is 0"),
    (setting("term.epoch", HUGE), "term.epoch is 18446744073709551615"),
    (setting("term.start", 0), "term.start is 0"),
    (setting("primary", ""), "primary is missing"),
    (setting("primary", "r1"), "does not make the caller primary"),
    (setting("line.lineage", None), "line.lineage is missing"),
    (setting("line.lineage.epoch", 0), "epoch and endpoint version are never 0"),
    (setting("line.lineage.epoch", HUGE), "beyond every line"),
    (setting("line.lineage.epoch", 8), "does not make the caller primary"),
    (setting("line.master_generation", HUGE), "beyond every line"),
    (setting("line.in_sync", ["r1", "r7"]), "in_sync is sorted"),
    (setting("line.in_sync", ["r1"]), "the primary is in sync"),
    (setting("line.members.1.node_id", "n1"), "nodes are distinct"),
    (setting("line.ack", "never"), "line.ack is 'never'"),
    (setting("line.retired", True), "tombstone"),
]
PAGES: list[tuple[str, Change, str]] = [
    ("PageDigest", setting("page_count", 0), "page_count is 0"),
    ("PageDigest", setting("page_count", 4097), "page_count is 4097"),
    ("PageDigest", setting("first_page", HUGE), "beyond the volume's 256"),
    ("PageDigest", setting("first_page", 256), "beyond the volume's 256"),
    ("ReadPage", setting("page", 256), "beyond the volume's 256"),
    ("ReadSums", setting("block", 1), "beyond the volume's 256"),
    ("ReadSums", setting("block", HUGE), "beyond the volume's 256"),
]
CASES: list[tuple[str, Change | bytes, str]] = [
    *((method, change, words) for change, words in LINE_FAULTS for method in ("Fence", "Join")),
    *(("PrepareRebuild", change, words) for change, words in LINE_FAULTS),
    *(
        (method, setting("volume_id", name), words)
        for method in (
            "Join",
            "PrepareRebuild",
            "ReadLog",
            "PageDigest",
            "ReadPage",
            "ReadSums",
            "LookAtReservations",
            "ChangeReservations",
            "Scrub",
            "Verify",
        )
        for name, words in (("", "volume_id is missing"), (LONG, "no id"), ("a/b", "no id"))
    ),
    ("Fence", setting("line.volume_id", "../a"), "no id"),
    ("Join", setting("line.volume_id", "b"), "line.volume_id is another"),
    ("Join", setting("log", None), "log is missing"),
    ("Join", setting("log.state", "fine"), "log.state is 'fine'"),
    ("ReadLog", setting("from_lsn", 0), "from_lsn is missing"),
    ("ReadLog", setting("term.start", 0), "term.start is 0"),
    *PAGES,
    ("ChangeReservations", setting("ticket_ns", 0), "ticket_ns is 0"),
    ("ChangeReservations", setting("ticket_ns", HUGE), "ticket_ns is 18446744073709551615"),
    ("ChangeReservations", setting("cdb", bytes(16)), "cdb is no PERSISTENT RESERVE OUT"),
    ("ChangeReservations", setting("cdb", b"\x5f"), "cdb is no PERSISTENT RESERVE OUT"),
    ("ChangeReservations", setting("cdb", b"\x16".ljust(16, b"\0")), "only the primary's own"),
    ("ChangeReservations", setting("data", bytes((1 << 20) + 1)), "data is longer"),
    ("ChangeReservations", setting("registrant", b""), "registrant is none"),
    ("ChangeReservations", setting("registrant", bytes(256)), "registrant is none"),
    *(
        ("ReleaseReplica", *fault)
        for fault in LINE_FAULTS
        if "caller" not in fault[1]
        and "term" not in fault[1]
        and "primary is missing" not in fault[1]
    ),
    ("KeepCopy", setting("cluster_id", "d" * 32), "cluster_id is another"),
    ("KeepCopy", setting("master_generation", 0), "master_generation is 0"),
    ("KeepCopy", setting("master_generation", HUGE), "master_generation is 18446744073709551615"),
    ("KeepCopy", setting("revision", 0), "revision is 0"),
    ("KeepCopy", setting("revision", HUGE), "revision is 18446744073709551615"),
    ("ReleaseReplica", setting("line.set_aside", ["r2"]), "neither in sync nor eligible"),
    ("ReleaseReplica", setting("line.set_aside", ["r9"]), "set_aside is sorted"),
    ("ReleaseReplica", setting("replica_id", ""), "replica_id is missing"),
    ("ReleaseReplica", setting("uuid", "zz"), "uuid is 'zz'"),
    ("ReleaseReplica", setting("state", "retired"), "state is retired"),
    ("ReleaseReplica", setting("state", "fine"), "state is 'fine'"),
    ("ReleaseReplica", setting("who", LONG), "who is longer"),
    ("Challenge", setting("nonce", b"short"), "nonce has 5 bytes"),
    ("ReplicaLines", setting("master_generation", HUGE), "master_generation"),
    *((method, b"\xff\xff\xff", "bytes are no") for method in GOOD),
]


class Bed:
    """A node that is primary of a volume by itself, and a channel that sends any bytes."""

    async def start(self, path: Path) -> None:
        self.pool = Pool.open(path, NodeId("n1"))
        self.pool.learn_cluster("c" * 32)
        settings = NodeSettings(
            node_id="n1",
            pool=path,
            cluster_key=path / "cluster.key",
            master="127.0.0.1:1",
            listen_iscsi="127.0.0.1:0",
            listen_nvme="127.0.0.1:0",
            listen_nbd="127.0.0.1:0",
        )
        create_key_file(settings.cluster_key)
        self.dataplane = ModelDataPlane("n1", ModelPool(), Fabric())
        self.found = Found(self.dataplane)
        self.node = Node(settings, self.pool, self.dataplane, structlog.get_logger(), self.found)
        await self.dataplane_ready()
        self.channel = grpc.aio.insecure_channel(self.node.me.ctrl_addr)
        key, request = new_request(ClusterKeys(settings.cluster_key, structlog.get_logger()))
        call: Any = self.channel.unary_unary(PEER + "Challenge")
        asked = pb.ChallengeRequest(key_id=request.key_id, nonce=request.nonce)
        data = await call(asked.SerializeToString(), timeout=WAIT_S)
        told = pb.ChallengeResponse.FromString(data)
        answer = ChallengeAnswer(nonce=told.nonce, proof=told.proof)
        self.session = accept(key, request, answer, "the node")

    def proof(self, method: str, data: bytes) -> tuple[tuple[str, bytes], ...]:
        """Metadata with which the node looks at a call at all."""
        return ((PROOF_KEY, self.session.prove(PEER + method, data)[1]),)

    async def dataplane_ready(self) -> None:
        uuid = await self.dataplane.format_replica(
            VOLUME, ReplicaId("r1"), size_bytes=SIZE, block_size=4096
        )
        self.found.begin()
        await self.node.start()
        member = Member(
            replica_id=ReplicaId("r1"), node_id=NodeId("n1"), uuid=uuid, data_addr="h:1",
            ctrl_addr="h:2",
        )  # fmt: skip
        first = Line(
            volume_id=VOLUME,
            lineage=Lineage(epoch=Epoch(1), endpoint_version=EndpointVersion(1)),
            primary=ReplicaId("r1"), members=(member,), in_sync=(ReplicaId("r1"),),
            size_bytes=SIZE, block_size=4096, replication_factor=1, min_in_sync=1,
            master_generation=1, write_seq=1,
        )  # fmt: skip
        await self.node.replicas.assign(AssignmentFact(line=first, peers=(), peer_revision=1))

    async def stop(self) -> None:
        await self.channel.close()
        await self.node.stop()
        self.pool.close()

    async def state(self) -> tuple[object, ...]:
        """What a refused call must leave as it is."""
        volume = self.node.replicas.get(VOLUME)
        status = await self.dataplane.status(VOLUME)
        return (
            volume.known_line, volume.state, volume.is_primary, status.promised_epoch,
            status.log.uuid, self.pool.state, self.dataplane.replicas(),
        )  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bed(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Bed]:
    made = Bed()
    await made.start(tmp_path_factory.mktemp("pool"))
    yield made
    await made.stop()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("method", "change", "words"), CASES)
async def test_a_bad_request_is_refused_whole_and_by_name(
    bed: Bed, method: str, change: Change | bytes, words: str
) -> None:
    if isinstance(change, bytes):
        data = change
    else:
        message = GOOD[method]()
        change(message)
        data = message.SerializeToString()
    before = await bed.state()
    proof = bed.proof(method, data)
    call: Any = bed.channel.unary_stream(PEER + method)(data, timeout=WAIT_S, metadata=proof)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    details = caught.value.details() or ""
    assert caught.value.code() is INVALID, details
    assert words in details
    assert len(details) < 600
    assert await bed.state() == before


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_held_is_told_and_the_generation_is_kept(bed: Bed) -> None:
    """The good request, after all the bad ones: they changed nothing that matters here."""
    call: Any = bed.channel.unary_unary(PEER + "ReplicaLines")
    asked = pb.ReplicaLinesRequest(master_generation=5).SerializeToString()
    data = await call(asked, timeout=WAIT_S, metadata=bed.proof("ReplicaLines", asked))
    told = pb.ReplicaLinesResponse.FromString(data)
    assert (told.node_id, told.cluster_id, told.master_generation) == ("n1", "c" * 32, 5)
    (held,) = told.replicas
    assert (held.volume_id, held.replica_id, held.line.primary) == (VOLUME, "r1", "r1")
    assert held.line.lineage.epoch == 1
    assert bed.pool.state.master_generation == 5


def test_every_method_between_nodes_has_a_bad_request() -> None:
    service = pb.DESCRIPTOR.services_by_name["NodePeer"]
    methods = {method.name for method in service.methods}
    assert methods == set(GOOD) == {method for method, _, _ in CASES}
