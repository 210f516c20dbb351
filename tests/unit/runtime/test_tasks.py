"""Watched tasks and the order of a shutdown."""

from __future__ import annotations

import asyncio

import structlog
from structlog.testing import capture_logs

from sparrow.runtime.tasks import Supervisor


async def test_what_was_registered_last_is_closed_first() -> None:
    order: list[str] = []
    supervisor = Supervisor(structlog.get_logger())

    async def close(name: str) -> None:
        order.append(name)

    for name in ("lock", "core", "port"):
        supervisor.on_stop(name, lambda name=name: close(name))  # type: ignore[misc]
    await supervisor.stop()
    assert order == ["port", "core", "lock"]


async def test_a_step_that_fails_does_not_keep_the_others_from_running() -> None:
    closed = asyncio.Event()

    async def fail() -> None:
        raise RuntimeError("no")

    async def close() -> None:
        closed.set()

    with capture_logs() as logs:
        supervisor = Supervisor(structlog.get_logger())
        supervisor.on_stop("last", close)
        supervisor.on_stop("first", fail)
        await supervisor.stop()
    assert closed.is_set()
    assert [entry["step"] for entry in logs if entry["event"] == "shutdown.step_failed"] == [
        "first"
    ]


async def test_a_failed_task_is_logged_and_a_vital_one_ends_the_process() -> None:
    async def fail() -> None:
        raise RuntimeError("no")

    with capture_logs() as logs:
        supervisor = Supervisor(structlog.get_logger())
        supervisor.spawn(fail(), name="spare")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not supervisor.failed.is_set()
        supervisor.spawn(fail(), name="heart", vital=True)
        await supervisor.failed.wait()
    assert isinstance(supervisor.failure, RuntimeError)
    assert [entry["task"] for entry in logs if entry["event"] == "task.failed"] == [
        "spare",
        "heart",
    ]


async def test_stopping_cancels_what_runs() -> None:
    supervisor = Supervisor(structlog.get_logger())
    task = supervisor.spawn(asyncio.Event().wait(), name="for ever", vital=True)
    await asyncio.sleep(0)
    await supervisor.stop()
    assert task.cancelled()
    assert not supervisor.failed.is_set()
