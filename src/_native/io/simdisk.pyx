"""Virtual files: a page cache over a platter, and everything a disk may do to what was not flushed.

What a file system with a volatile cache promises, and no more: a write is in the cache until it is flushed or was
written with dsync; before that any 512-byte sector of it may be on the platter or not, in any order, also while the
operation is still under way. A flush makes durable what had completed when it was submitted. A flush that fails leaves
its pages readable and clean: they will never be written, and the next flush says nothing of it, as on Linux. It may
fail long before it is told so: a flush of the same file that is submitted meanwhile, or was before, ends well.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Io, Op
from sparrow._native.io.sim cimport (
    BLOCK, DISK_BEHIND, DISK_PUNCH, DISK_READ, DISK_SYNC, DISK_WRITE, EVENT_DISK, EVENT_WRITEBACK, FILE_FD, SECTOR,
    STRIKE_CUT, STRIKE_DONE, STRIKE_EIO, STRIKE_ENOSPC, STRIKE_LOSE, STRIKE_NONE, STRIKE_TEAR, Cell, Event, File, Host,
    Room_,
)
from sparrow._native.io.simtime cimport below, chance, complete, plan
from sparrow._native.io.simwatch cimport report
from sparrow._native.sys cimport EIO, ENOSPC, calloc, free, iovec, malloc, memcpy, memset, sp_assert


cdef File *file_of(Room_ *room, int fd) noexcept nogil:
    cdef int index = fd - FILE_FD
    sp_assert(index >= 0 and <uint32_t>index < room.file_count, b"a file descriptor that nobody gave out")
    return room.files[index]


# ---------------------------------------------------------------- bytes

cdef void cell_cache(File *file, uint32_t page) noexcept nogil:
    """Make the page's newest content something of its own in the cache."""
    cdef Cell *cell = &file.cells[page]
    if cell.cache == NULL:
        cell.cache = <uint8_t *>malloc(BLOCK)
        if cell.platter != NULL:
            memcpy(cell.cache, cell.platter, BLOCK)
        else:
            memset(cell.cache, 0, BLOCK)
    cell.dirty = True
    if not cell.listed:
        cell.listed = True
        file.dirty[file.dirty_count] = page
        file.dirty_count += 1


cdef void cell_platter(Room_ *room, File *file, uint32_t page) noexcept nogil:
    cdef Cell *cell = &file.cells[page]
    if cell.platter == NULL:
        cell.platter = <uint8_t *>calloc(1, BLOCK)
        room.hosts[file.host].held += 1


cdef void cell_flush(Room_ *room, File *file, uint32_t page) noexcept nogil:
    cdef Cell *cell = &file.cells[page]
    if cell.cache == NULL or not cell.dirty:
        return
    cell_platter(room, file, page)
    memcpy(cell.platter, cell.cache, BLOCK)
    free(cell.cache)
    cell.cache = NULL
    cell.dirty = False


cdef void file_put(
    Room_ *room, File *file, uint64_t offset, const uint8_t *data, uint64_t length, bint durable
) noexcept nogil:
    cdef uint64_t page, at, size
    while length > 0:
        page = offset // BLOCK
        at = offset % BLOCK
        size = min(length, BLOCK - at)
        sp_assert(page < file.pages, b"a write behind the end of a file")
        if not durable:
            cell_cache(file, <uint32_t>page)
            memcpy(file.cells[page].cache + at, data, size)
        else:
            cell_platter(room, file, <uint32_t>page)
            memcpy(file.cells[page].platter + at, data, size)
            if file.cells[page].cache != NULL:
                memcpy(file.cells[page].cache + at, data, size)
        offset += size
        data += size
        length -= size


cdef void file_get(File *file, uint64_t offset, uint8_t *data, uint64_t length, bint platter) noexcept nogil:
    cdef uint64_t page, at, size
    cdef uint8_t *source
    while length > 0:
        page = offset // BLOCK
        at = offset % BLOCK
        size = min(length, BLOCK - at)
        sp_assert(page < file.pages, b"a read behind the end of a file")
        source = file.cells[page].platter
        if file.cells[page].cache != NULL and not platter:
            source = file.cells[page].cache
        if source == NULL:
            memset(data, 0, size)
        else:
            memcpy(data, source + at, size)
        offset += size
        data += size
        length -= size


