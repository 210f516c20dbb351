"""``sparrow up``: a cluster on this machine, in the foreground until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop

from sparrow.base.errors import NotFound, SparrowError, TimedOut, Unavailable
from sparrow.cli.common import DATA_DEFAULT
from sparrow.cli.upstatus import JsonReport, Report, TerminalReport, unserved
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.messages import CreateVolumeRequest, NodeView, VolumeView
from sparrow.runtime.embedded import (
    BASE_PORT,
    ClusterPlan,
    EmbeddedCluster,
    plan_cluster,
)
from sparrow.runtime.parent import die_with_parent

T = TypeVar("T")

DEMO = "demo"
DEMO_BYTES = 1 << 30
#: How long nodes may take from their ready line to their first heartbeat.
NODES_S = 20.0
#: How long the volumes may take to be served before they are shown as they are.
SERVED_S = 20.0
#: How long nothing is said of a volume that is waited for.
SAY_S = 5.0
#: Between two looks at the cluster; also how old the status shown may be.
LOOK_S = 1.0
FIRST_LOOK_S = 0.1


def up(
    data: Annotated[
        Path, typer.Option("--data", envvar="SPARROW_UP_DATA", help="Everything is kept here.")
    ] = DATA_DEFAULT,
    nodes: Annotated[int, typer.Option("--nodes", help="Storage nodes.")] = 3,
    base_port: Annotated[
        int, typer.Option("--base-port", help="The master's port; nodes follow it.")
    ] = BASE_PORT,
    demo: Annotated[
        bool, typer.Option("--demo/--no-demo", help="Create volume demo on the first start.")
    ] = True,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per change.")
    ] = False,
) -> None:
    """Run a cluster on this machine until Ctrl-C; the data stays for the next start."""
    die_with_parent(os.environ)
    plan = plan_cluster(data.absolute(), nodes=nodes, base_port=base_port)
    report: Report = JsonReport(plan) if json_lines else TerminalReport(plan)
    uvloop.run(_up(plan, report, demo=demo))


class _Stop(Exception):
    """SIGINT or SIGTERM arrived: not an error, somebody wants us to end."""


async def _up(plan: ClusterPlan, report: Report, *, demo: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    cluster = EmbeddedCluster(plan, report.child_changed)
    cluster.claim()
    try:
        report.starting()
        await _unless(stop, cluster.start())
        async with ApiClient(plan.master_addr) as client:
            await _unless(stop, _nodes_known(client, len(plan.nodes)))
            if demo and not cluster.demo_made:
                await _unless(stop, _make_demo(cluster, client, report))
            await _unless(stop, _volumes_served(client, report))
            await _watch(stop, client, report)
    except _Stop:
        pass
    finally:
        report.stopping()
        await cluster.stop()
        report.stopped()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; raises _Stop, with ``work`` cancelled, when ``stop`` is set first."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _Stop
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _nodes_known(client: ApiClient, count: int) -> None:
    """Wait until the master has heard from every node."""
    try:
        async with asyncio.timeout(NODES_S):
            # The nodes report to the master, and the API has no watch to wait on yet.
            while sum(node.state == "ready" for node in await client.list_nodes()) < count:  # noqa: ASYNC110
                await asyncio.sleep(FIRST_LOOK_S)
    except TimeoutError:
        raise TimedOut(
            f"Not all of {count} nodes reported to the master within {NODES_S:g} s.",
            hint="Look at the logs under the data directory.",
        ) from None


async def _make_demo(cluster: EmbeddedCluster, client: ApiClient, report: Report) -> None:
    """The volume of the first start; a cluster that cannot have it (small disk, one node) still runs."""
    factor = min(3, len(cluster.plan.nodes))
    request = CreateVolumeRequest(name=DEMO, size_bytes=DEMO_BYTES, replication_factor=factor)
    try:
        if all(volume.name != DEMO for volume in await client.list_volumes()):
            await client.create_volume(request)
    except SparrowError as error:
        report.note(f"Volume {DEMO}: {error.sentence()}")
        if not isinstance(error, TimedOut):
            return  # refused: the next start tries again
    cluster.demo_made = True
    cluster.write_file()


async def _volumes_served(client: ApiClient, report: Report) -> None:
    """Wait until every volume is served, for ``SERVED_S`` or little more; ``report`` is told for which."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SERVED_S
    while loop.time() < deadline:
        try:
            volumes = await client.list_volumes()
            waiting = unserved(volumes)
            if not waiting:
                return
            report.waiting(waiting, len(volumes))
            await client.wait_for_volume(waiting[0].name, timeout_s=SAY_S)
        except (NotFound, TimedOut):
            continue  # somebody deleted that one, or the machine is busy: there may be others to wait for
        except SparrowError:
            return  # the master went away: what follows says so


async def _watch(stop: asyncio.Event, client: ApiClient, report: Report) -> None:
    """Show what the master says until it is time to stop."""
    first = True
    while not stop.is_set():
        volumes: tuple[VolumeView, ...] = ()
        nodes: tuple[NodeView, ...] = ()
        try:
            volumes, nodes = await client.list_volumes(), await client.list_nodes()
        except Unavailable:
            report.master_away()
        else:
            if first:
                report.ready(volumes)
                first = False
            report.status(volumes, nodes)
        try:
            async with asyncio.timeout(LOOK_S):
                await stop.wait()
        except TimeoutError:
            continue
