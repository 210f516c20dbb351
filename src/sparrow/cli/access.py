"""``sparrow volume access`` and ``sparrow secret``: who may use a volume, and what proves it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated

import typer

from sparrow.base.access import AccessEntry, AccessList, Frontend, Secret
from sparrow.base.errors import InvalidArgument, NotFound
from sparrow.cli.common import MasterOption, Output, OutputOption, call
from sparrow.cli.listing import print_list
from sparrow.cli.tables import SECRET_COLUMNS, access_table, console, print_json, secret_row
from sparrow.rpc.api_client import ApiClient

#: More than any secret has; a file beyond is not one.
SECRET_FILE_BYTES_MAX = 4096

app = typer.Typer(
    help="Secrets that initiators prove to know.", no_args_is_help=True, rich_markup_mode=None
)


def access(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The volume's name.")],
    *,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="PROTOCOL:NAME",
            help="Let it in: iscsi:iqn..., nvme:nqn..., nbd:SUBJECT; * as NAME is everyone. May be repeated.",
        ),
    ] = None,
    secret: Annotated[
        str, typer.Option("--secret", metavar="SECRET", help="With --allow: what it has to prove.")
    ] = "",
    target_secret: Annotated[
        str,
        typer.Option(
            "--target-secret", metavar="SECRET", help="With --allow: what we prove when it asks."
        ),
    ] = "",
    remove: Annotated[
        list[str] | None,
        typer.Option(
            "--remove", metavar="PROTOCOL:NAME", help="Do not let it in any more. May be repeated."
        ),
    ] = None,
    allow_none: Annotated[
        bool | None,
        typer.Option(
            "--allow-none/--require-secrets",
            show_default=False,
            help="Whether entries without a secret are let in without authentication.",
        ),
    ] = None,
    master: MasterOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show who may use a volume, or change it. Sessions that are not allowed any more end at once."""
    if (secret or target_secret) and len(allow or ()) != 1:
        raise InvalidArgument("--secret and --target-secret belong to one --allow.")
    wanted = [_entry(text, secret, target_secret) for text in allow or ()]
    unwanted = [_entry(text, "", "") for text in remove or ()]
    if not wanted and not unwanted and allow_none is None:
        volume = call(master, lambda client: client.get_volume(name))
    else:

        async def change(client: ApiClient) -> AccessList:
            held = (await client.get_volume(name)).access
            if held.revision == 0 and not wanted:
                raise InvalidArgument(
                    f"Volume {name} has no access list yet, and an empty one would let nobody in.",
                    hint="Add --allow PROTOCOL:NAME.",
                )
            new = _changed(held, wanted, unwanted, allow_none)
            return (await client.set_access(name, new)).access

        changed = call(master, change)
        volume = replace(call(master, lambda client: client.get_volume(name)), access=changed)
    if output is Output.JSON:
        print_json(volume.access)
    else:
        console().print(access_table(volume.access))


def _changed(
    held: AccessList,
    wanted: Sequence[AccessEntry],
    unwanted: Sequence[AccessEntry],
    allow_none: bool | None,
) -> AccessList:
    entries = {entry.key: entry for entry in held.entries}
    for entry in unwanted:
        if entries.pop(entry.key, None) is None:
            raise NotFound(f"{entry.protocol}:{entry.name} is not in the access list.")
    entries |= {entry.key: entry for entry in wanted}
    return replace(
        held,
        entries=tuple(entries[key] for key in sorted(entries)),
        allow_none=held.allow_none if allow_none is None else allow_none,
    )


def _entry(text: str, secret: str, target_secret: str) -> AccessEntry:
    protocol, colon, name = text.partition(":")
    if not colon or not name or protocol not in set(Frontend):
        raise InvalidArgument(
            f"{text!r} is not PROTOCOL:NAME.",
            hint=f"PROTOCOL is one of {', '.join(Frontend)}; for example iscsi:iqn.2004-10.com.example:host1.",
        )
    return AccessEntry(
        protocol=Frontend(protocol), name=name, secret=secret, target_secret=target_secret
    )


@app.command("set")
def set_secret(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name, which is also the CHAP name.")
    ],
    *,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="File with the value; else it is read from standard input."),
    ] = None,
    master: MasterOption = None,
) -> None:
    """Make a secret, or give one another value. Never an argument: those can be seen by other users."""
    value = _read_secret(file)
    view = call(master, lambda client: client.set_secret(Secret(name=name, value=value)))
    used = f", used by {', '.join(view.volumes)}" if view.volumes else ""
    print(f"Secret {view.name} is set{used}.")


@app.command("list")
def list_secrets(master: MasterOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the names of all secrets, and which volumes use them."""
    secrets = attrgetter("secrets")
    if not print_list(master, ApiClient.secret_pages, secrets, SECRET_COLUMNS, secret_row, output):
        print("There are no secrets. `sparrow secret set NAME` makes one.")


@app.command("delete")
def delete_secret(
    name: Annotated[str, typer.Argument(metavar="NAME")], master: MasterOption = None
) -> None:
    """Forget a secret that no volume uses."""
    call(master, lambda client: client.delete_secret(name))
    print(f"Secret {name} is gone.")


def _read_secret(file: Path | None) -> bytes:
    """The value without the line's end."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                value = opened.read(SECRET_FILE_BYTES_MAX + 1)
        except OSError as error:
            raise InvalidArgument(f"{file} cannot be read: {error.strerror}.") from error
    elif sys.stdin.isatty():
        value = typer.prompt("Value", hide_input=True, confirmation_prompt=True).encode()
    else:
        value = sys.stdin.buffer.read(SECRET_FILE_BYTES_MAX + 1)
    if len(value) > SECRET_FILE_BYTES_MAX:
        raise InvalidArgument("That is too long for a secret.")
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise InvalidArgument(
            "No secret was given.",
            hint="It is the content of --file, else of standard input; at a terminal it is asked for.",
        )
    return value
