"""No data is lost or cut if the disk is full, missing, slow to become free, or a tmpfs, or if descriptors run out."""

import hashlib
import os
import pathlib
import resource
import subprocess
import threading
import time

import pytest

from client import PATIENCE, Closed, pattern_sha
from process import APPS, START_PATIENCE, eventually, run

MIB = 1 << 20


def slow_download(server, size, pause, path="/whole"):
    """Pauses before it reads a response. Returns the SHA-256 and the length of the body."""
    with server.client(receive_buffer=4096) as client:
        client.request(f"GET {path}?n={size} HTTP/1.1", "Connection: close")
        head = client.head()
        assert head.status == 200
        time.sleep(pause)
        data = b"".join(client.chunks()) if head.get("Transfer-Encoding") else client.read_exactly(size)
        return hashlib.sha256(data).hexdigest(), len(data)


def upload(server, size, *fields):
    """Uploads a body and returns the status. The server may respond before all of the body was sent."""
    with server.client() as client:
        try:
            client.request("POST /sha HTTP/1.1", f"Content-Length: {size}", *fields, body=b"x" * size)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return client.response("POST").status


def disk_bytes(server, directory):
    """Returns the disk space of the unlinked files in this directory, in bytes."""
    total = 0
    for entry in pathlib.Path(f"/proc/{server.pid}/fd").iterdir():
        try:
            if os.readlink(entry).startswith(str(directory)):
                total += os.stat(entry).st_blocks * 512
        except OSError:
            pass
    return total


@pytest.fixture
def tiny_disk(tmp_path):
    """Mounts a tmpfs of 2 MiB."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "maypole-test", directory], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@pytest.mark.parametrize("path", ["/whole", "/big", "/blocks"])
def test_full_disk_loses_nothing_of_a_response(server, tiny_disk, path):
    running = server("probe", "--spool-dir", tiny_disk, "--spool-total", "1GiB")
    assert slow_download(running, 8 * MIB, 1.5, path) == (pattern_sha(8 * MIB), 8 * MIB)
    lines = [line for line in running.err.text().splitlines() if "cannot store" in line]
    assert len(lines) <= 10, "one line per second"
    assert "No space left" in lines[0] and str(tiny_disk) in lines[0], lines


def test_full_disk_refuses_an_upload_with_503(server, tiny_disk):
    running = server("probe", "--spool-dir", tiny_disk, "--spool-total", "1GiB", "--request-buffer", "16k")
    assert upload(running, 8 * MIB, "Connection: close") == 503
    running.err.wait(r"cannot store a request body in .*: No space left")
    assert upload(running, MIB) == 200, "and there is room again"


def test_spool_directory_in_memory_is_said_with_its_limit(server, tiny_disk):
    running = server("probe", "--spool-dir", tiny_disk)
    assert f"{tiny_disk} is memory (tmpfs): temporary files may take 1 MiB" in running.err.text()
    # The limit is a quarter of 2 MiB: the application waits, and a larger upload can never be stored.
    assert slow_download(running, 8 * MIB, 0.5) == (pattern_sha(8 * MIB), 8 * MIB)
    assert upload(running, 8 * MIB, "Connection: close") == 413


def test_slow_readers_share_the_limit_of_all_files(server, tmp_path):
    running = server("probe", "--spool-dir", tmp_path, "--spool-total", "8MiB")
    clients = [running.client(receive_buffer=4096) for _ in range(12)]
    try:
        for client in clients:
            client.request(f"GET /blocks?n={8 * MIB} HTTP/1.1", "Connection: close")
        eventually(lambda: disk_bytes(running, tmp_path) > 4 * MIB, what="a use of the disk")
        for _ in range(20):
            assert disk_bytes(running, tmp_path) <= 8 * MIB
            time.sleep(0.02)
        assert running.get("/").status == 200, "others are served"

        def read(client, results):
            client.head()
            results.append(sum(len(piece) for piece in client.chunks()))

        results = []
        threads = [threading.Thread(target=read, args=(client, results)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE * 3)
        assert results == [8 * MIB] * 12
        eventually(lambda: disk_bytes(running, tmp_path) == 0, what="the end of the files")
    finally:
        for client in clients:
            client.close()


def test_without_a_directory_it_serves_and_says_so_once(server):
    running = server("probe", "--request-buffer", "64k", env={"TMPDIR": "/nowhere/at-all"})
    assert running.err.text().count("no temporary file can be made in /nowhere/at-all") == 1
    assert running.get("/").status == 200
    assert upload(running, 60_000) == 200
    assert upload(running, 3 * MIB, "Connection: close") == 413
    for path in ["/blocks", "/whole"]:
        assert slow_download(running, 8 * MIB, 1.5, path) == (pattern_sha(8 * MIB), 8 * MIB)
    assert "ERROR" not in running.err.text()


def test_read_only_file_system_serves(server):
    """The directory for temporary files is read-only, as in a container with a read-only root file system."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    from process import MAYPOLE, Server
    script = 'mount -t tmpfs -o ro none /mnt && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", MAYPOLE, "--bind", "127.0.0.1:0", "probe"]
    running = Server("probe", [], {"TMPDIR": "/mnt"}, APPS, command=command)
    try:
        running.wait_ready()
        assert "no temporary file can be made in /mnt (Read-only file system" in running.err.text()
        assert running.get("/").status == 200
    finally:
        running.stop()


