"""A row of the authority store that cannot be believed: its volume is left alone, all others go on."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from sparrow.base.errors import FailedPrecondition, SparrowError
from sparrow.base.ids import VolumeId
from sparrow.rpc.messages import RecoverRequest, RecoveryVerb
from sparrow.store.schema import DATABASE_NAME
from tests.support.cluster import Cluster
from tests.support.ledger import Ledger
from tests.support.minted import minted, of_a_standstill
from tests.support.multipath import check_all
from tests.support.needs import needs_io_uring
from tests.support.paths import cluster_paths
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]

#: Longer than it takes to fail over.
QUIET_S = 4.0


def stored(cluster: Cluster, volume: str) -> tuple[object, ...]:
    with closing(sqlite3.connect(cluster.path / "master" / DATABASE_NAME)) as db:
        row = db.execute(
            "SELECT epoch, endpoint_version, write_seq, body, checksum FROM authority WHERE volume_id = ?",
            (volume,),
        ).fetchone()
    assert row is not None
    return tuple(row)


def damage(cluster: Cluster, volume: str) -> None:
    """Other bytes under the old checksum; the columns grow, because the database itself refuses anything else."""
    with closing(sqlite3.connect(cluster.path / "master" / DATABASE_NAME)) as db, db:
        db.execute(
            "UPDATE authority SET endpoint_version = endpoint_version + 1, write_seq = write_seq + 1,"
            " body = replace(body, 'r1', 'r9') WHERE volume_id = ?",
            (volume,),
        )


def test_a_damaged_row_stops_its_volume_from_moving_and_nothing_else(place: Path) -> None:
    ledger = Ledger(30)
    with Cluster(place) as cluster:
        for name in ("bad", "good"):
            cluster.create_volume(name, size=64 << 20)
            cluster.wait_healthy(name)
        paths = cluster_paths(cluster, "good")
        with Traffic(ledger, paths, pages=4096) as traffic:
            traffic.wait_acked(50)
            bad_primary = cluster.primary("bad")
            good_line, before = cluster.volume("good").line, len(minted(cluster, "good"))
            cluster.master.kill()
            damage(cluster, "bad")
            row = stored(cluster, "bad")
            cluster.master.start()
            told = cluster.master.wait_log("record.quarantined")
            assert told["volume"] == "bad"
            cluster.wait_nodes()

            status = cluster.api(lambda api: api.authority_status())
            assert {skip.volume_id for skip in status.skipped} == {"bad"}
            good = next(line for line in status.lines if line.volume_id == "good")
            assert good == good_line or all(
                map(of_a_standstill, minted(cluster, "good", after=before))
            )
            assert "bad" not in {line.volume_id for line in status.lines}
            with pytest.raises(SparrowError, match=r"authority record|exists"):
                cluster.create_volume("bad", size=64 << 20)
            with pytest.raises(FailedPrecondition, match="authority record"):
                cluster.delete_volume("bad")
            traffic.wait_acked(50)

            # The bad volume's primary dies: nobody may be made its successor, the other volume fails over.
            killed_at = time.monotonic()
            bad_primary.kill()
            cluster.wait_serving("good", not_on=bad_primary)
            time.sleep(max(0.0, killed_at + QUIET_S - time.monotonic()))
            assert stored(cluster, "bad") == row, "no line is made out of a record nobody believes"
            assert not cluster.volume("bad").frontends
            bad_primary.start()
            cluster.wait_healthy("good")
            traffic.wait_acked(50)
            traffic.rest()
            check_all(ledger, paths)
        assert ledger.faults == []
        assert stored(cluster, "bad") == row
        assert cluster.verify("good") == []


def test_what_was_wanted_of_a_volume_is_repaired_from_its_line(place: Path) -> None:
    """It is served and fails over all the while; only changes of what is wanted wait for the repair."""
    with Cluster(place) as cluster:
        cluster.create_volume("a", size=64 << 20)
        cluster.wait_healthy("a")
        cluster.master.kill()
        with closing(sqlite3.connect(cluster.path / "master" / DATABASE_NAME)) as db, db:
            db.execute("UPDATE volumes SET body = replace(body, 'n1', 'n7')")
        cluster.master.start()
        assert cluster.master.wait_log("record.quarantined")["volume"] == "a"
        cluster.wait_healthy("a")
        primary = cluster.primary("a")
        primary.kill()
        cluster.wait_serving("a", not_on=primary)
        with pytest.raises(FailedPrecondition, match="damaged"):
            cluster.delete_volume("a")
        repair = RecoverRequest(verb=RecoveryVerb.REPAIR, volume_id=VolumeId("a"), who="somebody")
        done = cluster.api(lambda api: api.recover_volume(repair))
        assert done.line is not None
        assert cluster.api(lambda api: api.authority_status()).skipped == ()
        primary.start()
        cluster.wait_healthy("a")
        cluster.master.restart()
        cluster.wait_healthy("a")
        cluster.delete_volume("a")
        assert cluster.api(lambda api: api.list_volumes()) == ()
