"""Bodies of every size arrive byte for byte, both ways, in bounded memory."""

import hashlib
import json
import os

import pytest

from client import BODY_PIECE, PATIENCE, pattern_sha
from process import eventually, open_files

SIZES = [1, 100, 65535, 65536, 65537, 1_000_000, 20_000_000, 200_000_000]
KIB = 1024


def upload(client, size, chunked, chunk=60_000):
    """Sends `size` bytes of the pattern to /sha and checks the response."""
    digest = hashlib.sha256()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    client.request("POST /sha HTTP/1.1", framing)
    left = size
    while left:
        piece = BODY_PIECE[:min(left, chunk)]
        digest.update(piece)
        left -= len(piece)
        client.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
    if chunked:
        client.send(b"0\r\n\r\n")
    response = client.response()
    assert response.status == 200, response
    count, sha, length = response.body.decode().split()
    assert (int(count), sha) == (size, digest.hexdigest())
    return length


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", SIZES)
def test_upload(probe, size, chunked):
    with probe.client() as client:
        assert upload(client, size, chunked) == str(size)
        client.assert_open()


def test_body_is_streamed_without_any_buffer(server):
    served = server("probe", "--stream-requests", "always", "--request-buffer", "0")
    for body in (b"x", b"x" * 100_000):
        assert served.post("/echo", body).body == body
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        with served.client() as client:
            client.request("POST /echo HTTP/1.1", "Transfer-Encoding: chunked", body=chunks + b"0\r\n\r\n")
            assert client.response().body == body


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", SIZES)
def test_upload_streamed(module_server, size, chunked):
    server = module_server("probe", "--stream-requests", "always")
    with server.client() as client:
        assert upload(client, size, chunked) == ("None" if chunked else str(size))
        client.assert_open()


def test_upload_streamed_above_a_size(module_server):
    server = module_server("probe", "--stream-requests", "100k")
    for size in (1, 99_000, 200_000, 5_000_000):
        with server.client() as client:
            assert upload(client, size, False) == str(size)


