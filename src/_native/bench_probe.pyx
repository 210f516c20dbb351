"""Measurements only, never part of a running node: loops in C over functions of the core that Python cannot reach.

Each probe holds just enough of a core for the functions it calls, and calls the real ones. What it leaves out is said
at its class. The loops count no time of their own but the latencies of :class:`WriteProbe`; bench/ times the calls.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.block cimport block_init, block_submit
from sparrow._native.commit cimport commit_init
from sparrow._native.crc cimport crc_page
from sparrow._native.extent.dirty cimport dirty_add, dirty_close, dirty_drop_to, dirty_find, dirty_open
from sparrow._native.extent.flusher cimport flush_end, flush_init
from sparrow._native.gate cimport gate_init
from sparrow._native.io.ops cimport Io, Op
from sparrow._native.layout cimport SP_ENTRY_WRITE
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE, page_drop, page_take
from sparrow._native.reactor cimport Reactor, Task, now_raw, reactor_close, reactor_open, reactor_run, task_queue
from sparrow._native.sys cimport CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, calloc, free, iovec, memset, sp_clock_ns
from sparrow._native.volume cimport NONE, REQ_WRITE, BlockReq, Core, Volume
from sparrow._native.wal.batches cimport batches_close
from sparrow._native.wal.log cimport log_append, log_close, log_forget_to, log_free_bytes, log_open, logs_open

cdef enum:
    VERSIONS = 8192
    BATCHES = 1024
    POOL_PAGES = 16384
    FORGET_AT = 2048           # versions; the flusher begins a round at as many


cdef struct Probe:
    Reactor reactor
    Core core
    Volume volume
    Op *written                # memory disk: the write that is out, and its length
    uint32_t written_bytes
    BlockReq *reqs
    uint64_t *began            # raw ns, per request
    uint32_t *latency_ns       # per write, in order of completion
    uint32_t depth
    uint64_t to_submit
    uint64_t to_finish
    uint64_t finished
    uint64_t errors
    uint64_t seed
    Task begin_task


cdef inline uint64_t random_page(Probe *probe) noexcept nogil:
    probe.seed ^= probe.seed << 13
    probe.seed ^= probe.seed >> 7
    probe.seed ^= probe.seed << 17
    return probe.seed % probe.volume.pages


cdef void forget_flushed(Task *task) noexcept nogil:
    """In the place of the flusher: what is committed counts as applied, at no cost but that of forgetting it."""
    cdef Volume *volume = <Volume *>task.owner
    cdef Core *core = <Core *>volume.reactor.core
    if volume.version_count < FORGET_AT and log_free_bytes(volume) * 2 > volume.log.bytes:
        return
    dirty_drop_to(core, volume, volume.commit_lsn)
    log_forget_to(volume, volume.commit_lsn)
    volume.log.free_floor = volume.log.tail_offset
    volume.log.free_lsn = volume.log.tail_lsn
    volume.applied_lsn = volume.commit_lsn
    task_queue(volume.reactor, &volume.resume_task)


cdef void no_mail(Reactor *reactor, Mail *mail) noexcept nogil:
    pass


cdef int probe_open(Probe *probe, void *ring, int fd, uint64_t log_bytes, uint64_t pages, uint32_t writes_max) noexcept nogil:
    """A primary of one replica with its gate open."""
    cdef Volume *volume = &probe.volume
    if reactor_open(&probe.reactor, ring, NULL, POOL_PAGES, 0) < 0:
        return -1
    probe.reactor.core = &probe.core
    probe.reactor.on_mail = no_mail
    probe.seed = 0x9E3779B97F4A7C15
    probe.core.reactor = &probe.reactor
    probe.core.versions_per_volume = VERSIONS
    probe.core.writes_max = writes_max
    volume.reactor = &probe.reactor
    volume.index = 1
    volume.pages = pages
    volume.served = pages
    volume.fifo_head = NONE
    volume.fifo_tail = NONE
    volume.opened = True
    volume.primary = True
    volume.writable = True
    volume.term_epoch = 1
    volume.term_start = 1
    volume.term_start_lsn = 1
    volume.headroom = <uint64_t>-1
    if (
        dirty_open(&probe.core, VERSIONS) < 0
        or logs_open(&probe.core, BATCHES, 0, -1) < 0
        or log_open(volume, fd, 0, log_bytes, writes_max) < 0
        or flush_init(volume) < 0
    ):
        return -1
    gate_init(volume)
    commit_init(volume)
    block_init(volume)
    volume.flush.task.run = forget_flushed
    volume.gate.open = True
    volume.gate.allowed = True
    volume.gate.deadline_boot = <uint64_t>-1
    volume.gate.deadline_raw = <uint64_t>-1
    return 0


cdef void probe_close(Probe *probe) noexcept nogil:
    if probe.core.batches != NULL and probe.volume.log.recs != NULL:
        dirty_drop_to(&probe.core, &probe.volume, <uint64_t>-1)
        log_close(&probe.volume)
    if probe.volume.flush.list != NULL:
        flush_end(&probe.volume)
    batches_close(&probe.core)
    dirty_close(&probe.core)
    reactor_close(&probe.reactor)
    free(probe.reqs)
    free(probe.began)
    free(probe.latency_ns)
    free(probe)


# ---------------------------------------------------------------- writes on a real file

cdef void submit_write(Probe *probe, uint32_t at) noexcept nogil:
    cdef BlockReq *req = &probe.reqs[at]
    probe.to_submit -= 1
    req.volume = &probe.volume
    req.kind = REQ_WRITE
    req.first_page = random_page(probe)
    req.page_count = 1
    req.pages[0] = page_take(&probe.reactor.pool)
    req.done = on_write_done
    req.owner = probe
    req.tag = at
    (<uint64_t *>req.pages[0])[0] = probe.seed
    probe.began[at] = now_raw(&probe.reactor)
    block_submit(req)


cdef void on_write_done(BlockReq *req, int rc) noexcept nogil:
    cdef Probe *probe = <Probe *>req.owner
    probe.latency_ns[probe.finished] = <uint32_t>(now_raw(&probe.reactor) - probe.began[req.tag])
    probe.finished += 1
    probe.errors += rc != 0
    if probe.to_submit > 0:
        submit_write(probe, <uint32_t>req.tag)
    if probe.finished == probe.to_finish:
        probe.reactor.stopping = True


cdef void begin_writes(Task *task) noexcept nogil:
    cdef Probe *probe = <Probe *>task.owner
    cdef uint32_t i
    for i in range(probe.depth):
        if probe.to_submit > 0:
            submit_write(probe, i)


cdef class WriteProbe:
    """Durable writes of single random pages on a real log file: admission, log, group commit, answer.

    Left out: the frontend, peers, and the flusher (what is committed is forgotten instead of written to extents).

    Args:
        ring: address of a ring that is not enabled yet; it must live until the probe is gone.
        fd: the log's file, O_DIRECT, written in full.
        pages: of the volume.
    """

    cdef Probe *probe
    cdef bint used

    def __cinit__(self, *, uint64_t ring, int fd, uint64_t log_bytes, uint64_t pages, uint32_t writes_max):
        self.probe = <Probe *>calloc(1, sizeof(Probe))
        if self.probe == NULL or probe_open(self.probe, <void *>ring, fd, log_bytes, pages, writes_max) < 0:
            raise MemoryError("no memory for a write probe")

    def __dealloc__(self):
        if self.probe != NULL:
            probe_close(self.probe)

    def run(self, *, uint32_t count, uint32_t depth):
        """Write ``count`` pages with ``depth`` requests outstanding; once per probe, on the thread that keeps the ring.

        Returns the number of log batches and all latencies in nanoseconds.
        """
        cdef Probe *probe = self.probe
        cdef int rc
        if self.used or depth == 0 or count == 0 or depth > BATCHES:
            raise ValueError("a probe runs once, and needs something to do")
        self.used = True
        probe.reqs = <BlockReq *>calloc(depth, sizeof(BlockReq))
        probe.began = <uint64_t *>calloc(depth, sizeof(uint64_t))
        probe.latency_ns = <uint32_t *>calloc(count, sizeof(uint32_t))
        if probe.reqs == NULL or probe.began == NULL or probe.latency_ns == NULL:
            raise MemoryError("no memory for requests")
        probe.depth = depth
        probe.to_submit = count
        probe.to_finish = count
        probe.begin_task.run = begin_writes
        probe.begin_task.owner = probe
        with nogil:
            task_queue(&probe.reactor, &probe.begin_task)
            rc = reactor_run(&probe.reactor)
        if rc < 0:
            raise OSError(-rc, "the reactor ended")
        if probe.errors != 0:
            raise OSError(5, f"{probe.errors} of {count} writes failed")
        return probe.volume.stats.batches, [probe.latency_ns[i] for i in range(count)]


# ---------------------------------------------------------------- batches on a disk that costs nothing

cdef void memory_write(
    Io *io, Op *op, int fd, iovec *iov, uint32_t count, uint64_t offset, bint dsync
) noexcept nogil:
    cdef Probe *probe = <Probe *>io.impl
    cdef uint32_t i
    op.busy = True
    probe.written = op
    probe.written_bytes = 0
    for i in range(count):
        probe.written_bytes += <uint32_t>iov[i].iov_len


cdef uint64_t memory_boot_ns(Io *io) noexcept nogil:
    return sp_clock_ns(CLOCK_BOOTTIME)


cdef uint64_t memory_raw_ns(Io *io) noexcept nogil:
    return sp_clock_ns(CLOCK_MONOTONIC_RAW)


cdef void run_tasks(Reactor *reactor) noexcept nogil:
    cdef Task *task
    while reactor.task_head != NULL:
        task = reactor.task_head
        reactor.task_head = task.next
        if reactor.task_head == NULL:
            reactor.task_tail = NULL
        task.queued = False
        task.run(task)


cdef void encode_batches(Probe *probe, uint32_t batches, uint32_t entries, uint8_t **pages) noexcept nogil:
    cdef uint32_t i, k
    cdef Op *op
    for i in range(batches):
        for k in range(entries):
            probe.errors += log_append(&probe.volume, SP_ENTRY_WRITE, random_page(probe), 1, &pages[k]) == 0
        run_tasks(&probe.reactor)
        op = probe.written
        op.busy = False
        op.done(op, <int32_t>probe.written_bytes)
        run_tasks(&probe.reactor)


cdef class BatchProbe:
    """Log batches up to the write and from its completion to the commit: sums, dirty map, header, index, window.

    Left out: the disk (a write is complete at once), admission, peers, the flusher.
    """

    cdef Probe *probe
    cdef uint8_t *pages[256]
    cdef uint32_t page_count

    def __cinit__(self, *, uint64_t log_bytes, uint64_t pages):
        cdef uint32_t i
        self.page_count = 0
        self.probe = <Probe *>calloc(1, sizeof(Probe))
        if self.probe == NULL or probe_open(self.probe, NULL, -1, log_bytes, pages, 1) < 0:
            raise MemoryError("no memory for a batch probe")
        self.probe.reactor.io.impl = self.probe
        self.probe.reactor.io.write = memory_write
        self.probe.reactor.io.boot_ns = memory_boot_ns
        self.probe.reactor.io.raw_ns = memory_raw_ns
        for i in range(256):
            self.pages[i] = page_take(&self.probe.reactor.pool)
            memset(self.pages[i], <int>i, PAGE)
            self.page_count = i + 1

    def __dealloc__(self):
        cdef uint32_t i
        if self.probe != NULL:
            for i in range(self.page_count):
                page_drop(&self.probe.reactor.pool, self.pages[i])
            probe_close(self.probe)

    def run(self, *, uint32_t batches, uint32_t entries):
        """Append and complete so many batches of so many single-page entries."""
        cdef uint64_t before = self.probe.volume.stats.batches
        if not 1 <= entries <= 128:
            raise ValueError("a batch probe takes 1 to 128 entries per batch")
        with nogil:
            encode_batches(self.probe, batches, entries, self.pages)
        if self.probe.errors != 0 or self.probe.volume.stats.batches - before != batches:
            raise AssertionError("the log did not take every entry")
        if self.probe.volume.commit_lsn != self.probe.volume.log.head_lsn:
            raise AssertionError("the log did not commit every entry")


# ---------------------------------------------------------------- dirty map

cdef uint64_t add_versions(Probe *probe, uint32_t count) noexcept nogil:
    cdef uint64_t lsn = probe.volume.commit_lsn
    cdef uint32_t i
    for i in range(count):
        lsn += 1
        dirty_add(&probe.core, &probe.volume, random_page(probe), lsn, NULL, 0)
    probe.volume.commit_lsn = lsn
    return lsn


cdef uint64_t find_versions(Probe *probe, uint32_t count) noexcept nogil:
    cdef uint64_t found = 0
    cdef uint32_t i
    for i in range(count):
        found += dirty_find(&probe.core, &probe.volume, random_page(probe), probe.volume.commit_lsn) != NULL
    return found


cdef class DirtyProbe:
    """The dirty map alone: versions of random pages of one volume, without data."""

    cdef Probe *probe

    def __cinit__(self, *, uint64_t pages):
        self.probe = <Probe *>calloc(1, sizeof(Probe))
        if self.probe == NULL or probe_open(self.probe, NULL, -1, 1 << 20, pages, 1) < 0:
            raise MemoryError("no memory for a dirty map")

    def __dealloc__(self):
        if self.probe != NULL:
            probe_close(self.probe)

    @property
    def count(self):
        """Versions in the map."""
        return self.probe.volume.version_count

    def add(self, uint32_t count):
        """Add versions of random pages, each at the next LSN; gives the last LSN."""
        if self.probe.volume.version_count + count > VERSIONS:
            raise ValueError(f"a map of {VERSIONS} versions is full")
        with nogil:
            lsn = add_versions(self.probe, count)
        return lsn

    def find(self, uint32_t count):
        """Look up random pages; how many have a version."""
        with nogil:
            found = find_versions(self.probe, count)
        return found

    def drop_to(self, uint64_t lsn):
        """Forget versions up to an LSN."""
        with nogil:
            dirty_drop_to(&self.probe.core, &self.probe.volume, lsn)


# ---------------------------------------------------------------- sums

def crc_pages(const uint8_t[::1] data, uint32_t rounds):
    """Sum of every whole page of a buffer, ``rounds`` times; gives the exclusive or of all sums of one round."""
    cdef Py_ssize_t count = data.shape[0] // PAGE, i
    cdef uint32_t n, total = 0
    if count == 0 or rounds == 0:
        raise ValueError("at least one page, at least once")
    with nogil:
        for n in range(rounds):
            total = 0
            for i in range(count):
                total ^= crc_page(&data[i * PAGE])
    return total
