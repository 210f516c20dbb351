"""The io table without a kernel: a room of machines on made-up time, stepped from one thread, all of it from a seed.

Every host gets a table (``Host.table``) for its core. ``Room.run`` lets true time pass: it gives each host its turn
when it has mail, a completion, a timer or a task, and jumps to the next moment at which something happens. It returns
early when a core has something to tell Python. Equal seeds and equal calls give equal histories, to the byte.

What a replica set must survive, alone or together, as long as one in-sync replica of each volume is left whole:

- a process killed at any instruction that asks for I/O; a machine without power, losing any sectors that were not
  flushed, those of operations under way included;
- EIO from any read, write or flush, after which nothing is known of what the operation wrote; ENOSPC; slow disks;
- a bit that rots, a sector that was never written although its flush was answered, a write that went elsewhere: on one
  replica, at rest;
- connections that delay, stall, cut one way or both, end or reset at any byte;
- clocks that differ by any offset, run up to 0.5 % wrong each, and boot clocks that jump forward (a suspended machine).

What it need not survive: a disk that answers flushes without flushing, on all in-sync replicas at once (`Host.lies` is
there to show that checks notice it), clocks that run more wrong than that, memory that rots.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t

from sparrow._native.io.ops cimport Io, Op
from sparrow._native.io.sim cimport (
    EVENT_ARRIVE, EVENT_COMPLETE, EVENT_DISK, EVENT_WAKE, EVENT_WRITEBACK, FILE_FD, HOSTS_MAX, SOCKET_FD, STRIKE_CUT,
    STRIKE_DONE, STRIKE_EIO, STRIKE_ENOSPC, STRIKE_LOSE, STRIKE_TEAR, WINDOW_BYTES, Cell, Event, File, Host, Ready,
    Room_, Socket,
)
from sparrow._native.io.simdisk cimport (
    disk_die, disk_end, disk_fill, disk_lose_cache, disk_writeback, file_clear, file_get, file_of, file_put,
)
from sparrow._native.io.simnet cimport (
    net_cancel, net_close, net_die, net_fill, net_flow, net_look, net_stall, net_time_out, socket_of,
)
from sparrow._native.io.simtime cimport below, boot_of, complete, plan, raw_of, replan, take, wake_time
from sparrow._native.io.simwatch cimport watch
from sparrow._native.reactor cimport Reactor, reactor_turn
from sparrow._native.sys cimport ECANCELED, ETIME, calloc, free, memset, realloc, sp_assert

cdef uint64_t TURN_NS = 700

STRIKES = {
    "cut": STRIKE_CUT,
    "lose": STRIKE_LOSE,
    "tear": STRIKE_TEAR,
    "eio": STRIKE_EIO,
    "enospc": STRIKE_ENOSPC,
    "done": STRIKE_DONE,
}


# ---------------------------------------------------------------- the table

cdef void sim_wake_at(Io *io, Op *op, uint64_t boot_ns) noexcept nogil:
    cdef Host *host = <Host *>io.impl
    cdef Event event
    sp_assert(not op.busy, b"an Op is submitted twice")
    op.busy = True
    memset(&event, 0, sizeof(Event))
    event.kind = EVENT_WAKE
    event.host = host
    event.generation = host.generation
    event.op = op
    event.res = -ETIME
    event.local_ns = boot_ns
    event.at = wake_time(host, boot_ns)
    plan(host.room, &event)


cdef void sim_read_event(Io *io, Op *op, int fd, uint64_t *value) noexcept nogil:
    # A host with mail is given its turn by the room, which looks into the mailbox.
    op.busy = True


cdef void sim_cancel(Io *io, Op *op) noexcept nogil:
    cdef Host *host = <Host *>io.impl
    cdef Room_ *room = host.room
    cdef uint32_t i
    if not op.busy or host.doomed:
        return
    for i in range(room.heap_count):
        if room.heap[i].kind == EVENT_WAKE and room.heap[i].op == op and room.heap[i].host == host:
            room.heap[i].res = -ECANCELED
            room.heap[i].at = room.now
            replan(room)
            return
    net_cancel(host, op)


cdef uint64_t sim_boot_ns(Io *io) noexcept nogil:
    return boot_of(<Host *>io.impl)


cdef uint64_t sim_raw_ns(Io *io) noexcept nogil:
    return raw_of(<Host *>io.impl)


cdef int sim_turn(Io *io, bint wait) noexcept nogil:
    """Call done for what has completed; never waits, that is the room's."""
    cdef Host *host = <Host *>io.impl
    cdef uint32_t i = 0
    cdef Ready one
    # What completes meanwhile is for the next turn.
    cdef uint32_t count = host.ready_count
    while i < count and not host.doomed:
        one = host.ready[i]
        i += 1
        one.op.busy = False
        one.op.done(one.op, one.res)
    host.ready_count -= count
    for i in range(host.ready_count):
        host.ready[i] = host.ready[i + count]
    return <int>count


