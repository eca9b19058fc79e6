"""Files below a prefix (`--static`): served without Python, whole, in parts, compressed, and nothing outside."""

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest

from process import APPS, MAYPOLE, ROOT, run
from snippets import blocks

CSS = b"body { color: black }\n" * 500


@pytest.fixture
def site(tmp_path):
    root = tmp_path / "public"
    for name, content in {
        "app.css": CSS,
        "index.html": b"<p>index",
        "docs/index.html": b"<p>docs",
        "bare/file.txt": b"text",
        "empty.txt": b"",
        "a b.txt": b"space",
        "caf\u00e9.txt": b"utf-8",
        "logo.png": b"\x89PNG",
        ".hidden": b"hidden",
        ".git/config": b"hidden",
        ".well-known/security.txt": b"Contact: us",
        "long.bin": bytes(range(256)) * 8192,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "app.css.gz").write_bytes(gzip.compress(CSS, mtime=0))
    (root / "app.css.br").write_bytes(b"not really brotli")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "up.txt").symlink_to("../secret.txt")
    (root / "in.txt").symlink_to("bare/file.txt")
    (root / "outside").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe.txt")
    return root


@pytest.fixture
def running(server, site):
    return server("probe", "--static", f"/static={site}")


def test_file_is_served_with_its_type_and_state(running, site):
    answer = running.get("/static/app.css")
    assert (answer.status, answer.body) == (200, CSS)
    assert answer.get("Content-Type") == "text/css; charset=utf-8" and answer.get("Content-Length") == str(len(CSS))
    assert answer.get("Accept-Ranges") == "bytes" and answer.get("Vary") == "Accept-Encoding"
    modified = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(int((site / "app.css").stat().st_mtime)))
    assert answer.get("Last-Modified") == modified and re.fullmatch(r'"[0-9a-f]+-[0-9a-f]+"', answer.get("ETag"))
    for path, kind, body in [
        ("/static/logo.png", "image/png", b"\x89PNG"),
        ("/static/a%20b.txt", "text/plain; charset=utf-8", b"space"),
        ("/static/caf%C3%A9.txt", "text/plain; charset=utf-8", b"utf-8"),
        ("/static/empty.txt", "text/plain; charset=utf-8", b""),
        ("/static/in.txt", "text/plain; charset=utf-8", b"text"),
        ("/static/.well-known/security.txt", "text/plain; charset=utf-8", b"Contact: us"),
        ("/static/?x=y", "text/html; charset=utf-8", b"<p>index"),
        ("/static/docs/", "text/html; charset=utf-8", b"<p>docs"),
    ]:
        answer = running.get(path)
        assert (answer.status, answer.get("Content-Type"), answer.body) == (200, kind, body), path
    assert running.get("/static/logo.png").get("Vary") is None
    for path, location in [("/static", "./static/"), ("/static/docs", "./docs/"), ("/static/docs?a=b", "./docs/?a=b")]:
        answer = running.get(path)
        assert (answer.status, answer.get("Location")) == (301, location)
    # The rest is the application's.
    assert running.get("/").status == 200 and running.get("/statics").get("ETag") is None


def test_prefix_counts_however_it_is_written(running):
    """The application would see the same PATH_INFO for each of them."""
    for path in ["/%73tatic/app.css", "/stati%63/%61pp.css"]:
        assert running.get(path).body == CSS, path
    assert running.get("/%73tatic/missing").body == b"404 Not Found\n"
    assert running.get("/static%2Fapp.css").body == b"no such route"


