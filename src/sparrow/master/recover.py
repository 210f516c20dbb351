"""The master's side of a recovery: ask nodes what they hold until every unconfirmed volume is confirmed.

What the answers prove is ``authority.recovery``'s business; what an operator may force is ``authority_service``'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from structlog.typing import FilteringBoundLogger

from sparrow.authority import recovery as rules
from sparrow.authority.events import LineRecovered, TopologyChanged
from sparrow.authority.ordered import walk
from sparrow.authority.recovery import (
    GENERATION_GAP,
    AuditEntry,
    Finding,
    Mark,
    MarkKind,
    NodeAnswer,
    Recovered,
)
from sparrow.authority.types import DesiredVolume, Line
from sparrow.base import events
from sparrow.base.errors import FailedPrecondition, SparrowError, Unavailable
from sparrow.base.ids import NodeId, VolumeId
from sparrow.master.driver import Driver
from sparrow.master.inventory import Inventory
from sparrow.ports.store import AuthorityStore
from sparrow.rpc import methods
from sparrow.rpc.client import Channel
from sparrow.rpc.messages import ReplicaLinesRequest
from sparrow.rpc.proof import Keys
from sparrow.rpc.turns import Turn

ASK_TIMEOUT_S: Final = 2.0
#: Between two rounds of questions: nodes that are away say nothing when they come back.
AGAIN_S: Final = 0.5
#: Within this after a start of the master every node was heard that lives and reaches it: a heartbeat that was under
#: way before times out after 1.5 s, the next one comes within 0.5 s, and a connection is tried again within a second.
HEARD_BY_S: Final = 5.0
#: What a master says of itself where no person decided.
ITSELF: Final = "the master"

#: Takes addresses and the master's generation; gives what those that answered hold.
AskNodes: TypeAlias = Callable[[Collection[str], int], Awaitable[dict[str, NodeAnswer]]]


async def ask_nodes(
    addresses: Collection[str], master_generation: int, *, keys: Keys | None = None
) -> dict[str, NodeAnswer]:
    """What the nodes at these addresses hold; those that do not answer in time are left out."""

    async def ask(address: str) -> tuple[str, NodeAnswer] | None:
        channel = Channel(address, who="the node", keys=keys)
        try:
            request = ReplicaLinesRequest(master_generation=master_generation)
            answer = await channel.call(methods.REPLICA_LINES, request, timeout_s=ASK_TIMEOUT_S)
        except SparrowError:
            return None
        finally:
            await channel.close()
        return address, answer

    found = await asyncio.gather(*(ask(address) for address in addresses))
    return dict(one for one in found if one is not None)


async def begin(
    store: AuthorityStore,
    addresses: Collection[str],
    log: FilteringBoundLogger,
    *,
    ask: AskNodes = ask_nodes,
) -> None:
    """Make an empty store the store of the cluster these nodes belong to. Nothing is recovered yet.

    Raises:
        FailedPrecondition: the store is not empty, or the nodes are of no cluster or of several.
        Unavailable: none of them answered.
    """
    if not store.empty:
        raise FailedPrecondition(
            "The master's store is not empty, so there is nothing to rebuild it from nodes for.",
            hint="Start the master without --recover-from-nodes, or give it an empty --data directory.",
        )
    answers = await ask(addresses, 0)
    if not answers:
        raise Unavailable(
            f"None of {', '.join(addresses)} answered; the lost master's cluster is not known.",
            hint="Start the nodes, and check that --nodes has their control addresses.",
        )
    clusters = {answer.cluster_id for answer in answers.values()} - {""}
    if len(clusters) != 1:
        raise FailedPrecondition(
            f"The nodes that answered belong to {len(clusters)} clusters: {', '.join(sorted(clusters)) or 'none'}.",
            hint="Name the nodes of one cluster; a new cluster needs no --recover-from-nodes.",
        )
    generation = GENERATION_GAP + max(answer.master_generation for answer in answers.values())
    detail = f"nodes {', '.join(addresses)}; answered {', '.join(sorted(answers))}"
    audit = AuditEntry(verb="recover-from-nodes", volume_id=VolumeId(""), who=ITSELF, detail=detail)
    store.begin_recovery(
        cluster_id=clusters.pop(), generation=generation, awaited=tuple(addresses), audit=audit
    )
    log.warning(events.AUTHORITY_OVERRIDDEN, verb=audit.verb, detail=detail, generation=generation)


class Recovery:
    """What nodes said in this process's life, and what follows from it.

    Args:
        generation: of this boot; nodes that answered refuse lower ones.
        ask: how nodes are asked.
        recovered: told of every volume that goes on.
    """

    def __init__(
        self,
        driver: Driver,
        inventory: Inventory,
        store: AuthorityStore,
        *,
        generation: int,
        log: FilteringBoundLogger,
        ask: AskNodes = ask_nodes,
        recovered: Callable[[VolumeId], None] = lambda _volume_id: None,
    ) -> None:
        self._ask_nodes = ask
        self._recovered = recovered
        self._driver = driver
        self._publisher = driver.authority.publisher
        self._inventory = inventory
        self._store = store
        self._generation = generation
        self._log = log
        self._answers: dict[NodeId, NodeAnswer] = {}
        #: By volume the nodes whose answers name it.
        self._held: dict[VolumeId, set[NodeId]] = {}
        self._awaited = store.awaited_nodes()
        self._started_at = driver.clock.now()

    @property
    def awaited(self) -> tuple[str, ...]:
        """Nodes the operator named that have not answered yet."""
        return self._awaited

    @property
    def under_way(self) -> bool:
        """Whether volumes may be confirmed by nodes alone, without a person."""
        return bool(self._awaited) or any(
            mark.kind is not MarkKind.DAMAGED for mark in self._publisher.unconfirmed.values()
        )

    def quarantine_damaged(self) -> None:
        """Make the doubt about damaged rows outlive this process; before anything is served.

        Raises: StorageError.
        """
        marks = [
            Mark(volume_id=skip.volume_id, kind=MarkKind.DAMAGED, cause=skip.cause)
            for skip in self._publisher.skips
            if skip.volume_id is not None and skip.volume_id not in self._publisher.unconfirmed
        ]
        if marks:
            self._store.mark_unconfirmed(marks)
            self._publisher.doubt(marks)

    async def run(self) -> None:
        """Ask, and take over what nodes alone can confirm, for ever.

        A store that was restored or rebuilt may hear of a lost volume long afterwards, when a node comes back. Its
        members prove it then by the rule by which they would have proved it at first.
        """
        while True:
            try:
                self._doubt_unheard_of()
                if self.under_way:
                    await self.ask()
            except SparrowError as error:
                self._log.error(events.STORE_FAILED, cause=str(error))
            turn = Turn()
            for volume_id in walk("", self._publisher.unconfirmed_names):
                mark = self._publisher.unconfirmed.get(volume_id)
                if mark is not None and mark.kind is not MarkKind.DAMAGED:
                    self._confirm(volume_id)
                await turn.rest()
            if not self.under_way:
                await self._driver.changed()
            await asyncio.sleep(AGAIN_S)

    async def ask(self) -> None:
        """One round of questions to every node that may know something."""
        answers = await self._ask_nodes(sorted(await self._addresses()), self._generation)
        for address, answer in sorted(answers.items()):
            if not self._believes(address, answer):
                continue
            if answer.node_id not in self._answers:
                self._log.info(
                    events.NODE_ANSWERED,
                    node=answer.node_id,
                    address=address,
                    replicas=len(answer.replicas),
                )
            self._note_answer(answer)
            if self.under_way:
                self._note_lost(answer)
            if address in self._awaited:
                left = tuple(one for one in self._awaited if one != address)
                self._store.set_awaited_nodes(left)
                self._awaited = left

    def give_up(self, address: str, who: str) -> None:
        """Wait no longer for a node that was named. Raises: StorageError."""
        left = tuple(one for one in self._awaited if one != address)
        detail = f"{address} is not waited for; what it alone holds may be lost"
        audit = AuditEntry(verb="give-up-node", volume_id=VolumeId(""), who=who, detail=detail)
        self._store.set_awaited_nodes(left, audit)
        self._awaited = left
        self._log.warning(events.AUTHORITY_OVERRIDDEN, verb=audit.verb, who=who, detail=detail)

    @property
    def answers(self) -> Mapping[NodeId, NodeAnswer]:
        """The newest of each node that was believed."""
        return MappingProxyType(self._answers)

    def find(self, volume_id: VolumeId) -> Finding:
        """What is known of a volume now."""
        desired = self._driver.authority.desired(volume_id)
        return rules.find(
            volume_id,
            self._answers_about(volume_id, desired),
            recorded=self._publisher.doubted_line(volume_id),
            placed=() if desired is None else desired.slots,
            awaited=self._awaited,
            unheard=self._unheard(volume_id),
        )

    def _answers_about(
        self, volume_id: VolumeId, desired: DesiredVolume | None
    ) -> dict[NodeId, NodeAnswer]:
        """Those that name a volume, and those of nodes where it is placed or that any line of it has as a member.

        To ``rules.find`` all others are as none at all, and it looks at every replica in every answer it is given.
        """
        nodes = set(self._held.get(volume_id, ()))
        lines = [
            replica.line
            for node_id in nodes
            for replica in self._answers[node_id].replicas
            if replica.volume_id == volume_id
        ]
        for line in (*lines, self._publisher.doubted_line(volume_id)):
            if line is not None:
                nodes |= {member.node_id for member in line.members}
        if desired is not None:
            nodes |= {slot.node_id for slot in desired.slots}
        return {one: self._answers[one] for one in nodes if one in self._answers}

    def _note_answer(self, answer: NodeAnswer) -> None:
        before = self._answers.get(answer.node_id)
        for volume_id in () if before is None else _named(before):
            self._held[volume_id].discard(answer.node_id)
        for volume_id in _named(answer):
            self._held.setdefault(volume_id, set()).add(answer.node_id)
        self._answers[answer.node_id] = answer

    def _unheard(self, volume_id: VolumeId) -> Iterator[str]:
        """Why a node that lives may hold a life of a volume of which nothing was seen.

        A node that was heard and is silent again is away like any other, unless it said that it has files of the
        volume, or has not said yet what it has: a heartbeat with news only tells nothing to a master that started.
        """
        now = self._driver.clock.now()
        if now < self._started_at + HEARD_BY_S:
            yield "the master has just started, and nodes that live may not have been heard yet"
        observations = self._driver.authority.observations
        hosts = observations.hosts(volume_id)
        for heartbeat in self._inventory:
            node_id = heartbeat.node_id
            sight = observations.sight(node_id, now)
            empty = sight.heard_at is not None and not sight.fresh and node_id not in hosts
            if node_id not in self._answers and not empty:
                yield f"no answer from {node_id} ({heartbeat.ctrl_addr}), which was heard"

    def doubt(self, volume_id: VolumeId) -> None:
        """Take a volume that nodes hold and the store does not know as lost. Raises: StorageError."""
        if not self._publisher.quarantined(volume_id) and self._publisher.line(volume_id) is None:
            mark = Mark(
                volume_id=volume_id, kind=MarkKind.LOST, cause="only nodes have a line of it"
            )
            self._store.mark_unconfirmed([mark])
            self._publisher.doubt([mark])
            self._log.warning(events.VOLUME_UNCONFIRMED, volume=volume_id, cause=mark.cause)

    def take_over(
        self, finding: Finding, line: Line | None, *, verb: str, who: str, detail: str
    ) -> None:
        """Let a volume go on with a line that follows from a finding. Raises: StorageError."""
        volume_id = finding.volume_id
        held = self._driver.authority.desired(volume_id)
        # A repair of a record that no node knows anything of ends no volume: it is bound again above the old epoch.
        unknown = verb == "repair" and finding.newest is None
        desired = held if line is None or unknown else rules.desired_of(line, held)
        self._publisher.recover(
            Recovered(
                volume_id=volume_id,
                basis=finding.newest,
                line=line,
                desired=desired,
                audit=AuditEntry(verb=verb, volume_id=volume_id, who=who, detail=detail),
            )
        )
        self._log.warning(
            events.LINE_RECOVERED,
            volume=volume_id,
            verb=verb,
            who=who,
            epoch=None if line is None else line.lineage.epoch,
            detail=detail,
        )
        self._driver.feed(LineRecovered(volume_id=volume_id, desired=desired))
        self._recovered(volume_id)

    def wanted_again(self, desired: DesiredVolume) -> None:
        """What is wanted of a volume was damaged and is recorded anew: go on where it was."""
        self._driver.feed(TopologyChanged(changed=(desired,)))
        self._recovered(desired.volume_id)

    def _doubt_unheard_of(self) -> None:
        """Volumes that nodes acted on and the store does not know are lost ones. Raises: StorageError."""
        for volume_id, heard in self._driver.authority.unheard_of().items():
            if any(one.fact.lineage is not None for one in heard):
                self.doubt(volume_id)

    def _confirm(self, volume_id: VolumeId) -> None:
        finding = self.find(volume_id)
        if not finding.confirmed:
            return
        line = None
        if finding.newest is not None:
            line = rules.confirmed_line(finding, self._generation)
        backing = ", ".join(one.replica_id for one in finding.backing)
        try:
            self.take_over(
                finding, line, verb="confirm", who=ITSELF, detail=f"answered: {backing or 'none'}"
            )
        except SparrowError as error:
            # The next round tries again.
            self._log.error(events.STORE_FAILED, volume=volume_id, cause=str(error))

    def _believes(self, address: str, answer: NodeAnswer) -> bool:
        cause = ""
        if answer.cluster_id not in {"", self._store.cluster_id}:
            cause = f"it belongs to cluster {answer.cluster_id}"
        elif answer.master_generation > self._generation:
            cause = (
                f"it has heard master generation {answer.master_generation}, "
                f"this one is {self._generation}"
            )
        if cause:
            self._log.error(events.CALL_FAILED, call="replica lines", peer=address, cause=cause)
        return not cause

    def _note_lost(self, answer: NodeAnswer) -> None:
        for replica in answer.replicas:
            if replica.line is not None:
                self.doubt(replica.volume_id)

    async def _addresses(self) -> set[str]:
        addresses = {*self._awaited, *(heartbeat.ctrl_addr for heartbeat in self._inventory)}
        turn = Turn()
        for volume_id in walk("", self._publisher.unconfirmed_names):
            addresses |= _members_at(self.find(volume_id).newest)
            await turn.rest()
        return addresses


def _named(answer: NodeAnswer) -> set[VolumeId]:
    return {replica.volume_id for replica in answer.replicas} | set(answer.broken)


def _members_at(line: Line | None) -> set[str]:
    return set() if line is None else {member.ctrl_addr for member in line.members}