cdef void fill(Host *host) noexcept nogil:
    host.io.impl = host
    host.io.wake_at = sim_wake_at
    host.io.read_event = sim_read_event
    host.io.cancel = sim_cancel
    host.io.boot_ns = sim_boot_ns
    host.io.raw_ns = sim_raw_ns
    host.io.turn = sim_turn
    disk_fill(&host.io)
    net_fill(&host.io)


# ---------------------------------------------------------------- time passes

cdef void happen(Room_ *room, Event *event) noexcept nogil:
    cdef Host *host = event.host
    room.events += 1
    if host != NULL and (host.generation != event.generation or host.reactor == NULL):
        return
    if event.kind == EVENT_COMPLETE or event.kind == EVENT_WAKE:
        complete(host, event.op, event.res)
    elif event.kind == EVENT_DISK:
        disk_end(room, event)
    elif event.kind == EVENT_ARRIVE:
        net_look(room, event.socket)
    elif event.kind == EVENT_WRITEBACK:
        disk_writeback(room, event)


cdef bint may_turn(Host *host) noexcept nogil:
    if host.reactor == NULL or host.stopped or host.doomed:
        return False
    return host.runnable or host.reactor.mail.down.head != host.reactor.mail.down.tail


cdef bint run(Room_ *room, uint64_t until) noexcept nogil:
    """Until then, or until somebody has news for Python: True."""
    cdef Host *host
    cdef Event event
    cdef uint32_t i
    cdef bint busy
    cdef bint news = False
    while True:
        busy = False
        for i in range(HOSTS_MAX):
            host = &room.hosts[i]
            if not may_turn(host):
                continue
            busy = True
            host.runnable = False
            room.turns += 1
            reactor_turn(host.reactor, False)
            room.now += TURN_NS + below(room, TURN_NS)
            if host.ready_count > 0 or host.reactor.task_head != NULL:
                host.runnable = True
            if host.reactor.mail.up.head != host.seen_up or host.doomed:
                news = True
            watch(host)
        if news or room.bug != NULL:
            return True
        if busy:
            if room.now >= until:
                return False
            while room.heap_count > 0 and room.heap[0].at <= room.now:
                take(room, &event)
                happen(room, &event)
            continue
        if room.heap_count == 0 or room.heap[0].at > until:
            room.now = max(room.now, until)
            return False
        take(room, &event)
        room.now = max(room.now, event.at)
        happen(room, &event)


# ---------------------------------------------------------------- what Python holds

