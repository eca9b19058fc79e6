"""Durations as the settings take them: a number of seconds, or a text such as "15s".

*Runs on*: any thread.
"""

from __future__ import annotations

import re
from typing import Union

#: Seconds, or a text: "75", "1.5s", "500ms", "2m", "1h", "1d".
Duration = Union[float, str]

_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|sec|m|min|h|d|)", re.ASCII | re.IGNORECASE)
_UNITS = {"ms": 0.001, "": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
#: The server takes no longer durations either.
_SECONDS_MAX = 24 * 86400


def seconds(name: str, value: Duration) -> float:
    """Returns a duration in seconds. `name` is the parameter that it was given for.

    Raises ValueError if it is none, is negative or is longer than 24 days.
    """
    found: float | None = None
    if isinstance(value, str):
        match = _FORM.fullmatch(value)
        found = float(match[1]) * _UNITS[match[2].lower()] if match else None
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found = value
    if found is None or not 0 <= found <= _SECONDS_MAX:
        raise ValueError(f"invalid value {value!r} for {name}: expected a duration such as 75, '1.5s', '500ms' or '2m', "
                         "at most 24 days")
    return found
