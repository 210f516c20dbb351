"""Long lists, printed page by page as the master gives them.

What is printed is what it would be if all of it had come at once: one JSON document, one table. When the master stops
answering in the middle, what was printed by then stands, and the command ends with an error and its exit status.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from sparrow.cli.common import Output, call
from sparrow.cli.tables import Row, console, make_table, plain
from sparrow.rpc.api_client import ApiClient

P = TypeVar("P")
T = TypeVar("T")


class JsonArray:
    """An array of which the elements come one after the other. ``depth``: how deep in the document they are."""

    def __init__(self, *, depth: int = 1) -> None:
        self._depth = depth
        self._empty = True

    def add(self, values: Iterable[object]) -> None:
        for value in values:
            print("[" if self._empty else ",")
            print("  " * self._depth + json_text(value, self._depth), end="")
            self._empty = False

    def end(self) -> None:
        print("[]" if self._empty else "\n" + "  " * (self._depth - 1) + "]", end="")


def json_text(value: object, depth: int) -> str:
    """A value as it stands in an indented document, without what goes before its first line."""
    # A line's end within a string is written as \n, so every one found here is the document's own.
    return json.dumps(plain(value), indent=2).replace("\n", "\n" + "  " * depth)


class JsonPages(Generic[T]):
    """One array over all pages."""

    def __init__(self) -> None:
        self._array = JsonArray()

    def add(self, values: Sequence[T]) -> None:
        self._array.add(values)
        sys.stdout.flush()

    def end(self) -> bool:
        self._array.end()
        print()
        return True


class TablePages(Generic[T]):
    """One table over all pages. A column becomes wider when a later page needs it, never narrower."""

    def __init__(self, columns: Sequence[str], row: Callable[[T], Row]) -> None:
        self._columns = columns
        self._row = row
        self._widths = [cell_len(name) for name in columns]
        self._out: Console = console()
        self._begun = False

    def add(self, values: Sequence[T]) -> None:
        if not values:
            return
        rows = [self._row(value) for value in values]
        table: Table = make_table(
            self._columns, widths=self._widths if self._begun else (), header=not self._begun
        )
        for row in rows:
            table.add_row(*row)
            self._widths = [
                max(width, cell_len(cell if isinstance(cell, str) else cell.plain))
                for width, cell in zip(self._widths, row, strict=True)
            ]
        self._out.print(table)
        self._begun = True

    def end(self) -> bool:
        """Whether there was anything."""
        return self._begun


def print_list(  # noqa: PLR0917 - what it is, how it is asked for, how it is shown
    master: str | None,
    pages: Callable[[ApiClient], AsyncGenerator[P]],
    entries: Callable[[P], Sequence[T]],
    columns: Sequence[str],
    row: Callable[[T], Row],
    output: Output,
) -> bool:
    """Print the entries of all pages as they come; False for a table that had none, of which nothing was printed."""
    told = JsonPages[T]() if output is Output.JSON else TablePages(columns, row)

    async def work(client: ApiClient) -> None:
        async with aclosing(pages(client)) as walk:
            async for page in walk:
                told.add(entries(page))

    call(master, work)
    return told.end()
