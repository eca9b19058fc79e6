"""What the threads of this process are doing, as text.

Runs on: whichever thread asks. The server executes this file once per process. Its name in tracebacks is no path, so that
tools that measure files leave it alone.
"""

import threading
import traceback


def text(frames, rows, own):
    """The stack of each request's thread below its row, then the stacks of all other threads.

    `frames` has the frame of each thread by its identifier, `rows` a line and a thread's identifier or None for each
    request. With `own` the calling thread is left out: it does nothing but this.
    """
    # Without the module's lock, which a thread may hold that never goes on.
    active = getattr(threading, "_active", None)
    threads = dict(active) if active is not None else {thread.ident: thread for thread in threading.enumerate()}
    if own:
        frames.pop(threading.get_ident(), None)
    lines = []
    for line, ident in rows:
        lines.append(f"  {line}")
        if ident is not None:
            lines += stack(frames.pop(ident, None))
    if frames:
        lines.append("other Python threads:")
    for ident, frame in sorted(frames.items(), key=lambda item: name(threads.get(item[0]))):
        lines.append(f"  {name(threads.get(ident))}")
        lines += stack(frame)
    return "\n".join(lines)


def name(thread):
    """A thread as the report names it."""
    if thread is None:
        return "a thread that the module threading does not know"
    return thread.name + (", daemon" if thread.daemon else "")


def stack(frame):
    """The lines of a stack, the innermost call last."""
    if frame is None:
        return ["    it runs no Python code now"]
    try:
        summary = traceback.StackSummary.extract(traceback.walk_stack(frame))
        summary.reverse()
        return [f"  {line}" for entry in summary.format() for line in entry.rstrip("\n").split("\n")]
    except Exception as error:
        return [f"    its stack cannot be read: {type(error).__name__}: {error}"]
