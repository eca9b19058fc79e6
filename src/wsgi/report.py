"""Formats the stacks of the threads of this process.

Runs on: the thread that asks for the report. The server executes this file once per process. Its name in tracebacks is
not a path, so that coverage tools ignore it.
"""

import threading
import traceback


def stacks(frames, rows, own):
    """Returns the line and the stack of each request's thread, then the name and the stack of all other threads.

    `frames` maps a thread's identifier to its frame. `rows` has a line for each request, with its thread's identifier
    or None. `own` leaves the calling thread out, for a thread that only makes this report.
    """
    # Read the dictionary without the module's lock: a thread that hangs may hold it.
    active = getattr(threading, "_active", None)
    threads = dict(active) if active is not None else {thread.ident: thread for thread in threading.enumerate()}
    if own:
        frames.pop(threading.get_ident(), None)
    requests = [(line, [] if ident is None else stack(frames.pop(ident, None))) for line, ident in rows]
    return requests, sorted((name(threads.get(ident)), stack(frame)) for ident, frame in frames.items())


def name(thread):
    """Returns the thread's name in the report."""
    if thread is None:
        return "a thread that the module threading does not know"
    return thread.name + (", daemon" if thread.daemon else "")


def stack(frame):
    """Returns the lines of a stack, the innermost call last."""
    if frame is None:
        return ["    it runs no Python code now"]
    try:
        summary = traceback.StackSummary.extract(traceback.walk_stack(frame))
        summary.reverse()
        return [f"  {line}" for entry in summary.format() for line in entry.rstrip("\n").split("\n")]
    except Exception as error:
        return [f"    its stack cannot be read: {type(error).__name__}: {error}"]
