"""The command line's root: groups of verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from sparrow import __version__
from sparrow.cli import access, authority, master, node, sim, up, volume

app = typer.Typer(
    help="Replicated block storage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("up")(up.up)
app.command("sim")(sim.sim)
app.command("why")(volume.why)
volume.app.command("access")(access.access)
app.add_typer(volume.app, name="volume")
app.add_typer(access.app, name="secret")
app.add_typer(node.app, name="node")
app.add_typer(master.app, name="master")
app.add_typer(authority.app, name="authority")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparrow {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Replicated block storage."""
