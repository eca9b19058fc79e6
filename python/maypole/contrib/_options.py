"""The server's settings as options of a framework's command.

The names and the help come from the server's parser. *Runs on*: the main thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from maypole import _native
from maypole._keywords import keywords


class Option(NamedTuple):
    """One option."""

    name: str
    #: The option of the command line: `--pool-size`.
    flag: str
    #: The placeholder for its value; empty if it takes none.
    metavar: str
    help: str


def options() -> list[Option]:
    """Returns the settings of a server inside a program and of its workers, without the address."""
    return [Option(name, "--" + name.replace("_", "-"), metavar, help) for name, metavar, help in _native.settings()]


def given(values: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Returns the settings among `values` that the user has given, and whether they need worker processes.

    Raises ValueError if one of them is wrong.
    """
    settings = {option.name: values[option.name] for option in options() if values.get(option.name) is not None}
    return settings, _native.check_settings(keywords(settings))


def of_workers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings for `maypole.serve`, which logs requests as the command's own server does: each to a line."""
    return {"access_logfile": "-", **settings}
