"""Bad input on every call a node or an operator can make: refused whole, the field named, nothing taken over.

Bytes are made by hand and sent over a real socket, past our own client and its codec.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
import structlog
from google.protobuf.message import Message

from sparrow.base.constants import HEARTBEAT_S
from sparrow.master.app import Master
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.client import CHANNEL_OPTIONS
from sparrow.rpc.gen import sparrow_pb2 as pb
from sparrow.rpc.messages import CreateVolumeRequest
from sparrow.rpc.server import MESSAGE_BYTES_MAX, SENDER_KEY
from sparrow.store.memory import MemoryDisk, MemoryStore
from tests.support.fake_node import FakeNode
from tests.support.loop_clock import LoopClock
from tests.support.master_cluster import answers
from tests.support.waiting import WAIT_S, until

CONTROL, VOLUMES, NODES, AUTHORITY = (
    f"/sparrow.v1.{name}/"
    for name in ("NodeControl", "VolumeService", "NodeService", "AuthorityService")
)
INVALID = grpc.StatusCode.INVALID_ARGUMENT
LONG = "x" * 1025
HUGE = (1 << 64) - 1

Change = Callable[[Any], object]
#: Method, what is done to a good request, and the words of the refusal. ``None`` as change: bytes that are no message.
Case = tuple[str, Change | bytes, str]


def setting(path: str, value: Any) -> Change:
    """Sets one field of a request, by its path; a list takes the place of a repeated field."""

    def change(message: Any) -> None:
        *parents, last = path.split(".")
        for name in parents:
            message = message[int(name)] if name.isdigit() else getattr(message, name)
        if value is None:
            message.ClearField(last)
        else:
            setattr(message, last, value)

    return change


def repeating(field: str, count: int) -> Change:
    def change(message: Any) -> None:
        entries = getattr(message, field)
        entries.extend([entries[0]] * (count - len(entries)))

    return change


def together(*changes: Change) -> Change:
    def change(message: Any) -> None:
        for one in changes:
            one(message)

    return change


def heartbeat() -> pb.HeartbeatRequest:
    slot = pb.SlotFact(
        volume_id="ghost", replica_id="r1", uuid="0" * 32, data_addr="h:1", ctrl_addr="h:2",
        ready_for_primary=True, state="clean", lineage=pb.Lineage(epoch=1, endpoint_version=1),
        frontends=[pb.FrontendTarget(protocol="iscsi", addr="h:3", name="iqn.x:ghost")],
    )  # fmt: skip
    return pb.HeartbeatRequest(
        node_id="n1", incarnation=1, sequence=10_000, reachable=True, eligible=True,
        data_addr="h:1", ctrl_addr="h:2", iscsi_addr="h:3", pool_total_bytes=10,
        pool_free_bytes=5, slots=[slot],
    )  # fmt: skip


def ask() -> pb.AskRequest:
    return pb.AskRequest(
        volume_id="a", intent=pb.ASK_SHRINK_IN_SYNC, replica_id="r2", asker="r1",
        basis=pb.Lineage(epoch=1, endpoint_version=1), reason="lost",
    )  # fmt: skip


GOOD: dict[str, Callable[[], Message]] = {
    CONTROL + "Heartbeat": heartbeat,
    CONTROL + "Subscribe": lambda: pb.SubscribeRequest(node_id="n1", incarnation=1),
    CONTROL + "Ask": ask,
    VOLUMES + "Create": lambda: pb.CreateVolumeRequest(
        name="b", size_bytes=1 << 30, replication_factor=3
    ),
    VOLUMES + "Get": lambda: pb.GetVolumeRequest(name="a"),
    VOLUMES + "List": pb.ListVolumesRequest,
    VOLUMES + "Delete": lambda: pb.DeleteVolumeRequest(name="a"),
    VOLUMES + "Resize": lambda: pb.ResizeVolumeRequest(name="a", size_bytes=2 << 30),
    VOLUMES + "Verify": lambda: pb.VerifyRequest(volume_id="a"),
    VOLUMES + "Scrub": lambda: pb.ScrubRequest(volume_id="a", start=True),
    VOLUMES + "Move": lambda: pb.MoveVolumeRequest(name="a", to="n1"),
    VOLUMES + "Why": lambda: pb.WhyVolumeRequest(name="a"),
    VOLUMES + "RecoverStale": lambda: pb.RecoverStaleRequest(
        name="a", replica_id="r2", old_primary_is_off="n1", confirm="a", who="me"
    ),
    VOLUMES + "DiscardDivergent": lambda: pb.DiscardDivergentRequest(
        name="a", replica_id="r2", confirm="a", who="me"
    ),
    NODES + "List": pb.ListNodesRequest,
    NODES + "Get": lambda: pb.GetNodeRequest(node_id="n1"),
    NODES + "SetState": lambda: pb.SetNodeStateRequest(node_id="n1", state="cordoned"),
    VOLUMES + "Attach": lambda: pb.AttachVolumeRequest(name="a", host="host1"),
    VOLUMES + "Detach": lambda: pb.DetachVolumeRequest(name="a", host="host1"),
    VOLUMES + "SetAccess": lambda: pb.SetAccessRequest(
        name="a",
        access=pb.AccessList(entries=[pb.AccessEntry(protocol="nbd", name="CN=host1")], revision=0),
    ),
    VOLUMES + "SetSecret": lambda: pb.SetSecretRequest(
        secret=pb.Secret(name="host", value=b"0123456789abcdef")
    ),
    VOLUMES + "DeleteSecret": lambda: pb.DeleteSecretRequest(name="host"),
    VOLUMES + "ListSecrets": pb.ListSecretsRequest,
    AUTHORITY + "Status": pb.AuthorityStatusRequest,
    AUTHORITY + "RecoveryPlan": lambda: pb.RecoveryPlanRequest(volume_id="a", verb=pb.RECOVER),
    AUTHORITY + "Recover": lambda: pb.RecoverRequest(volume_id="a", verb=pb.RECOVER, who="me"),
    AUTHORITY + "GiveUpNode": lambda: pb.GiveUpNodeRequest(address="h:1", confirm="h:1"),
    AUTHORITY + "Backup": pb.BackupRequest,
}


def names(method: str, field: str) -> list[Case]:
    """A name of a volume or a node: missing, too long, of odd characters."""
    return [
        (method, setting(field, ""), "missing|empty"),
        (method, setting(field, LONG), "long|no id"),
        (method, setting(field, "a/../b"), "slash|no id"),
    ]


def page_tokens(method: str) -> list[Case]:
    """Of a list: no token at all, one cut or changed on its way, another list's."""
    other = NODES + "List" if method != NODES + "List" else VOLUMES + "List"
    made = [
        b"x",
        b"\n",
        other.encode() + b"\na",
        method.encode(),
        method.encode() + b"\n",
        b"\xff\n",
    ]
    texts = ["!", "YQ", "\u00e9", LONG, *(base64.urlsafe_b64encode(one).decode() for one in made)]
    return [(method, setting("page_token", text), "page_token is") for text in texts]


