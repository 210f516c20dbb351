"""What the machines of a room share: chance, the plan of what will happen, clocks that run wrong, and completions."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Op
from sparrow._native.io.sim cimport Event, Host, Ready, Room_
from sparrow._native.sys cimport realloc, sp_assert


# ---------------------------------------------------------------- chance

cdef uint64_t draw(Room_ *room) noexcept nogil:
    """xorshift64*: the next number of this room."""
    room.random ^= room.random >> 12
    room.random ^= room.random << 25
    room.random ^= room.random >> 27
    return room.random * 2685821657736338717u


cdef uint64_t below(Room_ *room, uint64_t bound) noexcept nogil:
    return (draw(room) >> 11) % bound if bound > 0 else 0


cdef bint chance(Room_ *room, uint64_t ppm) noexcept nogil:
    return ppm > 0 and below(room, 1000000) < ppm


# ---------------------------------------------------------------- what will happen: a binary heap on (at, order)

cdef inline bint sooner(const Event *a, const Event *b) noexcept nogil:
    return a.at < b.at or (a.at == b.at and a.order < b.order)


cdef void plan(Room_ *room, Event *event) noexcept nogil:
    cdef uint32_t i, parent
    if room.heap_count == room.heap_room:
        room.heap_room = 2 * room.heap_room + 64
        room.heap = <Event *>realloc(room.heap, room.heap_room * sizeof(Event))
        sp_assert(room.heap != NULL, b"no memory for events")
    room.order += 1
    event.order = room.order
    i = room.heap_count
    room.heap_count += 1
    while i > 0:
        parent = (i - 1) // 2
        if not sooner(event, &room.heap[parent]):
            break
        room.heap[i] = room.heap[parent]
        i = parent
    room.heap[i] = event[0]


cdef void take(Room_ *room, Event *event) noexcept nogil:
    """The first of all, out of the heap."""
    cdef Event last
    event[0] = room.heap[0]
    room.heap_count -= 1
    if room.heap_count > 0:
        last = room.heap[room.heap_count]
        sink(room, 0, &last)


cdef void sink(Room_ *room, uint32_t i, const Event *event) noexcept nogil:
    cdef uint32_t child
    while True:
        child = 2 * i + 1
        if child >= room.heap_count:
            break
        if child + 1 < room.heap_count and sooner(&room.heap[child + 1], &room.heap[child]):
            child += 1
        if not sooner(&room.heap[child], event):
            break
        room.heap[i] = room.heap[child]
        i = child
    room.heap[i] = event[0]


cdef void replan(Room_ *room) noexcept nogil:
    """After times were changed in place."""
    cdef uint32_t i = room.heap_count // 2
    cdef Event event
    while i > 0:
        i -= 1
        event = room.heap[i]
        sink(room, i, &event)


# ---------------------------------------------------------------- clocks

cdef uint64_t scaled(uint64_t true_ns, int64_t ppm) noexcept nogil:
    cdef uint64_t rate = <uint64_t>(1000000 + ppm)
    return (true_ns // 1000000) * rate + (true_ns % 1000000) * rate // 1000000


cdef uint64_t boot_of(Host *host) noexcept nogil:
    return host.boot_base + scaled(host.room.now - host.since, host.boot_ppm)


cdef uint64_t raw_of(Host *host) noexcept nogil:
    return host.raw_base + scaled(host.room.now - host.since, host.raw_ppm)


cdef uint64_t true_of(Host *host, uint64_t boot_ns) noexcept nogil:
    """When its boot clock shows so much, never too early."""
    cdef uint64_t left
    if boot_ns <= host.boot_base:
        return host.since
    left = boot_ns - host.boot_base
    return host.since + (left // <uint64_t>(1000000 + host.boot_ppm) + 1) * 1000000


cdef uint64_t wake_time(Host *host, uint64_t boot_ns) noexcept nogil:
    """When a timer for that moment of its boot clock fires: those of a kernel are late by a little, never early."""
    return max(host.room.now, true_of(host, boot_ns)) + below(host.room, 50000)


# ---------------------------------------------------------------- completions

cdef void complete(Host *host, Op *op, int32_t res) noexcept nogil:
    if host.ready_count == host.ready_room:
        host.ready_room = 2 * host.ready_room + 64
        host.ready = <Ready *>realloc(host.ready, host.ready_room * sizeof(Ready))
        sp_assert(host.ready != NULL, b"no memory for completions")
    host.ready[host.ready_count].op = op
    host.ready[host.ready_count].res = res
    host.ready_count += 1
    host.runnable = True
