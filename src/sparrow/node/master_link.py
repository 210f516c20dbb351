"""The node's side of the conversation with the master: facts up every half second, instructions down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final, assert_never

from structlog.typing import FilteringBoundLogger

from sparrow.authority.effects import AllowAccess, HostReplica, Instruction, RemoveReplica, Synced
from sparrow.authority.types import AssignmentFact
from sparrow.base import events as names
from sparrow.base.constants import HEARTBEAT_S
from sparrow.base.errors import (
    ConfigError,
    InvalidArgument,
    SparrowError,
    StorageError,
    Unavailable,
    Unproven,
)
from sparrow.base.ids import VolumeId
from sparrow.node.access import AccessBook
from sparrow.node.delta import Deltas
from sparrow.node.outside import Identity, MasterCalls
from sparrow.node.replicas import Replicas
from sparrow.node.troubles import CAUSE_BYTES_MAX, Note, cut, ignore
from sparrow.rpc.messages import Heartbeat

HEARTBEAT_TIMEOUT_S: Final = 1.5
#: Peers' silence is looked at more often than the master is told, once anything is new.
OBSERVE_S: Final = HEARTBEAT_S / 2
#: Urgent news are sent at once, but never closer together than this.
URGENT_GAP_S: Final = 0.02
PAUSE_FIRST_S: Final = 0.2
PAUSE_LAST_S: Final = 5.0
#: Instructions buffered before the end of the first burst; more than this many volumes are not hosted here.
BURST_MAX: Final = 16384
#: A generation this far above the highest known is a forgery or damage, no restart and no recovery of a master.
GENERATION_STEP_MAX: Final = 1 << 20


def _keep_nothing(_generation: int) -> None:
    """For a node without a pool."""


def _volume_of(instruction: Instruction) -> VolumeId:
    if isinstance(instruction, AssignmentFact):
        return instruction.line.volume_id
    assert not isinstance(instruction, Synced), "it is about no volume"
    return instruction.volume_id


class MasterLink:
    """Heartbeats and the subscription.

    Args:
        build: takes the facts of all replicas now; the sequence number is the link's.
        resting: whether what was built last was the same as before it. Then the next look comes with the next
            heartbeat: whatever is counted in looks (a peer or a disk that is slow, a primary that is silent) takes
            longer to count than two looks are apart, and is looked at in full from the first one that finds news.
        learn_cluster: called with the master's cluster id before anything it says is acted on; raises ConfigError
            when this node belongs to another one.
        generation: the highest master generation this node ever heard; lower ones are not listened to.
        learn_generation: makes a higher one durable before it counts; raises StorageError.
        note: told of what the master wants and this node cannot do, each time it fails.
    """

    def __init__(
        self,
        *,
        me: Identity,
        master: MasterCalls,
        replicas: Replicas,
        access: AccessBook,
        build: Callable[[int], Awaitable[Heartbeat]],
        resting: Callable[[], bool],
        learn_cluster: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        log: FilteringBoundLogger,
        generation: int = 0,
        learn_generation: Callable[[int], None] = _keep_nothing,
        note: Note = ignore,
    ) -> None:
        self._me = me
        self._master = master
        self._replicas = replicas
        self._access = access
        self._build = build
        self._resting = resting
        self._learn_cluster = learn_cluster
        self._spawn = spawn
        self._log = log
        #: Something is to be said at once.
        self._urgent = False
        #: The next look is due, for that or because it is time.
        self._due = asyncio.Event()
        self._known = asyncio.Event()
        #: Of the stream under way; ended early when a newer master is heard.
        self._following: asyncio.Timeout | None = None
        self._sequence = 0
        self._deltas = Deltas()
        self._sending = False
        self._again = False
        #: Why no heartbeat arrives at a master that believes it, as it was said last; empty: the last one did.
        self._apart = ""
        self._generation = generation
        self._learn_generation = learn_generation
        self._note = note
        self._stream_generation = 0
        #: Of each volume, in order, with the generation of the master that said it.
        self._work: dict[VolumeId, list[tuple[int, Instruction]]] = {}
        self.live = False

    @property
    def generation(self) -> int:
        """The highest of any master heard; what comes from a lower one is refused."""
        return self._generation

    def hear_generation(self, generation: int) -> int:
        """A master says that it is this generation; the answer is the highest known, durably.

        Raises:
            InvalidArgument: nobody restarts a master that often; believing it would shut every real master out.
            StorageError: not durable, and not known.
        """
        if generation > self._generation + GENERATION_STEP_MAX:
            raise InvalidArgument(
                f"master_generation {generation} is far beyond {self._generation}, the highest heard here"
            )
        if generation > self._generation:
            self._learn_generation(generation)
            self._generation = generation
        return self._generation

    def _check_generation(self, generation: int) -> None:
        """Raises: ConfigError: it is a master that was replaced; StorageError, InvalidArgument."""
        if self.hear_generation(generation) > generation:
            raise ConfigError(
                f"Master generation {generation} answered, {self._generation} was heard before.",
                hint="Two masters run; stop the older one.",
            )

    def urge(self) -> None:
        """Something the master should hear of now."""
        self._urgent = True
        self._due.set()

    async def heartbeats(self) -> None:
        """Observe and report for ever. An unreachable master stops the reports, never the observing."""
        next_beat = 0.0
        loop = asyncio.get_running_loop()
        while True:
            urgent, self._urgent = self._urgent, False
            self._due.clear()
            self._sequence += 1
            heartbeat = await self._build(self._sequence)
            if urgent or loop.time() >= next_beat:
                next_beat = loop.time() + HEARTBEAT_S - OBSERVE_S / 2
                self._send(heartbeat)
            left = next_beat + OBSERVE_S / 2 - loop.time()
            # A timer that sets the event, no time limit on the wait for it: what comes round twice a second for ever is
            # not to end in an exception each time.
            wait_s = max(left, OBSERVE_S) if self._resting() else OBSERVE_S
            timer = loop.call_later(wait_s, self._due.set)
            try:
                await self._due.wait()
            finally:
                timer.cancel()
            if self._urgent:
                # Several changes at one moment become one report.
                await asyncio.sleep(URGENT_GAP_S)

    def _send(self, heartbeat: Heartbeat) -> None:
        if self._sending:
            self._again = True
            return
        self._sending = True
        self._spawn(self._report(heartbeat), "heartbeat")

    async def _report(self, heartbeat: Heartbeat) -> None:
        try:
            sent = self._deltas.report(heartbeat)
            ack = await self._master.heartbeat(sent, timeout_s=HEARTBEAT_TIMEOUT_S)
            self._learn_cluster(ack.cluster_id)
            known = self._stream_generation if self.live else self._generation
            self._check_generation(ack.master_generation)
            if ack.master_generation > known:
                self._leave_replaced()
            if not self._deltas.acknowledged(ack):
                self._again = True
        except ConfigError as error:
            self._known.clear()
            self._log.error(names.MASTER_LOST, cause=str(error))
            return
        except Unproven as error:
            # Either side has another key than the cluster: said once, until it is so no more.
            if str(error) != self._apart:
                self._apart = str(error)
                self._log.error(names.MASTER_LOST, cause=str(error), hint=error.hint)
            return
        except SparrowError as error:
            if self._known.is_set() or self._apart:
                self._log.debug(names.CALL_FAILED, call="heartbeat", cause=str(error))
                return
            # There was no master yet whose stream could end, and its address may be wrong.
            self._apart = str(error)
            self._log.warning(names.MASTER_LOST, cause=str(error), hint=error.hint)
            return
        finally:
            self._sending = False
            if self._again:
                self._again = False
                self.urge()
        self._apart = ""
        self._generation = max(self._generation, ack.master_generation)
        self._known.set()

    # ------------------------------------------------------------ instructions

    async def subscription(self) -> None:
        """Follow the master's instructions for ever, through reconnects."""
        pause = PAUSE_FIRST_S
        while True:
            await self._known.wait()
            cause = "the stream ended"
            try:
                async with asyncio.timeout(None) as self._following:
                    if await self._follow():
                        pause = PAUSE_FIRST_S
            except TimeoutError:
                cause, pause = "a newer master answered heartbeats", PAUSE_FIRST_S
            except SparrowError as error:
                cause = str(error)
            self._following = None
            if self.live:
                self.live = False
                self._log.warning(names.MASTER_LOST, cause=cause)
                self._replicas.control_changed(live=False)
            else:
                self._log.debug(names.CALL_FAILED, call="subscribe", cause=cause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_LAST_S)

    def _leave_replaced(self) -> None:
        """A newer master answered a heartbeat: the stream of an older one may say nothing, or try, for ever."""
        following, self._following = self._following, None
        if following is not None:
            following.reschedule(asyncio.get_running_loop().time())

    async def _follow(self) -> bool:
        """One stream, to its end; whether its first burst was complete and acted on."""
        # Whoever answers now may not be who took the last heartbeat.
        self._deltas.forget()
        stream = self._master.subscribe(self._me.node_id, self._me.incarnation)
        async with aclosing(stream) as instructions:
            burst = await self._first_burst(instructions)
            if burst is None:
                return False
            self.live = True
            self._log.info(
                names.MASTER_REACHED, generation=self._stream_generation, instructions=len(burst)
            )
            for instruction in burst:
                self._take(instruction)
            self._replicas.control_changed(live=True)
            async for instruction in instructions:
                if self._generation > self._stream_generation:
                    self._log.warning(names.MASTER_LOST, cause="a newer master answered heartbeats")
                    return True
                self._take(instruction)
        return True

    async def _first_burst(
        self, instructions: AsyncIterator[Instruction]
    ) -> list[Instruction] | None:
        """Everything up to Synced; None when what speaks is a master older than one heard before."""
        burst: list[Instruction] = []
        async for instruction in instructions:
            if isinstance(instruction, Synced):
                if self.hear_generation(instruction.master_generation) > (
                    instruction.master_generation
                ):
                    self._log.error(
                        names.LINE_REFUSED,
                        cause=f"master generation {instruction.master_generation}, "
                        f"{self._generation} was heard before",
                    )
                    return None
                self._stream_generation = instruction.master_generation
                return burst
            burst.append(instruction)
            if len(burst) > BURST_MAX:
                self._log.error(names.CALL_FAILED, call="subscribe", cause="endless first burst")
                return None
        return None

    def _take(self, instruction: Instruction) -> None:
        """Queue an instruction behind the others of its volume; volumes do not wait for each other."""
        match instruction:
            case Synced():
                return
            case HostReplica() | RemoveReplica() | AllowAccess() | AssignmentFact():
                volume_id = _volume_of(instruction)
            case _:
                assert_never(instruction)
        said = (self._stream_generation, instruction)
        queue = self._work.get(volume_id)
        if queue is not None:
            queue.append(said)
            return
        self._work[volume_id] = [said]
        self._spawn(self._carry_out(volume_id), f"instructions:{volume_id}")

    async def _carry_out(self, volume_id: VolumeId) -> None:
        queue = self._work[volume_id]
        pause = PAUSE_FIRST_S
        try:
            while queue:
                generation, instruction = queue.pop(0)
                if generation < self._generation:
                    # Said by a master that was replaced since. What stands of it, its successor says again; what does
                    # not may contradict what this node has told the successor.
                    continue
                if await self._carry_out_one(instruction):
                    pause = PAUSE_FIRST_S
                    continue
                # The master says it once: what could not be done now is done later, unless newer word came.
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_LAST_S)
                if not any(type(newer) is type(instruction) for _, newer in queue):
                    queue.insert(0, (generation, instruction))
        finally:
            del self._work[volume_id]

    async def _carry_out_one(self, instruction: Instruction) -> bool:
        """Whether it is settled; a full disk or a busy core may take it later."""
        try:
            match instruction:
                case HostReplica():
                    await self._replicas.want(instruction)
                case AssignmentFact():
                    await self._replicas.assign(instruction)
                case RemoveReplica():
                    await self._replicas.remove(instruction)
                    if self._replicas.find(instruction.volume_id) is None:
                        self._access.forget(instruction.volume_id)
                case AllowAccess():
                    await self._access.keep(instruction)
                case Synced():
                    pass
                case _:
                    assert_never(instruction)
        except SparrowError as error:
            self._log.error(
                names.COMMAND_FAILED,
                command=type(instruction).__name__,
                code=error.code,
                cause=str(error),
            )
            if isinstance(error, StorageError):
                # Somebody waits for it at the master, who sees this node and not its log.
                said = f"{error} {error.hint}".strip()
                self._note(
                    f"{type(instruction).__name__} of {_volume_of(instruction)}",
                    cut(said, CAUSE_BYTES_MAX),
                )
            return not isinstance(error, StorageError | Unavailable)
        return True
