# One connection of NVMe/TCP that carries an I/O queue, from the answer to its Connect until its socket is closed. A
# queue has one connection and a connection has one queue, so the two are one struct.
#
# Thread: reactor. Who writes what: queue.pyx the life, recv.pyx the receive side, send.pyx the send side, commands.pyx,
# fused.pyx and steps.pyx the commands. Source: NVMe base 2.0, NVM command set 1.0, NVMe/TCP transport 1.0.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from sparrow._native.front.client cimport Client, ClientHooks
from sparrow._native.reactor cimport Reactor, Timer
from sparrow._native.volume cimport BlockReq, Volume


cdef enum:
    DEPTH_MAX = 128            # entries of a queue, as property CAP says
    CAPSULE_HEAD = 72          # of a command capsule: the longest header there is here
    STAGING_BYTES = 262144     # bytes read from the socket and not yet taken apart
    TRANSFER_MAX = 524288      # bytes one command moves, as MDTS says
    PAGES_MAX = 129            # and the pages they touch at most
    SEND_HEADS = 64            # headers in one send
    NO_CID = 0xFFFFFFFF

# As Python agreed with the host.
cdef struct QueueConfig:
    uint64_t key               # names the queue to the control side
    int fd                     # connected; belongs to the queue from adopt on, also when adopt fails
    uint32_t depth             # entries, 2 to DEPTH_MAX
    uint32_t sq_head           # commands completed so far, modulo depth
    uint32_t data_align        # data for the host begins at multiples of it, 4 to 128 bytes
    bint flow_control          # completions carry SQHD; without it data may carry the completion
    bint header_digest
    bint data_digest
    uint8_t nexus[256]         # of the host, as the table of reservations has it, with a zero key; zeros: none

cdef enum SlotState:
    SLOT_FREE = 0
    SLOT_COLLECT = 1           # waits for data of the host: in its capsule, or asked for by an R2T
    SLOT_FUSED = 2             # a Compare that waits for the Write behind it, or that Write for its data
    SLOT_BLOCK = 3             # the volume has it
    SLOT_ANSWER = 4            # in the send queue, or in the send under way
    SLOT_UPCALL = 5            # Python has it

# What is to be built for a slot when its turn in the send queue comes.
cdef enum SlotOut:
    OUT_NONE = 0
    OUT_R2T = 1
    OUT_ANSWER = 2             # C2HData when there is data, then the response
    OUT_LAST = 3               # a response, and nothing after it: Disconnect

# One command of the host.
cdef struct Slot:
    Queue *queue
    Slot *next                 # in the send queue or the list of the send under way
    uint32_t state             # SlotState
    uint32_t out               # SlotOut
    uint32_t index             # in queue.slots
    uint32_t generation        # of this use of the slot; part of the transfer tag, so that late data misses
    uint32_t opcode
    uint8_t sqe[48]            # of a command that Python answers: the entry up to command dword 11
    uint32_t status            # SCT << 8 | SC, and DNR
    bint aborting              # the host wants it back: when the volume gives it back it is answered so
    bint preempted             # somebody preempted its host and wants it aborted: it is answered so, unless it is done
    bint gated                 # its success means something about blocks: only while the gate is open
    bint logged                # SLOT_UPCALL: its change of reservations is in the log here, or pinned: may be elsewhere
    uint64_t offset            # in the volume, bytes
    uint64_t span              # bytes of the volume it is about
    # data from the host, in order
    uint32_t want
    uint32_t have
    uint32_t data_base         # offset of byte 0 in pages
    bint asked                 # an R2T is out, or queued
    bint spoiled               # a data digest was wrong
    uint32_t page_count
    uint8_t *pages[129]        # of that data
    # data to the host: a slice of req.pages
    uint32_t read_count        # pages of req.pages this slot holds
    uint32_t read_base
    uint32_t read_bytes
    uint32_t read_pages        # counted in queue.read_pages
    # Dataset Management, Write Zeroes, Verify: steps
    uint64_t step_at           # next byte of the volume
    uint64_t step_end
    uint32_t range_at
    uint32_t range_count
    bint hints                 # Dataset Management without deallocation
    # fused Compare and Write
    Slot *mate                 # the other half, while both live
    bint first                 # the Compare of the two
    bint ready                 # all of its data is here, and good
    BlockReq req

# A header on its way out, with what frames it.
cdef struct Head:
    uint8_t bytes[160]         # header, digest, padding up to the data
    uint32_t length
    uint8_t data_digest[4]

cdef enum RecvPhase:
    RECV_HEAD = 0              # collecting a header, its digest and the padding behind it
    RECV_DATA = 1              # streaming data to where it belongs
    RECV_TAIL = 2              # data digest

cdef struct Queue:
    Client client
    QueueConfig config
    bint started               # the first bytes were looked at
    bint ending                # nothing more is taken: Disconnect, or a termination PDU
    bint last_built            # the send under way is the last one
    bint draining              # the last word is said; the host has a moment to read it
    int why                    # ClientCause when that is over
    uint32_t sq_head
    # slots
    Slot *slots
    uint32_t free_slots[128]   # stack of indices
    uint32_t free_count
    uint32_t cids[128]         # command identifier of each slot not answered yet, NO_CID for the others
    uint32_t block_reqs        # slots the volume has
    uint32_t collecting        # slots with pages that wait for data
    uint32_t read_pages        # of Reads not sent yet: one slow reader must not take the whole pool
    Slot *fused                # the first of a pair, its second is to be the next command
    # receive
    uint32_t phase             # RecvPhase
    uint8_t head[72]           # of the PDU being received
    uint32_t head_bytes        # of it that are here
    uint32_t data_left         # bytes of its data to come
    uint32_t digest            # running CRC32C of the data
    uint8_t tail[4]            # data digest, as far as it is here
    uint32_t tail_at
    Slot *sink                 # the command the data is for; NULL throws it away
    Timer watch_timer          # a socket that takes nothing; a host that does not hang up
    uint8_t term[152]          # the termination PDU
    uint32_t term_bytes        # 0: none
    # send
    Head heads[64]
    uint32_t head_count
    Slot *out_head
    Slot *out_tail
    Slot *flying               # wholly built into the send under way; freed when it is done


# Take a connected socket whose Connect was answered; `pending` is copied. NULL without memory, for parameters that make
# no sense, or when the volume is closing (the socket is closed then, `ended` is not called).
cdef Queue *queue_adopt(
    Reactor *reactor, Volume *volume, const QueueConfig *config, const uint8_t *pending, uint32_t length,
    ClientHooks *hooks
) noexcept nogil
# Take one command back, as an Abort asks. True: it was, no part of it that was not begun will be, and its answer says
# so. False: it ends as it would have.
cdef bint queue_abort(Queue *queue, uint16_t cid) noexcept nogil
# The queue with this key, or NULL. One that is ending, or speaks another protocol, is not found.
cdef Queue *queue_find(ClientHooks *hooks, uint64_t key) noexcept nogil
# End the connection with a termination PDU. `info` is the offset of the field that is wrong, or the digest that was.
cdef void queue_terminate(Queue *queue, uint32_t fes, uint32_t info, int why) noexcept nogil


cdef inline uint32_t slot_tag(const Slot *slot) noexcept nogil:
    """The transfer tag of an R2T: names one use of a slot."""
    return (slot.generation & 0x1FF) << 7 | slot.index
