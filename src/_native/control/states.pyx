"""Which pages hold data, through the committed view: the dirty map first, then the states in the sums blocks."""

from libc.stdint cimport uint8_t, uint64_t

from sparrow._native.control.command cimport Command, command_done, command_new
from sparrow._native.extent.dirty cimport dirty_find
from sparrow._native.extent.sums cimport FRAME_PAGES, frame_get, frame_put, frame_state
from sparrow._native.layout cimport SP_PAGE_DATA
from sparrow._native.mailbox cimport Mail
from sparrow._native.sys cimport EIO, ENOMEM, EINVAL, free, malloc
from sparrow._native.volume cimport Core, Frame, Version, Volume, Waiter

cdef enum:
    RUNS_MAX = 128
    PAGES_MAX = 262144         # looked at by one command: 1 GiB


cdef void do_states(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = command_new(core, volume, mail)
    if command == NULL:
        return
    if mail.a >= volume.served or mail.b == 0:
        command_done(command, -EINVAL, 0, 0, 0, NULL, 0)
        return
    command.buffer = <uint8_t *>malloc(8 * RUNS_MAX)
    if command.buffer == NULL:
        command_done(command, -ENOMEM, 0, 0, 0, NULL, 0)
        return
    command.at = mail.a
    command.end = min(volume.served - mail.a, min(mail.b, <uint64_t>PAGES_MAX)) + mail.a
    command.stage = 0
    command.waiter.wake = on_frame
    volume.reading += 1
    look(command)


cdef void finish(Command *command, int rc) noexcept nogil:
    cdef uint8_t *runs = command.buffer
    command.volume.reading -= 1
    if rc < 0:
        free(runs)
        command_done(command, rc, 0, 0, 0, NULL, 0)
    else:
        command_done(command, 0, 0, 0, 0, runs, 8 * command.stage)


cdef void on_frame(Waiter *waiter, int rc) noexcept nogil:
    if rc < 0:
        finish(<Command *>waiter.owner, rc if rc == -ENOMEM else -EIO)
    else:
        look(<Command *>waiter.owner)


cdef bint note(Command *command, bint data) noexcept nogil:
    """One more page; False when a run more would be too many."""
    cdef uint64_t *runs = <uint64_t *>command.buffer
    if command.stage == 0 or (runs[command.stage - 1] & 1) != data:
        if command.stage == RUNS_MAX:
            return False
        runs[command.stage] = data
        command.stage += 1
    runs[command.stage - 1] += 2
    return True


cdef void look(Command *command) noexcept nogil:
    cdef Volume *volume = command.volume
    cdef Frame *frame
    cdef Version *version
    cdef bint data
    cdef bint more = True
    while command.at < command.end and more:
        frame = frame_get(command.core, volume, command.at, &command.waiter)
        if frame == NULL:
            return
        while command.at < command.end and command.at // FRAME_PAGES == frame.block:
            version = dirty_find(command.core, volume, command.at, volume.commit_lsn)
            if version != NULL:
                data = version.data != NULL
            else:
                data = frame_state(frame, command.at) == SP_PAGE_DATA
            more = note(command, data)
            if not more:
                break
            command.at += 1
        frame_put(frame)
    finish(command, 0)
