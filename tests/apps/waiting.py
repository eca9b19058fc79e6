"""What the applications with suspended responses of frameworks share: responses that wait, and the event for them.

`/fire` is the event, `/waiting` is how many responses wait for it. `/hold` holds a thread, and `/holding` is how many are
held. `/swap` releases it and holds its own one until `/release`.
"""

import threading

TEXT = [("Content-Type", "text/plain")]
LOCK = threading.Lock()
WAITING = []
HELD = []


def blocks(suspend, tell=lambda: "told"):
    """Waits for two events, and tells after each."""
    yield b"begin "
    for _ in range(2):
        resume = suspend()
        with LOCK:
            WAITING.append(resume)
        yield b""
        yield f"{tell()} ".encode()


def fire():
    with LOCK:
        resumes = WAITING[:]
        WAITING.clear()
    return sum(resume() for resume in resumes)


def hold():
    released = threading.Event()
    HELD.append(released)
    return released.wait(20)


def release():
    HELD.pop(0).set()


def swap():
    release()
    return hold()


PATHS = {"/fire": fire, "/waiting": lambda: len(WAITING), "/holding": lambda: len(HELD), "/hold": hold, "/swap": swap, "/release": release}


def root(environ, start_response):
    value = PATHS[environ["PATH_INFO"]]()
    start_response("200 OK", list(TEXT))
    return [str(value).encode()]


def bare(environ, start_response):
    start_response("200 OK", list(TEXT))
    return blocks(environ["maypole.suspend"])
