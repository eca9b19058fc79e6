"""The server's settings as options of a framework's own command.

*Owns*: nothing; the settings, their names and their help come from the server's parser. *Runs on*: the main thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from maypole import _native
from maypole._server import _keywords


class Option(NamedTuple):
    """One option."""

    name: str
    #: As on the command line: `--pool-size`.
    flag: str
    #: What stands for its value; empty: it takes none.
    metavar: str
    help: str


def options() -> list[Option]:
    """The settings of a server inside a program, but for where it listens."""
    return [Option(name, "--" + name.replace("_", "-"), metavar, help) for name, metavar, help in _native.settings()]


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` (by name) that are settings and that somebody has given. Raises ValueError where one is wrong."""
    settings = {option.name: values[option.name] for option in options() if values.get(option.name) is not None}
    _native.check_settings(_keywords(settings))
    return settings
