"""What of the log is kept when it is applied: what peers read, what the puncher wants, and what a replica that returns
may need.

Safety argument. Only what is applied goes, and an in-sync member has all of that on its disk, because it was committed.
The superblock that moves the tail is the one that says what is applied; both copies of it are durable before a place is
used again, and it names where the next batch begins and the checksum which that batch names as its parent. So a start
needs nothing that went (`wal/recovery.pyx`, `extent/seals.pyx`), whatever is let go of.

That more is kept is nobody's promise. It makes a return cheap: whoever asks for an LSN that is gone hears that it is
gone, for every join looks at the oldest LSN that is here, and is copied to. A decision to keep too little costs a
longer copy and loses nothing; to keep too much costs the next start, which reads it unless every member is in sync
(`wal/recovery.pyx`).

A volume with one member keeps nothing for others. Nobody can need it when two things hold (`for_nobody`):

- The newest line acted on names no other member (`alone`: told with every line, and at every opening from the line in the
  superblock). Who was a member and is none joins nobody until a line names it again, and that line is told here before the
  member is spoken to. Should it come with its old files, the log begins above what they hold and a map of what it misses
  begins only then, so it is copied whole unless it missed nothing. Members that are away, not in sync or set aside are
  members: for them all is kept as it was, whatever the policy counts.
- The core knows of no peer that has a link or that commits wait for. Peers and lines are told in messages of their own, and
  a copy under way lives by its link.

What is kept of it because two things are told apart in time (a line that is acted on late, a peer that is forgotten
late) is let go of in the round after.
"""

from libc.stdint cimport uint64_t

from sparrow._native.extent.punch cimport punch_floor
from sparrow._native.layout cimport SP_BATCH_BYTES_MAX
from sparrow._native.reactor cimport now_boot, task_queue
from sparrow._native.volume cimport PEERS_MAX, Core, Log, Peer, Rec, Volume
from sparrow._native.wal.log cimport log_forget_to, log_free_bytes, log_rec, log_room

cdef uint64_t RETURN_NS = 2000000000


cdef bint for_nobody(Volume *volume) noexcept nogil:
    """Can no other replica need what this log has applied?"""
    cdef Peer *peer
    cdef int i
    if not volume.alone:
        return False
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        if peer != NULL and (peer.needed or peer.one_of or peer.ship != NULL):
            return False
    return True


cdef uint64_t keep_releasable(Volume *volume, uint64_t applied) noexcept nogil:
    """So that two fifths of the ring are free, and in a small one what the next batches may need, behind what is applied
    and what peers still read.

    The pins of a slow peer and of the puncher are respected up to a part of the ring, and never while a writer waits
    for room: retention never blocks.

    What nobody reads is kept for a replica that comes back, which takes seconds. A ring that is overwritten faster than
    that keeps nothing for anybody: of batches younger than RETURN_NS all but a fifth of the ring goes, so that writers
    wait for fewer and larger rounds. Where nobody can come back all goes but what the puncher wants.
    """
    cdef Log *log = &volume.log
    cdef uint64_t keep_from = log.next
    cdef uint64_t used = log.bytes - log_free_bytes(volume)
    cdef uint64_t wanted = max(log.bytes * 2 // 5, 4 * <uint64_t>SP_BATCH_BYTES_MAX)
    cdef uint64_t lsn = 0
    cdef uint64_t at = log.first
    cdef uint64_t floor = punch_floor(volume)
    cdef uint64_t now = now_boot(volume.reactor)
    cdef bint nobody = for_nobody(volume)
    cdef bint pins_count = (
        used * 100 <= log.bytes * (<Core *>volume.reactor.core).wal_pin_percent and log_room(volume)
    )
    cdef bint enough
    cdef Rec *rec
    cdef Peer *peer
    cdef int i
    if log.let_go_lsn > log.tail_lsn and log.let_go_lsn <= applied:
        # Damaged for good: no peer can be fed from it, so none is waited for.
        lsn = log.let_go_lsn
    # Zero entries stay until their place was given back.
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        if peer != NULL and peer.ship != NULL:
            keep_from = min(keep_from, peer.ship.cursor)
    while at < log.next and (nobody or used * 5 > log.bytes):
        rec = log_rec(volume, at)
        enough = log.bytes - used >= wanted
        if rec.last_lsn > applied:
            break
        if enough and not nobody and (rec.closed_ns == 0 or rec.closed_ns + RETURN_NS < now):
            break
        if (pins_count or enough) and (at >= keep_from or rec.last_lsn >= floor):
            break
        lsn = max(lsn, rec.last_lsn)
        used -= min(used, <uint64_t>rec.bytes)
        at += 1
    return lsn


cdef void keep_release(Volume *volume, uint64_t applied) noexcept nogil:
    cdef Log *log = &volume.log
    cdef uint64_t lsn = keep_releasable(volume, applied)
    cdef Peer *peer
    cdef int i
    if lsn != 0:
        log_forget_to(volume, lsn)
        for i in range(PEERS_MAX):
            peer = volume.peers[i]
            if peer != NULL and peer.ship != NULL and peer.ship.cursor < log.first:
                task_queue(volume.reactor, &peer.ship.task)
    volume.super.now.given_back = punch_floor(volume) > applied
    volume.super.now.tail_lsn = log.tail_lsn
    volume.super.now.tail_check = log.tail_check
    volume.super.now.tail_offset = log.tail_offset
