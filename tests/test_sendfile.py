"""Files that the application names (`--sendfile-root`): sent by the server, in place of the application's body."""

import json
import re
import textwrap
from urllib.parse import quote, urlencode

import pytest

from process import run

TEXT = b"0123456789" * 1000
OWN = b"the application's own body"


@pytest.fixture
def media(tmp_path):
    root = tmp_path / "media"
    for name, content in {"a.txt": TEXT, "deep/er/b.pdf": b"%PDF", "caf\u00e9.txt": b"utf-8", "50%25.txt": b"raw", "50%.txt": b"decoded",
                          ".env": b"secret", "deep/.git/x": b"secret", "a b.txt": b"space"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "outside").symlink_to(tmp_path)
    (root / "in.txt").symlink_to("deep/er/b.pdf")
    (tmp_path / "link").symlink_to("media")
    (tmp_path / "media2").mkdir()
    (tmp_path / "media2" / "c.txt").write_bytes(b"second")
    (tmp_path / "media-not").mkdir()
    (tmp_path / "media-not" / "a.txt").write_bytes(b"secret")
    return root


@pytest.fixture
def running(server, media):
    return server("sending", "--sendfile-root", f"/protected={media}", "--sendfile-root", str(media.parent / "media2"))


def query(**given):
    return "/x?" + urlencode(given, encoding="latin-1")


def test_file_is_sent_in_place_of_the_body(running, media):
    with running.client() as client:
        for given in [{"path": media / "a.txt"}, {"url": "/protected/a.txt"}, {"url": "/protected/a.txt?x=y"}]:
            for body in ["list", "iterable", "write", "empty"]:
                answer = client.get(query(body=body, **given))
                assert (answer.status, answer.body) == (200, TEXT), (given, body)
                assert answer.get("Content-Length") == str(len(TEXT)) and answer.get("Accept-Ranges") == "bytes"
                # What the application has given stays; what names the file does not.
                assert answer.get("Content-Type") == "text/x-own" and answer.get("Set-Cookie") == "a=b"
                assert answer.get("Cache-Control") == "private" and answer.get("Last-Modified") and answer.get("ETag")
                assert answer.get("X-Sendfile") is None and answer.get("X-Accel-Redirect") is None
        head = client.get(query(path=media / "a.txt"), method="HEAD")
        assert (head.status, head.body, head.get("Content-Length")) == (200, b"", str(len(TEXT)))
        answer = client.get(query(path=media / "deep/er/b.pdf", field="Content-Disposition:attachment"))
        assert (answer.body, answer.get("Content-Disposition")) == (b"%PDF", "attachment")
        answer = client.post(query(path=media / "a.txt"), b"x" * 100)
        assert (answer.status, answer.body) == (200, TEXT)
    # Each iterable was closed, and read no further than its first block.
    closed = json.loads(running.get("/closed").body)
    assert len(closed) == 3 and all(blocks == 1 for _, blocks in closed)


def test_path_is_found_below_every_root_however_it_is_written(running, media):
    with running.client() as client:
        for path, body in [
            (media / "in.txt", b"%PDF"), (f"{media}//deep/./er/b.pdf", b"%PDF"), (media.parent / "media2/c.txt", b"second"),
            (media / "a b.txt", b"space"), (quote(f"{media}/a b.txt"), b"space"), (f"{media}/caf\u00e9.txt", b"utf-8"),
            (f"{media}/caf\u00e9.txt".encode().decode("latin-1"), b"utf-8"), (quote(f"{media}/caf\u00e9.txt"), b"utf-8"),
            (f"{media}/50%25.txt", b"raw"), (f"{media}/50%.txt", b"decoded"),
        ]:
            answer = client.get(query(path=path))
            assert (answer.status, answer.body) == (200, body), path
        for url, body in [("/protected/50%25.txt", b"decoded"), ("/protected/a%20b.txt", b"space"), ("/protected/caf%C3%A9.txt", b"utf-8"),
                          ("/protected/deep/er/b.pdf", b"%PDF")]:
            answer = client.get(query(url=url))
            assert (answer.status, answer.body) == (200, body), url


def test_root_may_be_a_link_and_a_path_relative(server, media):
    running = server("sending", "--sendfile-root", media.parent / "link")
    for path in [media.parent / "link/a.txt", media / "a.txt", "a.txt", "deep/../a.txt"]:
        answer = running.get(query(path=path))
        assert answer.status == (500 if ".." in str(path) else 200), path


