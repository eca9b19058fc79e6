"""Programs that serve with worker processes: `maypole.serve(app, workers=2)`.

The first argument names the scenario. The last line that a program prints has its findings.
"""

import atexit
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import maypole

PROGRAM = os.getpid()
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def tell(**found):
    print(json.dumps(found), flush=True)


def app(environ, start_response):
    """Sends what a worker knows, and does what the path asks for."""
    path = environ["PATH_INFO"]
    if path == "/kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if path == "/register":
        atexit.register(print, "left by", os.getpid(), flush=True)
    environ["wsgi.input"].read()
    worker = maypole.worker()
    found = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "program": PROGRAM,
        "number": worker.number,
        "key": environ["maypole.worker"],
        "workers": worker.workers,
        "multiprocess": environ["wsgi.multiprocess"],
        "given": environ.get("program.given"),
        "threads": [thread.name for thread in threading.enumerate() if "maypole" not in thread.name],
    }
    body = json.dumps(found).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def serves():
    """Serves twice. The second call gets the settings in the arguments."""
    atexit.register(lambda: print("the program has left", flush=True))
    settings = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    before = [signal.getsignal(number) for number in HANDLED]
    status = maypole.serve(app, "127.0.0.1:0", workers=2, environ={"program.given": [1, 2]}, **settings)
    tell(status=status, same=[signal.getsignal(number) for number in HANDLED] == before)


def twice():
    for _ in range(2):
        tell(status=maypole.serve(app, "127.0.0.1:0", workers=1))


def named():
    """Has the workers import the application from the directory in the arguments."""
    sys.path.insert(0, sys.argv[2])
    raise SystemExit(maypole.serve("shop", "127.0.0.1:0", workers=2))


def goes_on():
    """Waits for a child in a thread while the main thread serves."""
    child = subprocess.Popen(["sh", "-c", "read _; exit 7"], stdin=subprocess.PIPE)

    def wait():
        sys.stdin.readline()
        child.stdin.write(b"\n")
        child.stdin.flush()
        tell(child=child.wait(), thread=threading.current_thread().name)

    threading.Thread(target=wait, name="waits").start()
    maypole.serve(app, "127.0.0.1:0", workers=2)


def handles():
    """Handles a signal itself that the supervisor would handle."""
    signal.signal(signal.SIGUSR1, lambda *_: print("handled in", os.getpid(), flush=True))
    maypole.serve(app, "127.0.0.1:0", workers=1)


def refused():
    """Tells what each call raises."""
    found = []

    def call(*arguments, **settings):
        try:
            maypole.serve(*arguments, **settings)
        except (RuntimeError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")

    call(app, "127.0.0.1:0", workers=2, reload=True)
    call(app, "127.0.0.1:0", workers=2, preload=False)
    call(app, "127.0.0.1:0", workers=0)
    thread = threading.Thread(target=call, args=[app], kwargs={"workers": 2})
    thread.start()
    thread.join()
    with maypole.Server(app, "127.0.0.1:0"):
        call(app, "127.0.0.1:0", workers=2)
    tell(found=found, children=pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text())


if __name__ == "__main__":
    globals()[sys.argv[1]]()
