"""Servers inside a program: start and stop, forks, signals, threads, logging, exit."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from client import PATIENCE, Client
from process import APPS, PROGRAMS, Server, clean_environment
from running import scenarios

# Threads, forks and the end of an interpreter differ from one version to the next.
pytestmark = pytest.mark.smoke

PROGRAM = str(PROGRAMS / "embedding.py")
# The caller that stops the server of `embedding.py`, as the log names it.
STOP_CALL = r"stop\(\) called at .*embedding\.py:\d+, thread MainThread"


def outcome(*arguments, program=PROGRAM, timeout=100):
    """Runs a scenario to its end. Returns its last output."""
    done = subprocess.run(
        # CPython warns of each fork in a process with threads. Some scenarios do just that.
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", program, *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    assert done.stderr == ""
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def program():
    """Starts a scenario that runs until the test acts on it."""
    with scenarios(PROGRAM) as start:
        yield start


def test_calls_in_any_order_are_harmless():
    seen = outcome("order")
    assert seen["before"] == [0, 1, "created"], "only the listener is there before start"
    assert seen["results"] == [True, True, True, True, None]
    assert seen["stats"]["state"] == "created" and seen["stats"]["connections"] == 0
    assert seen["running"] == ["running", "hello", False]
    assert seen["stopped"] == [True, True, True, "stopped"]
    assert seen["again"] == ["hello", True]
    assert seen["closed"] == ["closed", True, True, "the server is closed"]


def test_server_runs_for_a_request_that_comes_during_its_start():
    assert outcome("asks_during_the_start") == {"seen": [["running", "running", 1, True]]}


def test_start_and_stop_220_times_leave_nothing_behind():
    seen = outcome("cycles")["seen"]
    (threads, descriptors, resident, names), *later = seen
    assert names == ["MainThread"]
    for row in later:
        assert row[0] == threads and row[1] == descriptors and row[3] == names, seen
        assert row[2] - resident < 4096, f"it grew by {row[2] - resident} KiB: {seen}"


def test_websockets_leave_nothing_after_calls_that_fail_and_after_a_stop():
    seen = outcome(program=str(PROGRAMS / "sockets_left.py"))
    assert seen == {"seen": 40, "of_failed_calls": 0, "stopped": False, "left": 0}


def test_fifty_servers_in_one_process_all_serve():
    seen = outcome("fifty")
    assert seen["answers"] == [f"number {n}" for n in range(50)]
    assert seen["threads"] < 20, "they share their threads"
    assert all(seen["stopped"]) and seen["last"] == "number 49"
    assert seen["seconds"] < 10
    assert seen["left"] == 3, "two threads of the runtime and one for temporary files stay for the life of the process"


def test_fork_of_a_running_server_leaves_it_to_the_parent():
    seen = outcome("fork")
    child = seen["child"]
    assert child["state"] == "inert"
    assert child["ports"] == [], "the child has neither the listener nor connections"
    assert len(child["faults"]) == 2 and "parent process" in child["faults"][0]
    assert "forked from one" in child["faults"][1]
    assert seen["still"] and seen["answer"] == "hello" and seen["stopped"]
    assert seen["end"], "a client sees its connection close although the child lives"
    assert seen["again"] == "hello", "the address is free although the child lives"


def test_fork_before_start_lets_children_serve_one_after_the_other():
    assert outcome("fork_first") == {"answer": "hello", "stopped": True}


def test_fork_in_the_application_never_answers_twice():
    assert outcome("fork_in_app") == {"answers": ["parent"] * 5}


def test_spawned_process_gets_the_same_listener_and_settings():
    assert outcome("spawn") == {"same": True, "answer": "hello", "pool_size": "7", "code": 0}


@pytest.mark.parametrize("how", ["main", "daemon"])
@pytest.mark.parametrize("path", [None, "/sleep?0.3", "/sleep?60", "/spin"])
def test_interpreter_exits_with_its_own_status(program, how, path):
    running = program("exits", how, stdin=subprocess.PIPE)
    with running.client() as client, running.client() as idle:
        assert idle.get("/").status == 200
        if path:
            client.request(f"GET {path} HTTP/1.1")
        began = time.monotonic()
        # Its response shows that the request before it is inside the application.
        assert idle.get("/sleep?0.1").status == 200
        running.process.stdin.close()
        assert running.wait() == 3, running.err.text()
        assert time.monotonic() - began < PATIENCE
        if path == "/sleep?0.3":
            assert client.response().status == 200
        idle.assert_closed()
    assert "rror" not in running.err.wait_end(), running.err.text()


def test_servers_share_the_seconds_that_an_exit_gives_them():
    began = outcome("exits_from_four")["began"]
    assert time.time() - began < 10


def test_signals_stay_the_programs():
    seen = outcome("quiet_signals")
    assert seen["same"] and seen["wakeup"] == -1
    assert seen["caught"], "no handler was installed behind Python's back"
    masks = seen["masks"]
    for name, mask in masks.items():
        runs_python = name.startswith(("main ", "maypole-exec"))
        assert (mask == "0" * 16) == runs_python, masks


def test_handler_that_stops_runs_while_the_main_thread_waits(program):
    running = program("waits", "stop")
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert json.loads(running.out.wait_end()) == {"came": "back", "state": "stopped"}


def test_keyboard_interrupt_comes_out_of_wait(program):
    running = program("waits", "interrupt")
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    first, second = map(json.loads, running.out.wait_end().splitlines())
    assert first == {"came": "KeyboardInterrupt", "state": "running"} and second == {"state": "stopped"}


def test_second_signal_is_handled_while_stop_drains(program):
    running = program("waits", "second")
    with running.client() as client:
        client.request("GET /sleep?60 HTTP/1.1")
        with running.client() as other:
            assert other.get("/sleep?0.1").status == 200
        running.signal(signal.SIGINT)
        running.out.wait("KeyboardInterrupt")
        began = time.monotonic()
        running.signal(signal.SIGINT)
        assert running.wait() == 7
        # The call would take a minute.
        assert time.monotonic() - began < PATIENCE


def test_threads_are_seen_by_threading_and_descriptors_by_no_child():
    seen = outcome("names")
    assert re.fullmatch(r"maypole-exec-\d+", seen["current"]) and seen["same"] and seen["daemon"]
    assert seen["cloexec"] == [], "descriptors that a child process would inherit"
    assert seen["terminated"] == -signal.SIGTERM, "a child process does not inherit blocked signals"
    row = rf"  \d+\.\d{{3}} s  127\.0\.0\.1:\d+  in the application  \"GET /look HTTP/1\.1\"  thread {seen['current']}\n"
    assert re.search(row + r'    File ".*embedding\.py", line \d+, in look\n', seen["dump"]), seen["dump"]
    assert seen["dump"].startswith("1 request is being served; 1 of 1000 places in the pool are taken"), seen["dump"]
    assert re.search(r"other Python threads:\n  MainThread\n    File ", seen["dump"]), seen["dump"]
    assert seen["after"] == ["MainThread"]


def test_lines_go_to_pythons_logging_from_threads_of_the_executor():
    seen = outcome("logs")
    by_name = {}
    for name, level, message, thread, in_time in seen["lines"]:
        by_name.setdefault(name, []).append((level, message))
        assert thread == "MainThread" or thread.startswith("maypole-exec-"), thread
        assert in_time
    assert by_name["maypole.access"] == [("INFO", "GET /x?y HTTP/1.1 500")]
    assert by_name["maypole.wsgi.errors"] == [("ERROR", "GET /x?y HTTP/1.1: written")]
    ((level, message),) = by_name["maypole.application"]
    assert level == "ERROR" and "ValueError: MARK" in message and "Traceback" in message
    ready, stopped = by_name["maypole.standalone"][0], by_name["maypole.server"][-1]
    assert ready[0] == "INFO" and "listening on http://127.0.0.1:" in ready[1]
    assert stopped[0] == "INFO" and re.fullmatch(r"stopped \d+ m?s after stop\(\): every request has ended", stopped[1])
    assert re.fullmatch(rf"{STOP_CALL}: stopping; no request is being served", by_name["maypole.server"][-2][1])
    assert seen["entry"] == ["127.0.0.1", "GET /x?y HTTP/1.1", "GET", "/x", "y", "HTTP/1.1", 500]
    body, wire, took, forwarded_for, has_port = seen["numbers"]
    assert body == len("Internal Server Error\n") and wire > body + 50 and took and forwarded_for is None and has_port


def test_stop_lets_what_runs_end():
    seen = outcome("drains", "graceful")
    assert seen["stopped"] and seen["waited"] and seen["idle"] and seen["state"] == "stopped"
    assert seen["answer"].startswith("HTTP/1.1 200") and "Connection: close" in seen["answer"]


@pytest.mark.parametrize("how", ["timeout", "cut"])
def test_stop_with_little_time_cuts(how):
    seen = outcome("drains", how)
    # The call does not end before the stop has ended.
    assert not seen["stopped"] and seen["seconds"] < PATIENCE and seen["answer"] == "" and seen["idle"]
    assert seen["state"] == "stopped"


def test_request_that_stops_the_server_is_answered():
    assert outcome("stops_itself") == {"answer": "bye", "results": [False], "waited": True, "state": "stopped"}


def test_connections_that_are_taken_over_count_and_do_not_hold_up_a_stop():
    seen = outcome("taken_over")
    assert seen["numbers"] == [[0, 2, 2], [0, 1, 2]]
    assert seen["stopped"] and seen["seconds"] < 5 and seen["end"]


def test_pool_is_shared_resized_and_waited_for():
    seen = outcome("pools")
    assert seen["full"] == ["503 Service Unavailable\n", 2, 0, False]
    # The requests of the other server do not end before.
    assert seen["stopped"] and seen["seconds"] < PATIENCE
    assert seen["waited"] == [True, 0]
    assert seen["empty"] == "503 Service Unavailable\n"
    assert seen["reset"] == 2


def test_size_of_a_given_pool_is_the_one_that_the_log_has():
    code = "import logging, maypole\nlogging.basicConfig(level=logging.INFO)\n" \
        "with maypole.Server(lambda e, s: [], '127.0.0.1:0', pool=maypole.Pool(7)) as server:\n    assert server.stats()['pool_size'] == 7"
    running = Server(None, [], None, APPS, command=[sys.executable, "-c", code])
    assert running.wait_ready().pool_size == 7
    assert running.wait() == 0


@pytest.mark.parametrize("library", ["eventlet", "gevent"])
def test_patched_threads_are_refused(library):
    pytest.importorskip(library)
    assert f"{library} has monkey-patched `thread`" in outcome("patched", library)["error"]


def test_serve_handles_signals_and_gives_them_back():
    running = Server(None, [], None, APPS, command=[sys.executable, PROGRAM, "serves"]).wait_ready()
    assert running.pool_size == 5 and running.get("/").body == b"hello"
    running.signal(signal.SIGTERM)
    # After the second start it has another port.
    again = running.err.wait(r"stopped(?s:.*)listening on (\S+), pool")
    with Client(again[1]) as client:
        assert client.get("/").body == b"hello"
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert json.loads(running.out.wait_end())["came"] == [[0, True], [0, True]]


WRONG = """
import maypole, socket
def app(environ, start_response): pass
def attempt(*args, **more):
    try:
        maypole.Server(*args, **more)
        print("accepted")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