def test_what_is_not_below_a_root_is_an_error_without_a_leak(running, media):
    top = media.parent
    with running.client() as client:
        for given, status, said in [
            ({"path": top / "secret.txt"}, 500, "not below a --sendfile-root"),
            ({"path": "/etc/passwd"}, 500, None),
            ({"path": f"{media}/../secret.txt"}, 500, None),
            ({"path": f"{media}/%2e%2e/secret.txt"}, 404, None),
            ({"path": f"{media}-not/a.txt"}, 500, None),
            ({"path": media / "out.txt"}, 500, None),
            ({"path": media / "outside/secret.txt"}, 500, None),
            ({"path": media / ".env"}, 500, None),
            ({"path": media / "deep/.git/x"}, 500, None),
            ({"path": media / "none.txt"}, 404, None),
            ({"path": media / "deep"}, 404, None),
            ({"path": media}, 500, None),
            ({"path": f"{media}/a.txt\\"}, 500, None),
            ({"url": "/protected/../secret.txt"}, 500, None),
            ({"url": "/protected/%2e%2e/secret.txt"}, 500, None),
            ({"url": "/protected/..%2fsecret.txt"}, 500, None),
            ({"url": "/protected/.env"}, 500, None),
            ({"url": "/protected/out.txt"}, 500, None),
            ({"url": "/protected/deep/"}, 404, None),
            ({"url": "/protected/none.txt"}, 404, None),
            ({"url": "/protected"}, 404, None),
            ({"url": "/protectedX/a.txt"}, 500, None),
            ({"url": "/other/a.txt"}, 500, None),
            ({"url": "@named"}, 500, None),
            ({"url": "http://example.com/protected/a.txt"}, 500, None),
        ]:
            answer = client.get(query(body="iterable", **given))
            assert answer.status == status, given
            assert b"secret" not in answer.body and b"root:" not in answer.body and OWN not in answer.body, given
            # The fields were meant for the file.
            assert answer.get("Set-Cookie") is None and answer.get("X-Sendfile") is None and answer.get("X-Accel-Redirect") is None
            if said:
                running.err.wait(r"ERROR\] GET /x\?\S+ HTTP/1.1: the application names \S+/secret.txt in X-Sendfile, which is " + said + ": 500")
    running.err.wait(r"WARNING\] GET /x\S+ HTTP/1.1: the application names \S+ in X-Sendfile, and there is no such file: 404")


def test_conditions_and_ranges_are_those_of_the_server(running, media):
    with running.client() as client:
        path = query(path=media / "a.txt")
        tag = client.get(path).get("ETag")
        answer = client.get(path, f"If-None-Match: {tag}")
        assert (answer.status, answer.body, answer.get("Set-Cookie"), answer.get("Content-Type")) == (304, b"", "a=b", None)
        assert client.get(path, 'If-Match: "x"').status == 412
        answer = client.get(path, "Range: bytes=3-12")
        assert (answer.status, answer.body, answer.get("Content-Range")) == (206, b"3456789012", "bytes 3-12/10000")
        assert answer.get("Content-Type") == "text/x-own" and answer.get("Cache-Control") == "private"
        answer = client.get(path, "Range: bytes=0-0,5-5")
        assert answer.status == 206 and answer.get("Content-Type").startswith("multipart/byteranges") and answer.body.count(b"text/x-own") == 2
        assert client.get(path, "Range: bytes=20000-").status == 416
        assert client.get(path, "Range: bytes=0-1", method="HEAD").status == 200
        assert client.post(path, b"x", "Range: bytes=0-1").status == 200
        # The application's own tag and date count, and it may refuse ranges.
        own = query(path=media / "a.txt", field='ETag:W/"own"')
        assert client.get(own).get("ETag") == 'W/"own"'
        assert client.get(own, 'If-None-Match: "own"').status == 304
        assert client.get(own, 'If-Range: W/"own"', "Range: bytes=0-1").status == 200
        dated = query(path=media / "a.txt", field="Last-Modified:Sun, 06 Nov 1994 08:49:37 GMT")
        assert client.get(dated, "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT").status == 304
        assert client.get(query(path=media / "a.txt", field="Accept-Ranges:none"), "Range: bytes=0-1").body == TEXT
        # An application that has looked at the range itself has given a 206.
        looked = query(path=media / "a.txt", status="206 Partial Content", field="Content-Range:bytes 0-1/10000")
        answer = client.get(looked, "Range: bytes=0-1")
        assert (answer.status, answer.body, answer.get("Content-Range")) == (206, b"01", "bytes 0-1/10000")
        assert client.get(looked).status == 200


