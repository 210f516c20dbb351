"""What must be true of every replica after every turn of its machine: the order of LSNs (volume.pxd), and one who
serves."""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.gate cimport gate_is_open
from sparrow._native.io.sim cimport HOSTS_MAX, Host
from sparrow._native.volume cimport Core, Volume

cdef enum:
    WATCHED = 64           # volumes of a simulated node have low numbers


cdef void watch(Host *host) noexcept nogil:
    """Look at every replica of a host that had its turn."""
    cdef Core *core = <Core *>host.reactor.core
    cdef Volume *volume
    cdef uint64_t gates = 0
    cdef uint32_t i
    for i in range(1, WATCHED):
        volume = core.volumes[i]
        if volume == NULL or not volume.opened:
            continue
        if volume.applied_lsn > volume.commit_lsn:
            report(host, b"an entry was applied that is not committed")
        elif volume.applied_lsn > volume.log.durable_lsn:
            report(host, b"an entry was applied that is not durable in this log")
        elif volume.log.durable_lsn > volume.log.head_lsn or volume.commit_lsn > volume.log.head_lsn:
            report(host, b"an entry is durable or committed that was never logged")
        elif (
            # What it inherits it may have heard to be committed elsewhere before its own disk had it (ack=quorum).
            volume.primary and volume.commit_lsn > volume.log.durable_lsn
            and 0 < volume.term_start_lsn <= volume.commit_lsn
        ):
            report(host, b"a primary committed an entry that is not durable on its own disk")
        elif volume.gate.open and gate_is_open(volume):
            gates |= <uint64_t>1 << i
            watch_others(host, volume)
    if gates & ~host.gates:
        host.room.openings += 1
    host.gates = gates


cdef void watch_others(Host *host, Volume *volume) noexcept nogil:
    """Nobody else serves the volume that is served here; a stopped process serves nothing."""
    cdef Host *other
    cdef Volume *theirs
    cdef Core *core
    cdef uint32_t i, j
    for i in range(HOSTS_MAX):
        other = &host.room.hosts[i]
        if i == host.index or other.reactor == NULL or other.stopped:
            continue
        core = <Core *>other.reactor.core
        for j in range(1, WATCHED):
            theirs = core.volumes[j]
            if theirs != NULL and theirs.key == volume.key and theirs.opened and gate_is_open(theirs):
                report(host, b"two replicas of one volume may serve at one time")


cdef void report(Host *host, const char *bug) noexcept nogil:
    if host.room.bug == NULL:
        host.room.bug = bug
        host.room.bug_host = host.index