cdef void file_clear(Room_ *room, File *file) noexcept nogil:
    """Truncated to nothing and back to its size, durably."""
    cdef uint64_t page
    for page in range(file.pages):
        if file.cells[page].platter != NULL:
            room.hosts[file.host].held -= 1
        free(file.cells[page].platter)
        free(file.cells[page].cache)
    memset(file.cells, 0, file.pages * sizeof(Cell))
    file.dirty_count = 0


cdef void punch(Room_ *room, File *file, uint64_t offset, uint64_t length) noexcept nogil:
    """Pages become holes: at once, or when the file is flushed next."""
    cdef uint64_t page = offset // BLOCK
    cdef Cell *cell
    sp_assert(offset % BLOCK == 0 and length % BLOCK == 0, b"whole pages are given back")
    while page < (offset + length) // BLOCK and page < file.pages:
        cell = &file.cells[page]
        if cell.platter != NULL or cell.cache != NULL:
            if chance(room, 500000):
                if cell.platter != NULL:
                    room.hosts[file.host].held -= 1
                free(cell.platter)
                free(cell.cache)
                cell.platter = NULL
                cell.cache = NULL
                cell.dirty = False
            else:
                cell_cache(file, <uint32_t>page)
                memset(cell.cache, 0, BLOCK)
        page += 1


cdef void write_some(Room_ *room, Event *event, bint durable, uint64_t ppm) noexcept nogil:
    """Any sectors of a write, each with this chance."""
    cdef File *file = file_of(room, event.fd)
    cdef uint64_t offset = event.offset
    cdef uint64_t at
    cdef uint32_t i
    for i in range(event.count):
        at = 0
        while at < event.iov[i].iov_len:
            if ppm >= 1000000 or chance(room, ppm):
                file_put(room, file, offset, <uint8_t *>event.iov[i].iov_base + at, SECTOR, durable)
            at += SECTOR
            offset += SECTOR


cdef uint64_t event_bytes(Event *event) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(event.count):
        total += event.iov[i].iov_len
    return total


# ---------------------------------------------------------------- operations

cdef uint64_t duration(Host *host, uint32_t action, bint dsync) noexcept nogil:
    cdef Room_ *room = host.room
    cdef uint64_t ns = 15000 + below(room, 60000)
    if action == DISK_SYNC or dsync:
        ns += 40000 + below(room, 200000)
    if chance(room, 5000):
        ns += below(room, 20000000)
    if host.slow > 0 and chance(room, host.slow):
        ns += below(room, host.slow_ns)
    return ns


cdef bint lacks_room(Host *host, Event *event) noexcept nogil:
    """A write to pages the disk has not given out yet, and has none left for."""
    cdef File *file = file_of(host.room, event.fd)
    cdef uint64_t page = event.offset // BLOCK
    cdef uint64_t last = (event.offset + event_bytes(event) - 1) // BLOCK
    cdef uint64_t fresh = 0
    if host.capacity == 0 or file.kind != 2:
        # Only the extents are sparse: everything else was given its place when the replica was made.
        return False
    while page <= last:
        if file.cells[page].platter == NULL and file.cells[page].cache == NULL:
            fresh += 1
        page += 1
    return fresh > 0 and host.held + fresh > host.capacity