@pytest.mark.parametrize("directory", ["/nowhere/at-all", "/proc"])
def test_directory_that_was_named_has_to_be_usable(directory):
    for option in [[], ["--check-config"]]:
        done = run("--bind", "127.0.0.1:0", "--spool-dir", directory, *option, "probe")
        assert done.returncode == 3
        assert done.stderr.startswith(f"error: --spool-dir must be a directory that can be written to, and {directory} is not: ")


def test_printing_settings_touches_no_directory():
    done = run("--spool-dir", "/nowhere/at-all", "--print-config", "probe")
    assert done.returncode == 0, done
    assert "spool_dir = /nowhere/at-all  # command line\n" in done.stdout and "spool_total = 0  # " in done.stdout


def test_no_descriptor_left_loses_nothing_of_a_response(server):
    running = server("probe")
    for path in ["/blocks", "/whole"]:
        with running.client(receive_buffer=4096) as client:
            client.assert_open()
            client.request(f"GET {path}?n={8 * MIB} HTTP/1.1", "Connection: close")
            # From here on the server gets no new descriptor. Only the soft limit changes, so it can be raised again.
            hard = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (3, hard))
            time.sleep(1.5)
            head = client.head()
            body = b"".join(client.chunks()) if head.get("Transfer-Encoding") else client.read_exactly(8 * MIB)
            assert hashlib.sha256(body).hexdigest() == pattern_sha(8 * MIB)
            resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert running.get("/").status == 200


def test_spool_of_nothing_is_as_fast_as_its_client(server):
    running = server("probe", "--response-spool", "0")
    with running.client(receive_buffer=65536) as client:
        before = time.monotonic()
        client.request(f"GET /blocks?n={20 * MIB} HTTP/1.1")
        client.head()
        assert sum(len(piece) for piece in client.chunks()) == 20 * MIB
        assert time.monotonic() - before < PATIENCE


SIZES = {
    "limit-request-line": "1MiB", "limit-request-field-size": "1MiB", "limit-request-head": "1MiB",
    "max-body-size": "9223372036854775807", "request-buffer": "1GiB", "stream-requests": "9223372036854775807",
    "response-buffer": "1GiB", "response-spool": "9223372036854775807", "spool-total": "9223372036854775807",
    "min-rate": "1GiB", "stack-size": "8MiB",
}
DURATIONS = ["keep-alive", "header-timeout", "body-timeout", "write-timeout", "queue-timeout", "graceful-timeout"]
NUMBERS = {
    "backlog": "65535", "pool-size": "100000", "threads": "10000", "max-connections": "10000000",
    "limit-request-fields": "16384",
}
SWEEP = [(name, value) for name, largest in {**SIZES, **NUMBERS}.items() for value in ["0", "1", largest]]
SWEEP += [(name, value) for name in DURATIONS for value in ["0", "1ms", "1", "24d"]]
# Statuses for clients that are slower, or whose requests are longer, than these settings allow.
STRICT = {
    ("header-timeout", "1ms"): {408}, ("body-timeout", "1ms"): {408}, ("max-body-size", "1"): {413},
    ("limit-request-fields", "1"): {431},
}
# If a body exceeds its limit while the application reads it, the application gets an error.
STRICT_STREAMED = {("max-body-size", "1"): {500}}


def exchange(server, send, method):
    """Returns a response with its body, or None if the server closed the connection before its end."""
    with server.client(timeout=PATIENCE) as client:
        try:
            send(client)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            return client.response(method)
        except Closed:
            return None


@pytest.mark.parametrize("streamed", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize(("name", "value"), SWEEP)
def test_setting_at_its_bounds_refuses_or_serves(server, name, value, streamed):
    options = [f"--{name}", value]
    if name == "limit-request-head" and value == "1MiB":
        options += ["--limit-request-line", "8190"]
    if name in ("limit-request-line", "limit-request-field-size") and value == "1MiB":
        options += ["--limit-request-head", "1MiB"]
    if streamed:
        if name == "stream-requests":
            pytest.skip("the setting itself")
        options += ["--stream-requests", "always"]
    running = server("probe", *options, ready=False)
    ready = eventually(lambda: "listening on" in running.err.text() or running.process.poll(), START_PATIENCE, "a start or an end")
    if ready is not True:
        assert running.wait() == 2
        text = running.err.wait_end()
        assert text.startswith(f"error: invalid value '{value}' for '--{name}': ") and "expected " in text, text
        return
    running.wait_ready()
    allowed = {200} | STRICT.get((name, value), set())
    if streamed:
        allowed |= STRICT_STREAMED.get((name, value), set())
    slow = {None} if (name, value) in {("write-timeout", "1ms"), ("min-rate", "1GiB")} else set()

    response = exchange(running, lambda client: client.request("GET / HTTP/1.1"), "GET")
    assert response.status in allowed, response
    body = b"y" * 300_000

    def post(client):
        client.request("POST /sha HTTP/1.1", f"Content-Length: {len(body)}", body=body)

    def post_chunked(client):
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [b"z" * 1000] * 100)
        client.request("POST /sha HTTP/1.1", "Transfer-Encoding: chunked", body=chunks + b"0\r\n\r\n")

    for send in [post, post_chunked]:
        response = exchange(running, send, "POST")
        assert response.status in allowed, response
    before = running.cpu_seconds()
    for path in ["/whole", "/blocks"]:
        response = exchange(running, lambda client, path=path: client.request(f"GET {path}?n={MIB} HTTP/1.1"), "GET")
        if response is None:
            assert None in slow
        elif response.status == 200:
            assert hashlib.sha256(response.body).hexdigest() == pattern_sha(MIB)
        else:
            assert response.status in allowed, response
    assert running.cpu_seconds() - before < 2, "a download of 2 MiB is no work"
