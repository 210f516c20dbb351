"""Grants: a quarter of their length apart, on a connection of their own, for all volumes of a node pair at once.

Safety argument: see gate.pyx. Here: the right runs from the stamps sent with the ask, so any delay of the answer shortens
it; the promise runs from reading the ask. A grant is given only for the term promised durably, and a fence stops
granting before it is answered. `other` remembers the longest promise given in an older term; it is what a fence answers.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.events cimport EVENT_GRANT_LINK_LOST, EVENT_NEWER_EPOCH, event_up
from sparrow._native.gate cimport CAUSE_SUPERSEDED, gate_close, gate_update
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_GRANT_ASK_MAGIC, SP_GRANT_ASK_SIZE, SP_GRANT_ENTRY_SIZE, SP_GRANT_REPLY_MAGIC, SP_GRANT_REPLY_SIZE,
    SP_GRANT_VERDICT_SIZE, SP_GRANT_VOLUMES_MAX, SP_STATE_CLEAN, SP_STATE_REBUILDING, SP_VERDICT_GRANTED,
    SP_VERDICT_NEWER, SP_VERDICT_NOT_PROMISED, sp_grant_ask, sp_grant_entry, sp_grant_reply, sp_grant_verdict,
)
from sparrow._native.mailbox cimport Mail
from sparrow._native.reactor cimport Timer, now_boot, now_raw, send_up, timer_set
from sparrow._native.sys cimport (
    ENOMEM, IPPROTO_TCP, TCP_NODELAY, calloc, free, memmove, memset, setsockopt, sp_crc32c,
)
from sparrow._native.volume cimport GRANT_BYTES, PEERS_MAX, Core, GrantLink, Peer, Volume

cdef uint64_t MARGIN_NS = 5000000


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
            else:
                ask(link)
        link = next_one
    timer_set(core.reactor, timer, now_boot(core.reactor) + core.grant_ns // 4)


cdef void grants_hurry(Core *core) noexcept nogil:
    timer_set(core.reactor, &core.grant_timer, 1)


cdef int grant_link(Core *core, int fd, bint asks, uint32_t node_key) noexcept nogil:
    cdef GrantLink *link = <GrantLink *>calloc(1, sizeof(GrantLink))
    cdef int one = 1
    if link == NULL:
        return -ENOMEM
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(int))
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


cdef void send(GrantLink *link, uint32_t size) noexcept nogil:
    link.iov.iov_base = link.out_bytes
    link.iov.iov_len = size
    link.msg.msg_iov = &link.iov
    link.msg.msg_iovlen = 1
    link.core.reactor.io.send(&link.core.reactor.io, &link.send_op, link.fd, &link.msg)


cdef void on_received(Op *op, int32_t res) noexcept nogil:
    cdef GrantLink *link = <GrantLink *>op.owner
    cdef uint32_t size
    cdef uint32_t entry = SP_GRANT_VERDICT_SIZE if link.asks else SP_GRANT_ENTRY_SIZE
    cdef uint32_t magic = <uint32_t>(SP_GRANT_REPLY_MAGIC if link.asks else SP_GRANT_ASK_MAGIC)
    cdef sp_grant_ask *head = <sp_grant_ask *>link.in_bytes
    if link.over or res <= 0:
        finish(link)
        return
    link.have += res
    # Both heads have 32 bytes, begin with magic and count, and differ in where the check stands.
    while link.have >= SP_GRANT_ASK_SIZE:
        if head.magic != magic or head.count > SP_GRANT_VOLUMES_MAX:
            finish(link)
            return
        size = SP_GRANT_ASK_SIZE + head.count * entry
        if link.have < size:
            break
        if not (take_reply(link, size) if link.asks else serve(link, size)):
            finish(link)
            return
        link.have -= size
        memmove(link.in_bytes, link.in_bytes + size, link.have)
    receive(link)


# ---------------------------------------------------------------- asking

cdef bint wants(Volume *volume, uint32_t node_key) noexcept nogil:
    """Any peer on that node: pending ones too, for a grant must be held before Grow is asked."""
    cdef int i
    if volume == NULL or not volume.opened or not volume.primary or volume.condemned:
        return False
    for i in range(PEERS_MAX):
        if (
            volume.peers[i] != NULL
            and volume.peers[i].node_key == node_key
            and (volume.peers[i].needed or volume.peers[i].ship != NULL)
        ):
            return True
    return False


cdef void ask(GrantLink *link) noexcept nogil:
    cdef Core *core = link.core
    cdef sp_grant_ask *head = <sp_grant_ask *>link.out_bytes
    cdef sp_grant_entry *entry
    cdef Volume *volume
    cdef uint32_t i
    cdef uint32_t count = 0
    if link.send_op.busy or link.waiting:
        return
    for i in range(1, core.volume_room):
        volume = core.volumes[i]
        if count == SP_GRANT_VOLUMES_MAX or not wants(volume, link.node_key):
            continue
        entry = <sp_grant_entry *>(link.out_bytes + SP_GRANT_ASK_SIZE + count * SP_GRANT_ENTRY_SIZE)
        entry.volume_key = volume.key
        entry.epoch = volume.term_epoch
        entry.start = volume.term_start
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
    cdef uint32_t check = head.check
    cdef uint32_t i
    cdef int k
    head.check = 0
    if check != sp_crc32c(0, head, size) or not link.waiting or head.count != link.asked_count:
        return False
    link.waiting = False
    # The cluster's constant bounds what is believed; then 1 % for drift and a margin.
    length = min(<uint64_t>head.granted_ms * 1000000, core.grant_ns)
    length = length - length // 100 - MARGIN_NS if length > 2 * MARGIN_NS else 0
    for i in range(head.count):
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
        if verdict.verdict == SP_VERDICT_NEWER and verdict.promised_epoch > volume.term_epoch:
            gate_close(volume, CAUSE_SUPERSEDED)
            event_up(volume, EVENT_NEWER_EPOCH, verdict.promised_epoch, 0, 0, 0)
        if verdict.verdict != SP_VERDICT_GRANTED:
            continue
        for k in range(PEERS_MAX):
            peer = volume.peers[k]
            if peer != NULL and peer.node_key == link.node_key:
                peer.right_boot = max(peer.right_boot, head.stamp_boot_ns + length)
                peer.right_raw = max(peer.right_raw, head.stamp_raw_ns + length)
                peer.heard_ns = now_boot(core.reactor)
        gate_update(volume)
    return True


# ---------------------------------------------------------------- granting

cdef Volume *volume_of_key(Core *core, uint64_t key) noexcept nogil:
    cdef uint32_t i
    for i in range(1, core.volume_room):
        if core.volumes[i] != NULL and core.volumes[i].key == key and core.volumes[i].opened:
            return core.volumes[i] if not core.volumes[i].closing else NULL
    return NULL


cdef uint32_t judge(Core *core, const sp_grant_entry *entry, uint64_t *promised) noexcept nogil:
    cdef Volume *volume = volume_of_key(core, entry.volume_key)
    promised[0] = 0
    if volume == NULL:
        return SP_VERDICT_NOT_PROMISED
    promised[0] = volume.super.now.promised_epoch
    if volume.super.now.promised_epoch > entry.epoch:
        return SP_VERDICT_NEWER
    if (
        volume.super.now.promised_epoch != entry.epoch
        or volume.super.now.promised_start != entry.start
        or volume.primary
        or not volume.promise_durable
        or volume.suspect
        or volume.condemned
        or (volume.super.now.state != SP_STATE_CLEAN and volume.super.now.state != SP_STATE_REBUILDING)
    ):
        return SP_VERDICT_NOT_PROMISED
    volume.grant_boot = max(volume.grant_boot, now_boot(core.reactor) + core.grant_ns)
    volume.grant_raw = max(volume.grant_raw, now_raw(core.reactor) + core.grant_ns)
    volume.heard_ns = now_boot(core.reactor)
    return SP_VERDICT_GRANTED


cdef bint serve(GrantLink *link, uint32_t size) noexcept nogil:
    cdef Core *core = link.core
    cdef sp_grant_ask *asked = <sp_grant_ask *>link.in_bytes
    cdef sp_grant_reply *head = <sp_grant_reply *>link.out_bytes
    cdef const sp_grant_entry *entry
    cdef sp_grant_verdict *verdict
    cdef uint64_t promised
    cdef uint32_t check = asked.check
    cdef uint32_t i
    asked.check = 0
    # A peer asks again only after the answer, so the answer before must have left.
    if check != sp_crc32c(0, asked, size) or link.send_op.busy:
        return False
    memset(link.out_bytes, 0, SP_GRANT_REPLY_SIZE + asked.count * SP_GRANT_VERDICT_SIZE)
    for i in range(asked.count):
        entry = <const sp_grant_entry *>(link.in_bytes + SP_GRANT_ASK_SIZE + i * SP_GRANT_ENTRY_SIZE)
        verdict = <sp_grant_verdict *>(link.out_bytes + SP_GRANT_REPLY_SIZE + i * SP_GRANT_VERDICT_SIZE)
        verdict.volume_key = entry.volume_key
        verdict.verdict = judge(core, entry, &promised)
        verdict.promised_epoch = promised
    head.magic = <uint32_t>SP_GRANT_REPLY_MAGIC
    head.count = asked.count
    head.stamp_boot_ns = asked.stamp_boot_ns
    head.stamp_raw_ns = asked.stamp_raw_ns
    head.granted_ms = <uint32_t>(core.grant_ns // 1000000)
    size = SP_GRANT_REPLY_SIZE + asked.count * SP_GRANT_VERDICT_SIZE
    head.check = sp_crc32c(0, head, size)
    send(link, size)
    return True


cdef void grant_stop(Volume *volume) noexcept nogil:
    volume.other_boot = max(volume.other_boot, volume.grant_boot)
    volume.other_raw = max(volume.other_raw, volume.grant_raw)
    volume.grant_boot = 0
    volume.grant_raw = 0


cdef uint64_t promise_left(Volume *volume) noexcept nogil:
    """A promise runs until both clocks have passed it."""
    cdef Core *core = <Core *>volume.reactor.core
    cdef uint64_t boot = now_boot(volume.reactor)
    cdef uint64_t raw = now_raw(volume.reactor)
    cdef uint64_t left = 0
    if volume.other_boot > boot:
        left = volume.other_boot - boot
    if volume.other_raw > raw:
        left = max(left, volume.other_raw - raw)
    if core.hold_off_ns > boot:
        left = max(left, core.hold_off_ns - boot)
    return left
