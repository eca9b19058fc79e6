"""An application whose end takes time: what it leaves for the interpreter's finalisation is said in the environment.

END: words. `sleep`: an exit function that takes 0.9 s. `graph`: objects that take a while to free. `thread`: a thread that
is no daemon and never ends. `pool`: a busy ThreadPoolExecutor. `child`: a child process of `multiprocessing` that never
ends. `exit`: an exit function that never ends. `after`: a function that waits for the end of the input once all of Python
has ended. `handler`: nothing but a handler for SIGUSR1.
"""

import atexit
import concurrent.futures
import ctypes
import multiprocessing
import os
import re
import signal
import threading
import time

END = os.environ.get("END", "").split()
LARGE = b"x" * 3_000_000


class Node:
    """A part of a ring of objects, which only the garbage collector can free."""

    def __init__(self, before):
        self.before, self.name = before, {"number": id(before)}


def ring(length):
    first = node = Node(None)
    for _ in range(length):
        node = Node(node)
    first.before = node
    return first


def forever():
    while True:
        time.sleep(3600)


if "sleep" in END:
    atexit.register(time.sleep, 0.9)
if "graph" in END:
    GRAPH = ring(300_000)
if "thread" in END:
    threading.Thread(target=forever, name="stubborn").start()
if "pool" in END:
    POOL = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="busy")
    POOL.submit(forever)
if "child" in END:
    multiprocessing.get_context("fork").Process(target=forever).start()
if "exit" in END:
    atexit.register(forever)
if "after" in END:
    ctypes.pythonapi.Py_AtExit(ctypes.CDLL(None).getchar)
if "handler" in END:
    signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/print":
        print("printed by the application")
    if path == "/hog":
        re.match("(a+)+$", "a" * 60 + "b")  # This takes years, and keeps the GIL.
    body = LARGE + b"y" if path == "/large" else b"ok"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
