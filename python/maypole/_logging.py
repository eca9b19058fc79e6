"""Passes the server's log lines to Python's `logging`.

Runs on: threads that run the application, or the thread that starts or stops a server.
"""

from __future__ import annotations

import logging


def deliver(line: tuple[str, int, str, float]) -> None:
    """Logs a line: the logger's name, the level, the message, and the time of the event in seconds since 1970."""
    name, level, message, created = line
    logger = logging.getLogger(name)
    if not logger.isEnabledFor(level):
        return
    record = logger.makeRecord(name, level, "(maypole)", 0, message, (), None)
    # Give the record the time of the event, not that of its delivery.
    record.relativeCreated += (created - record.created) * 1000
    record.created = created
    record.msecs = created % 1 * 1000
    logger.handle(record)
