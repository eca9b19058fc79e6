"""Events as bytes. *Runs on*: any thread. *Source*: HTML standard, "Server-sent events", §9.2.5 and §9.2.6."""

from __future__ import annotations

import re
from typing import NamedTuple

# The three ends of a line. `str.splitlines` knows more, which are data here.
_LINE_END = re.compile(r"\r\n|\n|\r")


class Message(NamedTuple):
    """An event."""

    #: The text of the event, with any number of lines.
    data: str
    #: Its type, for `addEventListener`. None is the type "message".
    event: str | None = None
    #: What the browser sends as `Last-Event-ID` when it connects again.
    id: str | None = None


def encode(data: str, event: str | None = None, id: str | None = None) -> bytes:
    """Returns an event as it is sent.

    A line end in `data` is one of `\\r\\n`, `\\n` and `\\r`, and each arrives as `\\n`. Raises ValueError if `event` or
    `id` has a line end, if `id` has a NUL, and for a text that UTF-8 cannot encode. Raises TypeError for what is no text.
    """
    lines = []
    if id is not None:
        _check("id", id)
        if "\0" in id:
            raise ValueError(f"the id of an event has no NUL: {id!r}")
        lines.append(f"id: {id}\n")
    if event is not None:
        _check("event", event)
        lines.append(f"event: {event}\n")
    if not isinstance(data, str):
        raise TypeError(f"the data of an event is a str, not {type(data).__name__}: json.dumps makes one")
    lines += [f"data: {line}\n" for line in _LINE_END.split(data)]
    return ("".join(lines) + "\n").encode()


def comment(text: str) -> bytes:
    """Returns a comment as it is sent. Browsers ignore comments."""
    return "".join(f": {line}\n" for line in _LINE_END.split(text)).encode() + b"\n"


def retry(seconds: float) -> bytes:
    """Returns the field with which a browser learns how long it waits before it connects again."""
    return b"retry: %d\n\n" % round(1000 * seconds)


def _check(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"the {name} of an event is a str, not {type(value).__name__}")
    if "\n" in value or "\r" in value:
        raise ValueError(f"the {name} of an event has one line: {value!r}")
