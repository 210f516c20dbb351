"""Bytes in and out of a connection's socket.

A receive is asked for by the protocol. While it has no pages, or no place for a request, it is stalled: nothing is read,
TCP then tells the other end to wait, and it looks again when something comes back, or after a millisecond, for pages come
back from other connections too. A send is one list of pieces, sent again from where the socket stopped until all is taken, then given
back at once by the kind's ``sent``. Whatever ends brings the connection's task, which pumps or finishes.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.front.client cimport ENDED_CLOSED, Client, client_fail
from sparrow._native.io.ops cimport Op
from sparrow._native.reactor cimport Timer, now_boot, task_queue, timer_set
from sparrow._native.sys cimport EAGAIN, EINTR, memmove, memset

cdef enum:
    RETRY_NS = 1000000         # between two looks for pages while stalled


cdef void stream_receive(Client *client) noexcept nogil:
    # Answers, and writes to the log, first: the other end is at work then when the socket is looked into, and has often sent
    # what comes next, where a look before that finds nothing and has to be waited for.
    client.asks = True
    task_queue(client.reactor, &client.task)


cdef void stream_ask(Client *client) noexcept nogil:
    cdef uint32_t left = client.in_have - client.in_at
    client.asks = False
    if client.recv_op.busy:
        return
    # What is left is the beginning of a header: little.
    if client.in_at != 0 and left != 0:
        memmove(client.in_bytes, client.in_bytes + client.in_at, left)
    client.in_have = left
    client.in_at = 0
    client.recv_op.done = on_received
    client.recv_op.owner = client
    client.reactor.io.recv(
        &client.reactor.io, &client.recv_op, client.fd, client.in_bytes + left, client.in_room - left
    )


cdef void on_received(Op *op, int32_t res) noexcept nogil:
    cdef Client *client = <Client *>op.owner
    if client.closing != 0:
        task_queue(client.reactor, &client.task)
    elif res == -EAGAIN or res == -EINTR:
        stream_receive(client)
    elif res <= 0:
        client_fail(client, client.lost)
    else:
        client.in_have += res
        client.kind.received(client)


cdef void stream_init(Client *client) noexcept nogil:
    client.stall_timer.fire = on_retry
    client.stall_timer.owner = client


cdef void stream_stall(Client *client) noexcept nogil:
    cdef uint64_t now = now_boot(client.reactor)
    if not client.stalled:
        client.stalled = True
        client.stalled_ns = now
    timer_set(client.reactor, &client.stall_timer, now + RETRY_NS)


cdef void on_retry(Timer *timer) noexcept nogil:
    cdef Client *client = <Client *>timer.owner
    if client.closing == 0 and client.stalled:
        client.kind.resume(client)


cdef void stream_send(Client *client) noexcept nogil:
    if client.iov_count == 0:
        return
    client.send_op.done = on_sent
    client.send_op.owner = client
    client.sent_ns = now_boot(client.reactor)
    submit(client)


cdef void submit(Client *client) noexcept nogil:
    memset(&client.msg, 0, sizeof(client.msg))
    client.msg.msg_iov = &client.iov[client.iov_done]
    client.msg.msg_iovlen = client.iov_count - client.iov_done
    client.reactor.io.send(&client.reactor.io, &client.send_op, client.fd, &client.msg)


cdef void on_sent(Op *op, int32_t res) noexcept nogil:
    cdef Client *client = <Client *>op.owner
    cdef uint64_t left
    cdef uint32_t i
    task_queue(client.reactor, &client.task)
    if client.closing != 0:
        return
    if res == -EAGAIN or res == -EINTR:
        submit(client)
        return
    if res <= 0:
        client_fail(client, ENDED_CLOSED)
        return
    client.sent_ns = now_boot(client.reactor)
    left = <uint64_t>res
    while client.iov_done < client.iov_count:
        i = client.iov_done
        if left < client.iov[i].iov_len:
            client.iov[i].iov_base = <char *>client.iov[i].iov_base + left
            client.iov[i].iov_len -= left
            submit(client)
            return
        left -= client.iov[i].iov_len
        client.iov_done += 1
    client.kind.sent(client)
