"""``sparrow master``: run the master."""

from __future__ import annotations

import typer

from sparrow.cli.processes import PASS_ON, run_master

app = typer.Typer(help="The master.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """The master."""


@app.command("run", context_settings=PASS_ON)
def run(context: typer.Context) -> None:
    """Run the master in the foreground; `--print-config` shows every setting."""
    run_master(context.args)