def test_tricks_get_404_and_no_byte_of_another_file(running):
    with running.client() as client:
        for path in [
            "/static/missing", "/static/bare", "/static/bare/", "/static/docs/missing/", "/static/app.css/", "/static/app.css/x",
            "/static/.hidden", "/static/%2ehidden", "/static/.git/config", "/static/%2Egit/config", "/static/docs/.well-known/x",
            "/static/out.txt", "/static/up.txt", "/static/outside/secret.txt", "/static/loop", "/static/pipe.txt",
            "/static/../secret.txt", "/static/%2e%2e/secret.txt", "/static/..%2fsecret.txt", "/static/%2e%2e%2fsecret.txt",
            "/static/docs/../../secret.txt", "/static/docs/%2e%2e/%2e%2e/secret.txt", "/static/docs/..%2f..%2fsecret.txt",
            "/static/..%5csecret.txt", "/static/..\\secret.txt", "/static/%252e%252e/secret.txt", "/static/..;/secret.txt",
            "/static//etc/passwd", "/static/%2fetc/passwd", "/static//", "/static/./app.css", "/static/docs/./index.html",
            "/static/docs//index.html", "/static/app.css%00", "/static/app.css%00.png", "/static/app%0a.css", "/static/%",
            "/static/%zz", "/static/%2", "/static/%c0%ae%c0%ae/secret.txt", "/static/" + "a" * 300, "/static/" + "a/" * 2000,
        ]:
            answer = client.get(path)
            assert answer.status == 404 and b"secret" not in answer.body and b"hidden" not in answer.body, path
        # A directory that leads outside is not one.
        assert client.get("/static/outside").status == 404
    running.err.wait(r"WARNING\] the file for /static/\S+ cannot be read below /\S+/public: ")


def test_conditions_are_answered_without_the_file(running):
    with running.client() as client:
        answer = client.get("/static/app.css")
        tag, modified = answer.get("ETag"), answer.get("Last-Modified")
        for fields in (f"If-None-Match: {tag}", f"If-None-Match: W/{tag}", "If-None-Match: *", f"If-Modified-Since: {modified}"):
            answer = client.get("/static/app.css", fields)
            assert (answer.status, answer.body, answer.get("ETag")) == (304, b"", tag), fields
            assert answer.get("Content-Type") is None and answer.get("Vary") == "Accept-Encoding"
        assert client.get("/static/app.css", 'If-None-Match: "x"').status == 200
        for field in ('If-Match: "x"', "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT"):
            assert client.get("/static/app.css", field).status == 412
        assert client.get("/static/app.css", f"If-Match: {tag}").body == CSS


def test_parts_are_sent_alone_or_together(running):
    with running.client() as client:
        whole = client.get("/static/long.bin")
        for value, part in [("0-9", slice(0, 10)), ("2097000-", slice(2097000, None)), ("-5", slice(-5, None))]:
            answer = client.get("/static/long.bin", f"Range: bytes={value}")
            assert (answer.status, answer.body) == (206, whole.body[part])
            assert re.fullmatch(r"bytes \d+-\d+/2097152", answer.get("Content-Range"))
        answer = client.get("/static/long.bin", "Range: bytes=0-1,100-102,-2")
        boundary = re.fullmatch("multipart/byteranges; boundary=(.+)", answer.get("Content-Type"))[1].encode()
        parts = answer.body.split(b"\r\n--" + boundary)
        assert answer.status == 206 and parts[0] == b"" and parts[-1] == b"--\r\n"
        assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]] == [b"\0\1", b"def", b"\xfe\xff"]
        assert b"Content-Range: bytes 100-102/2097152" in parts[2]
        answer = client.get("/static/long.bin", "Range: bytes=2097152-")
        assert (answer.status, answer.get("Content-Range")) == (416, "bytes */2097152")
        # Of a file that has changed meanwhile, the client gets the whole.
        tag = whole.get("ETag")
        assert client.get("/static/long.bin", "Range: bytes=0-9", f"If-Range: {tag}").status == 206
        assert client.get("/static/long.bin", "Range: bytes=0-9", 'If-Range: "x"').status == 200
        assert client.get("/static/long.bin", "Range: bytes=0-9", method="HEAD").status == 200
        # Two ranges in two lines contradict each other.
        assert client.get("/static/long.bin", "Range: bytes=0-9", "Range: bytes=20-29").status == 200


def test_many_parts_of_a_file_share_one_descriptor(running, site):
    size = 4 << 20
    with (site / "holes.bin").open("wb") as file:
        file.truncate(16 * size)
    ranges = ",".join(f"{part * size}-{(part + 1) * size - 1}" for part in range(16))
    with running.client() as client:
        client.get("/static/app.css")
        before = running.descriptors()
        client.request("GET /static/holes.bin HTTP/1.1", f"Range: bytes={ranges}")
        # The head has come, and the kernel takes a few MB of the rest.
        client.read_exactly(1000)
        assert running.descriptors() <= before + 1


