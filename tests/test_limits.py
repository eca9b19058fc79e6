"""Exhausted descriptors, threads and listening sockets: the server ends with a sentence, or recovers."""

import os
import re
import resource
import shutil
import signal
import subprocess

import pytest

from client import PATIENCE, Client
from process import APPS, MAYPOLE, START_PATIENCE, Lines, Server, clean_environment, eventually

MIB = 1 << 20


def limited(count):
    """Returns a function for `preexec_fn` that sets the limit of descriptors."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


HUNGRY = """
import os, resource
free = int(os.environ["FREE"])
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    for number in held[len(held) - free:]:
        os.close(number)
from probe import application
"""


@pytest.mark.parametrize("count", [*range(5, 12), 16, 43, 44, 48, 64])
def test_few_descriptors_are_a_sentence_or_service(count):
    text = sentence_or_service("probe", {}, count)
    # With fewer than about ten descriptors the dynamic linker or Python ends the process.
    if text is not None and count >= 10:
        assert text == (
            f"error: the process may have {count} files open at once (ulimit -n), and Maypole needs at least 44, and one more "
            "for each client\n"
        )
    assert (text is None) == (count >= 44)


@pytest.mark.parametrize("free", range(24))
def test_few_descriptors_that_the_application_leaves_are_a_sentence_or_service(tmp_path, free):
    (tmp_path / "hungry.py").write_text(HUNGRY)
    text = sentence_or_service("hungry", {"FREE": str(free), "PYTHONPATH": f"{tmp_path}:{APPS}"}, 64)
    assert text is None or "open files" in text or "descriptors" in text, text


def sentence_or_service(app, env, count):
    """Starts a server with this limit of descriptors. Returns its output if it ends, or None if it serves."""
    with subprocess.Popen(
        [MAYPOLE, "--bind", "127.0.0.1:0", app], cwd=APPS, env=clean_environment(**env), preexec_fn=limited(count),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:
        log = Lines(process.stderr)
        try:
            state = eventually(lambda: "listening on" in log.text() or process.poll() is not None and "ended",
                               START_PATIENCE, "a start or an end")
            if state == "ended":
                text = log.wait_end()
                assert process.returncode in ((3, 4) if count >= 10 else (1, 3, 4, 127)), (process.returncode, text)
                assert "panicked" not in text and "os error" not in text, text
                return text
            address = re.search(r"listening on (\S+?),", log.text())[1]
            # There are more clients than descriptors. The server closes idle connections and serves new clients.
            clients = []
            try:
                for _ in range(count + 4):
                    clients.append(Client(address))
                for _ in range(3):
                    with Client(address) as client:
                        assert client.request("GET / HTTP/1.1", "Connection: close").response().status == 200
            finally:
                for client in clients:
                    client.close()
            with Client(address) as client:
                client.assert_open()
            assert "panicked" not in log.text(), log.text()
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
            return None
        finally:
            process.kill()


def test_descriptors_that_run_out_come_back(server):
    running = server("probe")
    assert running.get("/").status == 200
    hard = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)[1]
    with running.client() as rests, running.client() as asks:
        rests.assert_open()
        asks.assert_open()
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (3, hard))
        with running.client() as waits:
            waits.request("GET / HTTP/1.1")
            running.err.wait("cannot accept: Too many open files")
            resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (hard, hard))
            assert waits.response().status == 200
    assert running.get("/").status == 200
    assert len(re.findall("cannot accept", running.err.text())) == 1
    assert "panicked" not in running.err.text()


BODY = '''
import os, socket, stat

def application(environ, start_response):
    if environ["PATH_INFO"] == "/shut":
        for name in os.listdir("/proc/self/fd"):
            try:
                found = socket.socket(fileno=os.dup(int(name)))
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
'''


def test_listener_that_ends_unasked_ends_the_process(server, tmp_path):
    (tmp_path / "shutting.py").write_text(BODY)
    running = server("shutting", cwd=tmp_path)
    assert running.get("/").status == 200
    assert running.get("/shut").status == 200
    running.err.wait("ERROR.*the server can no longer accept on http://127.0.0.1:")
    assert running.wait() == 1


def test_log_has_few_lines_where_no_thread_can_be_started(tmp_path):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("the limit of threads does not bind root, and only root can become another user")
    # The limit counts all threads of a user, so this user has no other process.
    user = 100_000 + os.getpid()
    prefix = ["setpriv", f"--reuid={user}", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no capability can be kept here")
    command = [*prefix, MAYPOLE, "--bind", "127.0.0.1:0", "--access-logfile", "none", "probe"]
    running = Server("probe", [], None, APPS, command=command)
    clients = []
    try:
        running.wait_ready()
        assert running.get("/").status == 200
        # This user starts no thread from now on. Only the user itself, or a process with CAP_SYS_RESOURCE, may say so.
        subprocess.run([*prefix, "prlimit", f"--pid={running.pid}", "--nproc=1:1"], check=True)
        for _ in range(4):
            client = running.client()
            clients.append(client)
            client.request("GET /sleep?s=0.7 HTTP/1.1")
        running.err.wait("cannot start one more thread for the application")
        for client in clients:
            assert client.response().status == 200, "one thread has all calls"
        assert running.err.text().count("cannot start one more thread") <= 2, running.err.text()[-2000:]
    finally:
        for client in clients:
            client.close()
        running.kill()
