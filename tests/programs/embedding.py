"""Programs that embed servers, one for each scenario: `embedding.py SCENARIO [ARGUMENT…]`.

Each prints its observations as one line of JSON on standard output, or serves until the test ends it.
"""

import faulthandler
import gc
import io
import json
import logging
import multiprocessing
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import maypole

HEAD = b"GET %s HTTP/1.1\r\nHost: test.example\r\n\r\n"
# The first ends the calls of /held, which set the second.
RELEASED, ENDED = threading.Event(), threading.Event()


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/sleep":
        time.sleep(float(environ["QUERY_STRING"]))
    if path == "/held":
        RELEASED.wait(60)
        ENDED.set()
    if path == "/spin":
        while True:
            pass
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ.get("embedding.name", "hello").encode()]


def ask(server, path=b"/", timeout=20):
    """Returns the body of a response on a new connection."""
    with socket.create_connection((server.host, server.port), timeout) as client:
        client.sendall(HEAD % path)
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(4096)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += client.recv(4096)
        return body.decode()


def tell(**facts):
    print(json.dumps(facts), flush=True)


def descriptors():
    return sorted(int(name) for name in os.listdir("/proc/self/fd"))


def threads():
    return len(os.listdir("/proc/self/task"))


def resident():
    """Returns the resident memory in KiB."""
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() // 1024


def order():
    """Calls the methods in unusual orders, before and after a start."""
    quiet = threads(), len(descriptors())
    server = maypole.Server(app, "127.0.0.1:0")
    before = threads() - quiet[0], len(descriptors()) - quiet[1], server.state
    results = [server.wait(), server.wait(0), server.stop(), server.stop(graceful=False, timeout=0), server.reset()]
    stats = server.stats()
    server.start()
    server.start()
    running = server.state, ask(server), server.wait(0)
    stopped = server.stop(), server.stop(), server.wait(), server.state
    server.reset()
    server.start()
    again = ask(server), server.stop()
    server.close()
    server.close()
    closed = server.state, server.stop(), server.wait()
    try:
        server.start()
    except RuntimeError as error:
        closed += (str(error),)
    tell(before=before, results=results, stats=stats, running=running, stopped=stopped, again=again, closed=closed)


def cycles():
    """Starts and stops one server 200 times, and 20 new servers once each."""
    server = maypole.Server(app, "127.0.0.1:0")
    seen = []
    for cycle in range(220):
        if cycle >= 200:
            server.close()
            server = maypole.Server(app, "127.0.0.1:0")
        server.start()
        assert ask(server) == "hello"
        assert server.stop()
        if cycle in (19, 119, 199, 219):
            gc.collect()
            # The last coroutine of a stopped server closes its descriptors when it has run.
            end = time.monotonic() + 10
            while seen and len(descriptors()) > seen[0][1] and time.monotonic() < end:
                time.sleep(0.01)
            names = [thread.name for thread in threading.enumerate()]
            seen.append((threads(), len(descriptors()), resident(), names))
    tell(seen=seen)


def fifty():
    """Runs 50 servers in one process."""
    quiet = threads()
    servers = [maypole.Server(app, "127.0.0.1:0", environ={"embedding.name": f"number {n}"}) for n in range(50)]
    for server in servers:
        server.start()
    answers = [ask(server) for server in servers]
    several = threads()
    started = time.monotonic()
    stopped = [server.stop() for server in servers[:-1]]
    seconds = time.monotonic() - started
    last = ask(servers[-1])
    servers[-1].stop()
    tell(answers=answers, threads=several, stopped=stopped, seconds=seconds, last=last, left=threads() - quiet)


def listening_ports():
    """Returns the ports of this process's TCP sockets, listening or connected."""
    ports = []
    for number in descriptors():
        try:
            one = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        with one:
            if one.family == socket.AF_INET:
                ports.append(one.getsockname()[1])
    return ports


def fork():
    """Forks while the server runs and has clients."""
    server = maypole.Server(app, "127.0.0.1:0")
    other = maypole.Server(app, "127.0.0.1:0")
    server.start()
    port = server.port
    idle = socket.create_connection(("127.0.0.1", port), 20)
    idle.sendall(HEAD % b"/")
    assert idle.recv(4096)
    _ = server.socket
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        faults = []
        for call in (server.stop, server.wait, server.reset, server.close, server.stats, server.start, other.start):
            try:
                call()
            except RuntimeError as error:
                faults.append(str(error))
        facts = {"state": server.state, "faults": faults, "ports": [p for p in listening_ports() if p == port]}
        os.write(writer, json.dumps(facts).encode())
        time.sleep(60)  # The test kills this child. The child must not affect the clients.
        os._exit(0)
    idle.sendall(HEAD % b"/")
    still = idle.recv(4096).startswith(b"HTTP/1.1 200")
    child = json.loads(os.read(reader, 65536))
    answer = ask(server)
    stopped = server.stop()
    end = idle.recv(4096) == b""
    server.close()
    rebound = maypole.Server(app, ("127.0.0.1", port))
    rebound.start()
    again = ask(rebound)
    rebound.stop()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    tell(child=child, still=still, answer=answer, stopped=stopped, end=end, again=again)


