"""Commands that wait: made from mail, answered once, freed then."""

from libc.stdint cimport uint8_t, uint64_t

from sparrow._native.events cimport done_up
from sparrow._native.extent.flusher cimport flush_idle
from sparrow._native.layout cimport sp_superblock
from sparrow._native.mailbox cimport Mail
from sparrow._native.reactor cimport Task, task_queue
from sparrow._native.sys cimport ENOMEM, calloc, free
from sparrow._native.volume cimport Core, Volume
from sparrow._native.waiters cimport wake_all, waiter_add


cdef Command *command_new(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = <Command *>calloc(1, sizeof(Command))
    if command == NULL:
        done_up(core.reactor, mail.token, -ENOMEM, 0, 0, 0, NULL, 0)
        free(mail.data)
        return NULL
    command.mail = mail[0]
    command.core = core
    command.volume = volume
    if volume != NULL:
        volume.commands += 1
    command.waiter.owner = command
    command.op.owner = command
    command.timer.owner = command
    command.req.owner = command
    return command


cdef void command_done(
    Command *command, int rc, uint64_t a, uint64_t b, uint64_t c, uint8_t *data, uint64_t length
) noexcept nogil:
    done_up(command.core.reactor, command.mail.token, rc, a, b, c, data, length)
    if command.volume != NULL:
        command.volume.commands -= 1
    free(command.mail.data)
    free(command)


cdef bint command_of_term(const Command *command) noexcept nogil:
    cdef const sp_superblock *now = command.volume.super.now
    return now.promised_epoch == command.mail.a and now.promised_start == command.mail.b


cdef void command_when_quiet(Command *command, command_step step) noexcept nogil:
    command.waiter.wake = step
    waiter_add(&command.volume.quiet_waiters, &command.waiter)
    task_queue(command.core.reactor, &command.volume.quiet_task)


cdef void run_quiet(Task *task) noexcept nogil:
    cdef Volume *volume = <Volume *>task.owner
    if volume.quiet_waiters == NULL or volume.cutting:
        # A cut asks again when it is made.
        return
    if (
        volume.log.writes > 0
        or ((volume.log.open != NULL or volume.log.waiting != NULL) and not volume.condemned)
        or not flush_idle(volume)
    ):
        # Asked again when a write or a round is complete; an open batch is closed by the log's own task.
        if volume.log.writes == 0 and flush_idle(volume):
            task_queue(volume.reactor, &volume.log_task)
            task_queue(volume.reactor, task)
        return
    # Queued first: a waiter may let go of the volume, and it does not while a task of the volume is queued.
    task_queue(volume.reactor, &volume.flush.task)
    wake_all(&volume.quiet_waiters, 0)


cdef void quiet_init(Volume *volume) noexcept nogil:
    volume.quiet_task.run = run_quiet
    volume.quiet_task.owner = volume
