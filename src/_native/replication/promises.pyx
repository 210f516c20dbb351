"""Promises: what a replica told the primaries of its terms it would not do without them, and until when.

Safety argument: see gate.pyx. Here: a promise runs from a moment after the ask was read, so after it was stamped: one
moment for all entries of an ask, looked up before the first of them is judged. The right, which runs from the stamp,
ends before it. It is given only for the term promised durably, and a fence stops granting before it is answered. What
was promised in older terms is what a fence answers: `prior` to the newest of them, by name, so that its primary can
give it back; `other` the longest to all before.

A release says: the gate of this term is closed, and no right asked for up to this stamp is used any more. The promise
is forgotten when the stamp is not below that of the newest ask it was given for; asks of that term with a lower stamp
that come later, over whichever connection, are refused. A release that is lost costs the time the promise runs, nothing
else.
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.gate cimport gate_update
from sparrow._native.layout cimport (
    SP_ASK_GRANT, SP_STATE_CLEAN, SP_STATE_REBUILDING, SP_VERDICT_GRANTED, SP_VERDICT_NEWER, SP_VERDICT_NOT_PROMISED,
    sp_grant_entry, sp_grant_release,
)
from sparrow._native.reactor cimport now_boot, now_raw
from sparrow._native.volume cimport Core, Volume


cdef uint32_t promise_give(
    Core *core, Volume *volume, const sp_grant_entry *entry, uint64_t stamp, uint64_t boot, uint64_t raw,
    uint64_t *promised
) noexcept nogil:
    promised[0] = 0
    if volume == NULL or not (entry.flags & <uint32_t>SP_ASK_GRANT):
        return SP_VERDICT_NOT_PROMISED
    promised[0] = volume.super.now.promised_epoch
    if volume.super.now.promised_epoch > entry.epoch:
        return SP_VERDICT_NEWER
    if (
        volume.super.now.promised_epoch != entry.epoch
        or volume.super.now.promised_start != entry.start
        or stamp <= volume.release_stamp
        or volume.primary
        or not volume.promise_durable
        or volume.suspect
        or volume.condemned
        or (volume.super.now.state != SP_STATE_CLEAN and volume.super.now.state != SP_STATE_REBUILDING)
    ):
        return SP_VERDICT_NOT_PROMISED
    volume.grant_boot = max(volume.grant_boot, boot + core.grant_ns)
    volume.grant_raw = max(volume.grant_raw, raw + core.grant_ns)
    volume.grant_stamp = max(volume.grant_stamp, stamp)
    volume.heard_ns = boot
    return SP_VERDICT_GRANTED


cdef void promise_forget(Volume *volume, const sp_grant_release *entry) noexcept nogil:
    if entry.epoch == volume.super.now.promised_epoch and entry.start == volume.super.now.promised_start:
        volume.release_stamp = max(volume.release_stamp, entry.stamp_boot_ns)
        if entry.stamp_boot_ns >= volume.grant_stamp:
            volume.grant_boot = 0
            volume.grant_raw = 0
    elif (
        entry.epoch == volume.prior_epoch
        and entry.start == volume.prior_start
        and entry.stamp_boot_ns >= volume.prior_stamp
    ):
        volume.prior_boot = 0
        volume.prior_raw = 0
        if volume.gate.allowed:
            # This replica is the next primary and waits for just that.
            gate_update(volume)


cdef void grant_stop(Volume *volume) noexcept nogil:
    """The promised term changes: what was promised to the one that was promised until now goes on by its name."""
    if volume.grant_boot == 0:
        return
    volume.other_boot = max(volume.other_boot, volume.prior_boot)
    volume.other_raw = max(volume.other_raw, volume.prior_raw)
    volume.prior_epoch = volume.super.now.promised_epoch
    volume.prior_start = volume.super.now.promised_start
    volume.prior_boot = volume.grant_boot
    volume.prior_raw = volume.grant_raw
    volume.prior_stamp = volume.grant_stamp
    volume.grant_boot = 0
    volume.grant_raw = 0


cdef bint promise_stands(const Volume *volume) noexcept nogil:
    return not volume.primary and now_boot(volume.reactor) < volume.grant_boot


cdef uint64_t left_of(Volume *volume, uint64_t until_boot, uint64_t until_raw) noexcept nogil:
    """A promise runs until both clocks have passed it."""
    cdef uint64_t boot = now_boot(volume.reactor)
    cdef uint64_t raw = now_raw(volume.reactor)
    return max(until_boot - boot if until_boot > boot else 0, until_raw - raw if until_raw > raw else 0)


cdef uint64_t older_left(Volume *volume) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cdef uint64_t boot = now_boot(volume.reactor)
    cdef uint64_t left = left_of(volume, volume.other_boot, volume.other_raw)
    return max(left, core.hold_off_ns - boot if core.hold_off_ns > boot else 0)


cdef uint64_t promise_left(Volume *volume) noexcept nogil:
    return max(left_of(volume, volume.prior_boot, volume.prior_raw), older_left(volume))