@pytest.mark.smoke
@pytest.mark.parametrize("size", [0, 1, 100, 65536, 70000])
def test_echo(probe, size):
    with probe.client() as client:
        assert client.post("/echo", BODY_PIECE[:size]).body == BODY_PIECE[:size]


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_upload_in_small_chunks(probe, chunk):
    with probe.client() as client:
        upload(client, 3000 * chunk // max(1, chunk // 4), True, chunk)


def download(client, path, size):
    client.request(f"GET {path}?n={size} HTTP/1.1")
    head = client.head()
    assert head.status == 200
    digest, count = hashlib.sha256(), 0
    if head.get("Content-Length") is not None:
        assert int(head.get("Content-Length")) == size
        while count < size:
            piece = client.read_exactly(min(1 << 20, size - count))
            digest.update(piece)
            count += len(piece)
    else:
        for piece in client.chunks():
            digest.update(piece)
            count += len(piece)
    assert (count, digest.hexdigest()) == (size, pattern_sha(size))


@pytest.mark.parametrize("path", ["/big", "/blocks", "/whole"])
@pytest.mark.parametrize("size", SIZES)
def test_download(probe, path, size):
    with probe.client() as client:
        download(client, path, size)
        client.assert_open()


@pytest.mark.parametrize("path", ["/big", "/blocks", "/whole"])
def test_slow_reader_gets_everything(probe, path):
    """The response goes through the spool. The application ends long before the client has read the response."""
    size = 20_000_000
    with probe.client(receive_buffer=8192) as client:
        client.request(f"GET {path}?n={size} HTTP/1.1")
        client.head()
        with probe.client() as other:
            other.assert_open()
            assert other.quiet(0.5)
        data = client.read_exactly(1000) if path != "/blocks" else b""
        digest, count = hashlib.sha256(data), len(data)
        if path == "/blocks":
            for piece in client.chunks():
                digest.update(piece)
                count += len(piece)
        else:
            while count < size:
                piece = client.read_exactly(min(1 << 16, size - count))
                digest.update(piece)
                count += len(piece)
        assert (count, digest.hexdigest()) == (size, pattern_sha(size))


def progress(server, name):
    return json.loads(server.get(f"/progress/{name}").body)


def test_slow_reader_holds_no_place_in_the_pool(server):
    """If responses fit into memory and spool, the application ends and other clients are served."""
    running = server("probe", "--pool-size", "1", "--threads", "1")
    clients = [running.client(receive_buffer=4096) for _ in range(5)]
    try:
        for number, client in enumerate(clients):
            client.request(f"GET /endless?name=s{number}&n=160 HTTP/1.1")      # 10 MiB
        for number in range(5):
            eventually(lambda n=number: (progress(running, f"s{n}") or {}).get("closed"), 3 * PATIENCE, "the end of the application")
    finally:
        for client in clients:
            client.close()


def test_high_water_mark_stops_the_application(server):
    """If memory and spool are full, the application waits. It continues when the client reads."""
    running = server("probe", "--response-buffer", "64k", "--response-spool", "4MiB")
    with running.client(receive_buffer=4096) as client:
        client.request("GET /endless?name=water&n=2000 HTTP/1.1")      # 125 MiB
        client.head()
        taken = [0, 1]

        def still():
            taken.append(progress(running, "water")["blocks"])
            with running.client() as other:
                other.quiet(0.2)
            return taken[-1] == taken[-2] == taken[-3]

        eventually(still, what="the application's waiting")
        # 4 MiB of spool, 64 KiB of memory, and the kernel's buffers.
        assert taken[-1] < 300, taken
        assert sum(len(piece) for piece in client.chunks()) == 2000 * 65536
        eventually(lambda: progress(running, "water") == {"blocks": 2000, "closed": 1}, what="close()")


def test_client_that_goes_away_frees_a_waiting_application(server):
    running = server("probe", "--response-buffer", "64k", "--response-spool", "1MiB")
    with running.client(receive_buffer=4096) as client:
        client.request("GET /endless?name=away HTTP/1.1")
        client.head()
        client.reset()
    eventually(lambda: progress(running, "away")["closed"] == 1, what="close()")


def test_spool_is_nameless_and_goes_away(server, tmp_path):
    running = server("probe", "--spool-dir", str(tmp_path), "--request-buffer", "16k", "--response-buffer", "16k")
    with running.client(receive_buffer=4096) as client:
        upload(client, 5_000_000, False)
        client.request("GET /endless?name=spool&n=300 HTTP/1.1")
        client.head()
        eventually(lambda: progress(running, "spool")["closed"] == 1, 3 * PATIENCE, "the end of the application")
        spooled = open_files(running.pid)
        assert any(file.startswith(str(tmp_path)) for file in spooled.values()), spooled
        assert os.listdir(tmp_path) == []
    assert os.listdir(tmp_path) == []


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("options", [[], ["--stream-requests", "always"]], ids=["spooled", "streamed"])
def test_large_upload_in_bounded_memory(server, chunked, options):
    running = server("probe", *options)
    running.get()
    before = running.status("VmRSS")
    with running.client() as client:
        upload(client, 200_000_000, chunked)
    assert running.status("VmHWM") - before < 24 * KIB


@pytest.mark.parametrize("path", ["/big", "/blocks"])
def test_large_download_in_bounded_memory(server, path):
    running = server("probe")
    running.get()
    before = running.status("VmRSS")
    with running.client() as client:
        download(client, path, 200_000_000)
    assert running.status("VmHWM") - before < 24 * KIB


def test_slow_readers_of_large_downloads_in_bounded_memory(server):
    running = server("probe")
    running.get()
    before = running.status("VmRSS")
    clients = [running.client(receive_buffer=4096) for _ in range(20)]
    try:
        for number, client in enumerate(clients):
            client.request(f"GET /endless?name=m{number}&n=640 HTTP/1.1")       # 40 MiB each
            client.head()
        # All together are 800 MiB on the disk, which others may use, too.
        for number in range(20):
            eventually(lambda n=number: progress(running, f"m{n}")["closed"], 5 * PATIENCE, "the end of the application")
        assert running.status("VmHWM") - before < 48 * KIB
    finally:
        for client in clients:
            client.close()


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(module_server):
    return module_server("probe", "--max-body-size", "100k")


@pytest.mark.parametrize("size, status", [(102400, 200), (102401, 413)])
def test_body_limit_by_length(limited, size, status):
    with limited.client() as client:
        client.request("POST /sha HTTP/1.1", f"Content-Length: {size}", body=BODY_PIECE[:1] * size)
        assert client.response().status == status


@pytest.mark.parametrize("size, status", [(102400, 200), (102401, 413)])
def test_body_limit_chunked(limited, size, status):
    with limited.client() as client:
        client.request("POST /sha HTTP/1.1", "Transfer-Encoding: chunked",
                       body=b"19000\r\n" + b"x" * 0x19000 + b"\r\n" + (b"1\r\ny\r\n" if size > 102400 else b"") + b"0\r\n\r\n")
        response = client.response()
        assert response.status == status
        if status == 413:
            assert response.get("Connection").lower() == "close"
            client.half_close().assert_closed()


def test_body_limit_is_refused_before_it_comes(limited):
    with limited.client() as client:
        client.request("POST /sha HTTP/1.1", "Content-Length: 1000000000000")
        assert client.response().status == 413


def test_body_limit_streamed(module_server):
    server = module_server("probe", "--max-body-size", "100k", "--stream-requests", "always")
    with server.client() as client:
        client.request("POST /sha HTTP/1.1", "Content-Length: 102401")
        assert client.response().status == 413
    with server.client() as client:
        client.request("POST /sha HTTP/1.1", "Transfer-Encoding: chunked", body=b"19001\r\n" + b"x" * 0x19001 + b"\r\n0\r\n\r\n")
        # The application has begun to read. The client gets 413 if no response has begun, else the response fails.
        assert client.response().status in (413, 400, 500)
