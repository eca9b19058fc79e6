"""Promises of the how-to pages for operators about limits, threads, load and paths."""

import json
import os
import re
import resource
import select
import subprocess
import sys

import pytest

from client import PATIENCE
from process import eventually
from deployment import HOWTO, command, file_name, files, line_on, needs, place, snippet  # noqa: F401 (a fixture)


def test_protocol_of_ones_own(server, place):
    (place / "shout.py").write_text(files("websockets")["shout.py"])
    *options, application = command(snippet("websockets", "test_protocol_of_ones_own", "sh"), place)
    running = server(application, *options, cwd=place)
    assert running.get().status == 426
    with running.client() as client:
        client.request("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: shout", body=b"at once")
        assert client.head().status == 101
        assert client.read_exactly(7) == b"AT ONCE"
        assert client.send(b"more").read_exactly(4) == b"MORE"


def test_websocket_without_the_option_says_what_the_page_says(server, place):
    pytest.importorskip("flask_sock")
    (place / "chat.py").write_text(files("websockets")["chat.py"])
    running = server("chat:app", cwd=place)
    fields = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: a2V5a2V5a2V5a2V5a2V5a2U=", "Sec-WebSocket-Version: 13"]
    assert running.get("/echo", *fields).status == 500
    running.err.wait(r"RuntimeError: Cannot obtain socket from WSGI environment\.")


def test_settings_for_a_small_container(server, place):
    line = snippet("sizing", "test_settings_for_a_small_container", "sh")
    (place / "cache").mkdir()
    words = command(line, place, ("/var/cache/shop", f"{place}/cache"), ("0.0.0.0:8000", "127.0.0.1:0"))
    running = server("probe", *words[:-1], bind=False)
    # At most 32 threads run, for any number of clients.
    clients = [running.client() for _ in range(60)]
    for client in clients:
        client.request("GET /sleep?s=3 HTTP/1.1")
    eventually(lambda: running.application_threads() > 20, what="threads for most of the requests")
    for client in clients:
        assert client.response().status == 200
        client.close()
    assert running.application_threads() <= 32
    with running.client() as client:
        assert client.request("POST /sha HTTP/1.1", "Content-Length: 60000000").response().status == 413


def test_access_log_tells_who_is_slow(server, place):
    test = "test_access_log_tells_who_is_slow"
    log = place / "access.log"
    running = server("probe", "--access-logfile", log, "--access-logformat", "json")
    running.get("/sleep?s=0.2")
    running.get("/nowhere")
    running.stop()
    body = snippet("sizing", test, "python")
    (place / file_name(body)).write_text(body)
    line = snippet("sizing", test, "sh").replace("python ", f"{sys.executable} ")
    done = subprocess.run(["sh", "-c", line], cwd=place, capture_output=True, text=True, timeout=3 * PATIENCE)
    assert "requests by status: {200: 1, 404: 1}\n" in done.stdout, done
    # The median of two values is the larger one here.
    assert 200 <= float(re.search(r"application_us +median +([\d.]+) ms", done.stdout)[1]) < 5000


def test_kernel_tells_clients_and_threads(server, place):
    needs("ss", "awk")
    running = server("probe")
    script = place / "load.sh"
    script.write_text(snippet("sizing", "test_kernel_tells_clients_and_threads", "sh"))
    clients = [running.client() for _ in range(7)]
    assert [client.get().status for client in clients] == [200] * 7

    def figures():
        done = subprocess.run(
            ["sh", script, str(running.pid), str(running.port)], capture_output=True, text=True, timeout=3 * PATIENCE)
        return dict(re.findall(r"(?m)^([\w ]+):\s+(\d+)", done.stdout))

    # A thread of the application may begin or end between the two counts.
    said = eventually(lambda: int((said := figures())["application threads"]) == running.application_threads() > 0 and said,
                      what="the same number of threads")
    assert (said["clients"], said["not yet accepted"]) == ("7", "0"), said
    assert int(said["descriptors"]) > 7 and int(said["VmRSS"]) > 1000
    for client in clients:
        client.close()


def test_one_thread_calls_one_request_after_the_other(server, place):
    words = command(snippet("databases-and-threads", "test_one_thread_calls_one_request_after_the_other", "sh"), place)
    running = server("probe", *words[:-1])
    assert json.loads(running.get("/environ").body)["environ"]["wsgi.multithread"] is False
    with running.client() as first, running.client() as second:
        first.request("GET /sleep?s=0.5 HTTP/1.1")
        second.request("GET /sleep?s=0 HTTP/1.1")
        assert first.response().status == second.response().status == 200
    assert running.application_threads() == 1


