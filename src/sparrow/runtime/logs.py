"""Structured logs: one JSON object per event on standard error, readable lines when a person looks on.

Standard output stays free for what a command prints, such as the ready line of a node.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor


def set_up(
    *, process: str, level: str = "info", stream: TextIO | None = None
) -> FilteringBoundLogger:
    """Configure logging for this process and return its logger, bound to the process's name.

    Args:
        process: ``node:n1`` or ``master``; in every event under the key ``process``.
        level: debug, info, warning or error; less important events are dropped.
        stream: where to write; standard error by default.
    """
    out = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if out.isatty():
        last: list[Processor] = [structlog.dev.ConsoleRenderer()]
    else:
        last = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    structlog.configure(
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    logger: FilteringBoundLogger = structlog.get_logger().bind(process=process)
    return logger