def fork_first():
    """Binds in the parent and starts in the children, several times, as launchers do."""
    server = maypole.Server(app, "127.0.0.1:0")
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            server.start()
            ok = ask(server) == "hello" and server.stop()
            os._exit(0 if ok else 1)
        assert os.waitpid(pid, 0)[1] == 0
    server.start()
    tell(answer=ask(server), stopped=server.stop())


def forking_app(environ, start_response):
    """Forks, and the child continues into the server's own code."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    start_response("200 OK", [])
    return [b"parent" if pid else b"child"]


def fork_in_app():
    with maypole.Server(forking_app, "127.0.0.1:0") as server:
        tell(answers=[ask(server) for _ in range(5)])


def spawned(server, answers):
    server.start()
    answers.put((server.port, ask(server), server.settings["pool_size"]))
    server.stop()


def spawn():
    context = multiprocessing.get_context("spawn")
    server = maypole.Server(app, "127.0.0.1:0", pool_size=7)
    answers = context.Queue()
    process = context.Process(target=spawned, args=(server, answers))
    process.start()
    port, answer, pool_size = answers.get(timeout=30)
    process.join(30)
    tell(same=port == server.port, answer=answer, pool_size=pool_size, code=process.exitcode)


def exits(how):
    """The interpreter exits while a server runs."""
    server = maypole.Server(app, "127.0.0.1:0", graceful_timeout=4)
    server.start()
    print(f"listening on {server.addresses[0]}, pool size 1000", file=sys.stderr, flush=True)
    if how == "daemon":
        threading.Thread(target=server.wait, daemon=True).start()
    sys.stdin.read()
    sys.exit(3)


def exits_from_four():
    """The interpreter exits while each of four servers has a call that does not end."""
    servers = [maypole.Server(app, "127.0.0.1:0") for _ in range(4)]
    for server in servers:
        server.start()
        server.client = socket.create_connection((server.host, server.port), 20)
        server.client.sendall(HEAD % b"/sleep?60")
        while server.stats()["requests"] == 0:
            time.sleep(0.01)
    tell(began=time.time())


LARGE = b"x" * 100_000


def large_app(environ, start_response):
    start_response("200 OK", [("Content-Length", str(len(LARGE)))])
    return [LARGE]


def gives_back():
    """A stopped server keeps no block of a response."""
    server = maypole.Server(large_app, "127.0.0.1:0")
    before, seen = sys.getrefcount(LARGE), []
    for _ in range(10):
        server.start()
        assert len(ask(server)) == len(LARGE)
        server.stop()
        seen.append(sys.getrefcount(LARGE))
    tell(before=before, seen=seen)


def delivers_past_a_hanging_call(which):
    """A hanging call has the only thread of its server. Requests of this and of another server still get a response."""
    told = threading.Event()
    hangs = maypole.Server(app, "127.0.0.1:0", threads=1, graceful_timeout=0.1, on_access=lambda entry: told.set())
    other = maypole.Server(app, "127.0.0.1:0", on_access=lambda entry: told.set())
    hangs.start()
    other.start()
    with socket.create_connection((hangs.host, hangs.port), 20) as client:
        client.sendall(HEAD % b"/sleep?60")
        while hangs.stats()["threads_running"] == 0:
            time.sleep(0.01)
        server = hangs if which == "same" else other
        with socket.create_connection((server.host, server.port), 20) as second:
            # The server refuses the request without a call.
            second.sendall(b"POST / HTTP/1.1\r\nHost: test.example\r\nContent-Length: 99999999999999\r\n\r\n")
            assert second.recv(4096).startswith(b"HTTP/1.1 413")
        came = told.wait(20)
    other.stop()
    hangs.stop()
    tell(came=came, names=[thread.name for thread in threading.enumerate() if thread.name == "maypole-chores"])


def quiet_signals():
    """The server leaves the process's signal handlers alone."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    caught = open("/proc/self/status").read().partition("SigCgt:")[2].split()[0]
    server = maypole.Server(app, "127.0.0.1:0")
    server.start()
    ask(server)
    after = {number: signal.getsignal(number) for number in signal.valid_signals()}
    now = open("/proc/self/status").read().partition("SigCgt:")[2].split()[0]
    wakeup = signal.set_wakeup_fd(-1)
    masks = {}
    for task in os.listdir("/proc/self/task"):
        text = open(f"/proc/self/task/{task}/status").read()
        name = "main" if int(task) == os.getpid() else text.partition("Name:")[2].split()[0]
        masks[f"{name} {task}"] = text.partition("SigBlk:")[2].split()[0]
    server.stop()
    tell(same=before == after, caught=caught == now, wakeup=wakeup, masks=masks)