def test_background_thread_ends_with_the_server(server, place):
    page, test = "databases-and-threads", "test_background_thread_ends_with_the_server"
    body = snippet(page, test, "python")
    (place / os.path.basename(file_name(body))).write_text(body)
    *options, application = command(snippet(page, test, "sh"), place)
    running = server(application, *options, cwd=place)
    eventually(lambda: json.loads(running.get().body)["fetched"] > 2, what="that the thread runs")
    running.stop()
    assert "prices: ended\n" in running.out.text()


def test_overload_is_said_as_the_page_has_it(server):
    running = server("probe", "--threads", "2", "--pool-size", "4", "--queue-timeout", "1s")
    clients = [running.client() for _ in range(8)]
    for client in clients:
        client.request("GET /sleep?s=3 HTTP/1.1")
    # Two requests are inside the application, two wait for a thread, and four for a permit.
    responses = [client.response() for client in clients]
    assert [response.status for response in responses].count(503) == 6
    assert {response.get("Retry-After") for response in responses if response.status == 503} == {"1"}
    running.err.wait(line_on("sizing", "overload: ").replace("/report", r"/sleep\?s=3"))
    for client in clients:
        client.close()


def put(client, size, sent, path="/sha"):
    """Begins an upload."""
    client.request(f"PUT {path} HTTP/1.1", f"Content-Length: {size}", body=bytes(sent))
    return client


def test_refused_uploads_are_said_as_the_page_has_it(server, tmp_path):
    running = server(
        "probe", "--max-body-size", "2MiB", "--request-buffer", "64KiB", "--spool-total", "1MiB", "--spool-dir", tmp_path,
        "--body-timeout", "1s")
    cases = [
        (413, 3 << 20, 0, "413: a body of 200000000 bytes, --max"),
        (413, 3 << 19, 100_000, "413: a body of 200000000 bytes, --spool"),
        (408, 100_000, 10, "408: a body of 20000000 bytes of which 65536 came and"),
    ]
    for status, size, sent, line in cases:
        with running.client() as client:
            assert put(client, size, sent).response().status == status
        running.err.wait(line_on("uploads", line))
    with running.client() as client:
        put(client, 100_000, 10).half_close()
        assert client.response().status == 400
    running.err.wait(line_on("uploads", "400: "))


def test_uploads_that_find_no_room_are_said_as_the_page_has_it(server, tmp_path):
    running = server(
        "probe", "--request-buffer", "64KiB", "--spool-total", "1MiB", "--spool-dir", tmp_path, "--body-timeout", "1s")
    with running.client() as first, running.client() as second:
        # While the first request is served, its file uses nearly all of the space.
        put(first, 1_000_000, 1_000_000, "/hold/a")
        assert running.get("/held/a").body == b"yes"
        assert put(second, 1_000_000, 500_000).response().status == 503
        running.get("/release/a")
        assert first.response().status == 200
    running.err.wait(line_on("uploads", "503: a body of 20000000 bytes found"))


def test_broken_streamed_uploads_are_said_as_the_page_has_it(server):
    running = server("probe", "--stream-requests", "always", "--body-timeout", "1s")
    with running.client() as client:
        put(client, 100_000, 10)
        running.err.wait(line_on("uploads", "the application cannot read all"))
    with running.client() as client:
        put(client, 100_000, 10).half_close()
        running.err.wait(line_on("uploads", "ConnectionResetError: "))


@pytest.mark.parametrize(("limit", "connections", "files"), [(1024, 840, 120), (65536, 57288, 8184), (1048576, 917448, 131064)])
def test_descriptors_are_divided_as_the_page_says(limit, connections, files):
    rest = limit - 64
    assert (rest - rest // 8, rest // 8) == (connections, files)
    assert f"| {limit:,} | {connections:,} | {files:,} |" in (HOWTO / "sizing.md").read_text()


def test_limit_of_descriptors_is_said(server):
    """Of 128 descriptors, 56 are for connections. For one more client, the server closes an idle connection."""
    running = server("probe", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)))
    clients = [running.client() for _ in range(56)]
    assert [client.get().status for client in clients] == [200] * 56
    clients.append(running.client())
    assert clients[56].get().status == 200
    running.err.wait(line_on("sizing", "the limit of connections is reached"))
    assert len(select.select([client.socket for client in clients[:56]], [], [], PATIENCE)[0]) == 1
    for client in clients:
        client.close()


