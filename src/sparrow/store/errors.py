"""What can go wrong with the master's store."""

from __future__ import annotations

from pathlib import Path

from sparrow.base.errors import DamagedData, FailedPrecondition, Refused, Retry, StorageError


class StoreLockHeld(FailedPrecondition, code="store.lock_held"):
    """Another process has the store open."""


class StoreClosed(FailedPrecondition, code="store.closed"):
    """The store was closed already."""


class StoreUnusable(FailedPrecondition, code="store.unusable"):
    """The directory or the database cannot be used as it is."""


class StoreCopied(StoreUnusable, code="store.copied"):
    """The database is a copy of a store, and was not put in place by the verb for it."""


class StoreDamaged(DamagedData, code="store.damaged"):
    """The database as a whole cannot be read; single damaged rows are skipped instead."""


class PutError(StorageError, code="store.put_failed", retry=Retry.SAME):
    """A change did not become durable and left nothing behind."""


class StoreTakenOver(StorageError, code="store.taken_over"):
    """A later master began to work on this very store: nothing of an earlier one becomes durable any more."""


class PolicyFixed(Refused, code="store.policy_fixed"):
    """A recorded volume was to get another acknowledgement policy or minimum: these are its own for life."""


class NotNewer(Refused, code="store.not_newer"):
    """The stored line is not older than the one to be put."""


def copied(path: Path) -> StoreCopied:
    """The refusal of a database that was made in another file than the one it is in."""
    return StoreCopied(
        f"{path} is a copy of a master's store: the store was made in another file.",
        hint="Is the master it was copied from gone for good? Then `sparrow authority restore FILE --data DIR`"
        " puts a copy in place.",
    )


def taken_over(found: int, ours: int) -> StoreTakenOver:
    """The refusal of a change to a store whose generation is another than the one this process raised."""
    return StoreTakenOver(
        f"The store is at master generation {found}, this master is {ours}: another one works on it.",
        hint="Stop this master; the later one is the cluster's.",
    )
