"""Children as real processes: readiness, deaths and restarts, orderly and forced ends, none left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from sparrow.runtime import supervisor
from sparrow.runtime.supervisor import (
    Child,
    ChildFailed,
    Children,
    ChildSpec,
    ChildState,
    how_it_ended,
    parse_ready,
    write_atomically,
)

WAIT_S = 30.0
READY = 'print(\'{"ready": "x", "port": 7}\', flush=True)'
#: Ready, then waits for ever; ends by itself on SIGTERM.
GOOD = f"import signal; {READY}; signal.pause()"
#: Ready, then deaf to SIGTERM.
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}\nwhile True: signal.pause()"

Spec = Callable[[str, str], ChildSpec]


class Watch:
    """Remembers state changes and lets a test wait for one."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ChildState]] = []
        self._changed = asyncio.Event()

    def __call__(self, child: Child) -> None:
        self.seen.append((child.spec.name, child.state))
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    def make(name: str, program: str) -> ChildSpec:
        arguments = (sys.executable, "-S", "-c", program)
        return ChildSpec(name=name, arguments=arguments, log_path=tmp_path / f"{name}.log")

    return make


@pytest.fixture
async def watch() -> Watch:
    return Watch()


@pytest.fixture
async def children(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Children]:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01, 0.02))
    monkeypatch.setattr(supervisor, "STOP_S", WAIT_S)
    made = Children(watch)
    yield made
    await made.stop([child.spec.name for child in made.children])
    assert all(
        child.process is None or child.process.returncode is not None for child in made.children
    )


async def test_a_child_is_ready_when_it_says_so(children: Children, spec: Spec) -> None:
    child = await children.start(spec("a", f"print('noise'); {GOOD}"))
    assert child.state is ChildState.READY
    assert child.ready["port"] == 7
    assert child.spec.log_path.read_text() == "noise\n"
    os.kill(child.pid, 0)


async def test_a_child_that_ends_before_it_is_ready_is_an_error_with_its_log(
    children: Children, spec: Spec
) -> None:
    with pytest.raises(
        ChildFailed, match="a ended with exit status 3 before it was ready"
    ) as caught:
        await children.start(
            spec("a", "import sys; print('no disk', file=sys.stderr); sys.exit(3)")
        )
    assert "no disk" in caught.value.hint


async def test_a_child_that_is_killed_is_started_again(
    children: Children, spec: Spec, watch: Watch
) -> None:
    child = await children.start(spec("a", GOOD))
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await watch.until(lambda: child.restarts == 1 and child.state is ChildState.READY)
    assert child.pid not in (0, first)
    assert child.ended == "signal SIGKILL"
    assert ("a", ChildState.RESTARTING) in watch.seen


async def test_a_child_that_cannot_come_back_is_tried_again_and_again(
    children: Children, spec: Spec, watch: Watch, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    once = f"import os, sys\nif os.path.exists({str(mark)!r}): sys.exit(4)\n{GOOD}"
    child = await children.start(spec("a", once))
    mark.touch()
    os.kill(child.pid, signal.SIGKILL)
    await watch.until(lambda: child.restarts >= 3)
    assert child.ended == "exit status 4"
    mark.unlink()
    await watch.until(lambda: child.state is ChildState.READY)


async def test_stop_asks_first(children: Children, spec: Spec) -> None:
    child = await children.start(spec("a", GOOD))
    await children.stop(["a"])
    assert child.state is ChildState.STOPPED
    assert child.ended == "signal SIGTERM"


async def test_stop_kills_what_does_not_listen(
    children: Children, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_S", 0.5)
    child = await children.start(spec("a", DEAF))
    await children.stop(["a"])
    assert child.ended == "signal SIGKILL"


async def test_stop_ends_a_child_that_is_frozen(
    children: Children, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_S", 0.5)
    child = await children.start(spec("a", DEAF))
    os.kill(child.pid, signal.SIGSTOP)
    await children.stop(["a"])
    assert child.ended == "signal SIGKILL"


async def test_a_child_that_prints_a_lot_is_not_held_up(
    children: Children, spec: Spec, watch: Watch
) -> None:
    chatty = f"{READY}\nfor i in range(20000): print('x' * 100)\nimport sys; sys.exit(0)"
    child = await children.start(spec("a", chatty))
    await watch.until(lambda: child.restarts >= 1)
    assert child.ended == "exit status 0"


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """Goal: SIGKILL of the parent leaves nothing. Method: a pipe whose write end only the child holds reports EOF."""
    child = (
        "import os, signal; from sparrow.runtime.parent import die_with_parent\n"
        "die_with_parent(os.environ); print('up', flush=True); signal.pause()"
    )
    parent = (
        "import os, signal, subprocess, sys\n"
        f"env = dict(os.environ, SPARROW_PARENT_PID=str(os.getpid()))\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], env=env)\n"
        "os.close(1); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()
        assert process.stdout.read() == b""


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit status 0"), (3, "exit status 3"), (-9, "signal SIGKILL"), (-99, "signal 99")],
)
def test_an_end_is_told_in_words(code: int, words: str) -> None:
    assert how_it_ended(code) == words


@pytest.mark.parametrize(
    "line", [b"", b"ready\n", b"[1]\n", b'{"event": "x"}\n', b'"ready"\n', b"\xff\n"]
)
def test_a_line_that_is_not_ready_is_noise(line: bytes) -> None:
    assert parse_ready(line) is None


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]
