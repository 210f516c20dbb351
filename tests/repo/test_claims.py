"""docs/claims.md is complete and true to the tree: every claim has a row, every file and every test named exists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.node_ids import exists

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/claims.md"
LEVELS = ("L0", "L1", "L2")
HEAD = ["id", "claim", "kept in", *LEVELS]

#: What must have a row, by section of the page.
EXPECTED = {
    "The sixteen claims of the authority": {f"C{number}" for number in range(1, 17)},
    "Invariants of hosting, authority, frontend, durability": {
        f"INV-{name}"
        for name in (
            "AUTH-001 FENCE-001 PUB-001 SESSION-001 RESTART-001 HOST-001 RPC-001 OBS-REALPROC-001 "
            "FRONTEND-001 FRONTEND-SEAM-001 FRONTEND-002 FRONTEND-ISCSI-001 FRONTEND-NVME-001 FRONTEND-PROTOCOL-001 "
            "FRONTEND-PROTOCOL-002 DURABLE-001 DURABLE-OPGATE-001 DURABLE-WAL-REPLAY-001 "
            "DURABLE-FSYNC-BOUNDARY-001 CONT-001 REPL-001 CATCHUP-001 REBUILD-001 "
            "G5-FRONTEND-CAPACITY-FROM-DURABLE-CONFIG"
        ).split()
    },
    "Invariants of the primary's recovery driving, and wiring": {
        f"INV-{name}"
        for name in (
            "G5-5C-PROBE-LOOP-001 G5-5C-PRIMARY-RECOVERY-AUTHORITY-BOUNDED "
            "G5-5C-SINGLE-INFLIGHT-PER-PEER G5-5C-RECOVERY-BACKOFF "
            "G5-5C-PER-PEER-ADAPTER-PER-PEER-ENGINE G5-5C-PROBE-BEFORE-CATCHUP "
            "G6-WALRECYCLE-DISPATCHES-REBUILD G6-ENGINE-NO-REBUILD-PINNED-ON-OTHER-FAILURES "
            "G6-CATCHUP-CONVERGES-WITHIN-RETENTION G6-RETENTION-POLICY-OPERATOR-VISIBLE "
            "BIN-WIRING-ROLE-FROM-ASSIGNMENT BIN-WIRING-PEER-SET-FROM-ASSIGNMENT-FACT "
            "BIN-WIRING-LISTENER-LIFECYCLE-LIFO BIN-WIRING-ASSIGNMENT-DRIVES-MEMBERPRESENT "
            "BIN-WIRING-SESSIONID-VIA-ADAPTER"
        ).split()
    },
    "Adversarial rows": set(
        (
            "ATTACH-001 REPLACE-1 REPLACE-2 REPLACE-3 CREATE-AGAIN-001 "
            "STUFFING-001 NODE-NAME-001 STALE-HB-001 DELAYED-HB-001 MALFORMED-001 DEAD-PEER-001 RPC-TIMEOUT-001 "
            "CONCURRENT-HB-001 SUB-TIMING-001 STORE-RACE-001 STALE-PRIMARY-READ-001 "
            "STALE-PRIMARY-WRITE-001 BACKEND-CLOSED-USE-001 FRONTEND-NOT-READY-001 "
            "DURABLE-DISK-FULL-001 EXT-CLOCK-JUMP EXT-STORE-FULL EXT-HALF-OPEN EXT-CROSSED-LINKS EXT-FLAPPING-NODE "
            "EXT-PLACES "
            "EXT-SLOW-DISK EXT-STORE-COPY EXT-SPLIT-NETWORK EXT-CORRUPTED-BLOCK EXT-HANG EXT-RESTART-STORM "
            "ISCSI-VPD00-ADVERTISED-LIST ISCSI-VPD83-NAA-DETERMINISM ISCSI-VPD80-SERIAL-DETERMINISM "
            "ISCSI-PDU-MALFORMED ISCSI-PARAMS-ROBUST ISCSI-FFP-VIOLATION ISCSI-LOGIN-REPLAY "
            "ISCSI-UNSOLICITED-DATAOUT ISCSI-DISCOVERY-MISUSE ISCSI-SCSI-UNKNOWN-OPCODE "
            "ISCSI-LIFECYCLE-RAPID ISCSI-NEW-NEXUS NVME-IDENTIFY-NS-NGUID-DETERMINISM "
            "NVME-IDENTIFY-CTRL-ADVERTISED-LIST NVME-FABRIC-CNTLID-ECHO NVME-FABRIC-DISCONNECT "
            "NVME-FABRIC-CONNECT-KATO NVME-SQHD-WRAP NVME-IO-NO-TARGET-RETRY NVME-IO-H2CDATA-CHUNKED-R2T "
            "NVME-IO-LARGE-WRITE-MULTI-R2T NVME-ABORT NVME-SESSION-RECONNECT-LOOP "
            "NVME-SESSION-DISCONNECT-MID-R2T NVME-SESSION-CLEANUP-ON-CLOSE "
            "NVME-IO-CONCURRENT-QUEUE-STRESS NVME-DISCOVERY-ALL-PATHS EXT-DOUBLE-ATTACH "
            "EXT-HOSTILE-SESSIONS"
        ).split()
    ),
    "Traps": {f"D{number}" for number in (*range(1, 40), 41)},
    "Schedules": {
        "S1",
        "S2",
        "S3",
        "S4",
        "S5",
        "S6",
        "S7",
        "S8",
        "S9",
        "S10",
        "S11",
        "S12",
        "S13",
        "S14",
        "S15",
        "S17",
        "S18",
        "S19",
        "S20",
        "S21",
        "S22",
        "S23",
        "S25",
        "S26",
        "S28",
        "S29",
        "S27",
        "S30",
        "S31",
        "L1",
        "L2",
        "L3",
        "L4",
        "L5",
        "L6",
        "L7",
        "L8",
        "L9",
        "L10",
        "L11",
        "L12",
        "L13",
        "L14",
        "L15",
        "L16",
    },
    "Promises of the data path": {f"P{number}" for number in range(1, 8)},
    "Promises of copies": {"COPY-1", "COPY-2", "COPY-3"},
    "Promises of lists": {f"LIST-{number}" for number in range(1, 4)},
    "Promises of NBD": {f"NBD-{number}" for number in range(1, 6)},
    "Promises of reservations": {f"PR-{number}" for number in range(1, 14)},
    "Promises of access lists": {f"ACCESS-{number}" for number in range(1, 7)},
}


@dataclass(frozen=True)
class Row:
    section: str
    id: str
    kept_in: tuple[str, ...]
    cells: tuple[str, ...]


def read(text: str) -> list[Row]:
    """The rows of every table; raises ValueError for a table of another shape."""
    rows: list[Row] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:]
        if not line.startswith("|") or set(line) <= set("|- "):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells == HEAD:
            continue
        if len(cells) != len(HEAD) or not all(cells):
            raise ValueError(f"not a row of {len(HEAD)} cells: {line}")
        kept_in = tuple(re.findall(r"`([^`]+)`", cells[2]))
        rows.append(Row(section, cells[0], kept_in, tuple(cells[3:])))
    return rows


def faults(row: Row) -> list[str]:
    """What of a row does not stand: files, tests, reasons."""
    found = [f"{name} does not exist" for name in row.kept_in if not (ROOT / name).is_file()]
    if not row.kept_in:
        found.append("it is kept nowhere")
    for level, cell in zip(LEVELS, row.cells, strict=True):
        if cell.startswith("-"):
            if len(cell.lstrip("- ").split()) < 3:
                found.append(f"{level} has neither a test nor a reason")
            continue
        names = cell.split("<br>")
        found += [f"{level}: {name} is no test" for name in names if not exists(name.strip("`"))]
        if len(set(names)) != len(names):
            found.append(f"{level} names a test twice")
    if all(cell.startswith("-") for cell in row.cells):
        found.append("no test at any level")
    return found


ROWS = read(PAGE.read_text())


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_what_a_row_names_exists(row: Row) -> None:
    assert faults(row) == []


@pytest.mark.parametrize("section", EXPECTED)
def test_every_claim_has_one_row(section: str) -> None:
    listed = [row.id for row in ROWS if row.section == section]
    assert sorted(listed) == sorted(EXPECTED[section])


def test_no_row_stands_outside_the_sections_checked() -> None:
    assert {row.section for row in ROWS} == set(EXPECTED)


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        (
            "| `src/sparrow/nope.py` | - not at this level | - not at this level | - not now |",
            "nope",
        ),
        ("| nowhere | - no | - not at this level | - not at this level |", "kept nowhere"),
        ("| `docs/claims.md` | - | `tests/repo/test_claims.py::test_no` | - a b c |", "no reason"),
        ("| `docs/claims.md` | `tests/nope.py::test_x` | - a b c | - a b c |", "is no test"),
        ("| `docs/claims.md` | `tests/repo/test_claims.py` | - a b c | - a b c |", "is no test"),
        ("| `docs/claims.md` | - a b c | - a b c | - a b c |", "no test at any level"),
    ],
)
def test_row_that_claims_too_much_is_caught(cells: str, text: str) -> None:
    (row,) = read(f"## Traps\n| D1 | a claim {cells}")
    found = "; ".join(faults(row)).replace("neither a test nor a reason", "no reason")
    assert text in found


def test_row_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="6 cells"):
        read("| D1 | a claim | `docs/claims.md` | - a b c |")
