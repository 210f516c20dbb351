"""NodeControl: heartbeats, the subscription and asks of nodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.authority.effects import AllowAccess, Instruction
from sparrow.authority.events import HeartbeatReceived
from sparrow.authority.results import Minted, PutFailed, RefusedAsk, Unchanged
from sparrow.authority.types import Ask, Intent
from sparrow.base import events
from sparrow.base.errors import InvalidArgument, Refused, Unavailable
from sparrow.base.ids import NodeId
from sparrow.frontends.access import needed
from sparrow.master.driver import Driver
from sparrow.master.heartbeat import check_heartbeat, observation_of
from sparrow.master.incoming import check_ask, check_sender, check_subscribe
from sparrow.master.inventory import Inventory
from sparrow.ports.store import AuthorityStore
from sparrow.rpc import methods
from sparrow.rpc.messages import (
    AskAnswer,
    AskRefusal,
    AskRequest,
    Heartbeat,
    HeartbeatAck,
    SubscribeRequest,
)
from sparrow.rpc.server import Call, Route, stream, unary

#: Instructions in one message: of the largest access lists, with their secrets, as many fit in one.
AT_ONCE: Final = 16


class ControlService:
    """What nodes call. Everything they say is evidence; nothing they send mints."""

    def __init__(
        self,
        driver: Driver,
        inventory: Inventory,
        store: AuthorityStore,
        *,
        cluster_id: str,
        master_generation: int,
        log: FilteringBoundLogger,
    ) -> None:
        self._driver = driver
        self._inventory = inventory
        self._store = store
        self._cluster_id = cluster_id
        self._generation = master_generation
        self._log = log

    def routes(self) -> tuple[Route, ...]:
        return (
            unary(methods.HEARTBEAT, self.heartbeat),
            stream(methods.SUBSCRIBE, self.subscribe),
            unary(methods.ASK, self.ask),
        )

    async def heartbeat(self, heartbeat: Heartbeat, call: Call) -> HeartbeatAck:
        """Take a heartbeat as a whole or not at all; a delta to something not held here is asked for in full."""
        try:
            check_heartbeat(heartbeat)
            check_sender("heartbeat", heartbeat.node_id, call.sender())
        except InvalidArgument as error:
            self._log.warning(events.HEARTBEAT_REFUSED, peer=call.peer(), cause=str(error))
            raise
        # Noted first: the step below may let somebody look at the node's room.
        self._inventory.note(heartbeat)
        observation = observation_of(heartbeat, received_at=self._driver.clock.now())
        self._driver.feed(HeartbeatReceived(observation=observation))
        return HeartbeatAck(
            sequence=heartbeat.sequence,
            master_generation=self._generation,
            cluster_id=self._cluster_id,
            send_full=heartbeat.base_revision is not None
            and self._driver.authority.wants_full(heartbeat.node_id),
        )

    async def subscribe(
        self, request: SubscribeRequest, call: Call
    ) -> AsyncGenerator[tuple[Instruction, ...]]:
        """Everything this node must know, then news, until either side ends it."""
        check_subscribe(request, call.sender())
        stream_id, outbox = self._driver.open_stream(request.node_id, request.incarnation)
        if outbox.empty:
            raise Refused(
                f"A newer process of node {request.node_id} subscribed already.",
                hint="Two processes run with one node id; stop one of them.",
            )
        facts = {"node": request.node_id, "incarnation": request.incarnation, "stream": stream_id}
        self._log.info(events.STREAM_OPENED, peer=call.peer(), **facts)
        try:
            while instructions := await outbox.take():
                at_once = AT_ONCE if request.several else 1
                for first in range(0, len(instructions), at_once):
                    some = instructions[first : first + at_once]
                    yield tuple(map(self._with_secrets, some))
            raise Unavailable("The subscription was ended by the master.", hint="Subscribe again.")
        finally:
            self._driver.close_stream(request.node_id, stream_id)
            self._log.info(events.STREAM_CLOSED, **facts)

    def _with_secrets(self, instruction: Instruction) -> Instruction:
        """The secrets of an access list go to the nodes of its volume, put in at the last moment."""
        if not isinstance(instruction, AllowAccess) or not instruction.access.secrets:
            return instruction
        return replace(
            instruction, secrets=needed(instruction.access, self._store.load_secrets().secrets)
        )

    async def ask(self, request: AskRequest, call: Call) -> AskAnswer:
        """The line that now stands or a refusal for good; anything else is an error, and then nothing is known."""
        node_id = call.sender()
        check_ask(request, node_id)
        ask = Ask(
            intent=Intent(request.intent),
            volume_id=request.volume_id,
            replica_id=request.replica_id,
            asker=request.asker,
            basis=request.basis,
            clear_eligible=request.clear_eligible,
            uuid=request.uuid,
            reason=request.reason,
        )
        match await self._driver.ask(NodeId(node_id), ask):
            case Minted(line=line) | Unchanged(line=line):
                return line
            case RefusedAsk(code=code, message=message, recorded=recorded):
                return AskRefusal(
                    code=code.value, message=message, basis=request.basis, recorded=recorded
                )
            case PutFailed(cause=cause):
                raise Unavailable(
                    f"The master's store did not take the change: {cause}", hint="Ask again."
                )
