"""What arrives late on a session that its initiator gave up: it takes no effect, and is seen when it does.

Each rule is taken away once: then the page holds what was replaced before, and the judge says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from sparrow.base.ids import NodeId
from sparrow.sim.checkers import Violation
from sparrow.sim.compiled.content import page_of
from sparrow.sim.compiled.fencing import RECORDS
from sparrow.sim.compiled.initiator import Initiator
from sparrow.sim.compiled.session import REFUSED, Answer, Session
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V

LATE_S = 60.0
PATIENCE_S = 10.0
PAGE = 16


class Host:
    """The first initiator, whose turns are the test's: it sends its writes of one page where it is told."""

    def __init__(self, s: CompiledStage) -> None:
        self.stage = s
        client = s.client
        client.quiet = True
        self.initiator = Initiator(s.cluster, client, 0, Random(1))
        client.initiators.append(self.initiator)
        self.history = self.initiator.pages[PAGE]

    def login(self, name: NodeId) -> Session:
        """A session with a node that says that it serves."""
        s = self.stage
        session = Session(s.cluster, s.plane(name), V, 0, Random(2))
        said = session.ask(PATIENCE_S)
        s.until(said.done)
        mail = said.result()
        assert mail is not None
        assert mail.rc == 0
        return session

    def sends(self, session: Session, value: int) -> None:
        if value not in self.history.values:
            self.history.write_began(value, self.stage.world.loop.now)
        self._answer = session.send(
            lambda plane: plane.submit(V, "write", PAGE, 1, page_of(PAGE, value), nexus=RECORDS[0]),
            PATIENCE_S,
        )

    def writes(self, session: Session, value: int) -> None:
        """And has the good answer."""
        s = self.stage
        self.sends(session, value)
        s.until(self._answer.done)
        mail = self._answer.result()
        assert mail is not None
        assert mail.rc == 0
        self.history.write_answered(value, s.world.loop.now)

    def all_has_come(self, session: Session) -> None:
        s = self.stage
        s.until(lambda: s.world.loop.now > session._arrives + 1, seconds=2 * LATE_S, look_s=0.5)

    def sees(self, name: NodeId) -> int:
        s = self.stage
        self.initiator.look(s.plane(name))
        s.run(0.5)
        return self.history.last_read


@pytest.fixture
def host() -> Iterator[Host]:
    with compiled_stage(2, 1) as built:
        yield Host(built)


def sent_late(host: Host, name: NodeId) -> Session:
    """1 is sent, and arrives when nobody waits for it any more."""
    session = host.login(name)
    session.stall(LATE_S)
    host.sends(session, 1)
    session.open = False
    return session


def in_a_new_session(host: Host) -> None:
    """The initiator logs in again at the same node, where 1 is answered and 2 replaces it."""
    s = host.stage
    late = sent_late(host, s.a)
    again = host.login(s.a)
    host.writes(again, 1)
    host.writes(again, 2)
    assert host.sees(s.a) == 2
    host.all_has_come(late)
    host.sees(s.a)


def when_the_node_leads_again(host: Host) -> None:
    """1 and 2 are answered by b, which takes over while a stands still. Then b is lost."""
    s = host.stage
    late = sent_late(host, s.a)
    s.node(s.a).process.stop()
    s.until(lambda: s.serves(s.b), seconds=30)
    elsewhere = host.login(s.b)
    host.writes(elsewhere, 1)
    host.writes(elsewhere, 2)
    assert host.sees(s.b) == 2
    s.node(s.a).process.go_on()
    s.until(lambda: s.in_sync == {s.a, s.b}, seconds=30)
    s.world.kill_node(s.b)
    s.until(lambda: s.serves(s.a), seconds=30)
    assert s.world.loop.now < late._arrives
    host.all_has_come(late)
    host.sees(s.a)


def when_a_standby_is_promoted(host: Host) -> None:
    """1 would be sent to b, which does not serve; a answers 1 and 2, and is lost."""
    s = host.stage
    late = Session(s.cluster, s.plane(s.b), V, 0, Random(3))
    said = late.ask(PATIENCE_S)
    s.until(said.done)
    late.stall(LATE_S)
    if late.ready:
        host.sends(late, 1)
    late.open = False
    elsewhere = host.login(s.a)
    host.writes(elsewhere, 1)
    host.writes(elsewhere, 2)
    assert host.sees(s.a) == 2
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b), seconds=30)
    assert s.world.loop.now < late._arrives
    host.all_has_come(late)
    host.sees(s.b)


def _never_ends(_session: Session) -> None:
    """A login leaves the older session as it is."""


def _lives_on(_session: Session) -> bool:
    """Sessions outlive their terms."""
    return False


def _says_yes(session: Session, answer: Answer) -> None:
    """Every path is said to serve."""
    session.ready = True
    session._reply(answer, REFUSED._replace(rc=0))


RULES: dict[Callable[[Host], None], tuple[str, Callable[..., object]]] = {
    in_a_new_session: ("reinstated", _never_ends),
    when_the_node_leads_again: ("_outlived", _lives_on),
    when_a_standby_is_promoted: ("_tell", _says_yes),
}


@pytest.mark.parametrize("schedule", RULES, ids=lambda one: one.__name__)
def test_what_arrives_late_takes_no_effect(host: Host, schedule: Callable[[Host], None]) -> None:
    schedule(host)
    assert host.history.last_read == 2
    host.stage.ends_well()


@pytest.mark.parametrize("schedule", RULES, ids=lambda one: one.__name__)
def test_without_its_rule_it_does_and_is_seen(
    host: Host, schedule: Callable[[Host], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, without = RULES[schedule]
    monkeypatch.setattr(Session, name, without)
    schedule(host)
    assert host.history.last_read == 1
    with pytest.raises(Violation, match=r"back again|came and went"):
        host.stage.ends_well()