cdef void begin(
    Io *io, Op *op, uint32_t action, int fd, iovec *iov, uint32_t count, uint64_t offset, bint dsync,
    uint64_t length
) noexcept nogil:
    cdef Host *host = <Host *>io.impl
    cdef Room_ *room = host.room
    cdef File *file
    cdef Event event
    cdef uint32_t strike = STRIKE_NONE
    sp_assert(not op.busy, b"an Op is submitted twice")
    op.busy = True
    if host.doomed:
        return
    file = file_of(room, fd)
    memset(&event, 0, sizeof(Event))
    event.kind = EVENT_DISK
    event.host = host
    event.generation = host.generation
    event.op = op
    event.action = action
    event.fd = fd
    event.iov = iov
    event.count = count
    event.offset = offset
    event.dsync = dsync
    event.length = length
    if action == DISK_READ or action == DISK_WRITE:
        event.res = <int32_t>event_bytes(&event)
        sp_assert(offset % SECTOR == 0 and event.res % SECTOR == 0, b"direct I/O is aligned")
    if file.host != host.index:
        report(host, b"it reaches for another host's file")
    room.ios += 1
    if room.ios == room.strike_at:
        strike = room.strike
        room.struck = <int32_t>host.index
    if strike == STRIKE_CUT or strike == STRIKE_LOSE or strike == STRIKE_TEAR or strike == STRIKE_DONE:
        if action == DISK_WRITE and strike == STRIKE_TEAR:
            write_some(room, &event, True, 500000)
        elif strike == STRIKE_DONE:
            disk_apply(room, &event)
        host.doomed = True
        return
    if action == DISK_READ:
        if strike == STRIKE_EIO or strike == STRIKE_ENOSPC or chance(room, host.eio_read):
            event.res = -EIO
    elif action != DISK_BEHIND and (strike == STRIKE_EIO or chance(room, host.eio_write)):
        # Of a write that fails anything may be on the disk.
        if action == DISK_WRITE:
            write_some(room, &event, dsync, below(room, 1000000))
        elif action == DISK_SYNC and chance(room, 500000):
            flush_fails(room, file)
            event.lost = True
        event.res = -EIO
    elif action == DISK_WRITE and (strike == STRIKE_ENOSPC or lacks_room(host, &event)):
        event.res = -ENOSPC
    elif action == DISK_WRITE and chance(room, 500000):
        # Some of it is there long before anybody hears of it.
        write_some(room, &event, dsync and not host.lies, 500000)
    elif action == DISK_SYNC:
        # What completes from now on need not be in it.
        event.mark = file.dirty_count
    event.at = room.now + duration(host, action, dsync)
    if action == DISK_SYNC and file.fail_ns > 0:
        flush_fails(room, file)
        event.lost = True
        event.res = -EIO
        event.at = room.now + file.fail_ns
        file.fail_ns = 0
    plan(room, &event)


