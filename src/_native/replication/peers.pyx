"""The peers of a volume: a place for each of PEERS_MAX, found by slot.

The control side knows a peer by its slot, a number that is one replica's for as long as it is a member, and nobody's
afterwards: the id of a replica may come again, with other files on another node, its slot does not. A place is given to
another slot only when nothing refers to who had it.

Safety argument. What may refer to a peer, and why nothing of it is taken for another's:

- Commit and gate count it while it is `needed` or `one_of`. It keeps its place until a membership that names it no more
  is carried out. Whoever comes is new memory: nothing acknowledged, no right, on no node. So where it is needed, commits
  and gate wait until it has spoken for itself.
- Its link, with what hangs on that: the cursor that keeps the log, base lane and granules, whoever waits for an
  acknowledgement. It keeps its place while it has one, and a link that is over refers to no peer.
- Grants under way: asks and answers name volumes, and a right goes to who is on that node when the answer comes. If that
  is another replica on the same node the answer is true of it as well: what was promised there binds whatever holds the
  volume there next, for what a closed replica promised is kept (`closed_boot`).
- What was said to the control side, or is on its way from there: events, a status that is looked at later, commands. They
  name slots, and no slot is given twice; one that has no place here is nobody's.
- Promises, the in-sync set, absence maps, the superblock's record of batches written together: they name terms, replicas
  and LSNs, never a slot.

A member that is idle may lose its place too. It comes back with nothing acknowledged in this term and no right, which
is less than the truth, before it is fed again and says more. A gate that closes does not give back what such a peer
granted: its node waits for the promise to run out, no longer than after a death.

Liveness. A volume has at most MEMBERS_MAX members, and this replica is one of them. Named and fed are members only,
once the newest membership and the drops before it are carried out; so one place is always left. The places of those who
are named no more are counted as free in the same step that names others.
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.sys cimport EAGAIN, EINVAL, ENOMEM, calloc, free
from sparrow._native.volume cimport NONE, PEERS_MAX, Peer, Volume

cdef uint64_t UNKNOWN = <uint64_t>-1


cdef Peer *peer_at(Volume *volume, uint64_t slot) noexcept nogil:
    cdef int i
    for i in range(PEERS_MAX):
        if volume.peers[i] != NULL and volume.peers[i].slot == slot:
            return volume.peers[i]
    return NULL


cdef Peer *made(Volume *volume, uint64_t slot) noexcept nogil:
    cdef Peer *peer = <Peer *>calloc(1, sizeof(Peer))
    if peer != NULL:
        peer.volume = volume
        peer.slot = <uint32_t>slot
        peer.node_key = NONE
        peer.headroom = UNKNOWN
    return peer


cdef bint referred_to(const Peer *peer) noexcept nogil:
    return peer.needed or peer.one_of or peer.ship != NULL or peer.waiters != NULL


cdef int place_left(Volume *volume) noexcept nogil:
    """A place that is empty, else that of the idle peer which was not heard for the longest time; -1 for none."""
    cdef Peer *peer
    cdef int place = -1
    cdef int i
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        if peer == NULL:
            return i
        if not referred_to(peer) and (place < 0 or peer.heard_ns < volume.peers[place].heard_ns):
            place = i
    return place


cdef void put(Volume *volume, int place, Peer *peer) noexcept nogil:
    free(volume.peers[place])
    volume.peers[place] = peer


cdef int peer_for(Volume *volume, uint64_t slot, Peer **found) noexcept nogil:
    cdef int place
    if slot >= NONE:
        return -EINVAL
    found[0] = peer_at(volume, slot)
    if found[0] != NULL:
        return 0
    place = place_left(volume)
    if place < 0:
        return -EAGAIN
    found[0] = made(volume, slot)
    if found[0] == NULL:
        return -ENOMEM
    put(volume, place, found[0])
    return 0


cdef bint is_named(uint32_t slot, const uint32_t *slots, uint64_t first, uint64_t end) noexcept nogil:
    cdef uint64_t i
    for i in range(first, end):
        if slots[i] == slot:
            return True
    return False


cdef int peers_name(Volume *volume, const uint32_t *slots, uint64_t count, uint64_t needed) noexcept nogil:
    cdef Peer *fresh[PEERS_MAX]
    cdef Peer *peer
    cdef uint32_t fresh_count = 0
    cdef uint32_t room = 0
    cdef uint64_t k
    cdef uint32_t i
    cdef int rc = 0
    if count > PEERS_MAX or needed > count:
        return -EINVAL
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        # Named before and not now is no reference any more.
        room += peer == NULL or (
            peer.ship == NULL and peer.waiters == NULL and not is_named(peer.slot, slots, 0, count)
        )
    for k in range(count):
        if slots[k] == NONE:
            rc = -EINVAL
        elif rc == 0 and peer_at(volume, slots[k]) == NULL and not is_named(slots[k], slots, 0, k):
            fresh[fresh_count] = made(volume, slots[k])
            if fresh[fresh_count] == NULL:
                rc = -ENOMEM
            else:
                fresh_count += 1
    if rc == 0 and fresh_count > room:
        rc = -EAGAIN
    if rc < 0:
        for i in range(fresh_count):
            free(fresh[i])
        return rc
    # From here on nothing fails, and nothing else runs before all of it is said.
    for i in range(PEERS_MAX):
        if volume.peers[i] != NULL:
            volume.peers[i].needed = is_named(volume.peers[i].slot, slots, 0, needed)
            volume.peers[i].one_of = is_named(volume.peers[i].slot, slots, needed, count)
    for i in range(fresh_count):
        fresh[i].needed = is_named(fresh[i].slot, slots, 0, needed)
        fresh[i].one_of = is_named(fresh[i].slot, slots, needed, count)
        put(volume, place_left(volume), fresh[i])
    return 0