attempt(app, "127.0.0.1:0", pool_sise=1)
attempt(app, "127.0.0.1:0", keep_alive="soon")
attempt(app, "127.0.0.1:0", chdir="/")
attempt(app, "127.0.0.1:0", fd=3)
attempt(app, fd=9999)
attempt(app, sock=socket.socket())
attempt("hello:app", "127.0.0.1:0")
attempt(app, "256.1.1.1:x")
taken = maypole.Server(app, "127.0.0.1:0")
attempt(app, (taken.host, taken.port))
attempt(app, "127.0.0.1:0", workers=4)
"""


def test_wrong_arguments_say_what_would_be_right():
    done = subprocess.run([sys.executable, "-c", WRONG], env=clean_environment(), capture_output=True, text=True, timeout=3 * PATIENCE)
    lines = done.stdout.splitlines()
    assert lines[0] == "TypeError: there is no setting 'pool_sise'; did you mean 'pool_size'?"
    assert lines[1].startswith("ValueError: invalid value 'soon' for keep_alive: expected a duration such as")
    assert lines[2].startswith("TypeError: 'chdir' is a setting of the command line")
    assert lines[3] == "TypeError: give one of listen, sock and fd, not listen and fd"
    assert lines[4].startswith("OSError: [Errno 9]") and "9999" in lines[4]
    assert lines[5].startswith("OSError: ") and "does not listen" in lines[5]
    assert lines[6] == "TypeError: the application must be callable, and str is not"
    assert lines[7].startswith("ValueError: invalid value '256.1.1.1:x' for bind: expected a port")
    assert lines[8].startswith("OSError: [Errno 98]") and "in use" in lines[8]
    assert lines[9] == "TypeError: 'workers' needs worker processes, which a Server does not start: use maypole.serve()"
    assert len(lines) == 10 and done.stderr == ""


def test_package_imports_nothing_of_others_and_starts_nothing():
    code = "import sys, os, maypole; print(sorted({'oslo_service', 'eventlet', 'flask', 'django'} & set(sys.modules)), len(os.listdir('/proc/self/task')))"
    done = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, timeout=3 * PATIENCE)
    assert done.stdout == "[] 1\n", done.stderr


# The first client of each server connects before the start, and the application uses the server object at once.
LOOKING = """
import maypole, socket, time

