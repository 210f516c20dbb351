"""Who catches up leaves its extents for later: what it lacks is first of all made durable in the log.

A replica that was away counts again when its log has all that was committed. Rounds of the flusher meanwhile write each
page a second time and share the disk with the log writes that are waited for, and a page that comes again was written
for nothing. So while entries are to come that had committed without this replica, rounds are begun by a count of
versions that is `versions_behind` instead of the usual, and as many are taken beyond the bound for a volume. The timer
of a second still begins one, and so do a log that fills up and whoever asks for it. Where the last round was given up,
because of a damaged block of checksums or a full pool, nothing is put off any more: what is there goes when a round
ends well, and that may be long.

Safety argument. When a round comes is nobody's promise: what is unapplied lies whole in the log, durable before it is
acknowledged, the log lets go of nothing that is not applied, and reads ask the map first. What bounds it is memory and
the work of a restart. (1) Versions beyond the bound for a volume are taken only while half of the map and half of the
pool are free, so other volumes, and clients, find what they found before; a round of any volume that is asked for by a
crowded map is asked for here as well. (2) They do not count for the bound (`behind_count`), so a replica that has
caught up, and one that leads next, takes writes beside them at once; each round makes them fewer and nothing else makes
them more. (3) A crash leaves at most as many in all logs as the map of all volumes holds, and recovery takes as many
(`behind_found`); it reads them at the disk's rate. A node that was given a smaller map opens one after the other as
what the first ones hold is applied (node/found.py), and says so of one that is too large for it alone.

An older version takes no more than the bound for a volume when it recovers a log: it opens what was closed in order,
which applies everything, and refuses a log with more.
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.extent.dirty cimport dirty_room
from sparrow._native.layout cimport SP_STATE_CLEAN
from sparrow._native.sys cimport sp_assert
from sparrow._native.volume cimport Core, Rec, Volume
from sparrow._native.wal.log cimport BLOCK, log_find, log_rec

cdef uint64_t NOWHERE = <uint64_t>-1


cdef bint catching_up(const Volume *volume) noexcept nogil:
    """Has more committed than is durable here, and do rounds go well? Never of a replica that commits wait for."""
    return (
        not volume.flush.given_up and volume.follow != NULL and volume.follow.told_lsn > volume.log.durable_lsn
        and not volume.primary and volume.super.now.state == SP_STATE_CLEAN
    )


cdef bint half_free(const Core *core, uint32_t count) noexcept nogil:
    return (
        core.dirty.used + count <= core.dirty.room // 2
        and core.reactor.pool.free_count >= core.reactor.pool.working // 2
    )


cdef uint32_t behind_round(const Volume *volume, uint32_t usual) noexcept nogil:
    cdef const Core *core = <const Core *>volume.reactor.core
    if catching_up(volume) and half_free(core, 0):
        return max(usual, core.versions_behind)
    return usual


cdef bint behind_room(Core *core, Volume *volume, uint32_t count) noexcept nogil:
    cdef uint32_t more = 0
    if not catching_up(volume):
        return dirty_room(core, volume, count)
    if half_free(core, count):
        more = core.versions_behind
    # What it took beside the bound counts here: only for writes after the catching up it does not.
    return (
        core.dirty.used + count <= core.dirty.room
        and volume.version_count + count <= core.versions_per_volume + more
    )


cdef void behind_taken(Volume *volume, uint32_t count) noexcept nogil:
    if catching_up(volume):
        volume.behind_count += count


cdef bint behind_found(Core *core, Volume *volume, uint32_t count) noexcept nogil:
    cdef uint32_t all = volume.version_count + count
    if core.dirty.used + count > core.dirty.room:
        return False
    if all > core.versions_per_volume:
        volume.behind_count = max(volume.behind_count, all - core.versions_per_volume)
    return True


cdef void behind_gone(Volume *volume, uint32_t count) noexcept nogil:
    volume.behind_count -= min(volume.behind_count, count)


cdef uint64_t behind_target(Volume *volume, uint64_t target) noexcept nogil:
    cdef uint32_t room = (<const Core *>volume.reactor.core).versions_per_volume
    cdef uint64_t end = volume.applied_lsn
    cdef uint64_t at
    cdef const Rec *rec
    if volume.version_count <= room:
        return target
    # A version more than what is applied: the log has its batch.
    at = log_find(volume, end + 1)
    sp_assert(at != NOWHERE, b"what is not applied lies in the log")
    while at < volume.log.next and end < target:
        rec = log_rec(volume, at)
        at += 1
        # Its header is no version, nor are the pages of a table.
        if rec.bytes // BLOCK - 1 > room:
            break
        room -= rec.bytes // BLOCK - 1
        end = rec.last_lsn
    return min(target, end)
