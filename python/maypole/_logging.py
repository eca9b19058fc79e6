"""Passes the server's log lines to Python's `logging`, and configures it for `--log-config`.

Runs on: threads that run the application, or the thread that starts or stops a server; in a stand-alone server, the main
thread and the thread of the log. Both the program and the package run this text, so it imports nothing of the package.
"""

from __future__ import annotations

import logging
import logging.config
import os
from typing import Any

# What a configuration in JSON may leave out, as in gunicorn.
DEFAULTS: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "INFO", "handlers": ["console"]},
    "loggers": {
        "maypole.error": {"level": "INFO", "handlers": ["error_console"], "propagate": False},
        "maypole.access": {"level": "INFO", "handlers": ["console"], "propagate": False},
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": "ext://sys.stdout"},
        "error_console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": "ext://sys.stderr"},
    },
    "formatters": {
        "generic": {
            "format": "%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
            "datefmt": "[%Y-%m-%d %H:%M:%S %z]",
        }
    },
}

# The servers whose names the loggers of a configuration may have. The first one that is configured gets the lines.
SERVERS = ("maypole", "gunicorn", "uvicorn", "hypercorn")


def configure(path: str) -> tuple[str, str]:
    """Configures `logging` from a file: JSON, or the form of `fileConfig`. Returns the names of the loggers that get the
    error lines and the access lines."""
    import json

    with open(path, encoding="utf-8") as file:
        text = file.read()
    if text.lstrip().startswith("{"):
        logging.config.dictConfig({**DEFAULTS, **json.loads(text)})
    else:
        directory = os.path.dirname(os.path.abspath(path))
        defaults = {"__file__": path, "here": directory}
        logging.config.fileConfig(path, defaults=defaults, disable_existing_loggers=False)
    return chosen("error"), chosen("access")


def chosen(kind: str) -> str:
    """Returns the logger of the first server for which a logger is configured. The server leaves lines out by itself
    (`--log-level`), so a logger without a level passes them all, whatever the level of the root logger is."""
    configured = (server for server in SERVERS if is_configured(f"{server}.{kind}") or is_configured(server))
    server = next(configured, SERVERS[0])
    logger = logging.getLogger(f"{server}.{kind}")
    if logger.level == logging.getLogger(server).level == logging.NOTSET:
        logger.setLevel(logging.DEBUG)
    return logger.name


def is_configured(name: str) -> bool:
    logger = logging.root.manager.loggerDict.get(name)
    if not isinstance(logger, logging.Logger):
        return False
    return bool(logger.handlers) or not logger.propagate or logger.level != logging.NOTSET


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
