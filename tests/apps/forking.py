"""An application that forks in every way that Python has, while it is imported and in requests.

Each child that continues writes what it sees to a pipe, as a line of JSON, and waits until the test ends it. CPython
does not let the child of a bare fork(2) do that: see `started_by_c`.
"""

import concurrent.futures
import ctypes
import json
import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import parse_qs

CONTEXT = multiprocessing.get_context("fork")
# The fork happens with the GIL held, so that the child has it. Another thread with the GIL would not exist there.
LIBC = ctypes.PyDLL(None, use_errno=True)

#: For what can only be polled, in seconds.
PATIENCE = 15

# Forks during the import: with `process` the child continues here, with `return` it returns to the server.
AT_IMPORT = os.environ.get("FORK_AT_IMPORT", "")


def targets(pid="self"):
    """Returns what a process's descriptors refer to."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            pass
    return found


def tcp_sockets(pid="self"):
    """Returns a process's TCP sockets, from the kernel's tables."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/self/net/{table}") as file:
            inodes.update(line.split()[9] for line in file.readlines()[1:])
    return sorted(number for number, target in targets(pid).items() if target[8:-1] in inodes)


def seen():
    names = {"TERM": signal.SIGTERM, "INT": signal.SIGINT, "QUIT": signal.SIGQUIT}
    return {
        "pid": os.getpid(),
        "sockets": tcp_sockets(),
        "handlers": {name: repr(signal.getsignal(number)) for name, number in names.items()},
        "thread": threading.current_thread().name,
        "main": threading.current_thread() is threading.main_thread(),
    }


def live_on(pipe):
    """Runs in a child: reports what it sees, and waits."""
    os.write(pipe, json.dumps(seen()).encode() + b"\n")
    while True:
        time.sleep(600)


def told(pipe):
    with open(pipe, "rb") as file:
        return file.readline()


def started_by_c():
    """Starts a child by a bare fork(2), as a C library does. Returns what its parent sees of it.

    Only os.fork() renews CPython's locks in the child. Here they stay as they were: if another thread of the parent had
    asked for the GIL, the child can wait for that thread forever, as soon as it runs Python. So the child does nothing
    but wait, be it there or in pause(2).
    """
    if (pid := LIBC.fork()) == 0:
        while True:
            LIBC.pause()
    # The fork returns here before the child has closed what it must not keep.
    end = time.monotonic() + PATIENCE
    while (sockets := tcp_sockets(pid)) and time.monotonic() < end:
        time.sleep(0.01)
    return json.dumps({"pid": pid, "sockets": sockets}).encode()


def started(how):
    """Starts a child that continues. Returns what the child saw."""
    if how == "c":
        return started_by_c()
    reading, writing = os.pipe()
    if how == "multiprocessing":
        process = CONTEXT.Process(target=live_on, args=(writing,), daemon=True)
        process.start()
        PROCESSES.append(process)
    else:
        pid = {"os": os.fork, "pty": lambda: pty.fork()[0]}[how]()
        if pid == 0:
            live_on(writing)
    os.close(writing)
    return told(reading)


def in_pool(number):
    return number * number


def terminate(_):
    """`Process.terminate()` ends a child, so `join` returns."""
    process = CONTEXT.Process(target=time.sleep, args=(600,))
    process.start()
    process.terminate()
    process.join(10)
    code, alive = process.exitcode, process.is_alive()
    process.kill()
    return {"code": code, "alive": alive}


def interrupt(_):
    """SIGINT raises KeyboardInterrupt in a child, as in any Python program."""
    reading, writing = os.pipe()

    def wait():
        try:
            os.write(writing, b"ready\n")
            time.sleep(600)
        except KeyboardInterrupt:
            os._exit(7)

    process = CONTEXT.Process(target=wait)
    process.start()
    os.close(writing)
    told(reading)
    # From CPython 3.13 on, the child of a thread has no main thread, and notices a signal only while it waits. So the
    # first signal may arrive too early, just before the child sleeps.
    for _ in range(100):
        os.kill(process.pid, signal.SIGINT)
        process.join(0.1)
        if process.exitcode is not None:
            break
    code = process.exitcode
    process.kill()
    return {"code": code}