CASES: list[Case] = [
    (CONTROL + "Heartbeat", setting("node_id", ""), "node_id is missing"),
    (CONTROL + "Heartbeat", setting("node_id", "n2"), "node_id is 'n2', but 'n1' sent it"),
    (CONTROL + "Heartbeat", setting("node_id", LONG), "node_id is"),
    (CONTROL + "Heartbeat", setting("incarnation", 0), "incarnation is missing"),
    (CONTROL + "Heartbeat", setting("incarnation", HUGE), "incarnation is 18446744073709551615"),
    (CONTROL + "Heartbeat", setting("sequence", 0), "sequence is missing"),
    (CONTROL + "Heartbeat", setting("zone", "a/b"), "zone is 'a/b', which is no id"),
    (CONTROL + "Heartbeat", setting("data_addr", LONG + ":1"), "data_addr is longer than 1024"),
    (CONTROL + "Heartbeat", setting("pool_free_bytes", 11), "pool_free_bytes is more"),
    (CONTROL + "Heartbeat", repeating("slots", 4097), "slots has 4097 entries, at most 4096"),
    (
        CONTROL + "Heartbeat",
        lambda one: one.troubles.extend(["x"] * 17),
        "troubles has 17 entries, at most",
    ),
    (
        CONTROL + "Heartbeat",
        lambda one: one.troubles.append(LONG),
        r"troubles\[0\] is longer than 1024",
    ),
    (CONTROL + "Heartbeat", repeating("slots", 2), r"slots\[1\] repeats r1"),
    (CONTROL + "Heartbeat", setting("slots.0.role_claim", 3), r"slots\[0\].role_claim is 3"),
    (CONTROL + "Heartbeat", setting("slots.0.state", "fine"), r"slots\[0\].state is 'fine'"),
    (CONTROL + "Heartbeat", setting("slots.0.uuid", "0"), r"slots\[0\].uuid is '0'"),
    (CONTROL + "Heartbeat", setting("slots.0.volume_id", ""), r"slots\[0\].volume_id is missing"),
    (CONTROL + "Heartbeat", setting("slots.0.lineage.epoch", 0), r"slots\[0\].lineage has a zero"),
    (
        CONTROL + "Heartbeat",
        setting("slots.0.frontends.0.name", LONG),
        r"slots\[0\].frontends\[0\].name is longer than 1024",
    ),
    *names(CONTROL + "Subscribe", "node_id"),
    (CONTROL + "Subscribe", setting("node_id", "n2"), "node_id is 'n2', but 'n1' sent it"),
    (CONTROL + "Subscribe", setting("incarnation", 0), "incarnation is missing"),
    (CONTROL + "Subscribe", setting("incarnation", 1 << 31), "incarnation is 2147483648"),
    *names(CONTROL + "Ask", "volume_id"),
    *names(CONTROL + "Ask", "replica_id"),
    *names(CONTROL + "Ask", "asker"),
    (CONTROL + "Ask", setting("intent", 0), "intent is 0, not one of"),
    (CONTROL + "Ask", setting("intent", 1), "intent is 1, not one of"),
    (CONTROL + "Ask", setting("intent", 7), "intent is 7, not one of"),
    (CONTROL + "Ask", setting("basis", None), "basis is missing"),
    (CONTROL + "Ask", setting("basis.epoch", 0), "basis has a zero"),
    (CONTROL + "Ask", setting("basis.epoch", HUGE), "basis is beyond every line"),
    (CONTROL + "Ask", setting("reason", LONG), "reason is longer than 1024"),
    (
        CONTROL + "Ask",
        together(setting("uuid", "zz"), setting("intent", pb.ASK_GROW_IN_SYNC)),
        "uuid is 'zz'",
    ),
    (CONTROL + "Ask", setting("uuid", "0" * 32), "uuid belongs to a grow"),
    (
        CONTROL + "Ask",
        together(setting("clear_eligible", True), setting("intent", pb.ASK_GROW_IN_SYNC)),
        "clear_eligible belongs to a shrink",
    ),
    *names(VOLUMES + "Create", "name"),
    (VOLUMES + "Create", setting("size_bytes", 0), "size is 0"),
    (VOLUMES + "Create", setting("size_bytes", HUGE), "too large"),
    (VOLUMES + "Create", setting("replication_factor", 0), "0"),
    (VOLUMES + "Create", setting("replication_factor", (1 << 32) - 1), "4294967295"),
    (VOLUMES + "Create", setting("block_size", 7), "7"),
    (VOLUMES + "Create", setting("min_in_sync", 9), "9"),
    *names(VOLUMES + "Get", "name"),
    *names(VOLUMES + "Delete", "name"),
    *names(VOLUMES + "Resize", "name"),
    (VOLUMES + "Resize", setting("size_bytes", 0), "size is 0"),
    (VOLUMES + "Resize", setting("size_bytes", HUGE), "too large"),
    *names(VOLUMES + "Attach", "name"),
    (VOLUMES + "Attach", setting("host", ""), "host is missing"),
    (VOLUMES + "Attach", setting("host", LONG), "host is longer than 1024"),
    (VOLUMES + "Attach", setting("host", "a/b"), "host is 'a/b', which is no id"),
    *names(VOLUMES + "Detach", "name"),
    (VOLUMES + "Detach", setting("host", "a/b"), "host is 'a/b', which is no id"),
    *names(VOLUMES + "SetAccess", "name"),
    (VOLUMES + "SetAccess", setting("access", None), "access is missing"),
    (VOLUMES + "SetAccess", setting("access.entries.0.protocol", "smb"), "protocol is 'smb'"),
    (VOLUMES + "SetAccess", setting("access.entries.0.name", ""), "no subject"),
    (VOLUMES + "SetAccess", setting("access.entries.0.name", LONG), "no subject"),
    (VOLUMES + "SetAccess", setting("access.entries.0.secret", "host"), "certificate"),
    (VOLUMES + "SetSecret", setting("secret", None), "secret is missing"),
    (VOLUMES + "SetSecret", setting("secret.name", ""), "no name of a secret"),
    (VOLUMES + "SetSecret", setting("secret.name", LONG), "no name of a secret"),
    (VOLUMES + "SetSecret", setting("secret.value", b"short"), "5 bytes"),
    (VOLUMES + "SetSecret", setting("secret.value", bytes(256)), "256 bytes"),
    (VOLUMES + "DeleteSecret", setting("name", "a b"), "no name of a secret"),
    *names(VOLUMES + "Verify", "volume_id"),
    *names(VOLUMES + "Scrub", "volume_id"),
    *names(VOLUMES + "Move", "name"),
    *names(VOLUMES + "Move", "to"),
    (VOLUMES + "Move", setting("to", "n9"), "no replica of volume a"),
    *names(VOLUMES + "Why", "name"),
    (VOLUMES + "RecoverStale", together(setting("name", ""), setting("confirm", "")), "empty"),
    (VOLUMES + "RecoverStale", setting("replica_id", ""), "replica_id is missing"),
    (VOLUMES + "RecoverStale", setting("replica_id", LONG), "replica_id is longer"),
    (VOLUMES + "RecoverStale", setting("old_primary_is_off", LONG), "old_primary_is_off is longer"),
    (VOLUMES + "RecoverStale", setting("who", LONG), "who is longer"),
    (VOLUMES + "RecoverStale", setting("accept_state", "condemned"), "accept_state is not"),
    (VOLUMES + "RecoverStale", setting("confirm", ""), "confirm is ''"),
    (VOLUMES + "RecoverStale", setting("confirm", "b"), "confirm is 'b'"),
    (VOLUMES + "DiscardDivergent", setting("replica_id", ""), "replica_id is missing"),
    (VOLUMES + "DiscardDivergent", setting("who", LONG), "who is longer"),
    (VOLUMES + "DiscardDivergent", setting("confirm", "b"), "confirm is 'b'"),
    *names(NODES + "Get", "node_id"),
    *names(NODES + "SetState", "node_id"),
    (NODES + "SetState", setting("state", ""), "state is ''"),
    (NODES + "SetState", setting("state", LONG), "state is 'x"),
    (NODES + "SetState", setting("state", "lost"), "not confirmed"),
    *names(AUTHORITY + "RecoveryPlan", "volume_id"),
    (AUTHORITY + "RecoveryPlan", setting("verb", 0), "verb is 0, not one of"),
    *names(AUTHORITY + "Recover", "volume_id"),
    (AUTHORITY + "Recover", setting("verb", 9), "verb is 9, not one of"),
    (AUTHORITY + "Recover", setting("who", LONG), "who is longer"),
    (AUTHORITY + "Recover", setting("force", True), "confirm is ''"),
    (
        AUTHORITY + "Recover",
        together(setting("force", True), setting("confirm", "b")),
        "confirm is 'b'",
    ),
    (AUTHORITY + "Recover", setting("verb", pb.RESET), "force is missing"),
    (AUTHORITY + "GiveUpNode", setting("who", LONG), "who is longer"),
    (AUTHORITY + "GiveUpNode", setting("address", ""), "address is missing"),
    (AUTHORITY + "GiveUpNode", setting("address", LONG), "address is longer"),
    *page_tokens(VOLUMES + "List"),
    *page_tokens(VOLUMES + "ListSecrets"),
    *page_tokens(NODES + "List"),
    *page_tokens(AUTHORITY + "Status"),
    *((method, b"\xff\xff\xff", "bytes are no") for method in GOOD),
]


