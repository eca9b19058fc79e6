"""Plays one case against a server and judges what the server did.

A case has the bytes to send and the outcomes that are acceptable. An outcome is a list of final responses, and the
state of the connection after them:

  keep    a second request on the connection is served correctly
  close   the server closed the connection without a further response
  hang    the connection is open, but the second request gets no response
  desync  the second request was answered as something else
  alive   the client has left, and the server still serves another connection
"""

import dataclasses
import email.utils
import re
import time

from suite import Verdict
from wire import Connection

PROBE = b"GET /canary?c=1 HTTP/1.1\r\nHost: canary.test\r\n\r\n"
IMF_DATE = re.compile(r"^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$")
#: Seconds for which a connection is watched after its last response, and for a close or a second response to come.
AFTERMATH, CLOSING = 0.15, 2.5


@dataclasses.dataclass
class Expected:
    """What one response must be. A value is compared; of a set one must match; a function must return true."""

    status: object
    echo: dict = None
    fields: dict = None
    absent: tuple = ()
    body: object = None
    framing: object = None


@dataclasses.dataclass
class Outcome:
    """The final responses, the connection's states that are acceptable, and how many interim responses may come."""

    responses: list
    ends: frozenset
    interim: object = None


@dataclasses.dataclass
class Case:
    """`steps` are bytes to send, seconds to wait, and functions of the connection (`words.py` has them)."""

    name: str
    source: str
    level: str
    steps: list
    outcomes: list
    methods: tuple = ()
    #: The longest time for the responses to come.
    seconds: float = 2.5
    #: Whether a second request shows the state of the connection.
    probed: bool = True
    #: Whether `100 Continue` must come before the body is sent.
    continued: bool = False
    note: str = ""


@dataclasses.dataclass
class Seen:
    """What the server did."""

    connection: Connection
    end: str
    probe: object = None

    def text(self):
        connection = self.connection
        words = [f"1xx:{response.status}" for response in connection.interim]
        words += [response.brief() for response in connection.final] + [self.end]
        words += ["RST"] if connection.was_reset else []
        words += [f"left:{connection.unparsed[:30]!r}"] if connection.unparsed else []
        return " ".join(words)


def is_probe(response):
    echo = response.echo
    return bool(echo) and (echo["method"], echo["path"], echo["query"]) == ("GET", "/canary", "c=1")


def play(case, address, slow):
    """Sends the steps and returns what the server did."""
    connection = Connection(address, slow, case.methods)
    try:
        for step in case.steps:
            if isinstance(step, bytes):
                connection.send(step)
            elif callable(step):
                step(connection)
            else:
                connection.listen(step)
        if connection.aborted:
            return Seen(connection, "alive" if serves(address, slow) else "dead")
        wanted = max(len(outcome.responses) for outcome in case.outcomes)
        connection.until(lambda: len(connection.final) >= wanted, case.seconds)
        connection.listen(AFTERMATH)
        return ended(case, connection)
    finally:
        connection.close()


def serves(address, slow):
    """Returns whether the server responds on a fresh connection."""
    connection = Connection(address, slow)
    try:
        connection.send(PROBE)
        connection.until(lambda: connection.final, 4)
        return bool(connection.final) and is_probe(connection.final[0])
    finally:
        connection.close()


def ended(case, connection):
    """Finds the state of the connection, by a second request where the first ones have not ended it."""
    if connection.ended:
        return Seen(connection, "close")
    if not case.probed or Connection.half_close in case.steps:
        connection.listen(CLOSING)
        return Seen(connection, "close" if connection.ended else "hang")
    number = len(connection.final)
    connection.methods = connection.methods[:number] + ["GET"] * (len(connection.methods) + 4)
    connection.send(PROBE)
    connection.until(lambda: len(connection.final) > number, CLOSING)
    if len(connection.final) == number:
        return Seen(connection, "close" if connection.ended else "hang")
    response = connection.final[number]
    if is_probe(response):
        return Seen(connection, "keep", connection.final.pop(number))
    if number == 0 and (400 <= response.status < 500 or response.status in (501, 505)):
        # The server had been waiting for the end of the head, and now refuses all of it.
        connection.listen(CLOSING)
        return Seen(connection, "close" if connection.ended else "desync")
    return Seen(connection, "desync")


def matches(wanted, value):
    if callable(wanted):
        return bool(wanted(value))
    if isinstance(wanted, (set, frozenset, tuple, range)):
        return value in wanted
    return wanted == value