def test_other_statuses_are_kept(running, media):
    with running.client() as client:
        answer = client.get(query(path=media / "a.txt", status="404 Gone Fishing"), "Range: bytes=0-1")
        assert (answer.status, answer.reason, answer.body) == (404, "Gone Fishing", TEXT)
        answer = client.get(query(path=media / "a.txt", status="304 Not Modified", body="empty"))
        assert (answer.status, answer.body, answer.get("X-Sendfile")) == (304, b"", None)
        answer = client.get(query(path=media / "a.txt", body="error"))
        assert (answer.status, answer.body) == (500, b"Internal Server Error\n")
        assert client.get(query()).body == OWN, "a response that names no file is the application's"


def test_fields_pass_without_the_setting_and_without_a_prefix(server, media):
    answer = server("sending").get(query(path=media / "a.txt", url="/protected/a.txt"))
    assert (answer.body, answer.get("X-Sendfile"), answer.get("X-Accel-Redirect")) == (OWN, str(media / "a.txt"), "/protected/a.txt")
    # A proxy in front may look for the other field.
    answer = server("sending", "--sendfile-root", media).get(query(url="/protected/a.txt"))
    assert (answer.body, answer.get("X-Accel-Redirect")) == (OWN, "/protected/a.txt")


def test_thread_and_place_are_free_while_the_file_is_sent(server, media):
    with open(media / "long.bin", "wb") as file:
        file.truncate(256 << 20)
    running = server("sending", "--sendfile-root", media, "--pool-size", "1", "--threads", "1")
    with running.client() as slow, running.client() as other:
        slow.request(f"GET {query(path=media / 'long.bin')} HTTP/1.1")
        # The head has arrived: the call has ended. The client takes no more.
        assert slow.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert other.get(query(path=media / "a.txt")).body == TEXT
        assert other.get(query()).body == OWN
        running.kill()


def test_wrong_settings_are_named(tmp_path):
    for value, status, said in [
        ("a=b", 2, "expected DIR or /PREFIX=DIR, such as /protected=media"),
        (f"{tmp_path}/none", 3, "--sendfile-root .*/none: it must be a directory, and .*/none does not exist"),
        (f"/a={tmp_path},/a={tmp_path}", 2, "--sendfile-root names /a twice"),
    ]:
        done = run("--sendfile-root", value, "probe")
        assert done.returncode == status and re.search(said, done.stderr), done


FLASK = """
    from flask import Flask, send_from_directory

    app = Flask(__name__)
    app.config["USE_X_SENDFILE"] = True

    @app.get("/<path:name>")
    def download(name):
        return send_from_directory("media", name, as_attachment=True)
"""

DJANGO = """
    import pathlib

    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.urls import path
    from django_sendfile import sendfile

    ROOT = pathlib.Path(__file__).parent / "media"
    settings.configure(SECRET_KEY="for tests", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SENDFILE_ROOT=ROOT,
                       SENDFILE_BACKEND="django_sendfile.backends.BACKEND", SENDFILE_URL="/protected")

    def download(request, name):
        return sendfile(request, ROOT / name, attachment=True)

    urlpatterns = [path("<path:name>", download)]
    app = get_wsgi_application()
"""

WEBOB = """
    from webob import Response
    from webob.dec import wsgify

    @wsgify
    def app(request):
        response = Response(content_type="text/plain", content_disposition="attachment; filename=a.txt")
        response.headers["X-Accel-Redirect"] = "/protected" + request.path
        return response
"""


@pytest.mark.parametrize("code", [FLASK, DJANGO.replace("BACKEND\"", "xsendfile\""), DJANGO.replace("BACKEND\"", "nginx\""), WEBOB],
                         ids=["flask", "django-xsendfile", "django-nginx", "webob"])
def test_frameworks_name_files(server, media, code):
    (media.parent / "shop.py").write_text(textwrap.dedent(code))
    running = server("shop:app", "--sendfile-root", "/protected=media", cwd=media.parent)
    with running.client() as client:
        answer = client.get("/a.txt")
        assert (answer.status, answer.body) == (200, TEXT)
        assert answer.get("Content-Disposition").startswith("attachment") and answer.get("Content-Type").startswith("text/plain")
        assert answer.get("X-Sendfile") is None and answer.get("X-Accel-Redirect") is None
        answer = client.get("/a.txt", "Range: bytes=0-4")
        assert (answer.status, answer.body, answer.get("Content-Range")) == (206, b"01234", "bytes 0-4/10000")
        tag = client.get("/a.txt").get("ETag")
        answer = client.get("/a.txt", f"If-None-Match: {tag}")
        assert (answer.status, answer.body) == (304, b"")
        head = client.get("/a.txt", method="HEAD")
        assert (head.status, head.body, head.get("Content-Length")) == (200, b"", str(len(TEXT)))
        assert client.get("/none.txt").status == 404
        assert client.get("/../secret.txt").status in (400, 404, 500)
    assert "wsgi" not in running.err.text() and "Traceback" not in running.err.text()