def pools(_):
    with CONTEXT.Pool(2) as pool:
        mapped = pool.map(in_pool, range(5))
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=CONTEXT) as executor:
        again = list(executor.map(in_pool, range(5)))
    return {"pool": mapped, "executor": again}


def bare_fork():
    """Forks as a C library does, at a moment from which the child can go on in Python.

    A thread that has waited for the GIL for the switch interval makes the thread that has it wait until the other has
    had it. The child would wait so forever. So the interval is long meanwhile, and a thread that has begun to wait
    before gets the GIL before the fork.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(600)
    try:
        time.sleep(10 * interval)
        return LIBC.fork()
    finally:
        sys.setswitchinterval(interval)


def comes_back(query):
    """The child returns from the application, as its parent does, or raises."""
    how, end = query["how"], query.get("end", "return")
    pid = bare_fork() if how == "c" else os.fork()
    if pid == 0:
        if end == "exit":
            sys.exit(3)
        if end == "sentence":
            sys.exit("the child says why")
        if end == "raise":
            raise RuntimeError("the child failed")
        return {"child": True}
    return {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}


def executed(query):
    """Returns the descriptors of a program that this one executes."""
    there = "[os.readlink(name) for name in map('/proc/self/fd/{}'.format, range(3, 4096)) if os.path.lexists(name)]"
    code = f"import os; print({there})"
    command = [sys.executable, "-c", code]
    more = {"preexec_fn": time.time} if query["how"] == "preexec_fn" else {}
    if query["how"] == "os":
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            os.dup2(writing, 1)
            os.execv(command[0], command)
        os.close(writing)
        with open(reading) as file:
            out = file.read()
        os.waitpid(pid, 0)
    elif query["how"] == "posix_spawn":
        reading, writing = os.pipe()
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)])
        os.close(writing)
        with open(reading) as file:
            out = file.read()
        os.waitpid(pid, 0)
    else:
        out = subprocess.run(command, stdout=subprocess.PIPE, close_fds=False, check=True, text=True, **more).stdout
    return {"descriptors": out}


def logs(query):
    """The child writes to `wsgi.errors`, and so does its parent before."""
    query["environ"]["wsgi.errors"].write("the parent's line\n")
    pid = os.fork()
    if pid == 0:
        query["environ"]["wsgi.errors"].write("the child's line\n")
        query["environ"]["wsgi.errors"].flush()
        os._exit(0)
    os.waitpid(pid, 0)
    return {}


def body(query):
    """The child reads the request's body, which is in a file when it is large."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"%d\n" % len(query["environ"]["wsgi.input"].read()))
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    return {"bytes": int(told(reading))}


def orphan(_):
    """Makes a process whose parent ends before it. Returns the status of another child."""
    subprocess.run(["sh", "-c", "sleep 0.1 & exit 0"], check=True)
    return {"code": subprocess.run(["sh", "-c", "exit 5"]).returncode}


PROCESSES = []
ROUTES = {
    "/orphan": orphan,
    "/terminate": terminate,
    "/interrupt": interrupt,
    "/pools": pools,
    "/back": comes_back,
    "/executed": executed,
    "/logs": logs,
    "/body": body,
}


def application(environ, start_response):
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    query["environ"] = environ
    path = environ["PATH_INFO"]
    if path == "/child":
        answer = started(query["how"])
    elif path == "/at-import":
        answer = AT_IMPORT_SEEN
    elif path in ROUTES:
        answer = json.dumps(ROUTES[path](query)).encode()
    else:
        answer = b"{}"
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


AT_IMPORT_SEEN = b"{}"
if AT_IMPORT == "process":
    AT_IMPORT_SEEN = started("multiprocessing")
elif AT_IMPORT == "return":
    os.fork()
