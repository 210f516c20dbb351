"""The gate of a volume and its fence timer.

Safety argument. A peer that grants promises not to serve in a newer epoch, and to answer a fence with the time its
promise still runs, counted from when it *read* the request. The right derived from it here counts from when the request
was *sent*, is shortened by 1 % and 5 ms, and must hold on two clocks: CLOCK_BOOTTIME, which counts suspend, and
CLOCK_MONOTONIC_RAW, which no time daemon slews. So whatever the delays, the right ends before the promise does. A new
primary waits for the longest promise named by any member it needs; every member this gate needs is such a member or was
shrunk out by a minted line, which a primary acts on only after it was recorded. Where the right of one peer is enough
(ack=quorum: `one_of`), a new primary has the answers of all in_sync but one, so of that peer or of this replica. The
check reads the clocks itself, at admission and again before the answer leaves, so a process that was stopped in between
answers with an error.

A gate that is closed by somebody, not by time, is closed for its term. Answers are built only while it is open, and
what is built is with the kernel, so from then on nothing of this term is served and the promises behind it bind nobody
for no reason: they are given back. The release names the moment of the closing; whatever was asked for at or before it
is void on both sides, in whichever order answer, ask and release arrive.
"""

from libc.stdint cimport uint64_t

from sparrow._native.events cimport EVENT_GATE_CLOSED, EVENT_GATE_OPENED
from sparrow._native.front.client cimport ClientHooks, client_moved
from sparrow._native.mailbox cimport Mail
from sparrow._native.reactor cimport Timer, now_boot, now_raw, send_up, task_queue, timer_clear, timer_set
from sparrow._native.replication.grants cimport rights_release
from sparrow._native.replication.promises cimport promise_left
from sparrow._native.sys cimport memset
from sparrow._native.volume cimport PEERS_MAX, Core, Peer, Volume

cdef uint64_t FOREVER = <uint64_t>-1


cdef bint gate_is_open(Volume *volume) noexcept nogil:
    if not volume.gate.open:
        return False
    if volume.gate.deadline_boot == FOREVER:
        return True
    return now_boot(volume.reactor) < volume.gate.deadline_boot and now_raw(volume.reactor) < volume.gate.deadline_raw


cdef bint gate_may_return(Volume *volume) noexcept nogil:
    return volume.gate.allowed and not volume.condemned


cdef void tell(Volume *volume, int kind, int cause, uint64_t lateness_ns) noexcept nogil:
    cdef Mail mail
    memset(&mail, 0, sizeof(Mail))
    mail.kind = kind
    mail.volume = volume.index
    mail.a = volume.term_epoch
    mail.b = volume.term_start
    mail.c = volume.gate.deadline_boot
    mail.d = lateness_ns // 1000
    mail.flags = cause
    send_up(volume.reactor, &mail)


cdef void shut(Volume *volume, int cause) noexcept nogil:
    cdef uint64_t now = now_boot(volume.reactor)
    volume.gate.open = False
    volume.gate.closed_ns = now
    tell(
        volume,
        EVENT_GATE_CLOSED,
        cause,
        now - volume.gate.deadline_boot if cause == CAUSE_GRANT and now > volume.gate.deadline_boot else 0,
    )
    task_queue(volume.reactor, &volume.resume_task)


cdef void gate_update(Volume *volume) noexcept nogil:
    cdef uint64_t boot = FOREVER
    cdef uint64_t raw = FOREVER
    cdef uint64_t now = now_boot(volume.reactor)
    cdef uint64_t earliest
    cdef Peer *peer
    cdef Peer *best = NULL
    cdef int i
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        if peer == NULL:
            continue
        if peer.needed:
            boot = min(boot, peer.right_boot)
            raw = min(raw, peer.right_raw)
        if peer.one_of and (best == NULL or peer.right_boot > best.right_boot):
            best = peer
    if best != NULL:
        # One right on both clocks, not the later of each: two peers that each hold on one clock hold nothing.
        boot = min(boot, best.right_boot)
        raw = min(raw, best.right_raw)
    if volume.gate.open and (now >= boot or now_raw(volume.reactor) >= raw):
        # The deadline it had is what the event reports.
        shut(volume, CAUSE_GRANT)
    volume.gate.deadline_boot = boot
    volume.gate.deadline_raw = raw
    if not volume.gate.allowed or volume.condemned:
        timer_clear(volume.reactor, &volume.gate.timer)
        return
    if volume.gate.open:
        if boot != FOREVER:
            timer_set(volume.reactor, &volume.gate.timer, boot)
        else:
            timer_clear(volume.reactor, &volume.gate.timer)
        return
    # What was promised here to an older primary binds as well, as long as that one does not give it back.
    earliest = max(volume.gate.not_before, now + promise_left(volume))
    if now < earliest:
        timer_set(volume.reactor, &volume.gate.timer, earliest)
        return
    if now < boot and now_raw(volume.reactor) < raw:
        volume.gate.open = True
        volume.gate.opened += 1
        tell(volume, EVENT_GATE_OPENED, 0, 0)
        if not volume.gate.told:
            volume.gate.told = True
            client_moved(<ClientHooks *>(<Core *>volume.reactor.core).hooks, volume)
        if boot != FOREVER:
            timer_set(volume.reactor, &volume.gate.timer, boot)
        task_queue(volume.reactor, &volume.resume_task)


cdef void gate_close(Volume *volume, int cause) noexcept nogil:
    volume.gate.allowed = False
    volume.gate.over = volume.gate.over or cause != CAUSE_COMMAND
    timer_clear(volume.reactor, &volume.gate.timer)
    # A failed disk says so itself; that another path is the one to use is true, and told, when a newer term is known.
    if volume.gate.told and cause != CAUSE_DISK:
        volume.gate.told = False
        client_moved(<ClientHooks *>(<Core *>volume.reactor.core).hooks, volume)
    if volume.gate.open:
        shut(volume, cause)
    else:
        task_queue(volume.reactor, &volume.resume_task)
    rights_release(volume)


cdef bint gate_allow(Volume *volume, uint64_t not_before) noexcept nogil:
    if volume.gate.over:
        return False
    volume.gate.allowed = True
    volume.gate.released = False
    volume.gate.not_before = not_before
    gate_update(volume)
    return True


cdef void gate_begin(Volume *volume) noexcept nogil:
    volume.gate.over = False
    volume.gate.released = False


cdef void on_timer(Timer *timer) noexcept nogil:
    gate_update(<Volume *>timer.owner)


cdef void gate_init(Volume *volume) noexcept nogil:
    volume.gate.timer.fire = on_timer
    volume.gate.timer.owner = volume
    volume.gate.deadline_boot = FOREVER
    volume.gate.deadline_raw = FOREVER
