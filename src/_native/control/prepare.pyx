"""Making a replica ready for a rebuild: keep what it surely holds, let the rest go.

What the four base fields of the superblock mean, and why pages may be kept, is argued in replication/base_receive.pyx.
Here is the decision, first match:

    it is suspect: what it says of itself may be outdated                                KEEP_NOTHING
    pages may hold what is not the primary's history (wal/reach.pyx)                     KEEP_NOTHING
    it was being rebuilt, its log has a common point with the primary's that is not
      below what it applied, the primary's log reaches back to that point, and no gap
      is open or the primary's map reaches back to base_from                             KEEP_ALL
    it holds everything up to some LSN in the pages below a cursor (a replica that was
      in sync once: everywhere, up to what it applied), that LSN is part of the
      primary's history, and the primary's map of it begins at or below that LSN         KEEP_PAGES
    else                                                                                 KEEP_NOTHING

A replica that was in sync first applies everything of its log that the primary knows to be committed, for its own
checkpoint may be far behind what it holds. One that applies nothing, as a suspect one does, or one whose rounds are
given up, is decided on as it is.

Safety argument. `rebuilding` is durable, with the fields that say what is kept, before the log or a file is touched. A
crash from then on finds a replica that nobody takes for whole, and fields that promise no more than the files hold:
they are never raised here.

Of several that are asked for the newest counts, and a join that is asked for later ends those before it (`readied`):
each may wait for the flusher for longer than who asked for it does, and one that went on afterwards would take the log
away from under the link that followed from another. One that comes late itself, behind the join and the link that its
primary went on with, shows a log that ends before entries of its term that are here, and changes nothing.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.commit cimport commit_hear
from sparrow._native.control.command cimport Command, command_done, command_new, command_of_term, command_when_quiet
from sparrow._native.control.cut cimport Row, common_point, cut_log, reach_denied, shown_before
from sparrow._native.events cimport done_up
from sparrow._native.extent.absence cimport absence_set
from sparrow._native.extent.dirty cimport dirty_cut_above
from sparrow._native.extent.flusher cimport flush_idle, flush_target, flush_to
from sparrow._native.extent.punch cimport punch_forget
from sparrow._native.extent.cache cimport cache_forget
from sparrow._native.extent.sums cimport frames_forget
from sparrow._native.layout cimport SP_STATE_CLEAN, SP_STATE_REBUILDING, sp_superblock
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport Timer, now_boot, timer_set
from sparrow._native.replication.receive cimport follow_drop
from sparrow._native.reservations cimport table_forget
from sparrow._native.resize cimport resize_cut
from sparrow._native.sys cimport EAGAIN, EINVAL, EIO, ESTALE, free, malloc
from sparrow._native.volume cimport Core, Log, Volume, Waiter
from sparrow._native.wal.damage cimport log_anchor
from sparrow._native.wal.joint cimport joint_forget
from sparrow._native.wal.log cimport log_check_at, log_forget_to
from sparrow._native.wal.reach cimport reach_forget
from sparrow._native.wal.superblock cimport super_write

cdef uint64_t NOWHERE = <uint64_t>-1
cdef uint64_t RETRY_NS = 1000000

# Front of the payload.
cdef struct Offer:
    uint64_t changed_from  # the primary has a map of this replica from here on; NOWHERE without one
    uint64_t commit_lsn    # of the primary


cdef void do_prepare(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command
    cdef int rc = 0
    if mail.length < sizeof(Offer):
        rc = -EINVAL
    elif volume.condemned or volume.primary:
        rc = -EIO
    elif mail.a != volume.super.now.promised_epoch or mail.b != volume.super.now.promised_start:
        rc = -ESTALE
    elif shown_before(volume, mail):
        # It would let go of what was acknowledged since.
        rc = -EAGAIN
    if rc < 0:
        done_up(core.reactor, mail.token, rc, volume.super.now.promised_epoch, 0, 0, NULL, 0)
        free(mail.data)
        return
    command = command_new(core, volume, mail)
    if command == NULL:
        return
    volume.joined = False
    volume.readied += 1
    command.number = volume.readied
    follow_drop(volume, 0)
    command_when_quiet(command, on_quiet)


cdef uint64_t shared_end(Command *command) noexcept nogil:
    """The last LSN that this log and the primary's have in common, NOWHERE when that denies what is applied here, or what
    pages may hold."""
    cdef Volume *volume = command.volume
    cdef const Row *rows = <const Row *>(command.mail.data + sizeof(Offer))
    cdef uint64_t count = (command.mail.length - sizeof(Offer)) // sizeof(Row)
    cdef uint64_t lsn = common_point(volume, rows, count)
    if lsn != NOWHERE and (
        lsn < volume.applied_lsn or lsn > command.mail.c or reach_denied(volume, lsn, rows, count)
    ):
        return NOWHERE
    return lsn


cdef bint overtaken(Command *command) noexcept nogil:
    cdef bint newest = command.volume.readied == command.number
    cdef bint of_term = command_of_term(command)
    if newest and of_term:
        return False
    command_done(
        command, -EAGAIN if of_term else -ESTALE, command.volume.super.now.promised_epoch, 0, 0, NULL, 0
    )
    return True


cdef bint applies(const Volume *volume) noexcept nogil:
    """Does the flusher apply anything here? Who waited for it otherwise would wait for ever."""
    return not (volume.suspect or volume.condemned or volume.frozen or volume.flush.given_up)


cdef void on_quiet(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    cdef uint64_t end
    if volume.cutting:
        # A join was quiet in the same turn.
        command_when_quiet(command, on_quiet)
        return
    if overtaken(command):
        return
    if volume.views > 0 or volume.reading > 0 or volume.links > 0:
        # What the link that ended is still writing must not land on top of what the next one installs, and reads of
        # what may go finish first.
        command.timer.fire = on_look_again
        timer_set(command.core.reactor, &command.timer, now_boot(command.core.reactor) + RETRY_NS)
        return
    end = shared_end(command)
    if volume.super.now.state == SP_STATE_CLEAN and end != NOWHERE and applies(volume):
        commit_hear(volume, min(end, (<Offer *>command.mail.data).commit_lsn))
        if flush_target(volume) > volume.applied_lsn:
            waiter.wake = on_applied
            waiter.arg = flush_target(volume)
            flush_to(volume, waiter)
            return
    decide(command)


cdef void on_look_again(Timer *timer) noexcept nogil:
    command_when_quiet(<Command *>timer.owner, on_quiet)


cdef void on_applied(Waiter *waiter, int rc) noexcept nogil:
    command_when_quiet(<Command *>waiter.owner, on_quiet_again)


cdef void on_quiet_again(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if command.volume.cutting:
        command_when_quiet(command, on_quiet_again)
    elif not overtaken(command):
        decide(command)


cdef bint gap_open(const sp_superblock *now) noexcept nogil:
    """Do pages below the cursor still miss entries that the log does not hold?"""
    return now.base_from < now.base_lsn and now.base_patched < now.base_cursor


cdef void decide(Command *command) noexcept nogil:
    cdef Volume *volume = command.volume
    cdef sp_superblock *now = volume.super.now
    cdef uint64_t changed_from = (<Offer *>command.mail.data).changed_from
    cdef uint64_t end = shared_end(command)
    cdef uint64_t cursor = 0
    cdef uint64_t holds = 0
    cdef uint32_t check = 0
    if volume.condemned:
        command_done(command, -EIO, 0, 0, 0, NULL, 0)
        return
    if (
        now.state == SP_STATE_REBUILDING and now.base_lsn != 0 and not volume.suspect and volume.log.head_lsn != 0
        and end != NOWHERE and command.mail.d <= end + 1 and end >= volume.log.tail_lsn and log_check_at(volume, end, &check)
        and (not gap_open(now) or changed_from <= now.base_from)
    ):
        # Nothing above what the next base frame says is applied.
        volume.base_as_of = volume.applied_lsn
        # Of what was known to be committed beyond that, and is given up, nothing is known any more.
        volume.commit_lsn = min(volume.commit_lsn, end)
        command.stage = KEEP_ALL
        cut_log(command, end, on_cut)
        return
    if volume.suspect:
        end = NOWHERE
    if now.state == SP_STATE_CLEAN:
        # The size as of what is applied: what a later entry added is copied whole.
        cursor = now.size_bytes // PAGE
        holds = volume.applied_lsn
    elif now.state == SP_STATE_REBUILDING:
        cursor = now.base_cursor
        holds = volume.applied_lsn if now.base_lsn != 0 and not gap_open(now) else now.base_from
    if end == NOWHERE or end < holds or changed_from == NOWHERE or changed_from > holds:
        cursor = 0
        holds = 0
    command.stage = KEEP_PAGES if cursor > 0 else KEEP_NOTHING
    absence_set(volume, NULL, 0)
    now.state = SP_STATE_REBUILDING
    now.base_lsn = 0
    now.base_cursor = cursor
    now.base_from = holds
    now.base_patched = 0
    if cursor == 0:
        reach_forget(volume)
    volume.base_as_of = 0
    command.waiter.wake = on_durable
    super_write(volume, &command.waiter)


cdef void on_durable(Waiter *waiter, int rc) noexcept nogil:
    """`rebuilding` is durable: nothing of the log counts any more, nor of pages at or above the cursor."""
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    cdef Log *log = &volume.log
    if rc < 0:
        command_done(command, rc, 0, 0, 0, NULL, 0)
        return
    if overtaken(command):
        # What it keeps is said durably, and nothing was let go of yet: the next one decides by that.
        return
    if volume.views > 0 or volume.reading > 0 or not flush_idle(volume):
        # Reads of the old content that began meanwhile finish first, and so does a round that only moves the log's tail
        # or lists a map: its end would say that what it found applied still is.
        command.timer.fire = on_retry
        timer_set(command.core.reactor, &command.timer, now_boot(command.core.reactor) + RETRY_NS)
        return
    dirty_cut_above(command.core, volume, 0)
    resize_cut(volume, 0)
    table_forget(volume)
    punch_forget(volume)
    if command.stage == KEEP_NOTHING:
        frames_forget(command.core, volume)
        cache_forget(command.core, volume)
    log_forget_to(volume, log.head_lsn)
    log.head_lsn = 0
    log.durable_lsn = 0
    log.tail_lsn = 0
    log.head_check = 0
    log.tail_check = 0
    log.free_lsn = 0
    log.free_floor = log.head_offset
    log.term_count = 0
    log.must_reach = 0
    log.let_go_lsn = 0
    volume.commit_lsn = 0
    volume.applied_lsn = 0
    volume.extents_lsn = 0
    volume.suspect = False
    volume.super.now.applied_lsn = 0
    joint_forget(volume)
    log_anchor(volume, 0)
    volume.super.now.tail_lsn = 0
    volume.super.now.tail_check = 0
    volume.super.now.tail_offset = log.head_offset
    answer(command, 0)


cdef void on_retry(Timer *timer) noexcept nogil:
    on_durable(&(<Command *>timer.owner).waiter, 0)


cdef void on_cut(Waiter *waiter, int rc) noexcept nogil:
    answer(<Command *>waiter.owner, rc)


cdef void answer(Command *command, int rc) noexcept nogil:
    cdef Volume *volume = command.volume
    cdef uint64_t *words = NULL
    if rc == 0:
        words = <uint64_t *>malloc(40)
    if words == NULL:
        command_done(command, rc if rc < 0 else -EIO, 0, 0, 0, NULL, 0)
        return
    if command.stage == KEEP_ALL:
        volume.joined = command_of_term(command) and command.number == volume.readied
    words[0] = volume.super.now.base_cursor
    words[1] = volume.super.now.base_from
    words[2] = volume.super.now.base_lsn
    words[3] = volume.super.now.base_patched
    words[4] = volume.pages
    command_done(
        command, 0, command.stage, volume.log.head_lsn, volume.log.head_check, <uint8_t *>words, 40
    )


cdef void do_prepared(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = command_new(core, volume, mail)
    if command == NULL:
        return
    command.number = volume.readied
    command.waiter.wake = on_prepared
    super_write(volume, &command.waiter)


cdef void on_prepared(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if rc == 0:
        command.volume.joined = command_of_term(command) and command.number == command.volume.readied
    command_done(command, rc, 0, 0, 0, NULL, 0)
