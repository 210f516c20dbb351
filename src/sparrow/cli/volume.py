"""``sparrow volume``: create, list, show, why, move, delete, verify, scrub, and recover when writes are lost."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from dataclasses import replace
from operator import attrgetter
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sparrow.base.constants import PAGE_BYTES, VOLUME_BYTES_MAX
from sparrow.base.errors import InvalidArgument, ReplicasDiffer, SparrowError, Unavailable
from sparrow.base.units import format_size, parse_size
from sparrow.cli.common import MasterOption, Output, OutputOption, call, typed, who
from sparrow.cli.listing import print_list
from sparrow.cli.tables import (
    VOLUME_COLUMNS,
    console,
    print_json,
    scrub_table,
    served_at,
    volume_details,
    volume_row,
    why_details,
)
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.messages import (
    CreateVolumeRequest,
    DiscardDivergentRequest,
    MoveProgress,
    RecoverStaleRequest,
    ScrubReport,
    VerifyProgress,
    VolumeView,
)

app = typer.Typer(help="Volumes.", no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The volume's name.")]
ConfirmOption = Annotated[
    str | None,
    typer.Option("--confirm", metavar="NAME", help="The name once more, instead of typing it."),
]
#: Different pages that are listed one by one; more are counted.
PAGES_LISTED_MAX = 1000
#: Between two looks at a scrub that is waited for.
SCRUB_LOOK_S = 0.5


@app.command()
def create(
    name: NameArgument,
    *,
    size: Annotated[str, typer.Option("--size", help="For example 10GiB.")],
    replicas: Annotated[int, typer.Option("--replicas", help="Copies, each on its own node.")] = 3,
    block_size: Annotated[
        int,
        typer.Option(
            "--block-size", show_default=False, help="Logical block in bytes [default: 4096]."
        ),
    ] = 0,
    min_in_sync: Annotated[
        int,
        typer.Option(
            "--min-in-sync",
            show_default=False,
            help="Copies a write needs [default: 1, with three replicas 2].",
        ),
    ] = 0,
    ack: Annotated[
        str,
        typer.Option(
            "--ack",
            metavar="sync|quorum|local",
            show_default=False,
            help="Answer a write when all in sync have it, two of three, or the primary alone [default: sync].",
        ),
    ] = "",
    master: MasterOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a volume; returns when it can be used."""
    request = CreateVolumeRequest(
        name=name,
        size_bytes=_fit_size(size),
        replication_factor=_fit(replicas, "--replicas"),
        block_size=_fit(block_size, "--block-size"),
        min_in_sync=_fit(min_in_sync, "--min-in-sync"),
        ack=ack,
    )
    volume = call(master, lambda client: client.create_volume(request))
    if output is Output.JSON:
        print_json(volume)
    else:
        print(f"Volume {volume.name} is {volume.state}, served at {served_at(volume)}")


@app.command("list")
def list_volumes(master: MasterOption = None, output: OutputOption = Output.TABLE) -> None:
    """List all volumes."""
    volumes = attrgetter("volumes")
    if not print_list(master, ApiClient.volume_pages, volumes, VOLUME_COLUMNS, volume_row, output):
        print("There are no volumes. `sparrow volume create NAME --size 1GiB` makes one.")


