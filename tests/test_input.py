"""`wsgi.input` and `wsgi.errors` as Python libraries use files: with a body in memory, in a temporary file, and while
it arrives."""

import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile

import pytest

KINDS = {
    "memory": [],
    "file": ["--request-buffer", "1K"],
    "streamed": ["--stream-requests", "always"],
}
LINES = b"first line\n" + b"".join(b"line %d\n" % number for number in range(20_000)) + b"last"


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module", params=KINDS)
def kind(request, module_server):
    return request.param, module_server("input_cases", *KINDS[request.param])


@pytest.fixture
def post(kind):
    """Sends a body to a case twice on one connection. The first request must not affect the second."""
    name, server = kind

    def send(case, body, *fields):
        with server.client() as client:
            results = []
            for _ in range(2):
                response = client.post(f"/{case}", body, *fields)
                assert response.status == 200, server.err.text()[-3000:]
                results.append(json.loads(response.body))
            assert results[0] == results[1]
            return results[0]

    send.kind = name
    return send


def archive_of(files, mode):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


FILES = {"a.txt": b"a" * 100_000, "b/c.bin": bytes(range(256)) * 100}
SHAS = {name: sha(content) for name, content in FILES.items()}


@pytest.mark.smoke
@pytest.mark.parametrize("case, expected", [
    ("buffered", ["f", sha(LINES)]),
    ("unbuffered_piece_by_piece", [True, sha(LINES)]),
    ("text", ["first line\n", len(LINES) - len("first line\n"), True]),
    ("text_dropped", [False, sha(LINES)]),
    ("with_statement", ["fir", sha(LINES)]),
    ("readinto", sha(LINES)),
    ("readinto1", sha(LINES)),
    ("readinto_wide", [16, "first line\nline "]),
    ("read1", ["", sha(LINES), ""]),
    ("copied", sha(LINES)),
    ("no_descriptor", True),
])
def test_what_readers_of_files_do(post, case, expected):
    assert post(case, LINES) == expected


def test_attributes_of_a_file(post):
    assert post("everything", LINES) == {
        "readable": True, "writable": False, "seekable": post.kind != "streamed", "isatty": False, "closed": False, "flush": None
    }


def test_empty_body_is_an_empty_file_for_every_request(kind):
    _, server = kind
    with server.client() as client:
        for case in ["everything", "text_dropped", "with_statement", "everything", "readinto", "read1", "copied"]:
            response = client.get(f"/{case}")
            assert response.status == 200
            if case == "everything":
                assert json.loads(response.body)["seekable"] is True
        # All requests share one object on each thread. The position of one request must not affect the next.
        for _ in range(2):
            assert json.loads(client.get("/empty_seek").body) == [0, 0, ""]


def test_seek_and_tell_of_a_complete_body(post):
    if post.kind == "streamed":
        assert post("refused_seek", LINES) == [True, True, True, len(LINES)]
        return
    size, whole, end, back, middle, beyond, refused, again = post("seek", LINES)
    assert (size, whole, again) == (len(LINES), sha(LINES), sha(LINES))
    assert end == ["", "", True] and back == [True, True] and middle == [True, True]
    assert beyond == [True, "", "", []] and refused == 4


def test_mail(post):
    content = "a line of it\n" * 5000
    assert post("mail", b"Subject: hello\r\nContent-Type: text/plain\r\n\r\n" + content.encode()) == ["hello", content]


def test_archives(post):
    assert post("tar_stream", archive_of(FILES, "w")) == SHAS
    assert post("tar_stream", archive_of(FILES, "w:gz")) == SHAS
    assert post("gunzipped", gzip.compress(LINES)) == sha(LINES)
    if post.kind == "streamed":
        return
    assert post("tarred", archive_of(FILES, "w:gz")) == SHAS
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    assert post("zipped", data.getvalue()) == SHAS


def test_rows_and_json(post):
    assert post("rows", "a,b\r\n\"c\nd\",ä\r\n".encode() * 500) == [["a", "b"], ["c\nd", "ä"]] * 500
    value = {"list": list(range(5000)), "text": "ä" * 3000}
    assert post("loaded", json.dumps(value).encode()) == value


@pytest.mark.parametrize("case", ["fields", "werkzeug", "django", "webob"])
def test_forms(post, case):
    if case == "fields":
        if sys.version_info >= (3, 13):
            pytest.skip("Python has no cgi any more")
    else:
        pytest.importorskip(case)
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; name=%s\r\n%s\r\n%s\r\n" % part
        for part in [(b"text", b"", b"value"), (b'file; filename="f.bin"', b"Content-Type: application/octet-stream\r\n", LINES)]
    ) + b"--x--\r\n"
    assert post(case, body, "Content-Type: multipart/form-data; boundary=x") == {"text": "value", "file": sha(LINES)}
    assert post(case, b"a=1&b=%C3%A4&c=" + b"x" * 5000, "Content-Type: application/x-www-form-urlencoded") == {
        "a": "1", "b": "ä", "c": "x" * 5000
    }


def test_errors_are_a_text_file(kind):
    _, server = kind
    start = len(server.err.text())
    assert json.loads(server.get("/errors").body) == [False, False, False, False, True, "utf-8", True]
    for words in ["by print", r"by bytes \\?\\xff", "one line", "by logging", "redirected", "after close"]:
        server.err.wait(words, start=start)
