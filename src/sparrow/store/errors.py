"""What can go wrong with the master's store."""

from __future__ import annotations

from sparrow.base.errors import DamagedData, FailedPrecondition, Refused, Retry, StorageError


class StoreLockHeld(FailedPrecondition, code="store.lock_held"):
    """Another process has the store open."""


class StoreClosed(FailedPrecondition, code="store.closed"):
    """The store was closed already."""


class StoreUnusable(FailedPrecondition, code="store.unusable"):
    """The directory or the database cannot be used as it is."""


class StoreDamaged(DamagedData, code="store.damaged"):
    """The database as a whole cannot be read; single damaged rows are skipped instead."""


class PutError(StorageError, code="store.put_failed", retry=Retry.SAME):
    """A change did not become durable and left nothing behind."""


class NotNewer(Refused, code="store.not_newer"):
    """The stored line is not older than the one to be put."""
