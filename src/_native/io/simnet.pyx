"""Virtual connections: bytes in order and in arbitrary pieces, late, stalled in one direction, cut off, or half open.

A direction that is cut stalls, as TCP does: what was sent arrives after it is opened again, or never. A process that
is killed resets or ends its connections at the other side; a machine that is lost says nothing, until it runs again
and is sent something it does not know, or until the other end's keepalive gives up.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Io, Op
from sparrow._native.io.sim cimport (
    EVENT_ARRIVE, EVENT_COMPLETE, HOSTS_MAX, SOCKET_FD, Chunk, Event, Host, Room_, Socket,
)
from sparrow._native.io.simtime cimport below, chance, plan
from sparrow._native.io.simwatch cimport report
from sparrow._native.sys cimport ECANCELED, ECONNRESET, EPIPE, free, malloc, memcpy, memset, msghdr, sp_assert

cdef uint64_t LATENCY_MIN_NS = 40000
cdef uint64_t LATENCY_NS = 400000


cdef Socket *socket_of(Room_ *room, int fd) noexcept nogil:
    cdef int index = fd - SOCKET_FD
    if index < 0 or <uint32_t>index >= room.socket_count:
        return NULL
    return room.sockets[index]


cdef inline uint32_t index_of(int fd) noexcept nogil:
    return <uint32_t>(fd - SOCKET_FD)


cdef bint way_is_cut(Room_ *room, uint32_t source, uint32_t target) noexcept nogil:
    return room.cut[source * HOSTS_MAX + target]


cdef uint64_t answer(Room_ *room, Socket *socket, Op *op, int32_t res) noexcept nogil:
    """In a moment, not within the call; when that is."""
    cdef Event event
    memset(&event, 0, sizeof(Event))
    event.kind = EVENT_COMPLETE
    event.host = &room.hosts[socket.host]
    event.generation = socket.generation
    event.op = op
    event.res = res
    event.at = room.now + 1000 + below(room, 8000)
    plan(room, &event)
    return event.at


cdef void look_at(Room_ *room, uint32_t index, uint64_t at) noexcept nogil:
    cdef Event event
    memset(&event, 0, sizeof(Event))
    event.kind = EVENT_ARRIVE
    event.socket = index
    event.at = at
    plan(room, &event)


# ---------------------------------------------------------------- bytes under way

cdef void put(Room_ *room, uint32_t target, const msghdr *msg, uint32_t length, int32_t end) noexcept nogil:
    """Bytes, or an end, for one socket: behind everything sent before."""
    cdef Socket *socket = room.sockets[target]
    cdef Chunk *chunk = <Chunk *>malloc(sizeof(Chunk) + length)
    cdef uint32_t filled = 0
    cdef uint32_t part
    cdef size_t i = 0
    chunk.next = NULL
    chunk.length = length
    chunk.used = 0
    chunk.end = end
    while filled < length:
        part = <uint32_t>min(<size_t>(length - filled), msg.msg_iov[i].iov_len)
        memcpy(chunk.data + filled, msg.msg_iov[i].iov_base, part)
        filled += part
        i += 1
    chunk.at = room.now + LATENCY_MIN_NS + below(room, LATENCY_NS)
    if chance(room, 10000):
        chunk.at += below(room, 30000000)
    if chunk.at <= socket.last_at:
        chunk.at = socket.last_at + 1
    socket.last_at = chunk.at
    if socket.tail == NULL:
        socket.head = chunk
    else:
        socket.tail.next = chunk
    socket.tail = chunk
    socket.bytes += length
    room.sent_bytes += length
    look_at(room, target, chunk.at)


cdef void drop_chunks(Socket *socket) noexcept nogil:
    cdef Chunk *chunk
    while socket.head != NULL:
        chunk = socket.head
        socket.head = chunk.next
        free(chunk)
    socket.tail = NULL
    socket.bytes = 0


cdef void net_look(Room_ *room, uint32_t index) noexcept nogil:
    """Give what has arrived to whoever reads, in a piece of any size."""
    cdef Socket *socket = room.sockets[index]
    cdef Socket *peer
    cdef Chunk *chunk = socket.head
    cdef uint32_t part
    cdef Op *op = socket.recv_op
    if not socket.used or chunk == NULL or chunk.at > room.now:
        return
    if socket.stalled or way_is_cut(room, room.sockets[socket.peer].host, socket.host):
        return
    if chunk.end != 0:
        socket.ended = chunk.end
        if chunk.end < 0:
            fail_send(room, socket)
        if op != NULL:
            socket.recv_op = NULL
            answer(room, socket, op, 0 if socket.ended > 0 else socket.ended)
        return
    if op == NULL:
        return
    part = min(chunk.length - chunk.used, socket.recv_length)
    if part > 1 and chance(room, 100000):
        part = 1 + <uint32_t>below(room, part)
    memcpy(socket.recv_data, chunk.data + chunk.used, part)
    chunk.used += part
    socket.bytes -= part
    if chunk.used == chunk.length:
        socket.head = chunk.next
        if socket.head == NULL:
            socket.tail = NULL
        free(chunk)
    socket.recv_op = NULL
    answer(room, socket, op, <int32_t>part)
    # There is room for what the other side wants to send.
    peer = room.sockets[socket.peer]
    if peer.used and peer.send_op != NULL:
        op = peer.send_op
        peer.send_op = NULL
        push(room, peer, op, peer.send_msg)


cdef void fail_send(Room_ *room, Socket *socket) noexcept nogil:
    cdef Op *op = socket.send_op
    if op != NULL:
        socket.send_op = NULL
        socket.sending = False
        answer(room, socket, op, -EPIPE)


cdef void push(Room_ *room, Socket *socket, Op *op, msghdr *msg) noexcept nogil:
    """As much as there is room for; waits when there is none."""
    cdef Socket *peer = room.sockets[socket.peer]
    cdef uint64_t length = 0
    cdef size_t i
    for i in range(msg.msg_iovlen):
        length += msg.msg_iov[i].iov_len
    if not socket.peer_gone:
        if peer.bytes >= room.window:
            socket.send_op = op
            socket.send_msg = msg
            return
        length = min(length, room.window - peer.bytes)
    if length > 1 and chance(room, 60000):
        length = 1 + below(room, length)
    socket.sending = False
    if not socket.peer_gone:
        put(room, socket.peer, msg, <uint32_t>length, 0)
    elif room.hosts[peer.host].reactor != NULL and not way_is_cut(room, socket.host, peer.host):
        # The machine runs again, or the process is another one: it knows no such connection.
        put(room, index_of_socket(room, socket), NULL, 0, -ECONNRESET)
    socket.sent_at = answer(room, socket, op, <int32_t>length)


cdef uint32_t index_of_socket(Room_ *room, Socket *socket) noexcept nogil:
    return room.sockets[socket.peer].peer


# ---------------------------------------------------------------- the table

cdef void sim_recv(Io *io, Op *op, int fd, void *data, uint32_t length) noexcept nogil:
    cdef Host *host = <Host *>io.impl
    cdef Room_ *room = host.room
    cdef Socket *socket = socket_of(room, fd)
    sp_assert(not op.busy, b"an Op is submitted twice")
    op.busy = True
    if host.doomed:
        return
    sp_assert(socket != NULL and socket.used, b"a socket that nobody gave out")
    sp_assert(socket.recv_op == NULL, b"two reads of one socket at one time")
    if socket.shut or socket.ended != 0:
        answer(room, socket, op, min(socket.ended, 0))
        return
    socket.recv_op = op
    socket.recv_data = data
    socket.recv_length = length
    look_at(room, index_of(fd), room.now)


cdef void sim_send(Io *io, Op *op, int fd, msghdr *msg) noexcept nogil:
    cdef Host *host = <Host *>io.impl
    cdef Room_ *room = host.room
    cdef Socket *socket = socket_of(room, fd)
    sp_assert(not op.busy, b"an Op is submitted twice")
    op.busy = True
    if host.doomed:
        return
    sp_assert(socket != NULL and socket.used, b"a socket that nobody gave out")
    if socket.sending or room.now < socket.sent_at:
        # The kernel keeps no order between two sends of one socket (S31).
        report(host, b"two sends on one socket at one time")
    if socket.shut or socket.ended < 0:
        answer(room, socket, op, -EPIPE)
        return
    socket.sending = True
    push(room, socket, op, msg)


cdef void sim_shutdown(Io *io, int fd) noexcept nogil:
    cdef Host *host = <Host *>io.impl
    cdef Room_ *room = host.room
    cdef Socket *socket = socket_of(room, fd)
    cdef Op *op
    if host.doomed or socket == NULL or not socket.used or socket.shut:
        return
    socket.shut = True
    op = socket.recv_op
    if op != NULL:
        socket.recv_op = NULL
        answer(room, socket, op, 0)
    fail_send(room, socket)
    end_other(room, socket, 1)


cdef void end_other(Room_ *room, Socket *socket, int32_t end) noexcept nogil:
    if not socket.peer_gone and room.sockets[socket.peer].used:
        put(room, socket.peer, NULL, 0, end)


cdef void net_close(Room_ *room, uint32_t index) noexcept nogil:
    cdef Socket *socket = room.sockets[index]
    if not socket.used:
        return
    sp_assert(socket.recv_op == NULL and socket.send_op == NULL, b"a socket is closed while it is read or written")
    if not socket.shut:
        end_other(room, socket, 1 if socket.bytes == 0 else -ECONNRESET)
    socket.used = False
    room.sockets[socket.peer].peer_gone = True
    drop_chunks(socket)


cdef void sim_close(Io *io, int fd) noexcept nogil:
    cdef Host *host = <Host *>io.impl
    if not host.doomed and socket_of(host.room, fd) != NULL:
        net_close(host.room, index_of(fd))


cdef void sim_no_delay(Io *io, int fd) noexcept nogil:
    pass


cdef void net_cancel(Host *host, Op *op) noexcept nogil:
    cdef Room_ *room = host.room
    cdef Socket *socket
    cdef uint32_t i
    for i in range(room.socket_count):
        socket = room.sockets[i]
        if not socket.used or socket.host != host.index:
            continue
        if socket.recv_op == op:
            socket.recv_op = NULL
            answer(room, socket, op, -ECANCELED)
        elif socket.send_op == op:
            socket.send_op = NULL
            socket.sending = False
            answer(room, socket, op, -ECANCELED)


cdef void net_fill(Io *io) noexcept nogil:
    io.recv = sim_recv
    io.send = sim_send
    io.shutdown = sim_shutdown
    io.close = sim_close
    io.no_delay = sim_no_delay


# ---------------------------------------------------------------- what the world does to connections

cdef void net_flow(Room_ *room, uint32_t source, uint32_t target) noexcept nogil:
    """A way is open again: what waits on it arrives now."""
    cdef uint32_t i
    cdef Socket *socket
    for i in range(room.socket_count):
        socket = room.sockets[i]
        if socket.used and socket.host == target and room.sockets[socket.peer].host == source:
            look_at(room, i, room.now + LATENCY_MIN_NS + below(room, LATENCY_NS))


cdef void net_stall(Room_ *room, int fd, bint stalled) noexcept nogil:
    """Of one connection: the way to this end is cut, or open again."""
    socket_of(room, fd).stalled = stalled
    look_at(room, index_of(fd), room.now)


cdef void net_time_out(Room_ *room, uint32_t source, uint32_t target) noexcept nogil:
    """The keepalive of `source` hears nothing of `target` and gives up its connections."""
    cdef uint32_t i
    cdef Socket *socket
    cdef Op *op
    for i in range(room.socket_count):
        socket = room.sockets[i]
        if not socket.used or socket.host != source or room.sockets[socket.peer].host != target or socket.ended != 0:
            continue
        if not (
            socket.peer_gone or way_is_cut(room, source, target) or way_is_cut(room, target, source)
        ):
            continue
        socket.ended = -ECONNRESET
        op = socket.recv_op
        if op != NULL:
            socket.recv_op = NULL
            answer(room, socket, op, -ECONNRESET)
        fail_send(room, socket)


cdef void net_die(Room_ *room, uint32_t host, bint silently) noexcept nogil:
    cdef uint32_t i
    cdef Socket *socket
    for i in range(room.socket_count):
        socket = room.sockets[i]
        if not socket.used or socket.host != host:
            continue
        socket.recv_op = NULL
        socket.send_op = NULL
        if not silently and not socket.shut:
            end_other(room, socket, -ECONNRESET if chance(room, 500000) else 1)
        socket.used = False
        room.sockets[socket.peer].peer_gone = True
        drop_chunks(socket)
