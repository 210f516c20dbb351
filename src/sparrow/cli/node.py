"""``sparrow node``: list nodes, say what is wanted of one, and run one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from sparrow.base.errors import InvalidArgument, Unavailable
from sparrow.cli.common import MasterOption, Output, OutputOption, call
from sparrow.cli.listing import print_list
from sparrow.cli.processes import PASS_ON, run_node
from sparrow.cli.tables import NODE_COLUMNS, console, node_row, print_json
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.messages import NodeDetails, NodeList, NodeView
from sparrow.runtime.cluster_key import create_key_file

app = typer.Typer(help="Storage nodes.", no_args_is_help=True, rich_markup_mode=None)


NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node's id.")]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Return when nothing that counts is left on the node.")
]

#: Between two looks at what is left; the API has no watch.
LOOK_S: Final = 0.2


@app.command("list")
def list_nodes(master: MasterOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the nodes the master knows."""
    troubles: list[str] = []

    def nodes(page: NodeList) -> Sequence[NodeView]:
        troubles.extend(
            f"{node.node_id}: {trouble}" for node in page.nodes for trouble in node.troubles
        )
        return page.nodes

    if not print_list(master, ApiClient.node_pages, nodes, NODE_COLUMNS, node_row, output):
        print("The master has heard from no node yet. `sparrow node run` starts one.")
    elif output is Output.TABLE:
        for trouble in troubles:
            console().print(trouble, markup=False)


@app.command("key")
def make_key(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where the file is made.")],
) -> None:
    """Make the key file of a new cluster; every machine of it needs a copy (docs/operations/cluster-key.md)."""
    create_key_file(path)
    print(
        f"The key of a new cluster is in {path}. Keep it secret; give every machine of the cluster a copy."
    )


@app.command()
def cordon(node: NodeArgument, master: MasterOption = None) -> None:
    """Place no new replicas on a node; what it has stays."""
    call(master, lambda client: client.set_node_state(node, "cordoned"))
    print(f"Node {node} gets no new replicas.")


@app.command()
def uncordon(node: NodeArgument, master: MasterOption = None) -> None:
    """Let a node take replicas again; ends a drain where it stands."""
    call(master, lambda client: client.set_node_state(node, "active"))
    print(f"Node {node} takes replicas again.")


@app.command()
def drain(
    node: NodeArgument,
    wait: WaitOption = False,
    master: MasterOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move everything on a node to other nodes; goes on in the master when this ends."""
    details = call(master, lambda client: _set(client, node, "draining", "", wait, output))
    _say_how_far(node, details, output, done=f"Node {node} is empty.")


@app.command()
def remove(
    node: NodeArgument,
    *,
    lost: Annotated[
        bool, typer.Option("--lost", help="It is gone for good, with its data.")
    ] = False,
    confirm: Annotated[
        str, typer.Option("--confirm", metavar="NODE", help="The node's id again.")
    ] = "",
    wait: WaitOption = False,
    master: MasterOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give up a node that will never come back; its replicas are made anew on other nodes."""
    if not lost:
        raise InvalidArgument(
            f"Node {node} is not removed: only a node that is gone for good can be.",
            hint=f"`sparrow node drain {node}` empties a living one; --lost says that it is gone.",
        )
    confirm = confirm or _confirm_loss(node, call(master, lambda client: client.get_node(node)))
    details = call(master, lambda client: _set(client, node, "lost", confirm, wait, output))
    _say_how_far(node, details, output, done=f"Nothing that counts is on node {node} any more.")


@app.command("run", context_settings=PASS_ON)
def run(context: typer.Context) -> None:
    """Run a storage node in the foreground; `--print-config` shows every setting."""
    run_node(context.args)


async def _set(  # noqa: PLR0917 - called once per verb, in the order of the request
    client: ApiClient, node: str, state: str, confirm: str, wait: bool, output: Output
) -> NodeDetails:
    """Record the wish, and follow the work if asked to; each change of it is one line on standard error."""
    details = await client.set_node_state(node, state, confirm=confirm)
    said: dict[tuple[str, str], str] = {}
    while wait and details.volumes_left:
        for one in details.replacements:
            key = (one.volume, one.replica_id)
            if output is Output.TABLE and said.get(key) != one.text:
                said[key] = one.text
                print(f"{one.volume}: {one.text}", file=sys.stderr, flush=True)
        await asyncio.sleep(LOOK_S)
        try:
            details = await client.get_node(node)
        except Unavailable:
            continue  # a master that restarts goes on where it was
    return details


def _say_how_far(node: str, details: NodeDetails, output: Output, *, done: str) -> None:
    if output is Output.JSON:
        print_json(details)
        return
    left = details.volumes_left
    if not left:
        print(done)
        return
    some = "1 volume is" if len(left) == 1 else f"{len(left)} volumes are"
    print(f"{some} still to be moved from node {node}: {', '.join(left)}")
    verb = f"remove {node} --lost" if details.node.desired_state == "lost" else f"drain {node}"
    print(f"`sparrow node {verb} --wait` follows it, `sparrow volume why NAME` tells more.")


def _confirm_loss(node: str, details: NodeDetails) -> str:
    if not sys.stdin.isatty():
        raise InvalidArgument(
            f"Removing node {node} as lost gives up all its replicas and nobody is there to confirm it.",
            hint=f"Add --confirm {node}.",
        )
    count = len(details.volumes_left)
    answer: str = typer.prompt(
        f"Replicas of {count} volumes on {node} are given up for good. Type the node's id"
    )
    return answer
