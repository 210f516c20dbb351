"""Which pages hold data, for the control side: runs of them, as many as fit."""

from libc.stdint cimport uint8_t, uint64_t

from sparrow._native.control.command cimport Command, command_done, command_new
from sparrow._native.extent.states cimport StateLook, states_look
from sparrow._native.mailbox cimport Mail
from sparrow._native.sys cimport EINVAL, ENOMEM, free, malloc, memcpy
from sparrow._native.volume cimport Core, Volume

cdef enum:
    RUNS_MAX = 128
    PAGES_MAX = 262144         # looked at by one command: 1 GiB


cdef struct Look:
    StateLook states           # first: a pointer to it is a pointer to a Look
    uint64_t runs[128]


cdef void do_states(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = command_new(core, volume, mail)
    cdef Look *look
    if command == NULL:
        return
    if mail.a >= volume.served or mail.b == 0:
        command_done(command, -EINVAL, 0, 0, 0, NULL, 0)
        return
    look = <Look *>malloc(sizeof(Look))
    if look == NULL:
        command_done(command, -ENOMEM, 0, 0, 0, NULL, 0)
        return
    look.states.volume = volume
    look.states.at = mail.a
    look.states.end = min(volume.served - mail.a, min(mail.b, <uint64_t>PAGES_MAX)) + mail.a
    look.states.runs = look.runs
    look.states.room = RUNS_MAX
    look.states.done = on_looked
    look.states.owner = command
    states_look(&look.states)


cdef void on_looked(StateLook *states, int rc) noexcept nogil:
    cdef Look *look = <Look *>states
    cdef Command *command = <Command *>states.owner
    cdef uint64_t length = 8 * <uint64_t>states.count
    cdef uint8_t *runs = NULL
    if rc == 0:
        runs = <uint8_t *>malloc(length)
        if runs == NULL:
            rc = -ENOMEM
        else:
            memcpy(runs, look.runs, length)
    free(look)
    command_done(command, rc, 0, 0, 0, runs, length if runs != NULL else 0)
