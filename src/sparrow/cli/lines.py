"""The authority's status, printed page by page: lines as they come, then what is not of single volumes."""

from __future__ import annotations

import sys
from dataclasses import fields, replace

from sparrow.authority.types import Line
from sparrow.cli.listing import JsonArray, json_text
from sparrow.rpc.messages import AuthorityStatus, Page


class JsonAuthority:
    """The authority's status as one object; lines are printed as they come, everything else behind them."""

    def __init__(self) -> None:
        self._lines = JsonArray(depth=2)
        self._rest: AuthorityStatus | None = None

    def add(self, page: AuthorityStatus) -> None:
        if self._rest is None:
            print(f'{{\n  "master_generation": {page.master_generation},\n  "lines": ', end="")
        self._rest = joined(self._rest, page)
        self._lines.add(page.lines)
        sys.stdout.flush()

    def end(self) -> None:
        self._lines.end()
        told = {"master_generation", "lines", *(field.name for field in fields(Page))}
        for field in fields(AuthorityStatus):
            if field.name not in told:
                print(
                    f',\n  "{field.name}": {json_text(getattr(self._rest, field.name), 1)}', end=""
                )
        print("\n}")


class TextAuthority:
    """The same in sentences."""

    def __init__(self) -> None:
        self._rest: AuthorityStatus | None = None

    def add(self, page: AuthorityStatus) -> None:
        if self._rest is None:
            print(f"master generation {page.master_generation}")
        self._rest = joined(self._rest, page)
        for line in page.lines:
            print(line_text(line))
        sys.stdout.flush()

    def end(self) -> None:
        if self._rest is not None:
            for row in rest_texts(self._rest):
                print(row)


def joined(before: AuthorityStatus | None, page: AuthorityStatus) -> AuthorityStatus:
    """What is kept until the last page: everything but the lines."""
    page = replace(page, lines=())
    if before is None:
        return page
    return replace(
        before,
        skipped=before.skipped + page.skipped,
        unconfirmed=before.unconfirmed + page.unconfirmed,
    )


def line_text(line: Line) -> str:
    at = f"({line.lineage.epoch},{line.lineage.endpoint_version})"
    end = " retired" if line.retired else ""
    return (
        f"line {line.volume_id} {at} primary {line.primary} in sync {','.join(line.in_sync)}{end}"
    )


def rest_texts(found: AuthorityStatus) -> list[str]:
    """What is not believed and why, who is awaited, who keeps copies, and what was decided by hand."""
    rows = [f"skipped {one.volume_id or '?'}: {one.cause}" for one in found.skipped]
    for volume in found.unconfirmed:
        rows.append(f"unconfirmed {volume.volume_id} ({volume.kind.value}): {volume.cause}")
        rows += [f"  missing: {one}" for one in volume.missing]
    rows += [f"awaited node {address}" for address in found.awaited_nodes]
    for copy in found.copies:
        state = "current" if copy.current else "behind"
        rows.append(
            f"copy on {copy.node_id} ({state}): master generation {copy.master_generation}, revision {copy.revision}"
        )
    rows += [
        f"audit {one.at} {one.who}: {one.verb} {one.volume_id}: {one.detail}" for one in found.audit
    ]
    return rows