def test_methods_other_than_get_and_head_are_not_allowed(running):
    with running.client() as client:
        answer = client.get("/static/app.css", method="HEAD")
        assert (answer.status, answer.body, answer.get("Content-Length")) == (200, b"", str(len(CSS)))
        for method in ("DELETE", "OPTIONS"):
            answer = client.get("/static/app.css", method=method)
            assert (answer.status, answer.get("Allow")) == (405, "GET, HEAD")
        assert client.post("/static/app.css", b"x" * 100).status == 405
        assert client.get("/static/app.css").status == 200, "the connection is still in order"
    # A client that waits for 100 Continue sends no body at all.
    with running.client() as client:
        client.request("POST /static/app.css HTTP/1.1", "Content-Length: 1000000", "Expect: 100-continue")
        assert client.response().status == 405


def test_compressed_file_beside_it_is_served_to_those_who_accept_it(running):
    with running.client() as client:
        answer = client.get("/static/app.css", "Accept-Encoding: gzip")
        assert answer.get("Content-Encoding") == "gzip" and gzip.decompress(answer.body) == CSS
        assert answer.get("Content-Type") == "text/css; charset=utf-8" and answer.get("Vary") == "Accept-Encoding"
        tag = answer.get("ETag")
        for accepted, coding in [("gzip, br", "br"), ("br;q=0.5, gzip", "gzip"), ("*", "br"), ("identity", None), ("zstd", None),
                                 ("gzip;q=0.5, identity", None), ("br;q=0.1, gzip;q=0.6, identity;q=0.5", "gzip"),
                                 ("gzip;q=0", None)]:
            answer = client.get("/static/app.css", f"Accept-Encoding: {accepted}")
            assert answer.get("Content-Encoding") == coding, accepted
        assert client.get("/static/app.css").get("ETag") != tag
        assert client.get("/static/app.css", "Accept-Encoding: gzip", f"If-None-Match: {tag}").status == 304


def test_files_need_neither_python_nor_a_place(server, site):
    running = server("probe", "--static", f"/static={site}", "--pool-size", "1", "--threads", "1", "--slow-request", "100ms",
                     "--static-cache-control", "public, max-age=60")
    with running.client() as busy:
        busy.request("GET /hold/a HTTP/1.1")
        running.err.wait("GET /hold/a")
        answer = running.get("/static/app.css")
        assert (answer.status, answer.get("Cache-Control")) == (200, "public, max-age=60")
        running.kill()


