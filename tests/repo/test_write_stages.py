"""The arithmetic of ``make bench-stages``, on operations as a trace has them."""

from __future__ import annotations

import pytest

from bench.stages import WHOLE, Budget, Node, NotTraced, Trace, Wire, render, stages_of
from tests.support.ring_trace import Operation

NBD = 10809
PRIMARY = Node(threads=frozenset({10, 11}), log=3, wires={4: Wire(NBD, 50000), 5: Wire(40000, 7)})
FOLLOWER = Node(threads=frozenset({20}), log=3, wires={6: Wire(7, 40000), 8: Wire(9, 41000)})
US = 1e-6


def operation(who: tuple[int, str, int], began: float, ended: float, result: int) -> Operation:
    """Of ``who``, a thread, what it asks and of which descriptor; times in us."""
    thread, opcode, fd = who
    return Operation(
        thread=thread, opcode=opcode, fd=fd, began=began * US, ended=ended * US, result=result
    )


def one_write(at: float, *, ack_at: float = 90) -> list[Operation]:
    """A request received at ``at`` us and answered 110 us later; the acknowledgement is sent at ``ack_at``."""
    return [
        operation((10, "RECV", 4), at - 500, at, 4124),
        operation((10, "WRITEV", 3), at + 5, at + 70, 8192),
        operation((11, "SENDMSG", 5), at + 8, at + 10, 8240),
        operation((20, "RECV", 6), at - 400, at + 20, 8240),
        operation((20, "WRITEV", 3), at + 24, at + 85, 8192),
        operation((20, "SENDMSG", 6), at + ack_at, at + ack_at + 2, 64),
        operation((10, "RECV", 5), at - 300, at + 100, 64),
        operation((10, "SENDMSG", 4), at + 110, at + 115, 16),
    ]


def found(*writes: list[Operation]) -> Trace:
    return Trace((one for write in writes for one in write), [PRIMARY, FOLLOWER])


def test_a_write_is_cut_where_its_events_lie() -> None:
    (stages,) = stages_of(found(one_write(1000), one_write(3000)), [PRIMARY, FOLLOWER], NBD)
    assert stages == pytest.approx(
        {
            "primary: request received, log write asked": 5,
            "primary: log write, durable": 65,
            "primary: request received, batch sent": 8,
            "follower: batch received, from its sending": 12,
            "follower: log write asked": 4,
            "follower: log write, durable": 61,
            "follower: acknowledgement sent": 5,
            "primary: acknowledgement received, from its sending": 10,
            "primary: last acknowledgement behind its own log write": 30,
            "primary: all there, answer sent": 10,
            WHOLE: 110,
        }
    )


def test_alone_there_are_three_stages() -> None:
    kept = [
        one
        for one in one_write(1000) + one_write(3000)
        if (one.thread, one.fd) in {(10, 4), (10, 3)}
    ]
    (stages,) = stages_of(Trace(kept, [PRIMARY]), [PRIMARY], NBD)
    assert stages == pytest.approx(
        {
            "primary: request received, log write asked": 5,
            "primary: log write, durable": 65,
            "primary: all there, answer sent": 40,
            WHOLE: 110,
        }
    )


def test_a_write_whose_events_do_not_come_in_their_order_is_left_out() -> None:
    # The acknowledgement that is found is one behind the answer.
    late = one_write(1000, ack_at=105)
    trace = found(late, one_write(3000), one_write(5000))
    assert len(stages_of(trace, [PRIMARY, FOLLOWER], NBD)) == 1


def test_a_port_without_a_client_is_said() -> None:
    with pytest.raises(NotTraced, match="port 1"):
        stages_of(found(one_write(1000)), [PRIMARY, FOLLOWER], 1)


def test_the_table_has_the_whole_behind_its_stages() -> None:
    alone = Budget(stages={"a": 5.0, WHOLE: 20.0}, client=35.0, traced=40.0)
    three = Budget(stages={"a": 6.0, "b": 9.0, WHOLE: 30.0}, client=55.0, traced=60.0)
    lines = render({"one": alone, "three": three}).splitlines()
    assert lines[2:6] == [
        "| a | 5 | 6 |",
        "| b |  | 9 |",
        f"| {WHOLE} | 20 | 30 |",
        "| client: both ways through loopback, server and client woken | 20 | 30 |",
    ]