@app.command()
def show(
    name: NameArgument, master: MasterOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Show one volume, its replicas, how to attach it, and when it was scrubbed."""
    volume, report = call(master, lambda client: _show(client, name))
    if output is Output.JSON:
        print_json(volume)
        return
    out = console()
    for part in volume_details(volume):
        out.print(part)
    if report is not None:
        out.print("", scrub_table(report))


async def _show(client: ApiClient, name: str) -> tuple[VolumeView, ScrubReport | None]:
    volume = await client.get_volume(name)
    try:
        return volume, await client.scrub_volume(name, start=False)
    except SparrowError:
        return volume, None


@app.command()
def scrub(
    name: NameArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is done.")] = False,
    master: MasterOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Read everything that the replicas have on disk and repair what is damaged.

    Exit status 9 when it is done and something could not be repaired.
    """
    report = call(master, lambda client: _scrub(client, name, wait=wait))
    if output is Output.JSON:
        print_json(report)
    else:
        console().print(scrub_table(report))
    left = sum(one.unrepairable + one.different for one in report.replicas if not one.running)
    if wait and left:
        raise ReplicasDiffer(
            f"{left} things of volume {name} are damaged and could not be repaired.",
            hint="Look at the nodes' logs for page.unrepairable, sums.lost and replicas.differed.",
        )


async def _scrub(client: ApiClient, name: str, *, wait: bool) -> ScrubReport:
    report = await client.scrub_volume(name, start=True)
    while wait and any(one.running for one in report.replicas):
        await asyncio.sleep(SCRUB_LOOK_S)
        report = await client.scrub_volume(name, start=False)
    return report


@app.command()
def why(
    name: NameArgument, master: MasterOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Tell why a volume is as it is: where it was placed and why, who could be primary, what is being replaced."""
    answer = call(master, lambda client: client.why_volume(name))
    if output is Output.JSON:
        print_json(answer)
        return
    out = console()
    for part in why_details(answer):
        out.print(part)


@app.command()
def move(
    name: NameArgument,
    *,
    to: Annotated[
        str,
        typer.Option("--to", metavar="NODE|REPLICA", help="Who is to serve it; must be in sync."),
    ],
    master: MasterOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let another in-sync replica serve a volume; returns when it does."""
    last = call(master, lambda client: _move(client, name, to))
    if output is Output.JSON:
        print_json(last)
    else:
        print(last.text)


async def _move(client: ApiClient, name: str, to: str) -> MoveProgress:
    """The last message; those before it are told on standard error."""
    last: MoveProgress | None = None
    async with aclosing(client.move_volume(name, to)) as progress:
        async for last in progress:
            if not last.finished:
                print(last.text, file=sys.stderr)
    if last is None or not last.finished:
        raise Unavailable(
            f"The master stopped before it told what became of volume {name}.",
            hint=f"`sparrow volume show {name}` tells who serves it.",
        )
    return last


@app.command()
def resize(
    name: NameArgument,
    size: Annotated[
        str, typer.Argument(metavar="SIZE", help="The new size, for example 20GiB; never less.")
    ],
    master: MasterOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a volume longer while it is in use; returns when clients may use the new size."""
    size_bytes = _fit_size(size)
    volume = call(master, lambda client: client.resize_volume(name, size_bytes))
    if output is Output.JSON:
        print_json(volume)
    else:
        growing = "" if volume.size_bytes >= size_bytes else ", still growing"
        print(f"Volume {volume.name} has {format_size(volume.size_bytes)}{growing}.")


@app.command()
def attach(
    name: NameArgument,
    host: Annotated[str, typer.Argument(metavar="HOST", help="The machine that is to use it.")],
    master: MasterOption = None,
) -> None:
    """Record that a machine uses a volume; refused while another one does. No session is opened by it."""
    volume = call(master, lambda client: client.attach_volume(name, host))
    print(f"Volume {volume.name} is attached to {volume.attached_to}.")


@app.command()
def detach(
    name: NameArgument,
    host: Annotated[
        str,
        typer.Argument(metavar="HOST", help="Where it must be attached; left out: wherever it is."),
    ] = "",
    master: MasterOption = None,
) -> None:
    """Record that no machine uses a volume. No session is ended by it."""
    volume = call(master, lambda client: client.detach_volume(name, host))
    print(f"Volume {volume.name} is attached to nothing.")


@app.command()
def delete(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    master: MasterOption = None,
) -> None:
    """Delete a volume and all its data; returns when every node has removed its files."""
    if not yes:
        _confirm(name, call(master, lambda client: client.get_volume(name)))
    call(master, lambda client: client.delete_volume(name))
    print(f"Volume {name} is deleted.")


@app.command()
def recover(
    name: NameArgument,
    *,
    from_stale: Annotated[
        str, typer.Option("--from-stale", metavar="REPLICA", help="The replica to go on from.")
    ],
    old_primary_is_off: Annotated[
        str,
        typer.Option(
            "--old-primary-is-off",
            metavar="NODE",
            help="The old primary's node, which you made sure does not run.",
        ),
    ] = "",
    accept_state: Annotated[
        str,
        typer.Option(
            "--accept-state",
            metavar="STATE",
            help="Take a replica that is rebuilding or quarantined.",
        ),
    ] = "",
    confirm: ConfirmOption = None,
    master: MasterOption = None,
) -> None:
    """Take a volume on from a replica that missed writes, when all that had them are lost; audited.

    Says first what is lost. The other replicas are kept as they are until `discard-divergent`.
    """
    request = RecoverStaleRequest(
        name=name,
        replica_id=from_stale,
        old_primary_is_off=old_primary_is_off,
        accept_state=accept_state,
        who=who(),
        plan_only=True,
    )
    plan = call(master, lambda client: client.recover_stale(request))
    word = typed(name, f"{plan.loss[0].upper()}{plan.loss[1:]}.", confirm, "name")
    real = replace(request, plan_only=False, confirm=word)
    line = call(master, lambda client: client.recover_stale(real)).line
    if line is None:
        raise Unavailable(f"The master did not say what became of volume {name}.")
    at = f"({line.lineage.epoch},{line.lineage.endpoint_version})"
    aside = ", ".join(line.set_aside)
    print(f"Volume {name} goes on at {at} from {line.primary} alone.")
    if aside:
        print(
            f"Kept as they are: {aside}. `sparrow volume discard-divergent {name} REPLICA` lets one be rebuilt."
        )


@app.command("discard-divergent")
def discard_divergent(
    name: NameArgument,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="Whose files may go.")],
    confirm: ConfirmOption = None,
    master: MasterOption = None,
) -> None:
    """Give up files that were set aside, quarantined or cannot be opened; rebuilt from the primary. Audited."""
    told = f"What only {replica} of volume {name} holds will be gone."
    request = DiscardDivergentRequest(
        name=name, replica_id=replica, confirm=typed(name, told, confirm, "name"), who=who()
    )
    answer = call(master, lambda client: client.discard_divergent(request))
    if answer.released:
        print(f"{replica} of volume {name} is rebuilt.")
    else:
        print(
            f"{replica} of volume {name} is not wanted any more, but its node was not told: start it, then repeat this."
        )


@app.command()
def verify(
    name: NameArgument, master: MasterOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Compare all in-sync replicas page by page; exit status 9 when they differ."""
    last, pages = call(master, lambda client: _verify(client, name))
    if output is Output.JSON:
        print_json(
            {
                "volume": name,
                "replicas": list(last.replicas),
                "lsn": last.lsn,
                "pages": last.pages_total,
                "different_pages": pages,
            }
        )
    elif not pages:
        compared = ", ".join(last.replicas)
        print(f"Volume {name}: {last.pages_total} pages are equal on {compared}.")
    else:
        for page in pages[:PAGES_LISTED_MAX]:
            print(
                f"page {page} differs (bytes {page * PAGE_BYTES} to {(page + 1) * PAGE_BYTES - 1})"
            )
    if pages:
        raise ReplicasDiffer(
            f"{len(pages)} of {last.pages_total} pages of volume {name} differ between replicas.",
            hint="Keep the volume as it is and look at the nodes' logs for page.damaged.",
        )


async def _verify(client: ApiClient, name: str) -> tuple[VerifyProgress, list[int]]:
    """The last progress message and every different page; a bar on standard error meanwhile."""
    last: VerifyProgress | None = None
    pages: list[int] = []
    bar = Progress(
        TextColumn("verify {task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("LSN {task.fields[lsn]}, {task.fields[different]} different"),
        TimeRemainingColumn(),
        console=console(error=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        task = bar.add_task(name, total=None, lsn=0, different=0)
        async with aclosing(client.verify_volume(name)) as progress:
            async for last in progress:
                pages += last.different_pages
                bar.update(
                    task,
                    total=last.pages_total,
                    completed=last.pages_done,
                    lsn=last.lsn,
                    different=len(pages),
                )
    if last is None or not last.finished:
        raise Unavailable(
            f"The comparison of volume {name} stopped before its end.",
            hint="Look at the volume with `sparrow volume show`, then verify again.",
        )
    return last, pages


def _confirm(name: str, volume: VolumeView) -> None:
    if not sys.stdin.isatty():
        raise InvalidArgument(
            f"Deleting volume {name} destroys its data and nobody is there to confirm it.",
            hint="Add --yes.",
        )
    where = ", ".join(replica.node_id for replica in volume.replicas)
    answer = typer.prompt(f"Volume {name} and all its data on {where} will be gone. Type its name")
    if answer != name:
        raise InvalidArgument("That is not its name; nothing was deleted.")


def _fit_size(text: str) -> int:
    """Bytes. Raises InvalidArgument for what is no size, or one a message cannot carry; the master judges the rest."""
    size_bytes = parse_size(text)
    if size_bytes >= 1 << 63:
        raise InvalidArgument(
            f"A volume of {text} is too large.",
            hint=f"The largest is {format_size(VOLUME_BYTES_MAX)}.",
        )
    return size_bytes


def _fit(number: int, option: str) -> int:
    """Raises InvalidArgument for what a message cannot even carry; the master judges the rest."""
    if not 0 <= number < 1 << 32:
        raise InvalidArgument(f"{option} {number} is not possible.", hint="Give a small number.")
    return number
