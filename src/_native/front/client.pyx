"""The life of a connection: adopted with its socket, pumped at the end of turns, ended in order.

The end. Whoever finds a reason sets ``closing`` and asks for the task. At the end of the turn the socket is shut down,
its operations are cancelled and the volume is asked to give back every request without an LSN; the others complete.
Only when neither an operation nor a request is under way is the memory freed and ``ended`` called, so the control side
may then let the initiator in again: none of the old connection's commands can become a write any more. A change of
reservations is such a request from the turn on in which it gets its LSN (control/reserve.pyx), and before that turn it
dies with the connection.
"""

from libc.stdint cimport uint64_t

from sparrow._native.front.client cimport ENDED_CLOSED, ENDED_VOLUME, Client, ClientHooks, client_fail
from sparrow._native.front.stream cimport stream_ask, stream_init
from sparrow._native.io.ops cimport Io
from sparrow._native.reactor cimport Reactor, Task, task_queue, timer_clear
from sparrow._native.volume cimport Volume


cdef void client_begin(Client *client, Reactor *reactor, Volume *volume, ClientHooks *hooks) noexcept nogil:
    client.reactor = reactor
    client.volume = volume
    client.hooks = hooks
    client.terms_ended = volume.terms_ended
    client.lost = ENDED_CLOSED
    client.task.run = on_task
    client.task.owner = client
    stream_init(client)
    # No Nagle: we cork by turn.
    reactor.io.no_delay(&reactor.io, client.fd)
    client.next = hooks.first
    if hooks.first != NULL:
        hooks.first.prev = client
    hooks.first = client
    hooks.count += 1
    volume.sessions += 1
    # Upcalls out of bytes that came with the socket come after the caller knows the connection.
    task_queue(reactor, &client.task)


cdef Client *client_find(ClientHooks *hooks, uint64_t key) noexcept nogil:
    cdef Client *client = hooks.first
    while client != NULL:
        if client.key == key and client.closing == 0:
            return client
        client = client.next
    return NULL


cdef void client_end_all(ClientHooks *hooks, Volume *volume) noexcept nogil:
    cdef Client *client = hooks.first
    while client != NULL:
        if client.volume == volume:
            client_fail(client, ENDED_VOLUME)
        client = client.next


cdef void client_end_older(ClientHooks *hooks, Volume *volume) noexcept nogil:
    cdef Client *client = hooks.first
    while client != NULL:
        if client.volume == volume and client.terms_ended != volume.terms_ended:
            client_fail(client, ENDED_VOLUME)
        client = client.next


cdef void client_moved(ClientHooks *hooks, Volume *volume) noexcept nogil:
    cdef Client *client = hooks.first
    while client != NULL:
        if client.volume == volume and client.kind.moved != NULL:
            client.kind.moved(client)
        client = client.next


cdef void client_resized(ClientHooks *hooks, Volume *volume) noexcept nogil:
    cdef Client *client = hooks.first
    while client != NULL:
        if client.volume == volume:
            client.kind.resized(client)
        client = client.next


cdef void tear(Client *client) noexcept nogil:
    """Ask everything under way to end."""
    cdef Io *io = &client.reactor.io
    client.torn = True
    timer_clear(client.reactor, &client.stall_timer)
    io.shutdown(io, client.fd)
    io.cancel(io, &client.recv_op)
    io.cancel(io, &client.send_op)
    client.kind.tear(client)


cdef void finish(Client *client) noexcept nogil:
    """Nothing is under way any more."""
    cdef ClientHooks *hooks = client.hooks
    cdef uint64_t key = client.key
    cdef int cause = client.closing
    client.reactor.io.close(&client.reactor.io, client.fd)
    if client.prev != NULL:
        client.prev.next = client.next
    else:
        hooks.first = client.next
    if client.next != NULL:
        client.next.prev = client.prev
    hooks.count -= 1
    client.volume.sessions -= 1
    client.kind.release(client)
    hooks.ended(hooks.owner, key, cause)


cdef void on_task(Task *task) noexcept nogil:
    cdef Client *client = <Client *>task.owner
    if client.closing == 0:
        client.kind.pump(client)
    if client.closing == 0:
        if client.asks:
            stream_ask(client)
        return
    if not client.torn:
        tear(client)
    if client.recv_op.busy or client.send_op.busy or client.changes != 0 or not client.kind.quiet(client):
        return
    # An abort in `tear` may have queued this task again; it comes once more and finds nothing under way.
    if task.queued:
        return
    finish(client)