cdef void disk_apply(Room_ *room, Event *event) noexcept nogil:
    """The operation's effect on the disk, whole."""
    cdef Host *host = event.host
    cdef File *file = file_of(room, event.fd)
    cdef uint64_t offset = event.offset
    cdef uint32_t i
    if event.action == DISK_READ:
        for i in range(event.count):
            file_get(file, offset, <uint8_t *>event.iov[i].iov_base, event.iov[i].iov_len, False)
            offset += event.iov[i].iov_len
    elif event.action == DISK_WRITE:
        write_some(room, event, event.dsync and not host.lies, 1000000)
    elif event.action == DISK_PUNCH:
        punch(room, file, event.offset, event.length)
    elif event.action == DISK_BEHIND:
        for i in range(<uint32_t>((event.length + BLOCK - 1) // BLOCK)):
            if not host.lies and chance(room, 500000):
                cell_flush(room, file, <uint32_t>(offset // BLOCK) + i)
    elif not host.lies:
        flush_file(room, file, event.mark)
        for i in range(room.file_count):
            # Direct writes are in the device's cache, which any flush empties.
            if room.files[i].host == host.index and is_direct(room.files[i]):
                flush_file(room, room.files[i], room.files[i].dirty_count)


cdef bint is_direct(File *file) noexcept nogil:
    return file.kind == 1 or file.kind == 4


cdef void flush_file(Room_ *room, File *file, uint64_t mark) noexcept nogil:
    """The first `mark` of its dirty pages, and of the others any."""
    cdef uint32_t i, page
    cdef uint32_t kept = 0
    for i in range(file.dirty_count):
        page = file.dirty[i]
        if i < mark or chance(room, 500000):
            cell_flush(room, file, page)
            file.cells[page].listed = False
        else:
            file.dirty[kept] = page
            kept += 1
    file.dirty_count = kept


cdef void flush_fails(Room_ *room, File *file) noexcept nogil:
    """Some pages are written, the others are clean and lost: readable until the machine stops."""
    cdef uint32_t i, page
    for i in range(file.dirty_count):
        page = file.dirty[i]
        if chance(room, 500000):
            cell_flush(room, file, page)
        file.cells[page].dirty = False
        file.cells[page].listed = False
    file.dirty_count = 0


cdef void disk_end(Room_ *room, Event *event) noexcept nogil:
    cdef Event later
    if event.res >= 0:
        disk_apply(room, event)
        if event.action == DISK_WRITE and not event.dsync and chance(room, 200000):
            memset(&later, 0, sizeof(Event))
            later.kind = EVENT_WRITEBACK
            later.fd = event.fd
            later.offset = event.offset
            later.at = room.now + below(room, 400000000)
            plan(room, &later)
    elif event.action == DISK_SYNC and not event.lost:
        flush_fails(room, file_of(room, event.fd))
    complete(event.host, event.op, event.res)


cdef void disk_writeback(Room_ *room, Event *event) noexcept nogil:
    """The kernel writes a page when it likes."""
    cell_flush(room, file_of(room, event.fd), <uint32_t>(event.offset // BLOCK))


# ---------------------------------------------------------------- death

cdef void disk_die(Room_ *room, Event *event, uint32_t strike) noexcept nogil:
    """Nobody waits for this operation any more. A killed process leaves whole blocks, lost power any sectors."""
    if event.action != DISK_WRITE or event.res < 0 or strike == STRIKE_LOSE:
        return
    if strike == STRIKE_TEAR:
        write_some(room, event, True, below(room, 1000001))
    elif chance(room, 700000):
        write_some(room, event, event.dsync, 1000000)


cdef void disk_lose_cache(Room_ *room, uint32_t host, uint32_t strike) noexcept nogil:
    """Power is lost: of each dirty page any sectors may have been written."""
    cdef File *file
    cdef Cell *cell
    cdef uint32_t i, j, at
    cdef uint64_t ppm
    if strike == STRIKE_CUT:
        return
    for i in range(room.file_count):
        file = room.files[i]
        if file.host != host:
            continue
        for j in range(<uint32_t>file.pages):
            cell = &file.cells[j]
            cell.listed = False
            if cell.cache == NULL:
                continue
            if cell.dirty and strike == STRIKE_TEAR:
                ppm = 500000 * below(room, 3)
                for at in range(BLOCK // SECTOR):
                    if chance(room, ppm):
                        cell_platter(room, file, j)
                        memcpy(cell.platter + at * SECTOR, cell.cache + at * SECTOR, SECTOR)
            free(cell.cache)
            cell.cache = NULL
            cell.dirty = False
        file.dirty_count = 0


# ---------------------------------------------------------------- the table

cdef void sim_read(Io *io, Op *op, int fd, iovec *iov, uint32_t count, uint64_t offset) noexcept nogil:
    begin(io, op, DISK_READ, fd, iov, count, offset, False, 0)


cdef void sim_write(Io *io, Op *op, int fd, iovec *iov, uint32_t count, uint64_t offset, bint dsync) noexcept nogil:
    begin(io, op, DISK_WRITE, fd, iov, count, offset, dsync, 0)


cdef void sim_datasync(Io *io, Op *op, int fd) noexcept nogil:
    begin(io, op, DISK_SYNC, fd, NULL, 0, 0, False, 0)


cdef void sim_punch(Io *io, Op *op, int fd, uint64_t offset, uint64_t length) noexcept nogil:
    begin(io, op, DISK_PUNCH, fd, NULL, 0, offset, False, length)


cdef void sim_behind(Io *io, Op *op, int fd, uint64_t offset, uint64_t length) noexcept nogil:
    begin(io, op, DISK_BEHIND, fd, NULL, 0, offset, False, length)


cdef void disk_fill(Io *io) noexcept nogil:
    io.read = sim_read
    io.write = sim_write
    io.datasync = sim_datasync
    io.punch = sim_punch
    io.behind = sim_behind
