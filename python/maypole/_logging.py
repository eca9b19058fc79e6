"""Passes the server's log lines to Python's `logging`, and configures it for `--log-config`.

Runs on: threads that run the application, or the thread that starts or stops a server; in a stand-alone server, the main
thread and the thread of the log. Both the program and the package run this text, so it imports nothing of the package.
"""

from __future__ import annotations

import logging
import logging.config
import os
from typing import Any

# The servers whose names the loggers of a configuration may have. The first one that is configured gets the lines.
SERVERS = ("maypole", "gunicorn", "uvicorn", "hypercorn")

# The atoms of a request that are numbers, if they are there.
NUMBERS = ("B", "D", "M", "T", "application", "proxy_queue", "queue", "receive", "send")


def defaults(server: str) -> dict[str, Any]:
    """Returns what a dictionary may leave out, as in gunicorn, with the names of this server's loggers."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "root": {"level": "INFO", "handlers": ["console"]},
        "loggers": {
            f"{server}.error": {"level": "INFO", "handlers": ["error_console"], "propagate": False},
            f"{server}.access": {"level": "INFO", "handlers": ["console"], "propagate": False},
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


def configure(path: str) -> tuple[str, str]:
    """Configures `logging` from a file: a configuration file of gunicorn, JSON, or the form of `fileConfig`. Returns the
    names of the loggers that get the error lines and the access lines."""
    server = SERVERS[0]
    if path.endswith(".py"):
        server = "gunicorn"
        logging.config.dictConfig({**defaults(server), **dictionary(path)})
        return chosen(server)
    import json

    with open(path, encoding="utf-8") as file:
        text = file.read()
    if text.lstrip().startswith("{"):
        logging.config.dictConfig({**defaults(server), **json.loads(text)})
    else:
        directory = os.path.dirname(os.path.abspath(path))
        logging.config.fileConfig(path, {"__file__": path, "here": directory}, disable_existing_loggers=False)
    return chosen(server)


def dictionary(path: str) -> dict[str, Any]:
    """Returns the `logconfig_dict` of a configuration file of gunicorn."""
    import types

    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    module = types.ModuleType("__config__")
    module.__file__ = path
    exec(code, vars(module))
    try:
        found: dict[str, Any] = module.logconfig_dict
    except AttributeError:
        raise ValueError("the file has no logconfig_dict") from None
    return found


def chosen(default: str) -> tuple[str, str]:
    """Returns the loggers of the first server for which one is configured, or those of `default`."""
    servers = [name_of_configured(kind) for kind in ("error", "access")]
    known = [server for server in servers if server] or [default]
    error, access = (server or known[0] for server in servers)
    return passing(error, "error"), passing(access, "access")


def name_of_configured(kind: str) -> str | None:
    configured = (server for server in SERVERS if is_configured(f"{server}.{kind}") or is_configured(server))
    return next(configured, None)


def passing(server: str, kind: str) -> str:
    """Returns the name of a logger. The server leaves lines out by itself (`--log-level`), so a logger without a level
    passes them all, whatever the level of the root logger is."""
    logger = logging.getLogger(f"{server}.{kind}")
    if logger.level == logging.getLogger(server).level == logging.NOTSET:
        logger.setLevel(logging.DEBUG)
    return logger.name


def is_configured(name: str) -> bool:
    logger = logging.root.manager.loggerDict.get(name)
    if not isinstance(logger, logging.Logger):
        return False
    return bool(logger.handlers) or not logger.propagate or logger.level != logging.NOTSET


class Atoms(dict[str, Any]):
    """The atoms of a request, as gunicorn gives them to `logging`: `%(h)s`, `%({header}i)s`. One that is missing is `-`,
    and case does not count in braces."""

    def __missing__(self, key: str) -> Any:
        lower = key.lower()
        return self[lower] if lower != key and lower in self else "-"


def atoms_of(text: str, message: str) -> Atoms:
    """Returns the atoms that the server has written into one text: name, NUL, value, NUL, and so on."""
    words = text.split("\0")
    atoms = Atoms(zip(words[::2], words[1::2]), json=message)
    for name in NUMBERS:
        if atoms[name].isdigit():
            atoms[name] = int(atoms[name])
    return atoms


def deliver(line: tuple[str, int, str, float], access_format: str | None = None, atoms: str = "") -> None:
    """Logs a line: the logger's name, the level, the message, and the time of the event in seconds since 1970. A line of
    the access log may have its format and its atoms: as in gunicorn, they are the record's `msg` and `args`."""
    name, level, message, created = line
    logger = logging.getLogger(name)
    if not logger.isEnabledFor(level):
        return
    text, arguments = (access_format, (atoms_of(atoms, message),)) if access_format and atoms else (message, ())
    record = logger.makeRecord(name, level, "(maypole)", 0, text, arguments, None)
    # Give the record the time of the event, not that of its delivery.
    record.relativeCreated += (created - record.created) * 1000
    record.created = created
    record.msecs = created % 1 * 1000
    logger.handle(record)


def leave_blocked_handlers() -> None:
    """Makes `logging` forget handlers that do not return, since it waits for each handler at Python's end."""
    # The list is internal, but has been there since Python 2.6.
    known: list[Any] = logging._handlerList  # type: ignore[attr-defined]
    for reference in list(known):
        handler = reference()
        lock = handler and handler.lock
        if not lock:
            continue
        if lock.acquire(blocking=False):
            lock.release()
        else:
            known.remove(reference)