class Bed:
    """A master with three nodes and a volume, and a channel that sends any bytes."""

    async def start(self) -> None:
        self.store = MemoryStore(MemoryDisk())
        self.master = Master(self.store, LoopClock(), structlog.get_logger())
        self.address = await self.master.start("127.0.0.1:0")
        self.nodes = [FakeNode(f"n{number}", self.address) for number in (1, 2, 3)]
        for node in self.nodes:
            await node.start()
        self.api = ApiClient(self.address)
        await until(lambda: answers(self.api))
        await until(self._ready)
        await self.api.create_volume(
            CreateVolumeRequest(name="a", size_bytes=1 << 30, replication_factor=3)
        )
        self.channel = grpc.aio.insecure_channel(
            self.address,
            options=(*CHANNEL_OPTIONS, ("grpc.max_send_message_length", 4 * MESSAGE_BYTES_MAX)),
        )

    async def stop(self) -> None:
        await self.channel.close()
        await self.api.close()
        for node in self.nodes:
            await node.stop()
        await self.master.stop()
        self.store.close()

    async def refusal(self, method: str, data: bytes, sender: str = "n1") -> grpc.aio.AioRpcError:
        """Send bytes to a method that must refuse them."""
        metadata = ((SENDER_KEY, sender),) if sender else ()
        call: Any = self.channel.unary_stream(method)(data, metadata=metadata, timeout=WAIT_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        return caught.value

    async def state(self) -> tuple[object, ...]:
        """Everything a refused call must leave as it is."""
        disk = self.store.disk
        nodes = [replace(node, last_heard_s=0.0) for node in await self.api.list_nodes()]
        observations = self.master.driver.authority.observations
        return (
            nodes, await self.api.list_volumes(), await self.api.authority_status(),
            dict(disk.lines), dict(disk.volumes), dict(disk.marks), list(disk.audit),
            disk.topology_version, sorted(observations.volumes_on(self.nodes[0].node_id)),
            self.master.inventory.get(self.nodes[0].node_id).incarnation,  # type: ignore[union-attr]
        )  # fmt: skip

    async def settle(self) -> None:
        """Wait until two nodes have a copy of the store as it is, and several heartbeats in a row changed nothing.

        Then nothing changes any more but by a call that should have been refused.
        """
        # After a copy that took long there is a pause ten times as long.
        await until(self._copied, within_s=4 * WAIT_S)
        seen, same = await self.state(), 0
        while same < 3:
            await asyncio.sleep(HEARTBEAT_S)
            now = await self.state()
            same = same + 1 if now == seen else 0
            seen = now

    async def _copied(self) -> bool:
        copies = (await self.api.authority_status()).copies
        return [one.current for one in copies] == [True, True]

    async def _ready(self) -> bool:
        return sum(node.state == "ready" for node in await self.api.list_nodes()) == 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bed() -> AsyncGenerator[Bed]:
    made = Bed()
    await made.start()
    await made.settle()
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
    error = await bed.refusal(method, data)
    assert error.code() is INVALID, error.details()
    details = error.details() or ""
    assert any(word in details for word in words.replace("\\", "").split("|")), details
    assert len(details) < 600, "a refusal does not repeat what was sent"
    assert await bed.state() == before


@pytest.mark.asyncio(loop_scope="module")
async def test_a_message_larger_than_any_of_ours_is_not_even_read(bed: Bed) -> None:
    before = await bed.state()
    for method in GOOD:
        error = await bed.refusal(method, bytes(MESSAGE_BYTES_MAX + 1))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await bed.state() == before


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("method", [CONTROL + one for one in ("Heartbeat", "Subscribe", "Ask")])
@pytest.mark.parametrize("sender", ["", "n2", LONG])
async def test_nobody_speaks_in_another_nodes_name(bed: Bed, method: str, sender: str) -> None:
    """The asker r1 is on n1; what n2 sends about it is refused for good, and nothing is minted."""
    before = await bed.state()
    if method.endswith("Ask") and sender == "n2":
        call: Any = bed.channel.unary_unary(method)
        data = await call(
            GOOD[method]().SerializeToString(), metadata=((SENDER_KEY, sender),), timeout=WAIT_S
        )
        assert pb.AskResponse.FromString(data).refusal.code == "ask.foreign_asker"
    else:
        error = await bed.refusal(method, GOOD[method]().SerializeToString(), sender)
        assert error.code() is INVALID
        assert "node_id" in (error.details() or "") or "sender" in (error.details() or "")
    assert await bed.state() == before


def test_every_method_of_every_service_has_a_bad_request() -> None:
    services = pb.DESCRIPTOR.services_by_name
    methods = {
        f"/{service.full_name}/{method.name}"
        for service in services.values()
        for method in service.methods
        if service.name != "NodePeer"
    }
    assert methods == set(GOOD) == {method for method, _, _ in CASES}
