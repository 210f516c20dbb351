"""NodeService: the nodes, and what operators want of them."""

from __future__ import annotations

from collections.abc import Iterator

from sparrow.base.errors import FailedPrecondition, InvalidArgument, NotFound
from sparrow.base.ids import NodeId
from sparrow.lifecycle.nodes import NodeState
from sparrow.master.driver import Driver
from sparrow.master.heartbeat import check_node_id
from sparrow.master.inventory import Inventory
from sparrow.master.node_states import NodeStates
from sparrow.master.reconciler import Reconciler
from sparrow.master.views import known_nodes, node_view
from sparrow.rpc import methods
from sparrow.rpc.messages import (
    GetNodeRequest,
    ListNodesRequest,
    NodeDetails,
    NodeList,
    SetNodeStateRequest,
)
from sparrow.rpc.paging import Walk, paged
from sparrow.rpc.server import Call, Route, unary


class NodeService:
    """What operators call about nodes. A wish is durable when its call returns; the work goes on behind it."""

    def __init__(
        self,
        driver: Driver,
        inventory: Inventory,
        states: NodeStates,
        reconciler: Reconciler,
    ) -> None:
        self._driver = driver
        self._inventory = inventory
        self._states = states
        self._reconciler = reconciler

    def routes(self) -> tuple[Route, ...]:
        return (
            paged(methods.LIST_NODES, self.list_nodes),
            unary(methods.GET_NODE, self.get),
            unary(methods.SET_NODE_STATE, self.set_state),
        )

    async def list_nodes(self, _request: ListNodesRequest, after: str) -> Walk[NodeList]:
        """By id: every node that was heard from since the master started, holds a place, or has a wanted state."""
        version = self._states.topology_version
        names = sorted(one for one in self._known() if one > after)

        def entries() -> Iterator[tuple[str, NodeList]]:
            for node_id in names:
                view = node_view(self._driver, node_id, self._inventory.get(node_id), self._states)
                yield node_id, NodeList(nodes=(view,), topology_version=version)

        return Walk(NodeList(nodes=(), topology_version=version), entries())

    async def get(self, request: GetNodeRequest, _call: Call) -> NodeDetails:
        """One node. Raises: NotFound."""
        return self._details(self._find(request.node_id))

    async def set_state(self, request: SetNodeStateRequest, _call: Call) -> NodeDetails:
        """Record what is wanted of a node.

        Raises:
            InvalidArgument: no such state, or a loss that is not confirmed by the node's id.
            NotFound: no such node.
            FailedPrecondition: a node that is to be written off is alive.
        """
        try:
            state = NodeState(request.state)
        except ValueError:
            raise InvalidArgument(
                f"state is {request.state[:64]!r}, which is no state of a node.",
                hint=f"It is one of {', '.join(NodeState)}.",
            ) from None
        node_id = self._find(request.node_id)
        if state is NodeState.LOST:
            self._check_loss(node_id, request.confirm)
        held = self._states.of(node_id)
        if held is NodeState.LOST and state not in (NodeState.LOST, NodeState.ACTIVE):
            raise FailedPrecondition(
                f"Node {node_id} was removed as lost.",
                hint=f"`sparrow node uncordon {node_id}` takes it back, as an empty node.",
            )
        if held is not state:
            self._reconciler.set_state(node_id, state)
        return self._details(node_id)

    def _check_loss(self, node_id: NodeId, confirm: str) -> None:
        if confirm != node_id:
            raise InvalidArgument(
                f"Writing off node {node_id} gives up every replica on it for good; that was not confirmed.",
                hint="Repeat the node's id to confirm.",
            )
        now = self._driver.clock.now()
        if self._driver.authority.observations.sight(node_id, now).fresh:
            raise FailedPrecondition(
                f"Node {node_id} is alive; it was heard a moment ago.",
                hint=f"`sparrow node drain {node_id}` empties it without giving anything up.",
            )

    def _find(self, name: str) -> NodeId:
        check_node_id(name)
        node_id = NodeId(name)
        if node_id not in self._known():
            raise NotFound(
                f"There is no node {name!r}.", hint="`sparrow node list` shows the ones there are."
            )
        return node_id

    def _known(self) -> set[NodeId]:
        return known_nodes(self._driver, self._inventory) | set(self._states)

    def _details(self, node_id: NodeId) -> NodeDetails:
        return NodeDetails(
            node=node_view(self._driver, node_id, self._inventory.get(node_id), self._states),
            replacements=self._reconciler.replacements(node_id=node_id),
            volumes_left=self._reconciler.volumes_left(node_id),
            topology_version=self._states.topology_version,
        )
