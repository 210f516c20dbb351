"""Names of structured log events: ``noun.past_verb``, constant for ever, facts go into keys."""

from __future__ import annotations

from typing import Final

# authority
LINE_MINTED: Final = "line.minted"
LINE_DELIVERED: Final = "line.delivered"
LINE_RECOVERED: Final = "line.recovered"
VOLUME_UNCONFIRMED: Final = "volume.unconfirmed"
NODE_ANSWERED: Final = "node.answered"
AUTHORITY_OVERRIDDEN: Final = "authority.overridden"
ASK_REFUSED: Final = "ask.refused"
ASK_FAILED: Final = "ask.failed"
RECORD_QUARANTINED: Final = "record.quarantined"
RECORDS_RELOADED: Final = "records.reloaded"
VOLUME_UNSUPPORTED: Final = "volume.unsupported"
VOLUME_STUCK: Final = "volume.stuck"
NODE_SEEN: Final = "node.seen"
NODE_LOST: Final = "node.lost"
NODE_STATE_SET: Final = "node.state_set"
REPLACEMENT_STEPPED: Final = "replacement.stepped"

# node: replicas and terms
REPLICA_FORMATTED: Final = "replica.formatted"
REPLICA_OPENED: Final = "replica.opened"
REPLICA_REMOVED: Final = "replica.removed"
REPLICA_QUARANTINED: Final = "replica.quarantined"
REPLICA_CONDEMNED: Final = "replica.condemned"
WAL_TORN_TAIL_CUT: Final = "wal.torn_tail_cut"
WAL_DAMAGE_FOUND: Final = "wal.damage_found"
WAL_SUFFIX_CUT: Final = "wal.suffix_cut"
PAGE_DAMAGED: Final = "page.damaged"
PAGE_REPAIRED: Final = "page.repaired"
POOL_FULL: Final = "pool.full"
TERM_BEGUN: Final = "term.begun"
FENCE_SENT: Final = "fence.sent"
FENCE_ANSWERED: Final = "fence.answered"
FENCE_TIMED_OUT: Final = "fence.timed_out"
GATE_OPENED: Final = "gate.opened"
GATE_CLOSED: Final = "gate.closed"
FENCE_FIRED: Final = "fence.fired"
EPOCH_CONFLICTED: Final = "epoch.conflicted"
LINE_ACCEPTED: Final = "line.accepted"
LINE_REFUSED: Final = "line.refused"
LOG_ADOPTED: Final = "log.adopted"
OPENING_BLOCKED: Final = "opening.blocked"
COMMAND_FAILED: Final = "command.failed"

# node: peers
PEER_JOINED: Final = "peer.joined"
PEER_CAUGHT_UP: Final = "peer.caught_up"
PEER_REBUILT: Final = "peer.rebuilt"
PEER_LOST: Final = "peer.lost"
PEER_PENDING: Final = "peer.pending"
PEER_GROWN: Final = "peer.grown"
PEER_UNUSABLE: Final = "peer.unusable"
REBUILD_STARTED: Final = "rebuild.started"
ASK_SENT: Final = "ask.sent"
LINK_REFUSED: Final = "link.refused"
MASTER_REACHED: Final = "master.reached"
MASTER_LOST: Final = "master.lost"

# sessions
SESSION_STARTED: Final = "session.started"
SESSION_ENDED: Final = "session.ended"
SESSION_REFUSED: Final = "session.refused"

# processes
PROCESS_STARTED: Final = "process.started"
PROCESS_STOPPED: Final = "process.stopped"
PROCESS_DIED: Final = "process.died"

# control calls
CALL_FAILED: Final = "call.failed"
VOLUME_CREATED: Final = "volume.created"
VOLUME_DELETE_ASKED: Final = "volume.delete_asked"
VOLUME_DELETED: Final = "volume.deleted"
HEARTBEAT_REFUSED: Final = "heartbeat.refused"
STREAM_OPENED: Final = "stream.opened"
STREAM_CLOSED: Final = "stream.closed"
STORE_FAILED: Final = "store.failed"
STEP_RAN_LONG: Final = "step.ran_long"
