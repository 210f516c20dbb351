"""``sparrow authority``: look at what is recorded, keep copies of it, and mend what was lost."""

from __future__ import annotations

import os
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Annotated

import typer

from sparrow.base.errors import InvalidArgument, StorageError
from sparrow.base.ids import VolumeId
from sparrow.cli.common import MasterOption, Output, OutputOption, call, typed, who
from sparrow.cli.lines import JsonAuthority, TextAuthority
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.messages import (
    GiveUpNodeRequest,
    RecoverRequest,
    RecoveryPlan,
    RecoveryVerb,
)

app = typer.Typer(
    help="Authority: who is primary of what, recorded by the master.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

VolumeArgument = Annotated[str, typer.Argument(metavar="VOLUME", help="The volume's name.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Go on without the nodes that are missing; audited.")
]
ConfirmOption = Annotated[
    str | None,
    typer.Option("--confirm", metavar="VOLUME", help="The name once more, instead of typing it."),
]


@app.command()
def status(master: MasterOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show the master's generation, every line, what is not believed and why, and what was decided by hand."""
    told = JsonAuthority() if output is Output.JSON else TextAuthority()

    async def work(client: ApiClient) -> None:
        async with aclosing(client.authority_pages()) as pages:
            async for page in pages:
                told.add(page)

    call(master, work)
    told.end()


@app.command()
def recover(
    volume: VolumeArgument,
    force: ForceOption = False,
    confirm: ConfirmOption = None,
    master: MasterOption = None,
) -> None:
    """Let an unconfirmed volume go on from what its nodes hold."""
    _mend(master, volume, RecoveryVerb.RECOVER, force=force, confirm=confirm)


@app.command()
def repair(
    volume: VolumeArgument,
    force: ForceOption = False,
    confirm: ConfirmOption = None,
    master: MasterOption = None,
) -> None:
    """Replace a volume's damaged record by what its nodes hold."""
    _mend(master, volume, RecoveryVerb.REPAIR, force=force, confirm=confirm)


@app.command()
def reset(
    volume: VolumeArgument,
    force: ForceOption = False,
    confirm: ConfirmOption = None,
    master: MasterOption = None,
) -> None:
    """End a volume whose record is not believed, with all its data; only with --force."""
    _mend(master, volume, RecoveryVerb.RESET, force=force, confirm=confirm)


@app.command("give-up-node")
def give_up_node(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="As named at the recovery.")],
    confirm: ConfirmOption = None,
    master: MasterOption = None,
) -> None:
    """Stop waiting for a node that was named when the master was rebuilt; audited."""
    told = f"What only {address} holds may be lost: volumes, or the newest word on them."
    request = GiveUpNodeRequest(
        address=address, confirm=typed(address, told, confirm, "address"), who=who()
    )
    left = call(master, lambda client: client.give_up_node(request)).awaited_nodes
    print(f"No answer is awaited from {address}; still from: {', '.join(left) or 'nobody'}.")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
    master: MasterOption = None,
) -> None:
    """Write a copy of the master's database, as it is at one moment, to a new file."""
    if file.exists():
        raise InvalidArgument(f"{file} exists already.", hint="Name a new file.")
    size = call(master, lambda client: _fetch_backup(client, file))
    print(f"Wrote {size} bytes to {file}.")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `authority backup` wrote.")],
    data: Annotated[Path, typer.Option("--data", help="The master's data directory.")],
) -> None:
    """Put a backup in place of the master's database, offline; every volume waits for its nodes afterwards."""
    from sparrow.store.restore import restore as put  # noqa: PLC0415 - other verbs need no store

    done = put(data, file, who=who())
    print(
        f"Restored {done.volumes} volumes, all unconfirmed until their members have answered the master;"
        f" master generation {done.generation}."
    )
    if done.kept is not None:
        print(f"The database that was there is kept as {done.kept}.")


def _mend(
    master: str | None, volume: str, verb: RecoveryVerb, *, force: bool, confirm: str | None
) -> None:
    volume_id = VolumeId(volume)
    word = ""
    if force:
        plan = call(master, lambda client: client.recovery_plan(volume_id, verb))
        word = typed(volume, _say_plan(plan), confirm, "name")
    request = RecoverRequest(volume_id=volume_id, verb=verb, force=force, confirm=word, who=who())
    line = call(master, lambda client: client.recover_volume(request)).line
    if line is None:
        print(f"Volume {volume} was never bound; it is bound now like a new one.")
        return
    at = f"({line.lineage.epoch},{line.lineage.endpoint_version})"
    if line.retired:
        print(f"Volume {volume} has ended at {at}.")
    else:
        print(f"Volume {volume} goes on at {at}, in sync: {', '.join(line.in_sync)}.")


def _say_plan(plan: RecoveryPlan) -> str:
    rows = [f"missing: {one}" for one in plan.missing]
    if plan.previous:
        rows.append(f"the record before the last one, for reading only: {plan.previous}")
    return "\n".join([*rows, plan.loss])


async def _fetch_backup(client: ApiClient, file: Path) -> int:
    """Write the backup beside its name first; a file under that name is whole."""
    draft = file.with_name(f"{file.name}.part")
    size = 0
    try:
        with draft.open("xb") as out:
            async with aclosing(client.backup()) as chunks:
                async for chunk in chunks:
                    size += out.write(chunk.data)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return size
