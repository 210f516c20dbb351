"""Volumes are kept apart by their ids, whatever those look like, and a lock is let go as often as one likes."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparrow.base.ids import VolumeId
from sparrow.store.lock import LOCK_NAME, StoreLock
from sparrow.store.sqlite import SqliteStore
from tests.support.authority import bind, minted, new_publisher

LINE = minted(new_publisher().apply(bind()))
IDS = st.lists(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12),
    min_size=1,
    max_size=6,
    unique=True,
)


@settings(max_examples=30)
@given(IDS)
@example(["a/b", "a_2fb", "a_b", "A", "a", "..", ".", "a.b", "a'b", 'a"b', "%61", "\0"])
def test_two_ids_never_share_a_record(ids: list[str]) -> None:
    """Slashes, dots, case, quotes and look-alike escapes: each id finds its own line again and no other's."""
    lines = [
        replace(LINE, volume_id=VolumeId(one), write_seq=number)
        for number, one in enumerate(ids, start=1)
    ]
    with tempfile.TemporaryDirectory() as name:
        store = SqliteStore(name)
        store.put_lines(lines)
        store.close()
        again = SqliteStore(name)
        loaded = again.load_with_skips()
        again.close()
    assert loaded.skips == ()
    assert {line.volume_id: line for line in loaded.lines} == {
        line.volume_id: line for line in lines
    }


def test_lock_is_let_go_once_however_often_it_is_released(tmp_path: Path) -> None:
    first = StoreLock(tmp_path)
    first.release()
    first.release()
    second = StoreLock(tmp_path)
    first.release()
    assert (tmp_path / LOCK_NAME).exists(), "the file stays, only the kernel's lock counts"
    second.release()
