# Bytes in and out of a connection's socket: one receive and one vectored send at a time. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.front.client cimport Client
from sparrow._native.reactor cimport now_boot, timer_set

# More bytes are wanted: the connection's task asks for them, behind what it sends.
cdef void stream_receive(Client *client) noexcept nogil
# Ask for more bytes; what is not taken yet moves to the front. Nothing while a receive is under way.
cdef void stream_ask(Client *client) noexcept nogil
# What comes next finds no pages or no place: nothing is read until the kind's `resume` has taken it.
cdef void stream_stall(Client *client) noexcept nogil
cdef void stream_init(Client *client) noexcept nogil
# Send what was put together with stream_add, if anything was. Not while a send is under way.
cdef void stream_send(Client *client) noexcept nogil


cdef inline void stream_wake(Client *client) noexcept nogil:
    """Something came back that a stalled connection may wait for."""
    if client.stalled and client.closing == 0:
        timer_set(client.reactor, &client.stall_timer, now_boot(client.reactor))


cdef inline uint64_t stream_waited_ns(Client *client) noexcept nogil:
    """For how long it has been stalled; 0 when it is not."""
    return now_boot(client.reactor) - client.stalled_ns if client.stalled else 0


cdef inline void stream_begin(Client *client) noexcept nogil:
    """Put a send together from nothing."""
    client.iov_count = 0
    client.iov_done = 0


cdef inline void stream_add(Client *client, void *data, uint64_t length) noexcept nogil:
    """One more piece of the send, which stays where it is until it was sent; pieces that touch in memory become one."""
    cdef unsigned int i = client.iov_count
    if length == 0:
        return
    if i != 0 and <char *>client.iov[i - 1].iov_base + client.iov[i - 1].iov_len == <char *>data:
        client.iov[i - 1].iov_len += length
        return
    client.iov[i].iov_base = data
    client.iov[i].iov_len = length
    client.iov_count = i + 1