def waits(how):
    """Waits on the main thread, with the program's own handlers."""
    server = maypole.Server(app, "127.0.0.1:0", graceful_timeout=60)

    def stop(*_):
        server.stop()

    def second(*_):
        os._exit(7)

    def first(*_):
        signal.signal(signal.SIGINT, second)
        raise KeyboardInterrupt

    if how == "stop":
        signal.signal(signal.SIGTERM, stop)
    if how == "second":
        signal.signal(signal.SIGINT, first)
    server.start()
    try:
        print(f"listening on {server.addresses[0]}, pool size 1000", file=sys.stderr, flush=True)
        server.wait()
        tell(came="back", state=server.state)
    except KeyboardInterrupt:
        tell(came="KeyboardInterrupt", state=server.state)
        server.stop()
        tell(state=server.state)


def names():
    """Lists the threads as Python sees them, from inside a call."""
    seen = {}

    def look(environ, start_response):
        seen["current"] = threading.current_thread().name
        seen["same"] = threading.current_thread() in threading.enumerate()
        seen["daemon"] = threading.current_thread().daemon
        seen["cloexec"] = [n for n in descriptors() if n > 2 and not inherited(n)]
        child = subprocess.Popen(["sleep", "60"])
        child.terminate()
        seen["terminated"] = child.wait(20)
        text = io.StringIO()
        server.dump(text)
        seen["dump"] = text.getvalue()
        start_response("200 OK", [])
        return [b"ok"]

    def inherited(number):
        try:
            return not os.get_inheritable(number)
        except OSError:
            return True  # It belonged to the listing.

    server = maypole.Server(look, "127.0.0.1:0")
    server.start()
    ask(server, b"/look")
    server.stop()
    tell(after=[thread.name for thread in threading.enumerate()], **seen)


def logs():
    """Records the lines in Python's logging, and the threads that deliver them."""
    lines = []

    class Kept(logging.Handler):
        def emit(self, record):
            late = abs(time.time() - record.created) < 5
            lines.append((record.name, record.levelname, record.getMessage(), record.threadName, late))

    def failing(environ, start_response):
        environ["wsgi.errors"].write("written\n")
        raise ValueError("MARK")

    logging.getLogger("maypole").addHandler(Kept())
    logging.getLogger("maypole").setLevel(logging.INFO)
    entries = queue.Queue()
    server = maypole.Server(
        failing, "127.0.0.1:0", access_logfile="-", access_logformat="%(r)s %(s)s", on_access=entries.put
    )
    server.start()
    ask(server, b"/x?y")
    # The client has the response a moment before the server has counted the request as ended.
    entry = entries.get(timeout=20)
    server.stop()
    assert entries.empty()
    tell(
        lines=lines,
        entry=[entry.client_ip, entry.request_line, entry.method, entry.path, entry.query, entry.protocol, entry.status],
        numbers=[entry.body_bytes, entry.wire_bytes, entry.duration > 0, entry.forwarded_for, entry.client_port > 0],
    )


def interrupts():
    """A call that computes ends at its limit, by the exception of the package. The next one has the same thread."""
    caught, lines = [], []

    class Kept(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    def spinning(environ, start_response):
        try:
            return app(environ, start_response)
        except maypole.RequestTimeout:
            caught.append(0 < time.monotonic() - environ["maypole.deadline"] < 20)
            raise
        finally:
            caught.append(threading.current_thread().name)

    logging.getLogger("maypole").addHandler(Kept())
    server = maypole.Server(spinning, "127.0.0.1:0", threads=1, request_timeout=1, request_interrupt=True)
    server.start()
    said = [ask(server, b"/spin"), ask(server)]
    # The client has its response before the stack is there.
    end = time.monotonic() + 20
    while not any("504 after" in line for line in lines) and time.monotonic() < end:
        time.sleep(0.01)
    tell(said=said, caught=caught, stopped=server.stop(), lines=lines, threads=threads())


def release_once_stopping(server):
    """Ends the calls of /held once the server has begun to stop."""
    while server.state != "stopping":
        time.sleep(0.01)
    RELEASED.set()


def drains(how):
    """Stops while one connection has a running request, and one is idle."""
    server = maypole.Server(app, "127.0.0.1:0")
    server.start()
    idle = socket.create_connection((server.host, server.port), 20)
    idle.sendall(HEAD % b"/")
    idle.recv(4096)
    busy = socket.create_connection((server.host, server.port), 20)
    busy.sendall(HEAD % b"/held")
    while server.stats()["threads_running"] == 0:
        time.sleep(0.01)
    if how == "graceful":
        threading.Thread(target=release_once_stopping, args=[server]).start()
    started = time.monotonic()
    arguments = {"graceful": {}, "timeout": {"timeout": 0.3}, "cut": {"graceful": False}}[how]
    stopped = server.stop(**arguments)
    seconds, waited = time.monotonic() - started, ENDED.is_set()
    RELEASED.set()
    try:
        answer = busy.recv(4096).decode("latin-1")
    except ConnectionResetError:
        answer = ""
    tell(stopped=stopped, seconds=seconds, waited=waited, answer=answer, idle=idle.recv(4096) == b"", state=server.state)


def stops_itself():
    """A request stops the server."""
    results = []

    def stopping(environ, start_response):
        results.append(server.stop())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"bye"]

    server = maypole.Server(stopping, "127.0.0.1:0")
    server.start()
    answer = ask(server)
    tell(answer=answer, results=results, waited=server.wait(20), state=server.state)


