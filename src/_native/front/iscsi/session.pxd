# One iSCSI connection in full-feature phase, from the moment the login hands it over until its socket is closed.
# A session has one connection (MaxConnections=1) and ErrorRecoveryLevel 0, so the two are one struct.
#
# Thread: reactor. Who writes what: client.pyx the socket and the life, session.pyx begin and keep-alive, recv.pyx the
# receive side, send.pyx the send side, slots.pyx, requests.pyx, execute.pyx and manage.pyx the requests. A session is
# freed in one place only, in its own task at the end of a turn, when no Op and no BlockReq of it is under way any more.
# Source: RFC 7143.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from sparrow._native.front.client cimport CLIENT_ISCSI, Client, ClientHooks
from sparrow._native.layout cimport sp_iscsi_bhs
from sparrow._native.reactor cimport Reactor, Timer
from sparrow._native.volume cimport BlockReq, Volume


cdef enum:
    DEPTH_MAX = 128            # commands an initiator may have outstanding; what the login told it must not be more
    IMMEDIATE_MAX = 32         # immediate requests beside them (they are outside the window)
    SLOTS = 192                # the rest are answered and wait to be sent
    STAGING_BYTES = 262144     # bytes read from the socket and not yet taken apart
    UPCALL_BYTES_MAX = 65536   # data a command for Python may carry
    SEND_HEADS = 64            # PDUs in one send
    SENSE_MAX = 252            # SPC-4, 4.5.1

# Counts in bytes, sequence numbers as the login left them.
cdef struct SessionConfig:
    uint64_t key               # names the session to the control side
    int fd                     # connected; belongs to the session from adopt on, also when adopt fails
    uint16_t tsih
    uint16_t cid
    uint32_t exp_cmd_sn
    uint32_t stat_sn
    uint32_t queue_depth       # as the login told the initiator; 0 means DEPTH_MAX
    uint32_t initiator_recv_bytes_max
    uint32_t target_recv_bytes_max
    uint32_t max_burst_bytes
    uint32_t first_burst_bytes
    uint32_t max_outstanding_r2t   # one R2T is outstanding per command whatever this allows
    bint initial_r2t
    bint immediate_data
    bint header_digest
    bint data_digest
    uint32_t attention         # Attention: what the initiator is told of the session's own beginning
    uint8_t nexus[256]         # of the initiator, as the table of reservations has it, with a zero key; zeros: none
    uint64_t keepalive_ns      # silence before a NOP-In, and again before the end; 0 means 15 s

cdef enum SlotState:
    SLOT_FREE = 0
    SLOT_COLLECT = 1           # waits for data of the initiator: unsolicited, or solicited by an R2T
    SLOT_DRAIN = 2             # has failed; what the initiator still sends for it is thrown away before it is told
    SLOT_BLOCK = 3             # the volume has it
    SLOT_UPCALL = 4            # Python has it
    SLOT_MANAGE = 5            # task management that waits for tasks to end
    SLOT_ANSWER = 6            # in the send queue, or in the send under way

# What is to be built for a slot when its turn in the send queue comes.
cdef enum SlotOut:
    OUT_NONE = 0
    OUT_R2T = 1
    OUT_SCSI = 2               # Data-In while data_at < data_end, then SCSI Response
    OUT_PDU = 3                # `bhs` with data pages; sequence numbers are filled in
    OUT_LAST = 4               # the same, and nothing after it: logout

# Unit attentions that a session has still to be told, in the order in which they are. Source: SAM-5, 5.14.
cdef enum Attention:
    ATTENTION_POWER_ON = 1     # the nexus is new: nothing of what an initiator may have set here before is known
    ATTENTION_NEXUS_LOSS = 2   # it took the place of an older session, whose commands are gone. RFC 7143, 6.3.5
    ATTENTION_RESET = 4        # the unit was reset by a task management function
    ATTENTION_ACCESS = 8       # this path became the one to use, or ceased to be
    ATTENTION_CAPACITY = 16
    # Events of reservations. Source: SPC-4, 5.13.
    ATTENTION_RESERVATIONS_PREEMPTED = 32
    ATTENTION_RESERVATIONS_RELEASED = 64
    ATTENTION_REGISTRATIONS_PREEMPTED = 128
    ATTENTION_TOLD = 224       # those the control side raises

