"""Which pages hold data, through the committed view: the dirty map first, then the states in the sums blocks.

A page whose sum is lost counts as data: reading it is an error, and whoever takes it for zeros would copy what nobody
wrote.
"""

from sparrow._native.extent.dirty cimport dirty_find
from sparrow._native.extent.sums cimport FRAME_PAGES, frame_get, frame_put, frame_state
from sparrow._native.layout cimport SP_PAGE_DATA, SP_PAGE_LOST
from sparrow._native.sys cimport EIO, ENOMEM, sp_assert
from sparrow._native.volume cimport Core, Frame, Version, Volume, Waiter


cdef void states_look(StateLook *look) noexcept nogil:
    sp_assert(look.at < look.end and look.room != 0, b"a look at nothing")
    look.count = 0
    look.waiter.wake = on_frame
    look.waiter.owner = look
    look.volume.reading += 1
    go_on(look)


cdef void finish(StateLook *look, int rc) noexcept nogil:
    look.volume.reading -= 1
    look.done(look, rc)


cdef void on_frame(Waiter *waiter, int rc) noexcept nogil:
    if rc < 0:
        finish(<StateLook *>waiter.owner, rc if rc == -ENOMEM else -EIO)
    else:
        go_on(<StateLook *>waiter.owner)


cdef inline bint note(StateLook *look, bint data) noexcept nogil:
    """One more page; False when a run more would be too many."""
    if look.count == 0 or (look.runs[look.count - 1] & 1) != data:
        if look.count == look.room:
            return False
        look.runs[look.count] = data
        look.count += 1
    look.runs[look.count - 1] += 2
    return True


cdef void go_on(StateLook *look) noexcept nogil:
    cdef Volume *volume = look.volume
    cdef Core *core = <Core *>volume.reactor.core
    cdef Frame *frame
    cdef Version *version
    cdef bint data
    cdef bint more = True
    while look.at < look.end and more:
        frame = frame_get(core, volume, look.at, &look.waiter)
        if frame == NULL:
            return
        while look.at < look.end and look.at // FRAME_PAGES == frame.block:
            version = dirty_find(core, volume, look.at, volume.commit_lsn)
            if version != NULL:
                data = version.data != NULL
            else:
                data = frame_state(frame, look.at) == SP_PAGE_DATA or frame_state(frame, look.at) == SP_PAGE_LOST
            more = note(look, data)
            if not more:
                break
            look.at += 1
        frame_put(frame)
    finish(look, 0)
