"""Applications that suspend their responses, one for each path, and the events that resume them.

`/fire?NAME` resumes what waits for an event, `/seen?NAME` waits until something waits for it, and `/happened?NAME`
waits until something has happened.
"""

import contextvars
import itertools
import threading
import time

TEXT = [("Content-Type", "text/plain")]
LOCK = threading.Lock()
WATCHERS = []
WAITING = {}
HAPPENED = {}
VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def wait_for(name, resume):
    with LOCK:
        WAITING.setdefault(name, []).append(resume)
    tell()


def fire(name):
    with LOCK:
        resumes = WAITING.pop(name, [])
    return sum(resume() for resume in resumes)


def note(what):
    with LOCK:
        HAPPENED[what] = HAPPENED.get(what, 0) + 1
    tell()


def tell():
    """Has those look again who wait until something is so."""
    with LOCK:
        resumes = WATCHERS[:]
        WATCHERS.clear()
    for resume in resumes:
        resume()


def until(environ, start_response, count, number):
    """Waits, without a thread, until `count` returns `number`."""
    start_response("200 OK", TEXT)
    end = time.monotonic() + 20
    while True:
        with LOCK:
            seen = count()
            if seen >= number or time.monotonic() > end:
                break
            WATCHERS.append(environ["maypole.suspend"](1))
        yield b""
    yield str(seen).encode()


def events(environ, start_response):
    """Sends a block for each event, until the event `end`."""
    name = environ["QUERY_STRING"]
    suspend = environ["maypole.suspend"]
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    try:
        yield b"begin\n"
        for number in itertools.count():
            wait_for(name, suspend())
            yield b""
            yield b"%d\n" % number
            if number == 2:
                return
    finally:
        note(f"closed {name}")


def timed(environ, start_response):
    """Waits for an event that never comes."""
    start_response("200 OK", TEXT)
    environ["maypole.suspend"](float(environ["QUERY_STRING"]))
    yield b""
    yield b"passed"


def milliseconds(environ, start_response):
    start_response("200 OK", TEXT)
    environ["x-wsgiorg.suspend"](30)
    yield b""
    yield b"passed"


def late(environ, start_response):
    """Decides on the status after the event."""
    wait_for("late", environ["maypole.suspend"]())
    yield b""
    start_response("201 Created", TEXT)
    yield b"made"


def flushed(environ, start_response):
    start_response("200 OK", TEXT)
    wait_for("flushed", environ["maypole.suspend"](flush=True))
    yield b""
    yield b"after"


def flushed_early(environ, start_response):
    environ["maypole.suspend"](0, flush=True)
    yield b""


def early(environ, start_response):
    """Resumes itself before its empty block."""
    start_response("200 OK", TEXT)
    resume = environ["maypole.suspend"]()
    results = [resume(), resume()]
    yield b""
    results.append(resume())
    yield repr(results).encode()


def stale(environ, start_response):
    """An old resume does not end a later suspension."""
    start_response("200 OK", TEXT)
    first = environ["maypole.suspend"](0)
    yield b""
    environ["maypole.suspend"](0.05)
    result = first()
    yield b""
    yield repr(result).encode()


def unreached(environ, start_response):
    """Announces a suspension and never yields an empty block."""
    start_response("200 OK", TEXT)
    environ["maypole.suspend"]()
    return [b"all"]


def unannounced(environ, start_response):
    start_response("200 OK", TEXT)
    for _ in range(3):
        yield b""
    yield b"done"


def wrong(environ, start_response):
    start_response("200 OK", TEXT)
    problems = []
    for timeout in [-1, float("nan"), "5"]:
        try:
            environ["maypole.suspend"](timeout)
        except (TypeError, ValueError) as error:
            problems.append(str(error))
    return ["\n".join(problems).encode()]


KEPT = []


def keeps(environ, start_response):
    start_response("200 OK", TEXT)
    KEPT[:] = [environ["maypole.suspend"]]
    return [b"kept"]


def uses_kept(environ, start_response):
    start_response("200 OK", TEXT)
    try:
        KEPT[0]()
    except RuntimeError as error:
        return [str(error).encode()]
    return [b"no error"]


def swallowing(environ, start_response):
    """Middleware that keeps empty blocks."""

    def inner():
        start_response("200 OK", TEXT)
        for number in range(2):
            wait_for("swallowed", environ["maypole.suspend"]())
            yield b""
        environ["maypole.suspend"](0)
        yield b"end"

    def outer(blocks):
        try:
            for block in blocks:
                if block:
                    yield block
        finally:
            blocks.close()
            note("closed swallowing")

    return outer(inner())


def context(environ, start_response):
    """A variable and its token live across suspensions."""
    start_response("200 OK", TEXT)
    token = VARIABLE.set("mine")
    try:
        yield b""
        for _ in range(3):
            wait_for("context", environ["maypole.suspend"]())
            yield b""
            yield f"{VARIABLE.get()} {threading.current_thread().name}\n".encode()
    finally:
        VARIABLE.reset(token)
    yield VARIABLE.get().encode()


def raises(environ, start_response):
    start_response("200 OK", TEXT)
    yield from raises_on(environ, "raises")


def raises_later(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"begin"
    yield from raises_on(environ, "raises_later")


def raises_on(environ, name):
    wait_for(name, environ["maypole.suspend"]())
    yield b""
    raise ValueError("after the event")


def large(environ, start_response):
    """A large block before a suspension, and one after it."""
    start_response("200 OK", TEXT)
    yield bytes(4 << 20)
    wait_for("large", environ["maypole.suspend"]())
    yield b""
    yield bytes(4 << 20)


def hangs(environ, start_response):
    """Computes for too long after the event."""
    start_response("200 OK", TEXT)
    wait_for("hangs", environ["maypole.suspend"]())
    yield b""
    time.sleep(6)
    yield b"late"


GROWN = []


def grows(environ, start_response):
    """Keeps as many MiB as the query says."""
    GROWN.append(b"x" * (int(environ["QUERY_STRING"]) << 20))
    start_response("200 OK", TEXT)
    return [b"grown"]


def plain(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"plain"]


def application(environ, start_response):
    path, query = environ["PATH_INFO"][1:], environ["QUERY_STRING"]
    if path == "fire":
        body = str(fire(query))
    elif path in ("seen", "happened"):
        name, _, number = query.replace("%20", " ").partition("&")
        if path == "seen":
            return until(environ, start_response, lambda: len(WAITING.get(name, ())), int(number or 1))
        return until(environ, start_response, lambda: HAPPENED.get(name, 0), int(number or 1))
    elif path == "variable":
        body = VARIABLE.get()
    else:
        return globals()[path](environ, start_response)
    start_response("200 OK", TEXT)
    return [body.encode()]
