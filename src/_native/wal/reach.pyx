"""Up to which entry the pages of a replica may reach, in words that another history cannot mean.

Pages run ahead of what the rest of a replica says of them. Pages of a copy are as of an LSN that its own log may not
have yet, and nothing is left of that LSN when the session is over; a round of the flusher puts entries into the extents
before the superblock calls them applied. As long as whatever was committed stays in every later primary's log, that is
no matter: those entries come again. An operator who goes on from a stale replica (authority/stale.py) gives up entries
that were committed. Then such a page holds what never happened, with a checksum that is right, and nothing brings it
back.

So the superblock has `reach_lsn`, `reach_epoch` and `reach_start`: no page that is counted on in a replica that is
being rebuilt holds anything but what the entries up to that LSN say, in the history of whoever served that term. In a
whole replica it says so of what the copy brought.

Safety argument. Counted on are pages below the cursor of a copy, and in a whole replica all of them. How new the pages
of a frame are at most is what had committed when it was sent; its as-of LSN says how new they are at least. (a) A page
at or above the cursor comes to be counted on with the mark that raises the cursor, or with the update that says the
replica is whole; the same update says the newest that any frame taken so far may hold, and the LSN that the copy ended
with, which is not below that. (b) A page below the cursor is written by a frame of the second pass, or by the flusher
of a replica that is being rebuilt: neither before both copies say at least how new that is, or the target of the round.
(c) What is said is committed in the history of the term that goes with it: a commit LSN that the primary of that term
told, or an entry of the own log that a round may apply. So as long as no one gives up what was committed, every later
primary has that term in its table with an end at or above that LSN, and nothing is copied again for this. (d) Whoever
is to join, or to keep something for a rebuild, holds the three against the primary's table (`reach_denied`,
control/cut.pyx). Either the logs agree at or above that LSN: the own log never went on in a history that denies it, so
nor does the primary's. Or the primary's table has the term, with an end that is not below: its history is that of the
term up to there. Else pages may hold what is not the primary's: a replica that is to be copied to keeps nothing, one
that would join is quarantined, like one that applied what it would have to cut.

A whole replica's flusher says nothing before a round. What it wrote beyond the applied LSN is told by the state:
whoever was a member when a stale replica was taken is set aside, is quarantined when it hears that, and is rebuilt from
nothing when it is discarded. Who was discarded before it heard is not covered, for what it wrote in a round it did not
end.

It is never lowered but where nothing is kept, or an operator takes the pages as they are. Zero, as in superblocks of
before, says nothing, and denies nothing.
"""

from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Log, Volume


cdef bint reach_covers(const Volume *volume, uint64_t lsn) noexcept nogil:
    return lsn <= volume.reach_durable


cdef void reach_note(Volume *volume, uint64_t epoch, uint64_t start, uint64_t lsn) noexcept nogil:
    if lsn > volume.super.now.reach_lsn:
        volume.super.now.reach_lsn = lsn
        volume.super.now.reach_epoch = epoch
        volume.super.now.reach_start = start


cdef void reach_note_own(Volume *volume, uint64_t lsn) noexcept nogil:
    cdef const Log *log = &volume.log
    cdef int i = <int>log.term_count - 1
    while i > 0 and log.terms[i].first_lsn > lsn:
        i -= 1
    if i >= 0:
        reach_note(volume, log.terms[i].epoch, log.terms[i].start, lsn)


cdef void reach_forget(Volume *volume) noexcept nogil:
    volume.super.now.reach_lsn = 0
    volume.super.now.reach_epoch = 0
    volume.super.now.reach_start = 0