# One request of the initiator.
cdef struct Slot:
    Session *session
    Slot *next                 # in the send queue or the list of the send under way
    uint32_t state             # SlotState
    uint32_t out               # SlotOut
    uint32_t index             # in session.slots
    uint32_t generation        # of this use of the slot; part of tags, so that late answers miss
    uint64_t serial            # order of arrival over all sessions of the reactor
    bint immediate             # outside the CmdSN window
    bint windowed              # counts in session.active
    bint scsi                  # a SCSI Command, so task management can reach it
    bint logged                # SLOT_UPCALL: its change of reservations is in the log here, or pinned: may be elsewhere
    uint32_t kind              # CdbKind of scsi.pxd
    uint64_t offset            # of the transfer in the volume, bytes
    uint32_t itt
    uint32_t expected          # ExpectedDataTransferLength
    uint32_t expected_in       # the part of it that is data to the initiator
    uint32_t length            # bytes the command moves, for the residual: by its CDB, or by the upcall's answer
    uint32_t status            # SCSI status
    bint tell                  # aborted by another session: ends with TASK ABORTED
    uint8_t bhs[48]            # the request; OUT_PDU: the answer
    # data from the initiator, in order
    uint32_t want              # bytes kept; the rest is thrown away
    uint32_t have              # bytes received, thrown away ones too
    uint32_t solicited         # end of the burst under way: of unsolicited data, or of the R2T outstanding
    bint bursting              # Data-Out PDUs of a burst are expected
    bint r2t_open              # the burst is one we asked for
    uint32_t r2t_sn
    uint32_t data_out_sn       # DataSN of the next Data-Out of the burst
    # data to the initiator: a slice of req.pages
    uint32_t data_base         # offset of byte 0 in req.pages, of data that comes too
    uint32_t data_at           # next byte to send
    uint32_t data_end
    uint32_t data_sn
    uint32_t page_count        # pages of req.pages this slot holds
    uint32_t read_pages        # counted in session.read_pages
    # steps of UNMAP, WRITE SAME and VERIFY (bulk.pyx)
    uint64_t span              # bytes of the volume the command is about
    uint64_t step_at           # next byte of the volume
    uint64_t step_end
    uint32_t range_at          # UNMAP: next range of its list
    uint32_t range_count
    uint8_t *kept              # a page of the pool: the list, the block to be written, or what is compared
    uint32_t beside            # VERIFY: pages to compare with, in req.pages after the first
    bint same                  # VERIFY: one block, with which each is compared
    bint broken                # its data came out of sequence; the rest is thrown away unlooked at
    bint stop                  # aborted: no further step
    uint32_t sense_bytes
    uint8_t sense[256]         # with its 2 bytes of length; OUT_PDU: a short data segment
    uint32_t function          # SLOT_MANAGE: what was asked
    uint32_t target            # SLOT_MANAGE, ABORT TASK: tag of the slot to wait for
    BlockReq req

# A header on its way out, with what frames it.
cdef struct Head:
    uint8_t bhs[48]
    uint8_t header_digest[4]
    uint8_t tail[8]            # padding, then the data digest

cdef enum RecvPhase:
    RECV_HEAD = 0              # collecting BHS, AHS and header digest
    RECV_DATA = 1              # streaming the data segment to where it belongs
    RECV_TAIL = 2              # padding and data digest

cdef struct Session:
    Client client              # first: a Client of CLIENT_ISCSI is a Session
    SessionConfig config
    bint started               # the first bytes were looked at
    bint logged_out            # nothing is read any more
    bint closing_after         # the send under way is the last one
    uint32_t attention         # Attention: the next command ends with the first of them
    # sequence numbers
    uint32_t exp_cmd_sn
    uint32_t stat_sn
    uint32_t active            # windowed slots not answered yet: MaxCmdSN = ExpCmdSN + depth - active - 1
    uint32_t immediates        # immediate slots not answered yet
    # slots
    Slot *slots
    uint32_t free_slots[192]   # stack of indices
    uint32_t free_count
    uint32_t itts[192]         # initiator task tag of each slot not answered yet, ISCSI_NO_TAG for the others
    uint32_t block_reqs        # slots the volume has
    uint32_t collecting        # slots with pages that wait for data
    uint32_t read_pages        # of READs not sent yet: one slow reader must not take the whole pool
    # receive
    uint8_t *scratch           # UPCALL_BYTES_MAX: data of an upcall in one piece
    uint32_t phase             # RecvPhase
    sp_iscsi_bhs head          # of the PDU being received
    uint32_t data_left         # bytes of its data segment to come
    uint32_t tail_left
    uint32_t pad_bytes
    uint32_t digest            # running CRC32C of the data segment
    uint8_t tail[8]            # padding and data digest, as far as they are here
    uint32_t tail_at
    Slot *sink                 # the request the PDU is for; NULL throws its data away
    # keep-alive
    Timer keepalive_timer
    uint64_t heard_ns
    # the initiator was asked to log out
    Timer leave_timer          # it ends when this fires
    uint32_t leave_s           # told with the asking; not 0: still to be sent
    bint ping_queued
    bint ping_out              # our NOP-In waits for its NOP-Out
    uint64_t ping_ns
    # send
    Head heads[64]
    uint32_t head_count
    Slot *out_head
    Slot *out_tail
    Slot *flying               # wholly built into the send under way; freed when it is done


# Take a connected socket whose login is complete; `pending` is copied. NULL without memory or when the volume is
# closing (the socket is closed then, `ended` is not called).
cdef Session *session_adopt(
    Reactor *reactor, Volume *volume, const SessionConfig *config, const uint8_t *pending, uint32_t length,
    ClientHooks *hooks
) noexcept nogil
# The session with this key, or NULL. One that is ending, or speaks another protocol, is not found.
cdef Session *session_find(ClientHooks *hooks, uint64_t key) noexcept nogil
# Answer a SCSI upcall. `sense` without its 2-byte length. Everything is copied; a tag that is gone is ignored.
cdef void session_answer(
    Session *session, uint32_t tag, uint8_t status, const uint8_t *sense, uint32_t sense_bytes,
    const uint8_t *data_in, uint32_t length
) noexcept nogil
# Answer any other upcall with a PDU; StatSN, ExpCmdSN, MaxCmdSN and DataSegmentLength are filled in.
cdef void session_answer_raw(
    Session *session, uint32_t tag, const uint8_t *bhs, const uint8_t *data, uint32_t length
) noexcept nogil


cdef inline uint32_t slot_tag(const Slot *slot) noexcept nogil:
    """Names one use of a slot to Python and, as Target Transfer Tag, to the initiator; never ISCSI_NO_TAG."""
    return (slot.generation << 8) | slot.index


cdef inline Session *session_from(Client *client) noexcept nogil:
    """The first session in the list from here on; NULL at its end."""
    while client != NULL and client.kind.protocol != CLIENT_ISCSI:
        client = client.next
    return <Session *>client
