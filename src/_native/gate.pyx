"""The gate of a volume and its fence timer.

Safety argument. A peer that grants promises not to serve in a newer epoch, and to answer a fence with the time its
promise still runs, counted from when it *read* the request. The right derived from it here counts from when the
request was *sent*, is shortened by 1 % and 5 ms, and must hold on two clocks: CLOCK_BOOTTIME, which counts suspend, and
CLOCK_MONOTONIC_RAW, which no time daemon slews. So whatever the delays, the right ends before the promise does. A new
primary waits for the longest promise named by any member it needs; every member this gate needs is such a member or
was shrunk out by a minted line, which a primary acts on only after it was recorded. The check reads the clocks itself,
at admission and again before the answer leaves, so a process that was stopped in between answers with an error.
"""

from libc.stdint cimport int32_t, uint64_t

from sparrow._native.events cimport EVENT_GATE_CLOSED, EVENT_GATE_OPENED
from sparrow._native.mailbox cimport Mail
from sparrow._native.reactor cimport Timer, now_boot, now_raw, send_up, task_queue, timer_clear, timer_set
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
    cdef Core *core = <Core *>volume.reactor.core
    cdef uint64_t boot = FOREVER
    cdef uint64_t raw = FOREVER
    cdef uint64_t now = now_boot(volume.reactor)
    cdef uint64_t earliest
    cdef Peer *peer
    cdef int i
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        if peer != NULL and peer.needed:
            boot = min(boot, peer.right_boot)
            raw = min(raw, peer.right_raw)
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
    earliest = max(volume.gate.not_before, core.hold_off_ns)
    if now < earliest:
        timer_set(volume.reactor, &volume.gate.timer, earliest)
        return
    if now < boot and now_raw(volume.reactor) < raw:
        volume.gate.open = True
        volume.gate.opened += 1
        tell(volume, EVENT_GATE_OPENED, 0, 0)
        if boot != FOREVER:
            timer_set(volume.reactor, &volume.gate.timer, boot)
        task_queue(volume.reactor, &volume.resume_task)


cdef void gate_close(Volume *volume, int cause) noexcept nogil:
    volume.gate.allowed = False
    timer_clear(volume.reactor, &volume.gate.timer)
    if volume.gate.open:
        shut(volume, cause)
    else:
        task_queue(volume.reactor, &volume.resume_task)


cdef void on_timer(Timer *timer) noexcept nogil:
    gate_update(<Volume *>timer.owner)


cdef void gate_init(Volume *volume) noexcept nogil:
    volume.gate.timer.fire = on_timer
    volume.gate.timer.owner = volume
    volume.gate.deadline_boot = FOREVER
    volume.gate.deadline_raw = FOREVER
