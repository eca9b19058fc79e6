"""Hands the server's log lines to Python's `logging`.

Runs on: threads of the executor, or the thread that starts or stops a server.
"""

from __future__ import annotations

import logging


def deliver(line: tuple[str, int, str, float]) -> None:
    """Logs a line: the logger's name, the level, the message, and when it arose in seconds since 1970."""
    name, level, message, created = line
    logger = logging.getLogger(name)
    if not logger.isEnabledFor(level):
        return
    record = logger.makeRecord(name, level, "(maypole)", 0, message, (), None)
    # The record says when the line arose, not when it was delivered.
    record.relativeCreated += (created - record.created) * 1000
    record.created = created
    record.msecs = created % 1 * 1000
    logger.handle(record)
