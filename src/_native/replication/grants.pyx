"""Grants: a quarter of their length apart, on a connection of their own, for all volumes of a node pair at once.

Safety argument: see gate.pyx. Here: the right runs from the stamps sent with the ask, so any delay of the answer
shortens it. What is promised for it, and how that is taken back, is in promises.pyx.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.ahead cimport AHEAD, ahead_links, ahead_of, ahead_peers, ahead_volume, volume_in
from sparrow._native.events cimport EVENT_GRANT_LINK_LOST, EVENT_NEWER_EPOCH, event_up
from sparrow._native.gate cimport CAUSE_SUPERSEDED, gate_close, gate_update
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_ASK_GRANT, SP_ASK_LINKED, SP_GRANT_ASK_MAGIC, SP_GRANT_ASK_SIZE, SP_GRANT_ENTRY_SIZE, SP_GRANT_RELEASE_MAGIC,
    SP_GRANT_RELEASE_SIZE, SP_GRANT_RELEASES_MAX, SP_GRANT_REPLY_MAGIC, SP_GRANT_REPLY_SIZE, SP_GRANT_VERDICT_SIZE,
    SP_GRANT_VOLUMES_MAX, SP_VERDICT_FOLLOWS, SP_VERDICT_GRANTED, SP_VERDICT_NEWER, sp_grant_ask, sp_grant_entry,
    sp_grant_release, sp_grant_reply, sp_grant_verdict,
)
from sparrow._native.mailbox cimport Mail
from sparrow._native.reactor cimport Timer, now_boot, now_raw, send_up, timer_set
from sparrow._native.replication.promises cimport promise_forget, promise_give
from sparrow._native.replication.receive cimport END_SILENT, follow_drop
from sparrow._native.replication.ship cimport LOST_SILENT, ship_drop
from sparrow._native.sys cimport ENOMEM, calloc, free, memcpy, memmove, memset, sp_crc32c
from sparrow._native.volume cimport GRANT_BYTES, PEERS_MAX, RELEASES_MAX, Core, Follow, GrantLink, Peer, Ship, Volume
from sparrow._native.wal.windows cimport windows_rest

cdef uint64_t MARGIN_NS = 5000000
#: A ship link of which the other end shows nothing for this long is over.
cdef uint64_t SILENCE_NS = 3000000000


cdef void grants_open(Core *core) noexcept nogil:
    core.grant_timer.fire = on_grant_timer
    core.grant_timer.owner = core


cdef void on_grant_timer(Timer *timer) noexcept nogil:
    cdef Core *core = <Core *>timer.owner
    cdef GrantLink *link = core.grants
    cdef GrantLink *next_one
    cdef uint64_t now = now_boot(core.reactor)
    while link != NULL:
        next_one = link.next
        if link.asks and not link.over:
            if link.waiting and now - link.asked_ns > 2 * core.grant_ns:
                # An answer now would be worth nothing, and TCP may take minutes to notice: a new link is found sooner.
                finish(link)
            elif link.release_count > 0:
                release(link)
            else:
                ask(link)
        link = next_one
    end_silent(core)
    windows_rest(core)
    timer_set(core.reactor, timer, now_boot(core.reactor) + core.grant_ns // 4)


cdef void grants_hurry(Core *core) noexcept nogil:
    timer_set(core.reactor, &core.grant_timer, 1)


cdef int grant_link(Core *core, int fd, bint asks, uint32_t node_key) noexcept nogil:
    cdef GrantLink *link = <GrantLink *>calloc(1, sizeof(GrantLink))
    if link == NULL:
        return -ENOMEM
    core.reactor.io.no_delay(&core.reactor.io, fd)
    link.core = core
    link.fd = fd
    link.asks = asks
    link.node_key = node_key
    link.recv_op.done = on_received
    link.recv_op.owner = link
    link.send_op.done = on_sent
    link.send_op.owner = link
    link.next = core.grants
    core.grants = link
    receive(link)
    if asks:
        grants_hurry(core)
    return 0


cdef void finish(GrantLink *link) noexcept nogil:
    """End the link; freed when the kernel holds nothing of it."""
    cdef Core *core = link.core
    cdef GrantLink **at
    cdef Mail mail
    if not link.over:
        link.over = True
        if link.asks and not core.leaving:
            memset(&mail, 0, sizeof(Mail))
            mail.kind = EVENT_GRANT_LINK_LOST
            mail.a = link.node_key
            send_up(core.reactor, &mail)
        core.reactor.io.shutdown(&core.reactor.io, link.fd)
        core.reactor.io.cancel(&core.reactor.io, &link.recv_op)
        core.reactor.io.cancel(&core.reactor.io, &link.send_op)
    if link.recv_op.busy or link.send_op.busy:
        return
    at = &core.grants
    while at[0] != link:
        at = &at[0].next
    at[0] = link.next
    core.reactor.io.close(&core.reactor.io, link.fd)
    free(link)


cdef void grants_close(Core *core) noexcept nogil:
    cdef GrantLink *link = core.grants
    cdef GrantLink *next_one
    while link != NULL:
        next_one = link.next
        if not link.over:
            finish(link)
        link = next_one


cdef void receive(GrantLink *link) noexcept nogil:
    link.core.reactor.io.recv(
        &link.core.reactor.io, &link.recv_op, link.fd, link.in_bytes + link.have, GRANT_BYTES - link.have
    )


cdef void on_sent(Op *op, int32_t res) noexcept nogil:
    cdef GrantLink *link = <GrantLink *>op.owner
    if link.over or res <= 0:
        finish(link)
        return
    if <size_t>res < link.iov.iov_len:
        link.iov.iov_base = <uint8_t *>link.iov.iov_base + res
        link.iov.iov_len -= res
        link.core.reactor.io.send(&link.core.reactor.io, &link.send_op, link.fd, &link.msg)
    elif link.release_count > 0:
        release(link)
    elif link.asks and not link.waiting:
        # A release left; what is asked for next is not to wait for its turn.
        ask(link)


cdef void send(GrantLink *link, uint32_t size) noexcept nogil:
    link.iov.iov_base = link.out_bytes
    link.iov.iov_len = size
    link.msg.msg_iov = &link.iov
    link.msg.msg_iovlen = 1
    link.core.reactor.io.send(&link.core.reactor.io, &link.send_op, link.fd, &link.msg)


cdef void on_received(Op *op, int32_t res) noexcept nogil:
    cdef GrantLink *link = <GrantLink *>op.owner
    cdef uint32_t size, entry, count_max
    cdef bint good
    cdef sp_grant_ask *head = <sp_grant_ask *>link.in_bytes
    if link.over or res <= 0:
        finish(link)
        return
    link.have += res
    # All heads have 32 bytes and begin with magic and count; in a reply the check stands elsewhere.
    while link.have >= SP_GRANT_ASK_SIZE:
        count_max = <uint32_t>SP_GRANT_VOLUMES_MAX
        if link.asks and head.magic == <uint32_t>SP_GRANT_REPLY_MAGIC:
            entry = SP_GRANT_VERDICT_SIZE
        elif not link.asks and head.magic == <uint32_t>SP_GRANT_ASK_MAGIC:
            entry = SP_GRANT_ENTRY_SIZE
        elif not link.asks and head.magic == <uint32_t>SP_GRANT_RELEASE_MAGIC:
            entry = SP_GRANT_RELEASE_SIZE
            count_max = <uint32_t>SP_GRANT_RELEASES_MAX
        else:
            finish(link)
            return
        if head.count > count_max:
            finish(link)
            return
        size = SP_GRANT_ASK_SIZE + head.count * entry
        if link.have < size:
            break
        if link.asks:
            good = take_reply(link, size)
        elif head.magic == <uint32_t>SP_GRANT_RELEASE_MAGIC:
            good = take_release(link, size)
        else:
            good = serve(link, size)
        if not good:
            finish(link)
            return
        link.have -= size
        memmove(link.in_bytes, link.in_bytes + size, link.have)
    receive(link)


# ---------------------------------------------------------------- asking

cdef uint32_t wants(Volume *volume, uint32_t node_key) noexcept nogil:
    """Flags of the entry for a peer on that node, 0 for no entry. Pending ones too: Grow is asked with a grant held."""
    cdef uint32_t flags = 0
    cdef Peer *peer
    cdef int i
    if volume == NULL or not volume.opened or not volume.primary:
        return 0
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        if peer == NULL or peer.node_key != node_key:
            continue
        if peer.ship != NULL:
            flags |= <uint32_t>SP_ASK_LINKED
            if peer.ship.alive_ns == 0:
                peer.ship.alive_ns = now_boot(volume.reactor)
        if (peer.needed or peer.one_of or peer.ship != NULL) and not volume.condemned and not volume.gate.released:
            flags |= <uint32_t>SP_ASK_GRANT
    return flags


cdef inline void ahead_of_asked(GrantLink *link, uint32_t i, uint32_t count) noexcept nogil:
    """For a walk over the entries of an ask that is at entry `i`."""
    if i + AHEAD < count:
        ahead_volume(volume_in(link.core, link.asked[i + AHEAD]))
    if i + AHEAD // 2 < count:
        ahead_peers(volume_in(link.core, link.asked[i + AHEAD // 2]))
    if i + AHEAD // 3 < count:
        ahead_links(volume_in(link.core, link.asked[i + AHEAD // 3]))


cdef void ask(GrantLink *link) noexcept nogil:
    cdef Core *core = link.core
    cdef sp_grant_ask *head = <sp_grant_ask *>link.out_bytes
    cdef sp_grant_entry *entry
    cdef Volume *volume
    cdef uint32_t i, flags
    cdef uint32_t count = 0
    if link.send_op.busy or link.waiting:
        return
    for i in range(1, core.volume_end):
        ahead_of(core, i)
        volume = core.volumes[i]
        flags = wants(volume, link.node_key) if count < <uint32_t>SP_GRANT_VOLUMES_MAX else 0
        if flags == 0:
            continue
        entry = <sp_grant_entry *>(link.out_bytes + SP_GRANT_ASK_SIZE + count * SP_GRANT_ENTRY_SIZE)
        memset(entry, 0, SP_GRANT_ENTRY_SIZE)
        entry.volume_key = volume.key
        entry.epoch = volume.term_epoch
        entry.start = volume.term_start
        entry.flags = flags
        link.asked[count] = i
        link.asked_epoch[count] = volume.term_epoch
        link.asked_start[count] = volume.term_start
        count += 1
    if count == 0:
        return
    link.asked_count = count
    link.waiting = True
    memset(head, 0, SP_GRANT_ASK_SIZE)
    head.magic = <uint32_t>SP_GRANT_ASK_MAGIC
    head.count = count
    # Stamped last: the right counts from here.
    link.asked_ns = now_boot(core.reactor)
    head.stamp_boot_ns = link.asked_ns
    head.stamp_raw_ns = now_raw(core.reactor)
    head.check = sp_crc32c(0, head, SP_GRANT_ASK_SIZE + count * SP_GRANT_ENTRY_SIZE)
    send(link, SP_GRANT_ASK_SIZE + count * SP_GRANT_ENTRY_SIZE)


cdef bint take_reply(GrantLink *link, uint32_t size) noexcept nogil:
    cdef Core *core = link.core
    cdef sp_grant_reply *head = <sp_grant_reply *>link.in_bytes
    cdef sp_grant_verdict *verdict
    cdef Volume *volume
    cdef Peer *peer
    cdef uint64_t length
    cdef uint64_t now = now_boot(core.reactor)
    cdef uint32_t check = head.check
    cdef uint32_t i
    cdef int k
    head.check = 0
    if check != sp_crc32c(0, head, size) or not link.waiting or head.count != link.asked_count:
        return False
    if head.stamp_boot_ns != link.asked_ns:
        # One ask is outstanding at a time: no other stamp can be the answer's.
        return False
    link.waiting = False
    # The cluster's constant bounds what is believed; then 1 % for drift and a margin.
    length = min(<uint64_t>head.granted_ms * 1000000, core.grant_ns)
    length = length - length // 100 - MARGIN_NS if length > 2 * MARGIN_NS else 0
    for i in range(head.count):
        ahead_of_asked(link, i, head.count)
        verdict = <sp_grant_verdict *>(link.in_bytes + SP_GRANT_REPLY_SIZE + i * SP_GRANT_VERDICT_SIZE)
        volume = core.volumes[link.asked[i]]
        if (
            volume == NULL
            or volume.key != verdict.volume_key
            or not volume.primary
            or volume.term_epoch != link.asked_epoch[i]
            or volume.term_start != link.asked_start[i]
        ):
            continue
        link_proved(volume, link.node_key, head.stamp_boot_ns, now, (verdict.flags & <uint32_t>SP_VERDICT_FOLLOWS) != 0)
        if verdict.verdict == SP_VERDICT_NEWER and verdict.promised_epoch > volume.term_epoch:
            gate_close(volume, CAUSE_SUPERSEDED)
            event_up(volume, EVENT_NEWER_EPOCH, verdict.promised_epoch, 0, 0, 0)
        if verdict.verdict != SP_VERDICT_GRANTED or head.stamp_boot_ns <= volume.gate.released_ns:
            continue
        for k in range(PEERS_MAX):
            peer = volume.peers[k]
            if peer != NULL and peer.node_key == link.node_key:
                peer.right_boot = max(peer.right_boot, head.stamp_boot_ns + length)
                peer.right_raw = max(peer.right_raw, head.stamp_raw_ns + length)
                peer.heard_ns = now
        gate_update(volume)
    return True


# ---------------------------------------------------------------- dead links
#
# A machine that loses power says nothing: the other end of its connections learns of it when it sends something, and a
# link of an idle volume sends nothing for hours. So each ask says for every volume whether the asker has a ship link to
# this node, each answer whether there is one of that term here, and whoever has one that the other has not ends it.
#
# The answer to an ask sent after the link's first ack speaks of this link, for it was followed before that ack was
# sent. Asks come by another connection than frames do, so one may be older than a frame already read; the second in a
# row is not, because it was sent after the first was answered. Who hears neither yes nor no for SILENCE_NS ends the
# link too. Ending a link loses nothing: what was acknowledged stays acknowledged, and a new link begins with a join.

cdef void link_proved(
    Volume *volume, uint32_t node_key, uint64_t stamp, uint64_t now, bint follows_it
) noexcept nogil:
    cdef Ship *ship
    cdef int i
    for i in range(PEERS_MAX):
        if volume.peers[i] == NULL or volume.peers[i].node_key != node_key or volume.peers[i].ship == NULL:
            continue
        ship = volume.peers[i].ship
        if follows_it:
            ship.alive_ns = now
        elif ship.acked_ns != 0 and stamp > ship.acked_ns:
            ship_drop(volume.peers[i], LOST_SILENT)


cdef bint follows(Volume *volume, const sp_grant_entry *entry, uint64_t now) noexcept nogil:
    """Whether a ship link of that term is open here. One that its sender has not is ended."""
    cdef Follow *follow = volume.follow if volume != NULL else NULL
    if follow == NULL or follow.epoch != entry.epoch or follow.start != entry.start:
        return False
    if entry.flags & <uint32_t>SP_ASK_LINKED:
        follow.denied = 0
        follow.alive_ns = now
    elif follow.heard:
        follow.denied += 1
        if follow.denied == 2:
            follow_drop(volume, END_SILENT)
            return False
    return True


cdef void end_silent(Core *core) noexcept nogil:
    """Every quarter of a grant. A pause of our own says nothing of others: then all are given time again."""
    cdef uint64_t now = now_boot(core.reactor)
    cdef bint slept = now - core.looked_ns > core.grant_ns
    cdef Volume *volume
    cdef Peer *peer
    cdef uint32_t i
    cdef int k
    core.looked_ns = now
    for i in range(1, core.volume_end):
        ahead_of(core, i)
        volume = core.volumes[i]
        if volume == NULL or not volume.opened:
            continue
        if volume.follow != NULL and volume.follow.alive_ns != 0:
            if slept:
                volume.follow.alive_ns = now
            elif now - volume.follow.alive_ns > SILENCE_NS:
                follow_drop(volume, END_SILENT)
        for k in range(PEERS_MAX):
            peer = volume.peers[k]
            if peer == NULL or peer.ship == NULL or peer.ship.alive_ns == 0:
                continue
            if slept:
                peer.ship.alive_ns = now
            elif now - peer.ship.alive_ns > SILENCE_NS:
                ship_drop(peer, LOST_SILENT)


# ---------------------------------------------------------------- giving back

cdef void rights_release(Volume *volume) noexcept nogil:
    """The gate was closed by somebody: every right goes, and those who granted it are told."""
    cdef Core *core = <Core *>volume.reactor.core
    cdef GrantLink *link
    cdef sp_grant_release *entry
    cdef Peer *peer
    cdef int i
    volume.gate.released = True
    volume.gate.released_ns = now_boot(core.reactor)
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        if peer == NULL or peer.right_boot == 0:
            continue
        peer.right_boot = 0
        peer.right_raw = 0
        link = core.grants
        while link != NULL and not (link.asks and not link.over and link.node_key == peer.node_key):
            link = link.next
        if link == NULL or link.release_count == RELEASES_MAX:
            continue
        entry = &link.releases[link.release_count]
        link.release_count += 1
        entry.volume_key = volume.key
        entry.epoch = volume.term_epoch
        entry.start = volume.term_start
        entry.stamp_boot_ns = volume.gate.released_ns
        # What was built before the gate closed was queued to the ring before this is.
        grants_hurry(core)


cdef void release(GrantLink *link) noexcept nogil:
    cdef sp_grant_ask *head = <sp_grant_ask *>link.out_bytes
    cdef uint32_t size = SP_GRANT_ASK_SIZE + link.release_count * SP_GRANT_RELEASE_SIZE
    if link.send_op.busy:
        return
    memset(head, 0, SP_GRANT_ASK_SIZE)
    head.magic = <uint32_t>SP_GRANT_RELEASE_MAGIC
    head.count = link.release_count
    memcpy(link.out_bytes + SP_GRANT_ASK_SIZE, link.releases, link.release_count * SP_GRANT_RELEASE_SIZE)
    head.check = sp_crc32c(0, head, size)
    link.release_count = 0
    send(link, size)


# ---------------------------------------------------------------- granting

cdef Volume *volume_of_key(Core *core, uint64_t key) noexcept nogil:
    cdef uint32_t i
    for i in range(1, core.volume_end):
        if core.volumes[i] != NULL and core.volumes[i].key == key and core.volumes[i].opened:
            return core.volumes[i] if not core.volumes[i].closing else NULL
    return NULL


cdef inline Volume *volume_at(Core *core, uint32_t index, uint64_t key) noexcept nogil:
    """The volume there, if it is this one and may be asked for."""
    cdef Volume *volume = core.volumes[index] if index < core.volume_room else NULL
    return volume if volume != NULL and volume.key == key and volume.opened and not volume.closing else NULL


cdef Volume *asked_for(GrantLink *link, uint32_t i, uint64_t key) noexcept nogil:
    """The volume of entry `i`. A peer names its volumes in the order of the ask before, so that one's place comes first;
    only the place is remembered, what is there is looked at each time."""
    cdef Volume *volume = volume_at(link.core, link.asked[i], key)
    if volume == NULL:
        volume = volume_of_key(link.core, key)
        link.asked[i] = volume.index if volume != NULL else 0
    return volume


cdef bint serve(GrantLink *link, uint32_t size) noexcept nogil:
    cdef Core *core = link.core
    cdef sp_grant_ask *asked = <sp_grant_ask *>link.in_bytes
    cdef sp_grant_reply *head = <sp_grant_reply *>link.out_bytes
    cdef const sp_grant_entry *entry
    cdef sp_grant_verdict *verdict
    cdef Volume *volume
    cdef uint64_t promised
    cdef uint64_t boot = now_boot(core.reactor)
    cdef uint64_t raw = now_raw(core.reactor)
    cdef uint32_t check = asked.check
    cdef uint32_t i
    asked.check = 0
    # A peer asks again only after the answer, so the answer before must have left.
    if check != sp_crc32c(0, asked, size) or link.send_op.busy:
        return False
    memset(link.out_bytes, 0, SP_GRANT_REPLY_SIZE + asked.count * SP_GRANT_VERDICT_SIZE)
    for i in range(asked.count):
        ahead_of_asked(link, i, asked.count)
        entry = <const sp_grant_entry *>(link.in_bytes + SP_GRANT_ASK_SIZE + i * SP_GRANT_ENTRY_SIZE)
        verdict = <sp_grant_verdict *>(link.out_bytes + SP_GRANT_REPLY_SIZE + i * SP_GRANT_VERDICT_SIZE)
        volume = asked_for(link, i, entry.volume_key)
        verdict.volume_key = entry.volume_key
        verdict.verdict = promise_give(core, volume, entry, asked.stamp_boot_ns, boot, raw, &promised)
        verdict.promised_epoch = promised
        verdict.flags = <uint32_t>SP_VERDICT_FOLLOWS if follows(volume, entry, boot) else 0
    head.magic = <uint32_t>SP_GRANT_REPLY_MAGIC
    head.count = asked.count
    head.stamp_boot_ns = asked.stamp_boot_ns
    head.stamp_raw_ns = asked.stamp_raw_ns
    head.granted_ms = <uint32_t>(core.grant_ns // 1000000)
    size = SP_GRANT_REPLY_SIZE + asked.count * SP_GRANT_VERDICT_SIZE
    head.check = sp_crc32c(0, head, size)
    send(link, size)
    return True


cdef bint take_release(GrantLink *link, uint32_t size) noexcept nogil:
    cdef sp_grant_ask *head = <sp_grant_ask *>link.in_bytes
    cdef const sp_grant_release *entry
    cdef Volume *volume
    cdef uint32_t check = head.check
    cdef uint32_t i
    head.check = 0
    if check != sp_crc32c(0, head, size):
        return False
    for i in range(head.count):
        entry = <const sp_grant_release *>(link.in_bytes + SP_GRANT_ASK_SIZE + i * SP_GRANT_RELEASE_SIZE)
        volume = volume_of_key(link.core, entry.volume_key)
        if volume != NULL:
            promise_forget(volume, entry)
    return True
