"""Reports: log summary and status, as flat words."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.ahead cimport AHEAD, ahead_of, sp_prefetch, volume_in
from sparrow._native.gate cimport gate_is_open
from sparrow._native.reactor cimport now_boot, now_raw
from sparrow._native.layout cimport SP_ABSENCES_MAX
from sparrow._native.replication.ship cimport WORST_NS
from sparrow._native.sys cimport malloc, memcmp, memcpy, realloc, sp_assert
from sparrow._native.volume cimport PEERS_MAX, Absence, Core, Peer, Volume
from sparrow._native.wal.log cimport log_age

cdef enum:
    HEARD_MS = 300             # authority/evidence.py: PEER_HEARD_S
    STATUS_WORDS_MAX = 512     # more than STATUS_FIXED and all that may follow


cdef uint64_t *put_summary(Volume *volume, uint64_t *to) noexcept nogil:
    """Ten words, then epoch, start and first LSN of each term."""
    cdef uint32_t i
    to[0] = volume.super.now.state
    to[1] = 1 if volume.suspect else 0
    to[2] = volume.log.head_lsn
    to[3] = volume.log.head_check
    to[4] = volume.log.tail_lsn + 1
    to[5] = volume.log.durable_lsn
    to[6] = volume.commit_lsn
    to[7] = volume.applied_lsn
    to[8] = volume.log.must_reach
    to[9] = volume.log.term_count
    to += SUMMARY_FIXED
    for i in range(volume.log.term_count):
        to[0] = volume.log.terms[i].epoch
        to[1] = volume.log.terms[i].start
        to[2] = volume.log.terms[i].first_lsn
        to += 3
    return to


cdef uint8_t *report_summary(Volume *volume, uint64_t *length) noexcept nogil:
    cdef uint64_t *words
    length[0] = (SUMMARY_FIXED + 3 * volume.log.term_count) * 8
    words = <uint64_t *>malloc(length[0])
    if words != NULL:
        put_summary(volume, words)
    return <uint8_t *>words


cdef uint8_t *report_fence(Volume *volume, uint64_t *length) noexcept nogil:
    """The summary, then the term that was promised last before this one, and the last term of this replica's own."""
    cdef uint64_t *words
    cdef uint64_t *to
    length[0] = (SUMMARY_FIXED + 3 * volume.log.term_count + FENCE_WORDS) * 8
    words = <uint64_t *>malloc(length[0])
    if words == NULL:
        return NULL
    to = put_summary(volume, words)
    to[0] = volume.prior_epoch
    to[1] = volume.prior_start
    to[2] = 0 if volume.gate.allowed else volume.term_epoch
    to[3] = volume.term_start
    return <uint8_t *>words


cdef uint8_t *report_status(Volume *volume, uint64_t *length) noexcept nogil:
    cdef uint64_t *words
    length[0] = 8 * status_words(volume)
    words = <uint64_t *>malloc(length[0])
    if words != NULL:
        put_status(volume, words)
    return <uint8_t *>words


# Of every volume the words that were told last are kept, and only what differs from them is told again: an idle volume
# costs one comparison here and nothing in Python. That is right as long as the asker has what was told last. It says so
# by the serial of the answer it took; when that is not the newest one, because an answer came too late for whoever had
# asked, everything is told anew. A volume that was opened since has nothing told, so a number that is used again never
# stands for what the volume before it said.

cdef uint8_t *report_statuses(Core *core, uint64_t taken, uint64_t *length) noexcept nogil:
    """Of every open volume that says something new since the answer `taken`: its index, how many words follow, these."""
    cdef uint64_t *words
    cdef uint64_t *to
    cdef Volume *volume
    cdef uint32_t i
    cdef bint all_of_them = taken != core.told_serial
    core.told_serial += 1
    length[0] = 8
    for i in range(1, core.volume_end):
        ahead_of(core, i)
        ahead_status(volume_in(core, i + AHEAD))
        volume = core.volumes[i]
        if reported(volume):
            volume.telling = says_new(volume) or all_of_them
            if volume.telling:
                length[0] += 8 * (2 + volume.told_words)
    words = <uint64_t *>malloc(length[0])
    if words == NULL:
        return NULL
    to = words
    for i in range(1, core.volume_end):
        volume = core.volumes[i]
        if reported(volume) and volume.telling:
            to[0] = i
            to[1] = volume.told_words
            memcpy(to + 2, volume.told, 8 * volume.told_words)
            to += 2 + volume.told_words
    to[0] = 0
    return <uint8_t *>words


cdef inline void ahead_status(const Volume *volume) noexcept nogil:
    """What a status takes from beyond the lines that grants need."""
    cdef uint32_t i
    if volume == NULL:
        return
    sp_prefetch(&volume.log.head_lsn)
    sp_prefetch(&volume.log.term_count)
    sp_prefetch(&volume.commit_lsn)
    sp_prefetch(&volume.stats)
    sp_prefetch(&volume.sessions)
    sp_prefetch(&volume.told)
    for i in range(SP_ABSENCES_MAX):
        sp_prefetch(&volume.absences[i].used)