def difference(expected, response):
    """Returns what is wrong with a response, or None."""
    if not matches(expected.status, response.status):
        return f"status {response.status}"
    wrong = echo_difference(expected.echo, response.echo) if expected.echo else None
    if wrong:
        return wrong
    for name, wanted in (expected.fields or {}).items():
        if not matches(wanted, ", ".join(response.get(name)) or None):
            return f"field {name} = {response.get(name)!r}"
    for name in expected.absent:
        if response.get(name):
            return f"field {name} present"
    if expected.body is not None and not matches(expected.body, response.body):
        return f"body {response.body[:40]!r}"
    if expected.framing and not matches(expected.framing, response.framing):
        return f"framing {response.framing}"
    return None


def echo_difference(wanted, echo):
    if echo is None:
        return "no echo in the response"
    for name, value in wanted.items():
        if name == "env":
            for variable, text in value.items():
                if not matches(text, echo["env"].get(variable)):
                    return f"environ {variable} = {echo['env'].get(variable)!r}"
        elif not matches(value, echo.get(name)):
            return f"{name} = {str(echo.get(name))[:60]!r}"
    return None


def outcome_difference(case, outcome, seen):
    """Returns why what was seen is not this outcome, or None."""
    connection = seen.connection
    if outcome.interim is not None and not matches(outcome.interim, len(connection.interim)):
        return "interim"
    if seen.end != "alive" and len(outcome.responses) != len(connection.final):
        return f"{len(connection.final)} responses"
    for expected, response in zip(outcome.responses, connection.final):
        wrong = difference(expected, response)
        if wrong:
            return wrong
    if seen.end not in outcome.ends:
        return f"connection {seen.end}"
    if case.continued and not connection.continued:
        return "no 100 Continue"
    return None


def judge(case, address, slow):
    """Plays a case and returns the verdict on it."""
    try:
        seen = play(case, address, slow)
    except OSError as error:
        return Verdict(case.name, case.level, case.source, False, f"connect: {error}")
    differences = [outcome_difference(case, outcome, seen) for outcome in case.outcomes]
    passed = None in differences
    text = seen.text() if passed else f"{seen.text()}  [{' | '.join(differences)}]"
    return Verdict(case.name, case.level, case.source, passed, text, list(invariants(case, seen)))


#: What holds for every response of every case.
INVARIANTS = {
    "inv-framing": ("MUST", "RFC9112 4,6"),
    "inv-date": ("MUST", "RFC9110 6.6.1"),
    "inv-date-form": ("MUST", "RFC9110 5.6.7"),
    "inv-date-clock": ("SHOULD", "RFC9110 6.6.1"),
    "inv-version": ("MUST", "RFC9110 2.5"),
    "inv-close-announced": ("SHOULD", "RFC9112 9.6"),
}


def invariants(case, seen):
    """Yields the faults of any response of a case, as the invariant's name and a text."""
    connection = seen.connection
    for response in connection.final + connection.interim + ([seen.probe] if seen.probe else []):
        for fault in response.faults:
            yield "inv-framing", f"{case.name}: {fault}"
        if 200 <= response.status < 500:
            yield from date_faults(case, response)
        if response.version not in ("HTTP/1.1", "HTTP/1.0", "?"):
            yield "inv-version", f"{case.name}: {response.version}"
    sent = b"".join(step for step in case.steps if isinstance(step, bytes))
    if (
        connection.final
        and seen.end == "close"
        and Connection.half_close not in case.steps
        and b" HTTP/1.0\r" not in sent
    ):
        last = connection.final[-1]
        announced = any("close" in value.lower() for value in last.get("connection"))
        if last.version == "HTTP/1.1" and not announced and last.framing != "eof":
            yield "inv-close-announced", f"{case.name}: closed after {last.status} without Connection: close"


def date_faults(case, response):
    dates = response.get("date")
    if not dates:
        yield "inv-date", f"{case.name}: no Date in {response.status}"
    elif len(dates) > 1 or not IMF_DATE.match(dates[0]):
        yield "inv-date-form", f"{case.name}: Date {dates!r}"
    elif abs(email.utils.parsedate_to_datetime(dates[0]).timestamp() - time.time()) > 5:
        yield "inv-date-clock", f"{case.name}: the date is off"


def verdicts_on_invariants(verdicts):
    """Returns one verdict for each invariant, from the faults that all cases found."""
    found = {}
    for verdict in verdicts:
        for name, text in verdict.faults:
            found.setdefault(name, []).append(text)
    return [
        Verdict(name, level, source, name not in found, "; ".join(found.get(name, [])[:3]))
        for name, (level, source) in INVARIANTS.items()
    ]