def test_longest_prefix_counts_and_a_directory_may_be_exchanged(server, site, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    (tmp_path / "1" / "a.txt").write_text("one")
    (tmp_path / "2" / "a.txt").write_text("two")
    (tmp_path / "current").symlink_to("1")
    running = server("probe", "--pythonpath", APPS, "--static", "/=current", "--static", f"/deep/er/={site}", cwd=tmp_path)
    assert running.get("/a.txt").body == b"one" and running.get("/deep/er/app.css").body == CSS
    assert running.get("/deep/app.css").status == 404
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").rename(tmp_path / "current")
    assert running.get("/a.txt").body == b"two"


def test_wrong_settings_are_named(tmp_path):
    for value, status, said in [
        ("static", 2, "expected /PREFIX=DIR, such as /static=public/static"),
        (f"/static={tmp_path}/none", 3, "it must be a directory, and .*/none does not exist"),
        (f"/static={tmp_path},/static/={tmp_path}", 2, "--static names /static twice"),
    ]:
        done = run("--static", value, "probe")
        assert done.returncode == status and re.search(said, done.stderr), done


def texts(test):
    """Returns the code blocks of the page that belong to a test."""
    return [block.text for block in blocks(ROOT / "docs/static.md") if block.argument == test]


def test_page_of_named_files(server, site, tmp_path):
    line, code = texts("test_page_of_named_files")
    (tmp_path / "shop.py").write_text(code)
    (tmp_path / "media").symlink_to(site)
    running = server("shop:app", *shlex.split(line)[1:-1], cwd=tmp_path)
    with running.client() as client:
        answer = client.get("/app.css", "Authorization: Bearer secret")
        assert (answer.status, answer.body, answer.get("Content-Type"), answer.get("X-Sendfile")) == (200, CSS, "application/pdf", None)
        assert client.get("/app.css").body == b"log in first"
        assert client.get("/none.pdf", "Authorization: Bearer secret").status == 404
        assert client.get("/.hidden", "Authorization: Bearer secret").status == 500


def test_page_of_the_files_command(server, site, tmp_path):
    (line,) = texts("test_page_of_the_files_command")
    command = [MAYPOLE, *shlex.split(line)[1:], "--port", "0"]
    running = server("files", command=command, ready=False, cwd=tmp_path, env={"PYTHONHOME": "/nowhere"})
    running.addresses = [running.err.wait(r"listening on (\S+), files of /=public\n")[1]]
    assert running.get("/app.css").body == CSS


def test_page_of_static_files(server, site, tmp_path):
    line, settings, compress, of_django, deploy = texts("test_page_of_static_files")
    (tmp_path / "shop.py").write_text("from probe import application as app\n")
    (tmp_path / "app.toml").write_text(settings.replace("/srv/media", str(site)))
    subprocess.run(["sh", "-ec", compress], cwd=tmp_path, check=True)
    assert gzip.decompress((site / "app.css.gz").read_bytes()) == CSS
    for options in [shlex.split(line)[1:-1], ["--config", "app.toml"]]:
        running = server("shop:app", "--pythonpath", APPS, *options, cwd=tmp_path)
        assert running.get("/static/app.css").body == CSS
    assert running.get("/media/app.css", "Accept-Encoding: gzip").get("Cache-Control") == "public, max-age=3600"

    deployed(server, tmp_path, of_django, deploy)


def test_page_of_whitenoise(server, tmp_path):
    *_, of_django, deploy = texts("test_page_of_static_files")
    (storages,) = texts("test_page_of_whitenoise")
    running, name = deployed(server, tmp_path, of_django + storages, deploy)
    file = tmp_path / "static-root" / name
    answer = running.get(f"/static/{name}", "Accept-Encoding: gzip, deflate, br, zstd")
    coding = answer.get("Content-Encoding")
    beside = {"gzip": f"{file}.gz", "br": f"{file}.br"}[coding]
    with open(beside, "rb") as compressed:
        assert answer.body == compressed.read()
    assert gzip.decompress(running.get(f"/static/{name}", "Accept-Encoding: gzip").body) == file.read_bytes()
    assert answer.get("Vary") == "Accept-Encoding" and answer.get("Content-Type") == "text/css; charset=utf-8"


def deployed(server, tmp_path, of_django, deploy):
    """Collects the files of Django's admin with these settings, and serves them. Returns the name of one of them, too."""
    (tmp_path / "mysite").mkdir()
    (tmp_path / "mysite" / "__init__.py").write_text("")
    (tmp_path / "mysite" / "settings.py").write_text(
        "import pathlib\nBASE_DIR = pathlib.Path(__file__).parents[1]\nSECRET_KEY = 'for tests'\nALLOWED_HOSTS = ['*']\n"
        "INSTALLED_APPS = ['django.contrib.admin', 'django.contrib.auth', 'django.contrib.contenttypes', 'django.contrib.staticfiles']\n"
        "ROOT_URLCONF = 'mysite.urls'\n" + of_django)
    (tmp_path / "mysite" / "urls.py").write_text("urlpatterns = []\n")
    (tmp_path / "mysite" / "wsgi.py").write_text("from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n")
    collect, serve = deploy.splitlines()
    environment = {"DJANGO_SETTINGS_MODULE": "mysite.settings"}
    command = [sys.executable, "-m", "django", *shlex.split(collect)[2:]]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=os.environ | environment | {"PYTHONPATH": str(tmp_path)})
    _, *options, application = shlex.split(serve)
    running = server(application, *options, cwd=tmp_path, env=environment)
    name = json.loads((tmp_path / "static-root" / "staticfiles.json").read_text())["paths"]["admin/css/base.css"]
    answer = running.get(f"/static/{name}")
    assert answer.body == (tmp_path / "static-root" / name).read_bytes() and answer.get("Cache-Control").endswith("immutable")
    return running, name