cdef bint says_new(Volume *volume) noexcept nogil:
    """Whether its status is another than what was told last; from here on it is what was told."""
    cdef uint64_t words[STATUS_WORDS_MAX]
    cdef uint64_t count = status_words(volume)
    sp_assert(count <= STATUS_WORDS_MAX, b"a status is longer than any can be")
    put_status(volume, words)
    if count == volume.told_words and memcmp(words, volume.told, 8 * count) == 0:
        return False
    if count != volume.told_words:
        volume.told = <uint64_t *>realloc(volume.told, 8 * count)
        sp_assert(volume.told != NULL, b"no memory for an answer")
        volume.told_words = count
    memcpy(volume.told, words, 8 * count)
    return True


cdef inline bint reported(const Volume *volume) noexcept nogil:
    return volume != NULL and volume.opened and not volume.closing


cdef uint64_t silence_ms(uint64_t heard_ns, uint64_t now) noexcept nogil:
    """Less than HEARD_MS is none: nothing tells it apart, and a volume that is idle reports the same again and again."""
    cdef uint64_t silent = (now - heard_ns) // 1000000 if now > heard_ns else 0
    return silent if silent >= HEARD_MS else 0


cdef uint64_t status_words(const Volume *volume) noexcept nogil:
    cdef uint64_t words = STATUS_FIXED + SUMMARY_FIXED + 3 * volume.log.term_count
    cdef uint32_t i
    for i in range(PEERS_MAX):
        if volume.peers[i] != NULL:
            words += PEER_WORDS
    for i in range(SP_ABSENCES_MAX):
        if volume.absences[i].used:
            words += ABSENCE_WORDS
    return words


cdef void put_status(Volume *volume, uint64_t *words) noexcept nogil:
    cdef uint64_t now = now_boot(volume.reactor)
    cdef uint64_t *to
    cdef Peer *peer
    cdef bint waits
    cdef Absence *absence
    cdef uint32_t count = 0
    cdef uint32_t absent = 0
    cdef uint32_t i
    for i in range(PEERS_MAX):
        count += volume.peers[i] != NULL
    for i in range(SP_ABSENCES_MAX):
        absent += volume.absences[i].used
    words[0] = volume.term_epoch
    words[1] = volume.term_start
    words[2] = volume.super.now.promised_epoch
    words[3] = (
        (1 if gate_is_open(volume) else 0)
        | (2 if volume.primary else 0)
        | (4 if volume.condemned or volume.frozen else 0)
        | (8 if volume.pool_full else 0)
        | (16 if volume.frozen and not volume.condemned else 0)
    )
    words[4] = volume.sessions
    words[5] = silence_ms(volume.heard_ns, now)
    if volume.heard_ns == 0 or volume.primary:
        words[5] = <uint64_t>-1
    words[6] = volume.stats.reads
    words[7] = volume.stats.writes
    words[8] = volume.stats.read_bytes
    words[9] = volume.stats.written_bytes
    words[10] = count
    words[11] = log_age(volume, volume.log.durable_lsn, now) // 1000000 if volume.primary else 0
    words[12] = absent
    to = put_summary(volume, words + STATUS_FIXED)
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        if peer == NULL:
            continue
        # Nothing is expected of it: that it says nothing, and lags, would be new each time it is looked at.
        waits = peer.ship != NULL or peer.needed or peer.one_of
        to[0] = peer.slot
        to[1] = 0 if peer.ship == NULL else (2 if peer.ship.rebuild and not peer.ship.rebuilt else 1)
        to[2] = peer.acked_lsn
        to[3] = volume.log.head_lsn
        if peer.ship != NULL and peer.ship.cursor < volume.log.next and peer.ship.cursor >= volume.log.first:
            to[3] = volume.log.recs[peer.ship.cursor % volume.log.room].first_lsn - 1
        to[4] = (
            (1 if peer.right_boot > now and peer.right_raw > now_raw(volume.reactor) else 0)
            | (2 if peer.ship != NULL and peer.headroom == 0 else 0)
        )
        to[5] = silence_ms(peer.heard_ns, now) if waits else 0
        to[6] = 0
        to[7] = 0
        to[8] = 0
        if peer.ship != NULL and peer.ship.rebuild:
            to[6] = peer.ship.base_looked
            to[7] = peer.ship.base_pages
            to[8] = peer.ship.plan.keep
        to[9] = peer.log_bytes
        to[10] = peer.base_bytes
        to[11] = log_age(volume, peer.acked_lsn, now) // 1000000 if waits else 0
        to[12] = max(peer.worst_ns, peer.worst_before_ns) // 1000000
        if now > peer.worst_since_ns + 2 * WORST_NS:
            to[12] = 0
        to += PEER_WORDS
    for i in range(SP_ABSENCES_MAX):
        absence = &volume.absences[i]
        if absence.used:
            memcpy(to, absence.uuid, 16)
            to[2] = absence.from_lsn
            to[3] = absence.changed
            to += ABSENCE_WORDS