def taken_over():
    """Applications take two connections over: one ends, and one is open when the server stops."""

    def taking(environ, start_response):
        with environ["maypole.socket"]() as taken:
            while data := taken.recv(100):
                taken.sendall(data.upper())
        start_response("200 OK", [])
        return []

    server = maypole.Server(taking, "127.0.0.1:0")
    server.start()
    clients = [socket.create_connection((server.host, server.port), 20) for _ in range(2)]
    for client in clients:
        client.sendall(HEAD % b"/")
        client.sendall(b"abc")
        assert client.recv(100) == b"ABC"
    both = server.stats()
    clients[0].close()
    while server.stats()["hijacked"] == 2:
        time.sleep(0.01)
    one = server.stats()
    started = time.monotonic()
    stopped = server.stop()
    seconds = time.monotonic() - started
    numbers = [[seen[name] for name in ("connections", "hijacked", "hijacked_total")] for seen in (both, one)]
    tell(numbers=numbers, stopped=stopped, seconds=seconds, end=clients[1].recv(100) == b"")


def pools():
    """Two servers that share a pool."""
    pool = maypole.Pool(2)
    first = maypole.Server(app, "127.0.0.1:0", pool=pool, queue_timeout=0)
    second = maypole.Server(app, "127.0.0.1:0", pool=pool, queue_timeout=0)
    first.start()
    second.start()
    sleepers = [threading.Thread(target=ask, args=(first, b"/held", 60)) for _ in range(2)]
    for sleeper in sleepers:
        sleeper.start()
    while pool.free():
        time.sleep(0.01)
    full = ask(second), pool.running(), pool.free(), pool.waitall(0)
    # A server has stopped when its own requests have ended, even if others hold permits of the pool.
    started = time.monotonic()
    stopped = second.stop()
    seconds = time.monotonic() - started
    RELEASED.set()
    waited = pool.waitall(20), pool.running()
    pool.resize(0)
    empty = ask(first)
    first.reset()
    reset = pool.size
    first.stop()
    tell(full=full, stopped=stopped, seconds=seconds, waited=waited, empty=empty, reset=reset)


def patched(library):
    if library == "eventlet":
        # The import warns that the module is deprecated.
        warnings.simplefilter("ignore")
        import eventlet

        eventlet.monkey_patch()
    else:
        import gevent.monkey

        gevent.monkey.patch_all()
    try:
        maypole.Server(app, "127.0.0.1:0").start()
    except RuntimeError as error:
        tell(error=str(error))


def asks_during_the_start():
    """Serves requests that have come before the start. Each asks the server about itself, before `start` has returned."""
    seen = set()

    def app(environ, start_response):
        stats = server.stats()
        seen.add((server.state, stats["state"], stats["requests"], " GET /now " in server._native.report()))
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    for _ in range(100):
        server = maypole.Server(app, "127.0.0.1:0")
        with socket.create_connection((server.host, server.port), 20) as client:
            client.sendall(HEAD % b"/now")
            server.start()
            client.recv(4096)
        server.close()
    tell(seen=sorted(seen))


def serves():
    """Calls `serve` twice. Checks the program's handlers between the calls and afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)]
    came = []
    for _ in range(2):
        status = maypole.serve(app, "127.0.0.1:0", pool_size=5)
        after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)]
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            came.append((status, after == before))
    tell(came=came, descriptors=len(descriptors()))


if __name__ == "__main__":
    if sys.argv[1] != "logs":
        logging.getLogger("maypole").addHandler(logging.NullHandler())
    faulthandler.dump_traceback_later(100, exit=True)
    globals()[sys.argv[1]](*sys.argv[2:])
