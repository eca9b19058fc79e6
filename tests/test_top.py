"""`maypole top` on a pseudo-terminal: under load, its keys, its sizes, and the terminal after its end."""

import os
import re
import signal
import threading

import pytest

from process import eventually, factory, run
from terminal import Terminal

KEYS = "q quit  j/k choose"


@pytest.fixture
def top():
    """Starts `maypole top` on a terminal."""
    opened = []

    def start(*words, **more):
        opened.append(Terminal("top", *words, **more))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture
def busy(server, tmp_path):
    """Starts two workers that have many short requests, and one request that waits."""
    ends, clients = threading.Event(), []
    os.mkfifo(tmp_path / "keeper")
    running = server("reported", "-w", "2", env={"KEEPER": str(tmp_path / "keeper")})

    def load():
        with running.client() as client:
            while not ends.wait(0.02):
                assert client.get("/now").status == 200

    clients = [threading.Thread(target=load) for _ in range(3)]
    for client in clients:
        client.start()
    with running.client() as waits:
        waits.request("GET /first?x=1 HTTP/1.1")
        try:
            yield running
        finally:
            ends.set()
            for client in clients:
                client.join()
            running.kill()


def test_page_shows_a_service_under_load_and_obeys_keys(busy, top):
    terminal = top(busy.pid)
    terminal.wait(lambda: re.search(r"> +\S+ m?s application +[12] 127\.0\.0\.1:\d+ +GET /first\S* +reported\.py:\d+ wai",
                                    terminal.text()))
    # The rate of each worker comes with the second response.
    terminal.wait(lambda: sum(float(rate) > 0 for rate in re.findall(r"^ +[12] +\d+ serving +(\d+\.\d) ", terminal.text(), re.M)))
    lines = terminal.lines()
    assert lines[0].startswith("reported ") and f"PID {busy.pid}" in lines[0] and "serving, up " in lines[0]
    assert "processes that serve: 2 of 2" in lines[4] and lines[23].startswith(KEYS)
    terminal.press("s")
    terminal.wait(", by worker")
    terminal.press("sss")
    terminal.wait(", by age")
    terminal.press("\x1b[H\n")
    terminal.wait("  wait_in_first")
    text = terminal.text()
    assert text.startswith(r"GET /first?x=1 HTTP/1.1") and re.search(r"  application    \S+/reported\.py:\d+", text)
    terminal.resize(120, 30)
    terminal.wait(lambda: "q back" in terminal.lines()[29])
    terminal.press("\x1b")
    terminal.wait(lambda: KEYS in terminal.lines()[29])
    terminal.press("d")
    terminal.wait(lambda: terminal.lines()[0].startswith("worker ") or "pid" in terminal.lines()[0])
    terminal.press("q")
    terminal.wait(KEYS)
    terminal.press("r")
    terminal.wait("y reloads it, any other key does not.")
    terminal.press("x")
    terminal.wait(KEYS)
    terminal.press("q")
    assert terminal.end() == 0
    terminal.assert_restored()


@pytest.mark.parametrize(("stop", "status"), [("\x03", 0), (signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_terminal_is_as_before_after_a_signal(server, top, stop, status):
    terminal = top(server().pid, NO_COLOR="1")
    terminal.wait(KEYS)
    terminal.press(stop) if isinstance(stop, str) else terminal.process.send_signal(stop)
    assert terminal.end() == status
    terminal.assert_restored()


def test_terminal_is_given_back_while_the_page_is_suspended(server, top):
    terminal = top(server().pid)
    terminal.wait(KEYS)
    terminal.press("\x1a")
    assert os.WIFSTOPPED(os.waitpid(terminal.process.pid, os.WUNTRACED)[1])
    terminal.assert_restored()
    written = len(terminal.written())
    terminal.process.send_signal(signal.SIGCONT)
    terminal.wait(lambda: KEYS.encode() in terminal.written()[written:])
    terminal.press("q")
    assert terminal.end() == 0
    terminal.assert_restored()


def test_terminal_that_ctrl_s_has_stopped_holds_up_no_key(server, top):
    terminal = top(server().pid)
    terminal.wait(KEYS)
    terminal.press("\x13")
    terminal.press("q")
    assert terminal.end() == 0
    # The output goes on, so that the screen of before returns.
    terminal.assert_restored()


def test_page_ends_with_its_terminal(server, top):
    terminal = top(server().pid)
    terminal.wait(KEYS)
    terminal.hang_up()
    # The signal may come after the page has seen that there is no input any more.
    assert terminal.end() in (-signal.SIGHUP, 0)


def test_end_of_the_service_and_its_return_are_shown(server, top, tmp_path):
    pid_file = tmp_path / "shop.pid"
    with factory() as first:
        running = first("reported", "-w", "1", "--pid", pid_file, "--proc-name", "shop-1")
        terminal = top("--pid", pid_file)
        terminal.wait("shop-1 ")
        terminal.press("ry")
        terminal.wait("reloaded: 1 worker with the new settings")
        running.stop()
        terminal.wait("No response for ")
        assert "31" in terminal.colours() or "red" in terminal.colours()
    again = server("reported", "--pid", pid_file, "--proc-name", "shop-2")
    terminal.wait("shop-2 ")
    assert f"PID {again.pid}" in terminal.lines()[0]


def test_page_is_printed_where_there_is_no_terminal(server):
    running = server("reported", "-w", "2", "--proc-name", "shop")
    with running.client() as client:
        client.request("GET /second HTTP/1.1")
        running.err.wait("called /second")

        def printed():
            done = run("top", running.pid)
            assert done.returncode == 0 and "\x1b" not in done.stdout, done.stderr
            return done.stdout

        # A call announces its start before it reaches the place where it waits.
        text = eventually(lambda: (text := printed()) and re.search(r"GET /second +reported\.py:\d+ wai\S+\n$", text) and text,
                          what="the place of the request")
        running.kill()
    assert text.startswith("shop ") and "processes that serve: 2 of 2" in text


def test_service_that_does_not_exist_is_an_error():
    ended = run("top", os.getpid())
    assert (ended.returncode, ended.stdout) == (1, "") and "is no service of Maypole: " in ended.stderr