cdef class Room:
    """All machines of one simulation. Host numbers are the caller's, below 16."""

    cdef Room_ room

    def __cinit__(self, uint64_t seed, *, uint64_t start_ns=1000000000000):
        cdef uint32_t i
        memset(&self.room, 0, sizeof(Room_))
        self.room.now = start_ns
        self.room.window = WINDOW_BYTES
        self.room.random = seed * 11400714819323198485u + 88172645463325252u
        if self.room.random == 0:
            self.room.random = 1
        self.room.struck = -1
        for i in range(HOSTS_MAX):
            self.room.hosts[i].room = &self.room
            self.room.hosts[i].index = i
            fill(&self.room.hosts[i])

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.room.file_count):
            file_clear(&self.room, self.room.files[i])
            free(self.room.files[i].cells)
            free(self.room.files[i].dirty)
            free(self.room.files[i])
        for i in range(self.room.socket_count):
            self.room.sockets[i].recv_op = NULL
            self.room.sockets[i].send_op = NULL
            self.room.sockets[i].shut = True
            net_close(&self.room, i)
        # A connection that is closed tells its other end, so none goes before all are closed.
        for i in range(self.room.socket_count):
            free(self.room.sockets[i])
        for i in range(HOSTS_MAX):
            free(self.room.hosts[i].ready)
        free(self.room.files)
        free(self.room.sockets)
        free(self.room.heap)

    # time

    @property
    def now(self):
        """True time, ns."""
        return self.room.now

    def advance(self, uint64_t now_ns):
        """Time that passed elsewhere."""
        self.room.now = max(self.room.now, now_ns)

    def run(self, uint64_t until_ns, uint64_t now_ns=0):
        """Let time pass from what passed elsewhere; the hosts that have news, at the moment they have it, or None."""
        cdef bint news
        cdef list found = []
        cdef uint32_t i
        cdef Host *host
        self.room.now = max(self.room.now, now_ns)
        with nogil:
            news = run(&self.room, until_ns)
        if not news:
            return None
        for i in range(HOSTS_MAX):
            host = &self.room.hosts[i]
            if host.reactor == NULL:
                continue
            if host.doomed or host.reactor.mail.up.head != host.seen_up:
                host.seen_up = host.reactor.mail.up.head
                found.append(i)
        return found

    @property
    def bug(self):
        """What went wrong that never may, or None."""
        return None if self.room.bug == NULL else f"host {self.room.bug_host}: {self.room.bug.decode()}"

    def counters(self):
        """File operations, turns, events, bytes sent."""
        return self.room.ios, self.room.turns, self.room.events, self.room.sent_bytes

    def fingerprint(self):
        """Differs where two histories do."""
        return self.room.now, self.room.order, self.room.random, self.room.ios, self.room.turns

    @property
    def openings(self):
        """How often a gate opened so far."""
        return self.room.openings

    # hosts

    def table(self, uint32_t host):
        """Address of the io table for the core of this host."""
        return <uintptr_t>&self.room.hosts[host].io

    def start(self, uint32_t host, uintptr_t reactor):
        """A process begins to live there; its clocks were set before its core was made."""
        cdef Host *one = &self.room.hosts[host]
        sp_assert(one.reactor == NULL, b"one process per host")
        one.reactor = <Reactor *>reactor
        one.stopped = False
        one.doomed = False
        one.runnable = True
        one.seen_up = 0
        one.gates = 0

    def set_clocks(self, uint32_t host, *, int64_t boot_ppm, int64_t raw_ppm, uint64_t boot_ns, uint64_t raw_ns):
        """What its clocks show now, and how wrong they run. Before the core is made, for it reads them."""
        cdef Host *one = &self.room.hosts[host]
        one.since = self.room.now
        one.boot_base = boot_ns
        one.raw_base = raw_ns
        one.boot_ppm = boot_ppm
        one.raw_ppm = raw_ppm
        self.wakes_again(host)

    cdef void wakes_again(self, uint32_t host):
        """Its boot clock is another one: so are the moments its timers mean."""
        cdef uint32_t i
        for i in range(self.room.heap_count):
            if self.room.heap[i].kind == EVENT_WAKE and self.room.heap[i].host == &self.room.hosts[host]:
                self.room.heap[i].at = wake_time(&self.room.hosts[host], self.room.heap[i].local_ns)
        replan(&self.room)

    def jump(self, uint32_t host, uint64_t by_ns):
        """The machine was suspended for so long, in no time."""
        self.room.hosts[host].boot_base += by_ns
        self.wakes_again(host)

    def clocks(self, uint32_t host):
        return boot_of(&self.room.hosts[host]), raw_of(&self.room.hosts[host])

    def stop(self, uint32_t host):
        """SIGSTOP."""
        self.room.hosts[host].stopped = True

    def go_on(self, uint32_t host):
        self.room.hosts[host].stopped = False

    def doomed(self, uint32_t host):
        """It was struck down in the middle of its last turn; whoever runs the room kills it now."""
        return self.room.hosts[host].doomed

    def kill(self, uint32_t host, str strike, *, bint silently=False):
        """The process ends: ``cut`` is SIGKILL, ``lose``, ``tear`` and ``done`` are the loss of power."""
        cdef Host *one = &self.room.hosts[host]
        cdef uint32_t how = STRIKES[strike]
        cdef uint32_t i
        cdef uint32_t kept = 0
        if one.reactor == NULL:
            return
        if how == STRIKE_DONE:
            how = STRIKE_LOSE
        for i in range(self.room.heap_count):
            if self.room.heap[i].host != one:
                self.room.heap[kept] = self.room.heap[i]
                kept += 1
            elif self.room.heap[i].kind == EVENT_DISK:
                disk_die(&self.room, &self.room.heap[i], how)
        self.room.heap_count = kept
        replan(&self.room)
        disk_lose_cache(&self.room, host, how)
        one.generation += 1
        one.reactor = NULL
        one.ready_count = 0
        one.doomed = False
        net_die(&self.room, host, silently)

    # disks

    def make_file(self, uint32_t host, uint32_t kind, uint64_t size_bytes):
        """A descriptor of zeros, for as long as the room stands."""
        cdef File *file = <File *>calloc(1, sizeof(File))
        if self.room.file_count == self.room.file_room:
            self.room.file_room = 2 * self.room.file_room + 16
            self.room.files = <File **>realloc(self.room.files, self.room.file_room * sizeof(File *))
        file.host = host
        file.kind = kind
        file.pages = (size_bytes + 4095) // 4096
        file.cells = <Cell *>calloc(file.pages, sizeof(Cell))
        file.dirty = <uint32_t *>calloc(file.pages, sizeof(uint32_t))
        self.room.files[self.room.file_count] = file
        self.room.file_count += 1
        return FILE_FD + self.room.file_count - 1

    def size(self, int fd):
        """Bytes of a file, in whole pages."""
        return file_of(&self.room, fd).pages * 4096

    def lengthen(self, int fd, uint64_t size_bytes):
        """A file gets zeros at its end, durably; it never becomes shorter."""
        cdef File *file = file_of(&self.room, fd)
        cdef uint64_t pages = (size_bytes + 4095) // 4096
        if pages <= file.pages:
            return
        file.cells = <Cell *>realloc(file.cells, pages * sizeof(Cell))
        file.dirty = <uint32_t *>realloc(file.dirty, pages * sizeof(uint32_t))
        sp_assert(file.cells != NULL and file.dirty != NULL, b"no memory for a file")
        memset(file.cells + file.pages, 0, (pages - file.pages) * sizeof(Cell))
        file.pages = pages

    def pwrite(self, int fd, uint64_t offset, bytes data):
        """Durable at once: what the control side does on its helper thread, and what rots."""
        file_put(&self.room, file_of(&self.room, fd), offset, <const uint8_t *>PyBytes_AS_STRING(data), len(data), True)

    def pread(self, int fd, uint64_t offset, uint64_t length, *, bint platter=False):
        """What a reader sees, or what is on the platter alone."""
        cdef bytes data = PyBytes_FromStringAndSize(NULL, length)
        file_get(file_of(&self.room, fd), offset, <uint8_t *>PyBytes_AS_STRING(data), length, platter)
        return data

    def clear(self, int fd):
        """Truncate to nothing and back."""
        file_clear(&self.room, file_of(&self.room, fd))

    def faults(
        self, uint32_t host, *, uint32_t eio_read=0, uint32_t eio_write=0, uint32_t slow=0, uint64_t slow_ns=0,
        uint64_t capacity=0, bint lies=False,
    ):
        """Faults by chance from now on, parts per million of operations; ``capacity`` in pages, 0 for no end."""
        cdef Host *one = &self.room.hosts[host]
        one.eio_read = eio_read
        one.eio_write = eio_write
        one.slow = slow
        one.slow_ns = slow_ns
        one.capacity = capacity
        one.lies = lies

    def fail_flush(self, int fd, uint64_t tell_ns):
        """The next flush of this file loses what it was to write, at once, and whoever asked for it is told so later."""
        file_of(&self.room, fd).fail_ns = tell_ns

    def flush_failed(self, int fd):
        """Whether that flush was submitted."""
        return file_of(&self.room, fd).fail_ns == 0

    def held(self, uint32_t host):
        """Pages its files occupy."""
        return self.room.hosts[host].held

    def strike(self, uint64_t number, str strike):
        """Strike the ``number``-th file operation from now."""
        self.room.strike_at = self.room.ios + number
        self.room.strike = STRIKES[strike]
        self.room.struck = -1

    @property
    def struck(self):
        """The host whose operation was struck, or -1."""
        return self.room.struck

    # connections

    def connect(self, uint32_t a, uint32_t b):
        """Two descriptors of a new connection, the first for host ``a``."""
        cdef uint32_t first = self.free_pair()
        cdef uint32_t i
        cdef Socket *socket
        for i in range(2):
            socket = self.room.sockets[first + i]
            memset(socket, 0, sizeof(Socket))
            socket.used = True
            socket.host = b if i else a
            socket.generation = self.room.hosts[socket.host].generation
            socket.peer = first + 1 - i
        return <int>(SOCKET_FD + first), <int>(SOCKET_FD + first + 1)

    def narrow(self, uint64_t window):
        """From now on connections take ``window`` bytes that nobody has read, so that sends wait and leave in parts."""
        self.room.window = window

    cdef uint32_t free_pair(self):
        cdef uint32_t i
        for i in range(0, self.room.socket_count, 2):
            if not self.room.sockets[i].used and not self.room.sockets[i + 1].used:
                return i
        if self.room.socket_count + 2 > self.room.socket_room:
            self.room.socket_room = 2 * self.room.socket_room + 16
            self.room.sockets = <Socket **>realloc(self.room.sockets, self.room.socket_room * sizeof(Socket *))
        for i in range(2):
            self.room.sockets[self.room.socket_count + i] = <Socket *>calloc(1, sizeof(Socket))
        self.room.socket_count += 2
        return self.room.socket_count - 2

    def close(self, int fd):
        """A descriptor that no core has, or never got."""
        if socket_of(&self.room, fd) != NULL:
            net_close(&self.room, fd - SOCKET_FD)

    def block(self, uint32_t source, uint32_t target):
        """Nothing goes from one host to the other any more."""
        self.room.cut[source * HOSTS_MAX + target] = True

    def open(self, uint32_t source, uint32_t target):
        self.room.cut[source * HOSTS_MAX + target] = False
        net_flow(&self.room, source, target)

    def stall(self, int fd, bint stalled):
        """One connection alone: nothing more arrives at this end, until it does again. What is sent fills the window."""
        net_stall(&self.room, fd, stalled)

    def time_out(self, uint32_t source, uint32_t target):
        """``source`` gives up its connections to ``target`` where nothing is heard."""
        net_time_out(&self.room, source, target)