for number in range(20):
    seen = []

    def application(environ, start_response):
        while server.state != "running":
            time.sleep(0)
        seen.append(server.state)
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    server = maypole.Server(application, "127.0.0.1:0", threads=1)
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    server.start()
    assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    server.stop()
    assert seen == ["running"]
print("done")
"""


def test_application_that_looks_at_its_server_does_not_hold_up_the_start():
    done = subprocess.run([sys.executable, "-c", LOOKING], env=clean_environment(), capture_output=True, text=True, timeout=3 * PATIENCE)
    assert done.stdout == "done\n", done.stderr


def test_module_and_console_script_are_the_command_line():
    for command in ([sys.executable, "-m", "maypole"], [str(pathlib.Path(sys.executable).with_name("maypole"))]):
        running = Server(None, [], None, APPS, command=[*command, "-b", "127.0.0.1:0", "--pool-size", "9", "command_line:app"]).wait_ready()
        assert running.pool_size == 9 and running.get("/argv").body == b"['command_line:app']"
        running.stop()
        done = subprocess.run([*command, "--pool-sise=3", "probe"], env=clean_environment(), capture_output=True, text=True)
        assert done.returncode == 2 and "--pool-size" in done.stderr


@pytest.mark.parametrize(
    "place",
    ["call", "len", "iter", "next", "close", "getattribute", "del", "read", "fileno", "early hints", "traceback", "errors", "environ", "access", "access line"],
)
def test_interpreter_exits_while_the_server_runs_python_code(place):
    command = [sys.executable, str(PROGRAMS / "exit_inside.py"), place]
    # If the handler of log lines hangs, the process waits some seconds for the log before it ends.
    for _ in range(1 if place.startswith("access") else 3):
        running = Server(None, [], None, APPS, command=command, stdin=subprocess.PIPE).wait_ready()
        with running.client() as client:
            client.request("GET / HTTP/1.1")
            running.out.wait("inside")
            running.process.stdin.close()
            assert running.wait() == 3, running.err.text()
        assert "rror" not in running.err.wait_end(), running.err.text()


def test_call_is_interrupted_at_its_limit():
    seen = outcome("interrupts")
    assert seen["said"] == ["504 Gateway Timeout\n", "hello"]
    assert seen["caught"] == [True, "maypole-exec-1", "maypole-exec-1"]
    assert seen["stopped"] is True
    assert re.search(r"504 after 1s .*\n(?:    .*\n)*    File \".*embedding\.py\", line \d+, in app\n      (?:pass|while True:)", "\n".join(seen["lines"]))


def test_stopped_server_keeps_no_block_of_a_response():
    seen = outcome("gives_back")
    assert seen["seen"] == [seen["before"]] * 10


@pytest.mark.parametrize("which", ["same", "other"])
def test_call_that_hangs_keeps_no_log_line_back(which):
    assert outcome("delivers_past_a_hanging_call", which) == {"came": True, "names": []}
